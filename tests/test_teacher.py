import pytest
import torch
from torch import nn

from noisy_kd.data import Digits
from noisy_kd.errors import InputError, TrainingError
from noisy_kd.evaluation import count_errors, predict_logits
from noisy_kd.identity import identity
from noisy_kd.method import noise
from noisy_kd.model.network import build, notation_of
from noisy_kd.training import store as store_module
from noisy_kd.training import teacher as teacher_module
from noisy_kd.training.hardware import Numerics
from noisy_kd.training.run import check_fit
from noisy_kd.training.teacher import _made_by, read_checkpoint, trained_teacher


def test_the_teacher_learns_is_frozen_and_is_trained_once(short, digits, float32, tmp_path, store):
    config = short("teacher.max_epochs=4")
    teacher = trained_teacher(config, digits, float32, tmp_path)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    errors = count_errors(predict_logits(teacher, digits.test_table()), digits.test_images.labels)
    assert errors < 0.3 * 360
    times = {f: f.stat().st_mtime_ns for f in store.glob("teacher-*/*.pt")}
    again = trained_teacher(config, digits, float32, tmp_path)
    assert {f: f.stat().st_mtime_ns for f in store.glob("teacher-*/*.pt")} == times
    for one, other in zip(teacher.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def key(config, data, numerics, layers=None):
    net = build(layers or config.teacher.layers, data.input_shape)
    return store_module.key_of("teacher", _made_by(config.teacher, net, data, numerics))


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
        "model@teacher=folder_teacher",
    ],
)
def test_the_teachers_key_changes_with_its_settings(short, digits, float32, override):
    layers = None if "@" not in override else "FC10"
    assert key(short(override), digits, float32, layers) != key(short(), digits, float32)


def test_the_teachers_key_changes_with_data_and_precision_and_with_nothing_else(
    short, digits, float32
):
    base = key(short(), digits, float32)
    for other in (Numerics(float32.device, "bf16", True), Numerics(float32.device, "32", False)):
        assert key(short(), digits, other) != base
    for change in ({"val_size": 100}, {"seed": 1}):
        data = Digits(**({"val_size": 180} | change))
        data.setup()
        assert key(short(), data, float32) != base
    same_teacher = ["data.batch_size=32", "teacher.batch_size=64"]
    assert key(short(*same_teacher), digits, float32) == base
    for override in ("seed=5", "method.sigma=0.1", "optimizer.lr=0.1", "data.subset=100"):
        assert key(short(override), digits, float32) == base
    elsewhere = Digits(root="/elsewhere", val_size=180, subset=100)
    elsewhere.setup()
    assert key(short(), elsewhere, float32) == base


@pytest.mark.parametrize(("key", "value"), [("shift", 2), ("batch_norm", True)])
def test_a_teacher_without_later_settings_keeps_the_key_it_had(short, digits, float32, key, value):
    config = short()
    assert key not in _made_by(config.teacher, build("FC10", (1, 8, 8)), digits, float32)
    assert key not in identity(config)["teacher"]
    assert identity(short(f"teacher.{key}={value}"))["teacher"][key] == value


def test_a_teacher_trained_with_batch_normalisation_is_kept_without(
    short, digits, float32, tmp_path, store, monkeypatch
):
    used = []
    whole = teacher_module.with_batch_norm
    monkeypatch.setattr(teacher_module, "with_batch_norm", lambda net: used.append(1) or whole(net))
    config = short("teacher.batch_norm=true", "teacher.max_epochs=4")
    teacher = trained_teacher(config, digits, float32, tmp_path)
    assert notation_of(teacher) == config.teacher.layers
    assert [*teacher.state_dict()] == [*build(config.teacher.layers, (1, 8, 8)).state_dict()]
    abouts = [about for _, about, _ in store_module.entries(store)]
    (about,) = [one for one in abouts if "batch_norm" in one["made_by"]]
    held_out = digits.validation_table()
    errors = count_errors(predict_logits(teacher, held_out), digits.images.labels[held_out.rows])
    assert used
    assert abs(errors / len(held_out) - about["facts"]["val_error"]) <= 1 / len(held_out)
    assert errors < 0.3 * len(held_out)


def test_images_moved_out_of_sight_are_refused_before_any_training(short, digits):
    check_fit([short("teacher.shift=7")], digits)
    with pytest.raises(InputError, match="=8 moves images of 8x8 out of sight"):
        check_fit([short("teacher.shift=8")], digits)


def test_a_teachers_images_are_moved(short, digits, float32, tmp_path, monkeypatch):
    seen = []
    moved = noise.RandomShift.__call__
    monkeypatch.setattr(
        noise.RandomShift, "__call__", lambda *a: seen.append(a[0].pixels) or moved(*a)
    )
    trained_teacher(short("teacher.shift=1", "teacher.max_epochs=1"), digits, float32, tmp_path)
    steps = -(-len(digits.training_table()) // digits.batch_size)
    assert seen == [1] * steps


@pytest.fixture
def net():
    return build("FC5-FC10", (1, 8, 8), seed=3)


@pytest.mark.parametrize("prefix", ["", "model.", "student.net."])
@pytest.mark.parametrize("lightning", [True, False])
def test_a_checkpoint_of_ones_own(tmp_path, net, prefix, lightning):
    weights = {prefix + name: value for name, value in net.state_dict().items()}
    extra = {"other.weight": torch.zeros(3)}
    content = {"state_dict": weights | extra, "epoch": 3} if lightning else weights
    torch.save(content, tmp_path / "t.ckpt")
    found = read_checkpoint(tmp_path / "t.ckpt", build("FC5-FC10", (1, 8, 8)))
    for name, value in net.state_dict().items():
        assert torch.equal(found[name], value)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "t.pt")
    for other in ("FC6-FC10", "FC5-FC5-FC10", "[C3(S1P1)@4]-FC10"):
        with pytest.raises(InputError, match="of another architecture"):
            read_checkpoint(tmp_path / "t.pt", build(other, (1, 8, 8)))


def test_a_checkpoint_that_is_none_is_refused_and_nothing_is_unpickled(tmp_path, net):
    (tmp_path / "text.pt").write_text("hello")
    torch.save(net, tmp_path / "module.pt")  # a pickled module could run code
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("text.pt", "module.pt", "list.pt"):
        with pytest.raises(InputError, match="cannot be read as a state dict"):
            read_checkpoint(tmp_path / name, net)


def test_more_layers_or_values_that_are_not_finite_are_refused(tmp_path, net):
    weights = net.state_dict()
    torch.save(weights | {"9.weight": torch.zeros(3)}, tmp_path / "more.pt")
    torch.save(weights | {"1.bias": torch.full((5,), torch.nan)}, tmp_path / "nan.pt")
    torch.save(dict.fromkeys(weights, 3), tmp_path / "ints.pt")
    torch.save({"model": weights, "epoch": 3}, tmp_path / "nested.pt")
    for name, what in {
        "more": "no 9.weight",
        "nested": r"not only tensors \(model, epoch\): save the state dict alone",
        "nan": "not finite",
        "ints": r"not only tensors \(1.weight",
    }.items():
        with pytest.raises(InputError, match=what):
            read_checkpoint(tmp_path / f"{name}.pt", net)


def test_a_teacher_that_diverges_is_not_stored(short, digits, float32, tmp_path):
    config = short("teacher.lr=1e20", f"store={tmp_path / 'store'}")
    with pytest.raises(TrainingError, match="a smaller teacher"):
        trained_teacher(config, digits, float32, tmp_path)
    assert not list((tmp_path / "store").glob("*/"))


def test_a_run_uses_the_checkpoint(short, digits, float32, tmp_path):
    config = short()
    net = build(config.teacher.layers, digits.input_shape, 10, seed=9)
    torch.save(net.state_dict(), tmp_path / "t.pt")
    config = short(f"teacher.checkpoint={tmp_path / 't.pt'}")
    teacher = trained_teacher(config, digits, float32, tmp_path)
    assert isinstance(teacher, nn.Sequential)
    assert torch.equal(teacher[0].weight, net[0].weight)
