"""Any module as teacher and as student, by its import path."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import noisy_kd
from noisy_kd.cli.arguments import compose
from noisy_kd.data import preprocessing
from noisy_kd.deploy import formats
from noisy_kd.deploy.export import export
from noisy_kd.deploy.predict import predict
from noisy_kd.errors import InputError
from noisy_kd.evaluation.evaluate import evaluate
from noisy_kd.method.methods import logit_regression
from noisy_kd.model import complexity
from noisy_kd.model.network import (
    architecture,
    from_settings,
    instantiate,
    logits_of,
    network,
    with_active_dropout,
)
from noisy_kd.runs.identity import config_hash, run_name
from noisy_kd.training import build
from noisy_kd.training.checkpoints import read_checkpoint
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.stages import prepare, run

SMALL, RANDOM = "own_nets.Small", "own_nets.Random"
SHAPE = (1, 8, 8)


def own(target, role="student"):
    """The settings of a network by its import path."""
    return f"model@{role}=module", f"{role}._target_={target}"


def test_it_is_made_for_the_classes_from_its_seed():
    net, again, other = (instantiate(SMALL, SHAPE, 10, seed) for seed in (1, 1, 2))
    assert type(net).__name__ == "Small"
    assert net(torch.zeros(3, *SHAPE)).shape == (3, 10)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert not torch.equal(net.conv.weight, other.conv.weight)
    assert type(net.drop).__module__ == "noisy_kd.model.layers"
    assert instantiate("own_nets.of_ten", SHAPE, 10)(torch.zeros(3, *SHAPE)).shape == (3, 10)


def test_the_global_generator_is_left_as_it_was():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    instantiate(RANDOM, SHAPE, 10)
    assert torch.equal(torch.rand(1), expected)


def test_its_arguments_are_settings(short, tmp_path):
    net = instantiate(SMALL, SHAPE, 10, arguments={"width": 6})
    assert net.conv.out_channels == 6
    config = short(*own(SMALL), "student.width=6", "trainer.max_epochs=1")
    assert build.network(config.student, SHAPE, 10).conv.out_channels == 6
    assert config_hash(config) != config_hash(short(*own(SMALL), "trainer.max_epochs=1"))
    (result,) = run([config], [tmp_path])
    assert result["student"] == f"{SMALL}(width=6)"
    assert noisy_kd.load_student(tmp_path, allow=["own_nets"]).conv.out_channels == 6


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"depth": 3}, "own_nets.Small .*depth"),
        ({"width": "many"}, "own_nets.Small cannot be made"),
        ({"num_classes": 7}, r"not \(1, 10\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, why):
    with pytest.raises(InputError, match=why):
        instantiate(SMALL, SHAPE, 10, arguments=arguments)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("own_nets.Large", "cannot be imported"),
        ("no_such.thing", "cannot be imported"),
        ("own_nets.SHAPELESS", "not a class or function"),
        ("own_nets.wrong", r"not \(1, 10\)"),
        ("own_nets.nothing", r"not a torch\.nn\.Module"),
        (
            "torchvision.models.resnet18",
            r"does not fit images of 1x8x8: .* 3 channels, .*\. For a teacher of other images set "
            r"teacher\.input\.size, or three values in teacher\.input\.mean",
        ),
    ],
)
def test_what_is_no_fitting_network_is_refused(path, why):
    with pytest.raises(InputError, match=why):
        instantiate(path, SHAPE, 10)


def test_other_logits_than_classes_are_refused():
    with pytest.raises(InputError, match=r"returns shape \(1, 10\) for one image"):
        instantiate("own_nets.of_ten", SHAPE, 4)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_wrong_path_stops_before_anything_is_trained(role, short, tmp_path):
    with pytest.raises(InputError, match="cannot be imported"):
        run([short(*own("own_nets.Large", role))], [tmp_path])


def test_logits_may_come_in_a_tuple_a_mapping_or_an_object():
    logits = torch.zeros(2, 10)
    has_logits = type("Output", (), {"logits": logits})()
    for output in (logits, (logits, None), [logits], {"logits": logits}, has_logits):
        assert logits_of(output) is logits
    for output in (None, (), {"scores": logits}, ["logits"]):
        with pytest.raises(TypeError, match="must return logits"):
            logits_of(output)


def test_a_transformers_model_is_a_teacher(short, tmp_path):
    target = "own_nets.Transformers"
    teacher = (*own(target, "teacher"), "teacher.num_labels=10", "teacher.max_epochs=20")
    (result,) = run([short(*teacher, "teacher.lr=0.01")], [tmp_path])
    assert result["teacher_test_error"] < 0.3
    net = instantiate(target, SHAPE, 10)
    x = torch.rand(2, *SHAPE)
    assert torch.equal(net(x), net.forward(x).logits)
    torch.save(
        {"state_dict": {f"model.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "t.pt"
    )
    found = read_checkpoint(tmp_path / "t.pt", instantiate(target, SHAPE, 10, seed=1))
    assert torch.equal(found["hidden.weight"], net.hidden.weight)


@pytest.mark.parametrize("target", ["own_nets.Pair", "own_nets.Transformers"])
def test_a_student_that_returns_more_than_logits_is_exported_and_evaluated(target, short, tmp_path):
    (result,) = run([short(*own(target))], [tmp_path])
    clean = evaluate(tmp_path, ["clean"], allow=["own_nets"])["clean"]
    assert clean["error"] == pytest.approx(result["test_error"])
    for form in ("onnx", "torch_export"):
        facts = export(tmp_path, form, allow=["own_nets"])
        assert facts["exported"]["errors"] == facts["original_errors"]
        assert facts["original_errors"] == round(result["test_error"] * result["test_size"])
    digit = Image.fromarray((load_digits().images[0] * 15).astype(np.uint8))
    digit.save(tmp_path / "0.png")
    (answer,) = predict(tmp_path, [tmp_path / "0.png"], allow=["own_nets"])
    assert answer["classes"][0] in result["classes"]


def test_networks_of_different_structure_have_different_names_in_the_store():
    nets = [
        network("FC20-FC10", SHAPE),
        instantiate(SMALL, SHAPE, 10),
        instantiate(SMALL, SHAPE, 10, arguments={"width": 6}),
        instantiate(RANDOM, SHAPE, 10),
    ]
    assert len({architecture(net) for net in nets}) == 4
    assert architecture(nets[0]) == "FC20-FC10"
    assert architecture(nets[1]) == architecture(instantiate(SMALL, SHAPE, 10, seed=3))


def test_active_dropout_of_a_module_is_in_a_copy():
    net = instantiate(SMALL, SHAPE, 10).eval()
    fickle, x = with_active_dropout(net, 0.5), torch.rand(4, *SHAPE)
    assert fickle.drop.p == 0.5 and fickle.drop.training and not fickle.norm.training
    assert not torch.equal(fickle(x), fickle(x))
    assert net.drop.p == 0.2 and not net.drop.training
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("path", [SMALL, RANDOM])
def test_a_module_learns_in_a_stack_what_it_learns_alone(path, short, tmp_path):
    cells = [["method.sigma=0"], ["method.sigma=0.5"]]
    configs = [short(*own(path), *cell) for cell in cells]
    places = [tmp_path / name for name in ("a", "b", "alone")]
    for place in places:
        place.mkdir()
    run(configs, places[:2])
    (alone,) = run(configs[1:], places[2:])
    together = json.loads((places[1] / "result.json").read_text())
    assert together["test_errors"] == alone["test_errors"]
    nets = [noisy_kd.load_student(place, allow=["own_nets"]) for place in places[1:]]
    for one, other in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-5)
    assert alone["student"] == alone["student_layers"] == path


def test_the_cost_counts_parameters_outside_any_layer():
    net = instantiate(RANDOM, SHAPE, 10)
    count = sum(p.numel() for p in net.parameters())
    costs = complexity.layer_costs(net, SHAPE)
    assert sum(cost.parameters for cost in costs) == count
    assert costs[-1].label == "(other)"
    assert costs[-1].multiplications == 60


def test_a_last_mini_batch_of_one_is_left_out_of_batch_normalisation(short, tmp_path):
    images = 1437 - 180
    settings = (f"data.batch_size={images - 1}", "teacher.batch_size=64", "trainer.max_epochs=2")
    (result,) = run([short(*own(SMALL), *settings)], [tmp_path])
    assert result["steps"] == 2


def test_averaged_weights_with_batch_normalisation_are_refused(short):
    with pytest.raises(InputError, match="statistics of their own"):
        prepare([short(*own(SMALL), "optimizer.averaging=swa")])


def test_a_fickle_teacher_without_dropout_is_refused(short):
    with pytest.raises(InputError, match=r"Random has no nn\.Dropout layer"):
        prepare([short(*own(RANDOM, "teacher"), "method=fickle_teacher")])


def test_a_teacher_by_its_path_from_a_checkpoint(short, tmp_path):
    teacher = instantiate(SMALL, SHAPE, 10, seed=3)
    for prefix in ("", "model."):
        file = tmp_path / f"{prefix}teacher.pt"
        torch.save({prefix + name: one for name, one in teacher.state_dict().items()}, file)
        fresh = instantiate(SMALL, SHAPE, 10)
        fresh.load_state_dict(read_checkpoint(file, fresh))
        assert torch.equal(fresh.conv.weight, teacher.conv.weight)
    config = short(*own(SMALL, "teacher"), f"teacher.checkpoint={file}")
    (result,) = run([config], [tmp_path])
    assert result["teacher"] == SMALL
    torch.save(teacher.state_dict() | {"more.weight": torch.zeros(1)}, file)
    with pytest.raises(InputError, match=r"has more\.weight"):
        read_checkpoint(file, fresh)


def test_a_path_that_was_not_given_is_asked_for():
    with pytest.raises(InputError, match=r"student\._target_ has no value"):
        compose(["model@student=module"])


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize(("asked", "precision"), [("auto", "32"), ("bf16", "bf16"), ("32", "32")])
def test_auto_is_float32_for_networks_that_are_not_known(role, asked, precision, short):
    config = short(*own(SMALL, role), f"precision={asked}")
    assert build.numerics(config).precision == precision


def test_the_name_and_the_path_are_one_network():
    named = compose(["data=cifar10", "model@teacher=torchvision", "teacher.name=resnet34"])
    path = compose(["data=cifar10", *own("torchvision.models.resnet34", "teacher")])
    assert config_hash(named) == config_hash(path)
    assert "own_nets.Small" in run_name(compose([*own(SMALL)]))


@pytest.fixture
def pictures(tmp_path):
    """Four classes of 80 training and 10 test images, RGB, 16x16, of different colours."""
    draws = np.random.default_rng(0)
    for part, count in (("train", 80), ("test", 10)):
        for k, name in enumerate(("amber", "blue", "coral", "drab")):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draws.integers(0, 60, (16, 16, 3)) + 150 * (np.arange(3) == k)
                Image.fromarray(pixels.astype("uint8")).save(folder / f"{i}.png")
    return tmp_path / "pictures"


@pytest.mark.slow
def test_a_resnet_teaches_a_student_on_a_folder_of_images(pictures, short, tmp_path):
    config = short(
        *("data=folder", f"data.root={pictures}", "data.val_size=40"),
        *("model@teacher=torchvision", "teacher.name=resnet18", "teacher.max_epochs=15"),
        *('student.layers="[C3(S1P1)@8-MP2(S2)]-FC32-FC4"', "trainer.max_epochs=40"),
        "method=logit_regression",
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
    ("settings", "size"),
    [
        (own(SMALL, "teacher"), "teacher.batch_size=1"),
        (("teacher.batch_norm=true",), "teacher.batch_size=1"),
        (own(SMALL), "data.batch_size=1"),
    ],
)
def test_batch_normalisation_of_one_image_is_refused(settings, size, short):
    with pytest.raises(InputError, match=f"{size}: BatchNorm"):
        prepare([short(*settings, size)])
    if size.startswith("teacher"):
        prepare([short(*settings, size, "method=supervised")])  # has no teacher


def test_a_safetensors_file_that_names_other_code_is_loaded_if_allowed(short, tmp_path):
    pytest.importorskip("safetensors")
    run([short(*own(SMALL), "trainer.max_epochs=1")], [tmp_path])
    export(tmp_path, "safetensors", allow=["own_nets"])
    with pytest.raises(InputError, match=r"name own_nets\.Small, .* add --allow own_nets"):
        formats.load(tmp_path / "student.safetensors")
    assert formats.load(tmp_path / "student.safetensors", allow=["own_nets"])


def test_the_students_seed_decides_the_draws_of_its_own_layers(short, tmp_path):
    """They come from torch's global generator, which is restored after each step."""
    weights = []
    for k, seed in enumerate((1, 1, 2)):
        place = tmp_path / str(k)
        place.mkdir()
        torch.manual_seed(k)
        run([short(*own(RANDOM), f"seed={seed}", "trainer.max_epochs=1")], [place])
        net = noisy_kd.load_student(place, allow=["own_nets"])
        weights.append(nn.utils.parameters_to_vector(net.parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", ["InPlace", "NumpyNoise", "Rows", "Branch"])
def test_an_awkward_module_learns_in_a_stack_what_it_learns_alone(name, short, tmp_path):
    grid = [("seed=1", "method.sigma=0"), ("seed=1", "method.sigma=0.3"), ("seed=2",)]
    configs = [short(*own(f"own_nets.{name}"), *settings) for settings in grid]
    places = [tmp_path / str(k) for k in range(3)]
    alone = [tmp_path / f"alone{k}" for k in range(3)]
    for place in (*places, *alone):
        place.mkdir()
    stacked = run(configs, places)
    for config, place, result in zip(configs, alone, stacked, strict=True):
        (single,) = run([config], [place])
        assert (single["val_error"], single["test_errors"]) == (
            result["val_error"],
            result["test_errors"],
        )
        assert result["multiplications"] > 0


def test_a_teacher_that_changes_its_input_leaves_the_students_images_alone(short, tmp_path):
    net = instantiate("own_nets.InPlace", SHAPE, 10)
    x = torch.rand(2, *SHAPE)
    before = x.clone()
    distiller = Distiller(network("FC5-FC10", SHAPE), net, logit_regression())
    distiller.loss(x, torch.zeros(2, dtype=torch.long))
    assert torch.equal(x, before)


def test_an_export_that_torch_cannot_trace_is_one_line(short, tmp_path):
    run([short(*own("own_nets.Branch"))], [tmp_path])
    with pytest.raises(InputError, match="cannot be exported as torch_export"):
        export(tmp_path, "torch_export", allow=["own_nets"])


def test_a_teacher_that_expects_other_pixels(short, tmp_path, caplog):
    """Its error near chance is a warning, and settings mend it."""
    data = prepare([short()]).data
    net = network("FC64-FC10", SHAPE, seed=3)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    x, y = data.training_set()[torch.arange(len(data.training_set()))]
    for _ in range(60):
        loss = nn.functional.cross_entropy(net((x - 0.9) / 0.1), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.state_dict(), tmp_path / "t.pt")
    caplog.set_level("INFO")
    teacher = ("teacher.layers=FC64-FC10", f"teacher.checkpoint={tmp_path / 't.pt'}")
    (tmp_path / "plain").mkdir()
    (plain,) = run([short(*teacher)], [tmp_path / "plain"])
    assert plain["teacher_val_error"] > 0.68
    assert "near chance" in caplog.text
    caplog.clear()
    own_pixels = ("teacher.input.mean=[0.9]", "teacher.input.std=[0.1]")
    (mended,) = run([short(*teacher, *own_pixels)], [tmp_path])
    assert mended["teacher_val_error"] < 0.1
    assert "near chance" not in caplog.text
    assert f"val error {100 * mended['teacher_val_error']:.2f}%" in caplog.text
    assert mended["config_hash"] != plain["config_hash"]


def test_a_teacher_of_larger_colour_images(short, tmp_path):
    bigger = ("teacher.input.size=16", "teacher.input.mean=[0.4,0.4,0.4]")
    bigger += ("teacher.input.std=[0.2,0.2,0.2]", "teacher._target_=own_nets.colour")
    (result,) = run([short("model@teacher=module", *bigger)], [tmp_path])
    assert result["teacher_val_error"] < 0.5


@pytest.mark.parametrize(
    ("channels", "key", "value", "why"),
    [
        (3, "mean", "[0.5,0.5]", r"mean=\[0\.5, 0\.5\] has 2 values: give 1 or 3"),
        (3, "std", "[]", r"std=\[\] has 0 values"),
        (3, "std", "[0.2,0,0.2]", "all values must be above 0"),
        (1, "std", "[0.5,0.5]", r"std=\[0\.5, 0\.5\] has 2 values: give 1 or 3"),
        (1, "std", "[0.5]", None),
        (1, "std", "[0.5,0.5,0.5]", None),
        (3, "mean", "[0.5]", None),
        (3, "mean", "[0.5,0.5,0.5]", None),
    ],
)
def test_a_teachers_pixels_have_a_value_for_each_channel(channels, key, value, why, short):
    config = short("model@teacher=module", "teacher._target_=own_nets.any_channels")
    setattr(config.teacher.input, key, json.loads(value))
    data = SimpleNamespace(
        input_shape=(channels, 8, 8), classes=range(10), preprocessing=preprocessing.Scale()
    )
    with pytest.raises(InputError, match=why) if why else nullcontext():
        (teacher,) = build.teachers(config, data)
        assert teacher(torch.zeros(2, channels, 8, 8)).shape == (2, 10)


def test_a_teachers_mean_and_std_have_the_same_length(short):
    values = ("teacher.input.mean=[0.5,0.5,0.5]", "teacher.input.std=[0.2,0.2]")
    with pytest.raises(InputError, match=r"std=\[0\.2, 0\.2\] has 2 values: give 1 or 3"):
        prepare([short(*values)])


def test_hints_between_modules_by_their_names(short, tmp_path):
    settings = ("method=fitnets", "method.hint_epochs=1", "method.hint=conv", "method.guided=norm")
    (result,) = run([short(*own(SMALL), *own(SMALL, "teacher"), *settings)], [tmp_path])
    assert result["status"] == "done"
    with pytest.raises(InputError, match="Small has no layer cnv: name one, such as conv"):
        prepare([short(*own(SMALL), *own(SMALL, "teacher"), *settings, "method.hint=cnv")])


@pytest.mark.parametrize("name", ["alexnet", "googlenet"])
def test_a_function_with_the_name_of_its_module_is_found(name):
    """``torchvision.models.alexnet`` is a module and a function of torchvision.models."""
    net = instantiate(f"torchvision.models.{name}", (3, 64, 64), 10)
    assert type(net).__name__.lower() == name
    with pytest.raises(InputError, match="not a class or function"):
        instantiate("torchvision.models", (3, 64, 64), 10)


def test_future_warnings_of_a_network_are_not_shown(tmp_path, monkeypatch, recwarn):
    code = "import warnings\nfrom own_nets import of_ten\n\ndef net():\n"
    code += "    warnings.warn('will change', FutureWarning)\n    return of_ten()\n"
    (tmp_path / "warning_net.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert instantiate("warning_net.net", (1, 8, 8), 10)
    assert not recwarn.list


def test_a_finished_student_fetches_no_weights(monkeypatch):
    """They are in its run."""
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail("asked"))
    settings = {"_target_": "torchvision.models.resnet18", "weights": "IMAGENET1K_V1"}
    net = from_settings(settings, "", (3, 32, 32), 10)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
