"""The teacher: trained once for the store, or read from a checkpoint, and frozen."""

import pytest
import torch

from noisy_kd.data import store as store_module
from noisy_kd.data.datamodules import DigitsDataModule
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.method import noise
from noisy_kd.model.network import network, notation_of
from noisy_kd.runs.identity import identity
from noisy_kd.training import build
from noisy_kd.training import teacher as teacher_module
from noisy_kd.training.checks import check_shift, check_teacher
from noisy_kd.training.logits import predict_logits
from noisy_kd.training.numerics import Numerics
from noisy_kd.training.stages import count_errors, run
from noisy_kd.training.teacher import TeacherTraining


@pytest.fixture
def trained(digits, float32, tmp_path):
    """The teacher of a configuration."""

    def make(config):
        (net,) = build.teachers(config, digits)
        return TeacherTraining(config, net, "teacher", digits, float32, None).trained(tmp_path)

    return make


def test_the_teacher_learns_is_frozen_and_is_trained_once(short, digits, trained, store):
    config = short("teacher.max_epochs=4")
    teacher = trained(config)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    errors = count_errors(predict_logits(teacher, digits.test_set()), digits.test_images.labels)
    assert errors < 0.3 * 360
    times = {f: f.stat().st_mtime_ns for f in store.glob("teacher-*/*.pt")}
    again = trained(config)
    assert {f: f.stat().st_mtime_ns for f in store.glob("teacher-*/*.pt")} == times
    for one, other in zip(teacher.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def key(config, data, numerics):
    (net,) = build.teachers(config, data)
    return store_module.key_of(
        "teacher", TeacherTraining(config, net, "", data, numerics, None).made_by()
    )


@pytest.mark.parametrize(
    "override",
    [
        "teacher.max_epochs=9",
        "teacher.lr=0.01",
        "teacher.weight_decay=0.1",
        "teacher.schedule=cosine",
        "teacher.seed=1",
        "teacher.subset=100",
        "teacher.batch_size=32",
        "teacher.shift=1",
        "teacher.batch_norm=true",
        "data.batch_size=32",
        "deterministic=true",
        "teacher.layers=FC10",
    ],
)
def test_the_teachers_key_changes_with_its_settings(short, digits, float32, override):
    assert key(short(override), digits, float32) != key(short(), digits, float32)


def test_functions_that_give_other_weights_make_other_teachers(short, digits, float32):
    """A pretrained network and an untrained one of the same layers."""
    keys = {
        key(short("model@teacher=module", f"teacher._target_=own_nets.{name}"), digits, float32)
        for name in ("pretrained", "scratch")
    }
    assert len(keys) == 2


def test_the_users_callbacks_do_not_touch_the_teacher(short, trained, tmp_path):
    weights = []
    for name, more in (("a", []), ("b", ["+callbacks.own._target_=own_callbacks.Wreck"])):
        teacher = trained(short("teacher.max_epochs=1", f"store={tmp_path / name}", *more))
        weights.append([parameter.clone() for parameter in teacher.parameters()])
    assert all(map(torch.equal, *weights))


def test_the_teachers_key_changes_with_data_and_precision_and_with_nothing_else(
    short, digits, float32
):
    base = key(short(), digits, float32)
    for other in (Numerics(float32.device, "bf16", True), Numerics(float32.device, "32", False)):
        assert key(short(), digits, other) != base
    for change in ({"val_size": 100}, {"seed": 1}):
        data = DigitsDataModule(**({"val_size": 180} | change))
        data.setup()
        assert key(short(), data, float32) != base
    same_teacher = ["data.batch_size=32", "teacher.batch_size=64"]
    assert key(short(*same_teacher), digits, float32) == base
    for override in ("seed=5", "method.sigma=0.1", "optimizer.lr=0.1", "data.subset=100"):
        assert key(short(override), digits, float32) == base
    elsewhere = DigitsDataModule(root="/elsewhere", val_size=180, subset=100)
    elsewhere.setup()
    assert key(short(), elsewhere, float32) == base


@pytest.mark.parametrize("value", ["teacher.shift=2", "teacher.batch_norm=true"])
def test_the_identity_holds_all_settings_of_the_teachers_training(short, value):
    changed, default = identity(short(value))["teacher"], identity(short())["teacher"]
    name, _, _ = value.removeprefix("teacher.").partition("=")
    assert set(changed) == set(default)
    assert {key for key in changed if changed[key] != default[key]} == {name}


def test_a_teacher_trained_with_batch_normalisation_is_stored_without(
    short, digits, trained, store, monkeypatch
):
    used = []
    whole = teacher_module.with_batch_norm
    monkeypatch.setattr(teacher_module, "with_batch_norm", lambda net: used.append(1) or whole(net))
    config = short("teacher.batch_norm=true", "teacher.max_epochs=4")
    teacher = trained(config)
    assert notation_of(teacher) == config.teacher.layers
    assert [*teacher.state_dict()] == [*network(config.teacher.layers, (1, 8, 8)).state_dict()]
    abouts = [about for _, about, _ in store_module.entries(store)]
    (about,) = [one for one in abouts if one["made_by"].get("batch_norm")]
    held_out = digits.validation_set()
    errors = count_errors(predict_logits(teacher, held_out), digits.images.labels[held_out.rows])
    assert used
    assert abs(errors / len(held_out) - about["facts"]["val_error"]) <= 1 / len(held_out)
    assert errors < 0.3 * len(held_out)


def test_images_moved_out_of_sight_are_refused(short, digits):
    check_shift(7, digits.input_shape)
    config = short("teacher.shift=8")
    with pytest.raises(InputError, match="=8 moves images of 8x8 out of sight"):
        check_teacher(config.teacher, digits, build.method(config), build.teachers(config, digits))


def test_a_teachers_images_are_moved(short, digits, trained, monkeypatch):
    seen = []
    moved = noise.RandomShift.__call__
    monkeypatch.setattr(
        noise.RandomShift, "__call__", lambda *a: seen.append(a[0].pixels) or moved(*a)
    )
    trained(short("teacher.shift=1", "teacher.max_epochs=1"))
    steps = -(-len(digits.training_set()) // digits.batch_size)
    assert seen == [1] * steps


def test_a_teacher_sees_other_views_than_its_students(short, digits):
    crops = ("data.augment=crops", "data.views=30", "teacher.augment=crops")
    config = short(*crops)
    teachers, students = build.teacher_views(config), build.views(config, "crops", 30)
    images = digits.images.pixels[:50]
    for view in (1, 2, 3):
        at = (torch.full((50,), view), torch.arange(50))
        assert (teachers(images, *at) != students(images, *at)).any(dim=(1, 2, 3)).sum() > 25
    other = build.teacher_views(short(*crops, "teacher.seed=1"))
    assert other.seed != teachers.seed


def test_the_teachers_random_labels_are_not_its_students(short, digits, float32):
    noise = build.method(short("method=messy_collaboration")).teacher_labels
    (net,) = build.teachers(short(), digits)
    seeds = [
        TeacherTraining(short(), net, "", digits, float32, labels)._stack(net).distillers[0].seed
        for labels in (None, noise)
    ]
    assert seeds[0] == short().teacher.seed != seeds[1]


@pytest.fixture
def net():
    return network("FC5-FC10", (1, 8, 8), seed=3)


def test_a_teacher_that_diverges_is_not_stored(short, trained, tmp_path):
    config = short("teacher.lr=1e20", f"store={tmp_path / 'store'}")
    with pytest.raises(TrainingError, match="a smaller teacher"):
        trained(config)
    assert not list((tmp_path / "store").glob("*/"))


def test_the_teacher_of_a_checkpoint_is_not_trained(short, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(TeacherTraining, "_train", lambda *_: pytest.fail("trained"))
    net = network(short().teacher.layers, (1, 8, 8), 10, seed=9)
    torch.save(net.state_dict(), tmp_path / "t.pt")
    teacher = trained(short(f"teacher.checkpoint={tmp_path / 't.pt'}"))
    assert not teacher.training
    for one, other in zip(teacher.parameters(), net.parameters(), strict=True):
        assert torch.equal(one, other) and not one.requires_grad


def test_without_epochs_a_teacher_keeps_the_weights_of_its_function(short, tmp_path):
    own = ["model@teacher=module", "teacher._target_=own_nets.pretrained", "teacher.max_epochs=0"]
    (result,) = run([short(*own)], [tmp_path])
    assert result["teacher_test_error"] < 0.2
    assert not list(tmp_path.glob("teacher"))
