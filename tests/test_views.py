"""Seeded views: the same pixels anywhere, the statistics of their draws, their cached logits."""

import subprocess
import sys

import lightning
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from noisy_kd import CachedLogits, DigitsDataModule, Distiller, Views, network, noisy_teacher
from noisy_kd.errors import InputError
from noisy_kd.runs.identity import config_hash
from noisy_kd.training import stages
from noisy_kd.training.logits import cached_logits, predict_logits
from noisy_kd.training.teacher import frozen

CROPS = Views(count=30, mirror=True, shift=0.125)
STRONG = Views(30, 0, mirror=True, shift=0.125, scale=0.7, rotation=10, colour=0.2, cutout=0.25)


def images(count=100, side=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def view_of(views, pixels, number):
    return views(pixels, torch.full((len(pixels),), number), torch.arange(len(pixels)))


@pytest.mark.parametrize("views", [CROPS, STRONG], ids=["crops", "strong"])
def test_a_view_is_the_same_in_any_batch_and_with_any_number_of_threads(views):
    pixels = images()
    whole = view_of(views, pixels, 7)
    ids, sevens = torch.arange(100), torch.full((100,), 7)
    for chunk in (1, 3, 64):
        parts = zip(*(column.split(chunk) for column in (pixels, sevens, ids)), strict=True)
        assert torch.equal(torch.cat([views(*part) for part in parts]), whole)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert torch.equal(view_of(views, pixels, 7), whole)
    torch.set_num_threads(threads)


def test_a_view_is_the_same_in_another_process():
    program = (
        "import torch; from noisy_kd import Views;"
        "x = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(1, 3, 8, 8);"
        "views = Views(9, 5, mirror=True, shift=0.25, scale=0.8, rotation=20, colour=0.3);"
        "print(views(x, torch.tensor([3]), torch.tensor([4])).tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    pixels = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(1, 3, 8, 8)
    views = Views(9, 5, mirror=True, shift=0.25, scale=0.8, rotation=20, colour=0.3)
    here = views(pixels, torch.tensor([3]), torch.tensor([4]))
    assert printed.stdout.strip() == str(here.tolist())


@pytest.mark.parametrize("views", [CROPS, STRONG, Views(2, mirror=True), Views()])
def test_the_first_view_is_the_image_itself(views):
    assert torch.equal(view_of(views, images(), 0), images())


def test_another_seed_view_or_image_gives_another_view():
    pixels = images(1).expand(4, -1, -1, -1)
    ids, numbers = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 1, 2])
    for seed in (0, 1, 2**40):
        assert len(Views(30, seed, True, 0.25)(pixels, numbers, ids).unique(dim=0)) == 4
    one, other = (Views(30, seed, True, 0.25)(pixels, numbers, ids) for seed in (0, 2**40))
    assert not torch.equal(one, other)


def test_neighbouring_seeds_share_no_views():
    pixels, ids = images(1).expand(29, -1, -1, -1), torch.full((29,), 5)
    first, second = (
        Views(30, seed, shift=0.125)(pixels, torch.arange(1, 30), ids) for seed in (1, 2)
    )
    shared = {str(view.tolist()) for view in first} & {str(view.tolist()) for view in second}
    assert len(shared) < 18  # of 81 possible shifts, by chance about 9


def shifted(pixels, rows, columns):
    """Images moved by whole pixels, with reflected borders."""
    side = pixels.shape[-1]
    at = torch.arange(side)
    reflected = [(k + at).abs() - ((k + at) < 0).long() for k in (rows, columns)]
    reflected = [torch.where(k >= side, 2 * side - 1 - k, k) for k in reflected]
    return pixels[..., reflected[0], :][..., reflected[1]]


def test_crops_move_by_whole_pixels_of_equal_frequency_and_mirror_half():
    """Every draw is found again among the 2 x 9 x 9 possible ones; chi-squared on each."""
    ramp = torch.arange(32 * 32).view(1, 1, 32, 32) % 251
    pixels = ramp.to(torch.uint8).expand(4000, 3, -1, -1)
    seen = view_of(Views(30, mirror=True, shift=0.125), pixels, 3)[:, 0]
    counts = torch.zeros(2, 9, 9)
    found = torch.zeros(4000, dtype=torch.bool)
    for mirrored in range(2):
        image = pixels[:1, 0].flip(-1) if mirrored else pixels[:1, 0]
        for row in range(9):
            for column in range(9):
                same = (seen == shifted(image, row - 4, column - 4)).flatten(1).all(dim=1)
                counts[mirrored, row, column] = same.sum()
                found |= same
    assert found.all()
    assert stats.binomtest(int(counts[1].sum()), 4000).pvalue > 1e-4
    inner = counts.sum(0)[1:-1, 1:-1].flatten()  # the outermost have half the width
    assert stats.chisquare(inner).pvalue > 1e-4


def test_mirror_images_alternate_from_view_to_view():
    pixels = images()
    views = Views(30, mirror=True, cutout=1e-6)  # draws, but changes nothing else
    is_mirrored = [
        (view_of(views, pixels, v) == pixels.flip(-1)).flatten(1).all(dim=1) for v in range(1, 5)
    ]
    assert torch.equal(is_mirrored[0], is_mirrored[2])
    assert torch.equal(is_mirrored[0], ~is_mirrored[1])
    assert 25 < is_mirrored[0].sum() < 75


def test_cutout_covers_a_square_of_its_size_anywhere():
    pixels = images(400)
    changed = (view_of(Views(30, cutout=0.25), pixels, 1) != pixels).any(dim=1)
    area = changed.sum(dim=(1, 2))
    assert area.max() <= 64
    assert area.float().mean() > 48  # less at the border
    assert (changed.float().mean(dim=0) > 0).all()


def test_colours_keep_their_mean_over_many_images():
    pixels = torch.full((4000, 3, 4, 4), 128, dtype=torch.uint8)
    mean = view_of(Views(30, colour=0.2), pixels, 1).float().mean(dim=(1, 2, 3))
    assert abs(mean.mean() - 128) < 1
    assert stats.kstest(mean / 128, stats.uniform(0.8, 0.4).cdf).pvalue > 1e-4


@pytest.mark.parametrize("side", [(32, 32), (16, 48)])
def test_a_full_turn_of_a_wide_image_keeps_its_shape(side):
    """The angle is one of pixels: a circle stays a circle."""
    height, width = side
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = (rows - (height - 1) / 2).square() + (columns - (width - 1) / 2).square()
    disc = (255 * (distance.sqrt() < 6)).to(torch.uint8).expand(20, 3, -1, -1)
    turned = view_of(Views(30, rotation=180), disc, 1)
    difference = (turned.float() - disc.float()).abs()
    assert difference[..., distance.sqrt() < 8].mean() < 16  # further out the border is reflected


@pytest.fixture
def teacher():
    return frozen(network("FC32-FC10", (1, 8, 8)))


def crops(count):
    data = DigitsDataModule(val_size=180, views=Views(count, mirror=True, shift=0.125))
    data.setup()
    return data


def test_cached_logits_of_views_are_the_teachers_own(teacher, tmp_path):
    data = crops(3)
    logits = cached_logits(teacher, data, tmp_path)["train"]
    dataset = data.training_set(unlabelled=True)
    samples = torch.randperm(3 * len(dataset))
    x, _ = dataset[samples]
    assert torch.allclose(logits[dataset.logit_index(samples)], teacher(x), atol=1e-5)


def test_more_views_are_added_to_those_that_are_there(teacher, tmp_path, monkeypatch):
    few = cached_logits(teacher, crops(2), tmp_path)["train"]
    asked = []
    monkeypatch.setattr(
        "noisy_kd.training.logits.predict_logits",
        lambda net, images, view=0: (
            asked.append((view, len(images.rows))) or predict_logits(net, images, view)
        ),
    )
    many = cached_logits(teacher, crops(5), tmp_path)["train"]
    assert torch.equal(many[: len(few)], few)
    assert [view for view, count in asked if count > 2] == [2, 3, 4]


def test_an_interrupted_pass_goes_on_where_it_was(teacher, tmp_path, monkeypatch):
    whole = cached_logits(teacher, crops(4), tmp_path / "whole")["train"]
    asked = []

    def break_off(net, dataset, view=0):
        if len(dataset.rows) > 2:  # else it is seen whether an entry is the teacher's
            asked.append(view)
            if asked == [0, 1, 2]:
                raise KeyboardInterrupt
        return predict_logits(net, dataset, view)

    monkeypatch.setattr("noisy_kd.training.logits.predict_logits", break_off)
    with pytest.raises(KeyboardInterrupt):
        cached_logits(teacher, crops(4), tmp_path / "store")
    resumed = cached_logits(teacher, crops(4), tmp_path / "store")["train"]
    assert torch.equal(resumed, whole)
    assert asked[:5] == [0, 1, 2, 2, 3]


def test_a_stored_view_costs_at_most_44_bytes_per_image(teacher, tmp_path):
    data = crops(4)
    cached_logits(teacher, data, tmp_path)
    for entry in tmp_path.glob("logits-*/"):
        rows = torch.load(entry / "tensors.pt", weights_only=True)["logits"]
        size = sum(file.stat().st_size for file in entry.iterdir())
        assert size <= 44 * len(rows) + 4000  # of the names, which many images share


def test_an_epoch_takes_one_view_of_each_image_and_the_next_epoch_the_next():
    data = crops(3)
    batches, n = data.train_dataloader(), len(data.train_rows)
    for epoch in range(7):
        ids = torch.cat(list(batches.sampler))
        assert sorted(ids.tolist()) == list(range(epoch % 3 * n, (epoch % 3 + 1) * n))
    endless = DigitsDataModule(val_size=180, views=Views(None, mirror=True, shift=0.125))
    endless.setup()
    batches = endless.train_dataloader()
    batches.sampler.set_epoch(1000)
    assert torch.cat(list(batches.sampler)).min() == 1000 * n


def run(short, tmp_path, *overrides):
    directory = tmp_path / config_hash(short(*overrides))
    directory.mkdir(parents=True)
    result = stages.run([short(*overrides)], [directory])[0]
    return result, torch.load(directory / "student.pt", weights_only=True)


def test_views_without_end_teach_as_so_many_cached_ones(short, tmp_path):
    """The teacher asked at each step gives the logits that the cache has, to rounding."""
    common = ["data.augment=crops", "precision=32", "method.sigma=0"]
    _, cached = run(short, tmp_path, *common, "data.views=3")
    _, live = run(short, tmp_path, *common, "data.views=null")
    for name, value in cached.items():
        assert torch.allclose(live[name], value, atol=1e-4)


def test_students_of_a_stack_learn_from_views_what_they_learn_alone(short, tmp_path):
    for views in ("2", "null"):
        common = ["data.augment=crops", f"data.views={views}", "precision=32"]
        configs = [short(*common, f"method.sigma={sigma}") for sigma in (0.3, 0.9)]
        folders = [tmp_path / views / str(k) for k in range(2)]
        for folder in folders:
            folder.mkdir(parents=True)
        stages.run(configs, folders)
        _, alone = run(short, tmp_path, *common, "method.sigma=0.9")
        stacked = torch.load(folders[1] / "student.pt", weights_only=True)
        assert all(torch.equal(stacked[name], value) for name, value in alone.items())


def test_views_decide_the_identity_where_they_are_not_the_data_sets_own(short):
    own = config_hash(short())
    assert config_hash(short("data.augment=none", "data.views=1")) == own
    others = [
        ["data.augment=crops"],
        ["data.augment=crops", "data.views=10"],
        ["data.augment=crops", "augment.crops.shift=0.25"],
        ["data.augment=crops", "data.views=null"],
        ["teacher.augment=crops"],
        ["data.augment=strong"],
    ]
    hashes = {config_hash(short(*other)) for other in others}
    assert len(hashes | {own}) == len(others) + 1
    # Parameters of what is not used decide nothing.
    assert config_hash(short("augment.strong.rotation=30")) == own


def test_the_number_of_views_trains_no_other_teacher(short, tmp_path):
    run(short, tmp_path, "data.augment=crops", "data.views=2", f"store={tmp_path}/store")
    run(short, tmp_path, "data.augment=strong", "data.views=3", f"store={tmp_path}/store")
    assert len(list((tmp_path / "store").glob("teacher-*/"))) == 1


def test_a_teachers_own_recipe_trains_another_teacher(short, tmp_path):
    """With another optimiser, schedule, label smoothing and crops."""
    recipe = ["teacher.optimizer._target_=torch.optim.SGD", "+teacher.optimizer.momentum=0.9"]
    recipe += ["teacher.schedule=onecycle", "teacher.lr=0.1", "teacher.label_smoothing=0.1"]
    recipe += ["teacher.augment=crops", "teacher.max_epochs=6"]
    result, _ = run(short, tmp_path, *recipe)
    assert result["teacher_test_error"] < 0.3


def test_a_lightning_user_trains_on_views(teacher, tmp_path):
    data = DigitsDataModule(views=Views(4, mirror=True, shift=0.125))
    cached = CachedLogits(data, teacher, store=tmp_path)
    student = network("FC64-FC10", (1, 8, 8), seed=1)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=10, accelerator="cpu", **options)
    trainer.fit(Distiller(student, method=noisy_teacher(0.5, 0.3)), cached)
    assert trainer.callback_metrics["val/agreement"] > 0.5  # of a teacher that knows nothing


def test_views_without_end_have_no_cached_logits(teacher, tmp_path):
    data = DigitsDataModule(views=Views(None, mirror=True, shift=0.125))
    with pytest.raises(ValueError, match="without CachedLogits"):
        CachedLogits(data, teacher, store=tmp_path).setup()


def test_a_lightning_user_asks_the_teacher_about_views_without_end(teacher):
    data = DigitsDataModule(views=Views(None, mirror=True, shift=0.125))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", **options)
    trainer.fit(Distiller(network("FC16-FC10", (1, 8, 8)), teacher), data)
    assert trainer.callback_metrics["val/agreement"] >= 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "data.views=0 must be at least 1"),
        ({"count": 3, "mirror": True}, "has 2 different views"),
        ({"shift": 2.0}, "the augmentation's shift=2.0 must be at most 1"),
        ({"scale": 0.0}, "the augmentation's scale=0.0 must be above 0"),
        ({"rotation": "abc"}, "rotation=abc of an augmentation must be a number"),
        ({"rotation": float("nan")}, "rotation=nan must be a finite number"),
        ({"mirror": "maybe"}, "mirror=maybe of an augmentation must be true or false"),
    ],
)
def test_views_out_of_range_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        Views(**arguments)


def test_reflected_borders_are_those_of_the_images():
    """The helper of this file agrees with torch inside, where nothing is reflected."""
    pixels = images(1)[0].float()
    assert torch.equal(shifted(pixels, 2, 0)[:, :-2], pixels[:, 2:])
    assert torch.equal(shifted(pixels, -1, 0)[:, 1:], pixels[:, :-1])
    assert F.pad(pixels, (1, 1)).shape[-1] == 34
