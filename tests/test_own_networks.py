"""Any module as teacher and as student, by its import path."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import noisy_kd
from noisy_kd.config import compose
from noisy_kd.deploy.export import export, load_safetensors
from noisy_kd.errors import InputError
from noisy_kd.model import complexity
from noisy_kd.model.network import build, notation_of
from noisy_kd.runs.identity import config_hash, run_name
from noisy_kd.training import assembly
from noisy_kd.training.stages import ready, run
from noisy_kd.training.teacher import read_checkpoint

SMALL = "own_nets.Small"
SHAPE = (1, 8, 8)


def test_it_is_made_for_the_classes_from_its_seed():
    net, again, other = (build(SMALL, SHAPE, 10, seed) for seed in (1, 1, 2))
    assert notation_of(net) == SMALL
    assert net(torch.zeros(3, *SHAPE)).shape == (3, 10)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert not torch.equal(net[0].conv.weight, other[0].conv.weight)
    assert type(net[0].drop).__module__ == "noisy_kd.model.layers"
    assert notation_of(build("own_nets.of_ten", SHAPE, 10)) == "own_nets.of_ten"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("own_nets.Large", "cannot be imported"),
        ("no_such.thing", "cannot be imported"),
        ("own_nets.wrong", "logits of shape"),
        ("own_nets.nothing", "no torch.nn.Module"),
        ("torchvision.models.resnet18", "does not fit images of 1x8x8"),
    ],
)
def test_what_cannot_work_is_refused(path, why):
    with pytest.raises(InputError, match=why):
        build(path, SHAPE, 10)
    with pytest.raises(InputError):
        build("own_nets.of_ten", SHAPE, 4)


def test_a_wrong_path_stops_before_anything_is_trained(short, tmp_path):
    for key in ("teacher", "student"):
        with pytest.raises(InputError, match="cannot be imported"):
            run([short(f"{key}.layers=own_nets.Large")], [tmp_path])


@pytest.mark.parametrize("path", [SMALL, "own_nets.Random"])
def test_students_of_ones_own_learn_in_a_stack_what_they_learn_alone(path, short, tmp_path):
    cells = [["method.sigma=0"], ["method.sigma=0.5"]]
    configs = [short(f"student.layers={path}", *cell) for cell in cells]
    places = [tmp_path / name for name in ("a", "b", "alone")]
    for place in places:
        place.mkdir()
    run(configs, places[:2])
    (alone,) = run(configs[1:], places[2:])
    together = json.loads((places[1] / "result.json").read_text())
    assert together["test_errors"] == alone["test_errors"]
    nets = [noisy_kd.load_student(place) for place in places[1:]]
    for one, other in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-5)
    assert alone["student"] == alone["student_layers"] == path


def test_the_cost_counts_what_is_in_no_layer():
    net = build("own_nets.Random", SHAPE, 10)
    own = sum(p.numel() for p in net.parameters())
    costs = complexity.layer_costs(net, SHAPE)
    assert sum(cost.parameters for cost in costs) == own
    assert costs[-1].label == "(other)"
    assert costs[-1].multiplications == 60


def test_a_last_mini_batch_of_one_is_left_out_of_batch_normalisation(short, tmp_path):
    images = 1437 - 180
    (result,) = run(
        [short(f"student.layers={SMALL}", f"data.batch_size={images - 1}", "trainer.max_epochs=2")],
        [tmp_path],
    )
    assert result["steps"] == 2


def test_averaged_weights_and_batch_normalisation_are_refused(short, tmp_path):
    with pytest.raises(InputError, match="statistics of their own"):
        run([short(f"student.layers={SMALL}", "optimizer.averaging=swa")], [tmp_path])
    with pytest.raises(InputError, match="no hidden layer to drop out"):
        run([short(f"teacher.layers={SMALL}", "method=fickle_teacher")], [tmp_path])


def test_a_teacher_of_ones_own_from_a_checkpoint(short, tmp_path):
    teacher = build(SMALL, SHAPE, 10, seed=3)[0]
    for prefix in ("", "model."):
        file = tmp_path / f"{prefix}teacher.pt"
        torch.save({prefix + name: one for name, one in teacher.state_dict().items()}, file)
        fresh = build(SMALL, SHAPE, 10)
        fresh.load_state_dict(read_checkpoint(file, fresh))
        assert torch.equal(fresh[0].conv.weight, teacher.conv.weight)
    config = short(
        "model@teacher=module", f"teacher._target_={SMALL}", f"teacher.checkpoint={file}"
    )
    (result,) = run([config], [tmp_path])
    assert result["teacher"] == SMALL
    torch.save(teacher.state_dict() | {"more.weight": torch.zeros(1)}, file)
    with pytest.raises(InputError, match=r"no more\.weight"):
        read_checkpoint(file, fresh)


def test_a_path_that_was_not_given_is_asked_for():
    with pytest.raises(InputError, match=r"student\._target_ has no value"):
        compose(["model@student=module"])


def test_auto_is_float32_for_networks_that_are_not_known():
    for key, precision in (("auto", "32"), ("bf16", "bf16"), ("32", "32")):
        for net in ("teacher", "student"):
            config = compose([f"{net}.layers={SMALL}", f"precision={key}", "trainer=cpu"])
            assert assembly.numerics(config).precision == precision


def test_the_name_and_the_path_are_one_network():
    named = compose(["data=cifar10", "model@teacher=torchvision", "teacher.name=resnet34"])
    path = compose(["data=cifar10", "teacher.layers=torchvision.models.resnet34"])
    assert config_hash(named) == config_hash(path)
    assert "own_nets.Small" in run_name(compose([f"student.layers={SMALL}"]))


@pytest.fixture
def pictures(tmp_path):
    """Four classes of 80 training and 10 test images, RGB, 16x16, told apart by their colour."""
    draws = np.random.default_rng(0)
    for part, count in (("train", 80), ("test", 10)):
        for k, name in enumerate(("amber", "blue", "coral", "drab")):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draws.integers(0, 60, (16, 16, 3)) + 150 * (np.arange(3) == k)
                Image.fromarray(pixels.astype("uint8")).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def test_a_resnet_teaches_a_student_on_a_folder_of_images(pictures, short, tmp_path):
    config = short(
        *("data=folder", f"data.root={pictures}", "data.val_size=40"),
        *("model@teacher=torchvision", "teacher.name=resnet18", "teacher.max_epochs=15"),
        *(
            'student.layers="[C3(S1P1)@8-MP2(S2)]-FC32-FC4"',
            "trainer.max_epochs=40",
            "method=logit_regression",
        ),
    )
    place = tmp_path / "run"
    place.mkdir()
    (result,) = run([config], [place])
    assert result["teacher_test_error"] < 0.5
    assert result["test_error"] < 0.5
    assert result["compression"] > 10
    pytest.importorskip("onnxruntime")
    facts = export(place, "onnx", with_preprocessing=True)
    assert facts["exported"]["errors"] == facts["original_errors"] == result["test_errors"]
    assert facts["latency"]["teacher, torch, batch 1"] > 0


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (f"teacher.layers={SMALL}", "teacher.batch_size=1"),
        ("teacher.batch_norm=true", "teacher.batch_size=1"),
        (f"student.layers={SMALL}", "data.batch_size=1"),
    ],
)
def test_batch_normalisation_of_one_image_is_refused(network, size, short, tmp_path):
    with pytest.raises(InputError, match=f"{size}: batch normalisation"):
        ready([short(network, size)])
    if network.startswith("teacher"):
        ready([short(network, size, "method=supervised")])  # has no teacher


def test_a_file_with_code_of_its_own_is_not_run(short, tmp_path):
    pytest.importorskip("safetensors")
    run([short(f"student.layers={SMALL}")], [tmp_path])
    with pytest.raises(InputError, match="names code of its own"):
        export(tmp_path, "safetensors")
    with pytest.raises(InputError, match="names code of its own"):
        load_safetensors(tmp_path / "student.safetensors")
