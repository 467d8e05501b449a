"""Weights as people save them: read, distinguished, or refused; and no code in them is run."""

import functools
import gzip
import io
import os
import pathlib
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import omegaconf
import pytest
import torch
from torch import nn

from noisy_kd import network
from noisy_kd.errors import InputError
from noisy_kd.training.checkpoints import read_checkpoint

SHAPE = (1, 8, 8)


class Wide(nn.Module):
    """The names of a Wide ResNet: ``conv1`` first, a block with a ``conv1`` of its own."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.block1 = nn.Sequential()
        self.block1.add_module("conv1", nn.Conv2d(8, 16, 3, padding=1))
        self.block1.add_module("bn1", nn.BatchNorm2d(16))
        self.fc = nn.Linear(16, 10)


@pytest.fixture
def net():
    return Wide(seed=3)


@pytest.fixture
def reads(tmp_path, net):
    """Whether a file with this content gives the net its weights."""

    def check(content, name="t.pt", key=None):
        torch.save(content, tmp_path / name)
        found = read_checkpoint(tmp_path / name, Wide(seed=9), key)
        return all(torch.equal(found[name], value) for name, value in net.state_dict().items())

    return check


def prefixed(weights, prefix):
    return {prefix + name: value for name, value in weights.items()}


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "model_state_dict", "ema", "x.y"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.", "a.b.module."])
def test_weights_are_found_wherever_they_are_saved(reads, net, key, prefix):
    weights = prefixed(net.state_dict(), prefix)
    content = weights
    for part in reversed(key.split(".")):
        content = {part: content}
    assert reads(weights)
    assert reads(content | {"epoch": 199, "optimizer": {"state": {}}, "acc": 93.1})


def test_averaged_weights_are_weights_too(reads, net):
    from torch.optim.swa_utils import AveragedModel

    averaged = AveragedModel(net).state_dict()
    assert reads(averaged)
    others = Wide(seed=5).state_dict()
    with pytest.raises(InputError, match="ema"):
        reads({"model": others, "ema": averaged})
    assert reads({"model": others, "ema": averaged}, key="ema")


def test_a_deeper_network_in_a_row_of_names_is_refused(tmp_path):
    def row(depth):
        layers = [(f"conv{k}", nn.Conv2d(1, 1, 3, padding=1)) for k in range(depth)]
        return nn.Sequential(OrderedDict([*layers, ("flat", nn.Flatten())]))

    torch.save(row(4).state_dict(), tmp_path / "t.pt")
    with pytest.raises(InputError, match=r"the file has conv2\.weight, which"):
        read_checkpoint(tmp_path / "t.pt", row(2))


def test_wrappers_inside_names_are_ignored(reads, net):
    inner = {
        name.replace("block1.", "block1._orig_mod."): v for name, v in net.state_dict().items()
    }
    assert reads(inner)
    assert reads(prefixed(inner, "model.module."))


def test_weights_in_a_list_are_found(reads, net):
    assert reads([3, {"ema": net.state_dict()}])


def test_a_network_may_have_a_part_called_module(tmp_path):
    net = nn.Sequential(OrderedDict(module=nn.Linear(4, 3)))
    torch.save(net.state_dict(), tmp_path / "t.pt")
    assert torch.equal(read_checkpoint(tmp_path / "t.pt", net)["module.weight"], net.module.weight)


def test_small_floats_are_read(tmp_path, net):
    small = {k: v.to(torch.float8_e4m3fn) for k, v in net.state_dict().items()}
    torch.save(small, tmp_path / "t.pt")
    net.load_state_dict(read_checkpoint(tmp_path / "t.pt", net))


def test_the_order_of_names_does_not_matter(reads, net):
    assert reads(dict(sorted(net.state_dict().items())))
    assert reads(dict(reversed(prefixed(net.state_dict(), "module.").items())))


def test_counters_may_be_missing_or_left_over(reads, net):
    weights = net.state_dict()
    old = {name: v for name, v in weights.items() if "num_batches_tracked" not in name}
    assert reads(old)
    counters = {"total_ops": torch.zeros(1), "block1.total_params": torch.zeros(1)}
    assert reads(weights | counters)


@pytest.mark.parametrize(
    "other",
    [
        omegaconf.OmegaConf.create({"lr": 1e-3, "layers": [1, 2]}),
        pathlib.Path("x"),
        functools.partial(torch.optim.Adam, lr=0.1),
        np.float64(0.9),
        np.arange(3),
        {1, 2},
    ],
    ids=lambda other: type(other).__name__,
)
def test_other_objects_beside_the_weights_are_ignored(reads, net, other):
    weights = prefixed(net.state_dict(), "net.")
    assert reads({"hyper_parameters": {"x": other}, "state_dict": weights})
    assert reads({"state_dict": weights, "callbacks": [other], "other": other})


@pytest.mark.parametrize("ending", ["safetensors", "pt", "bin"])
def test_safetensors_are_read_whatever_the_ending(tmp_path, net, ending, reads):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(prefixed(net.state_dict(), "model."), tmp_path / f"t.{ending}")
    found = read_checkpoint(tmp_path / f"t.{ending}", Wide())
    assert torch.equal(found["fc.weight"], net.fc.weight)
    assert reads(net.state_dict(), f"torch.{ending}")


def test_several_weights_are_named_and_one_is_chosen(reads, net):
    other = Wide(seed=5).state_dict()
    both = {"model": net.state_dict(), "ema": {"module": other}}
    with pytest.raises(InputError, match=r"several weights .* model, ema\.module; choose"):
        reads(both)
    assert reads(both, key="model")
    assert not reads(both, key="ema.module")
    with pytest.raises(InputError, match=r"checkpoint_key=net: no such weights .* model, ema"):
        reads(both, key="net")
    pair = prefixed(other, "student.") | prefixed(net.state_dict(), "teacher.")
    with pytest.raises(InputError, match=r"several weights .* student, teacher; choose"):
        reads(pair)
    assert reads(pair, key="teacher")
    assert reads({"model": net.state_dict(), "copy": net.state_dict()})


def test_the_weights_of_a_smaller_student_beside_are_no_candidate(reads, net):
    student = network("FC5-FC10", SHAPE).state_dict()
    assert reads(prefixed(student, "student.") | prefixed(net.state_dict(), "teacher."))


def test_what_does_not_fit_is_said_with_the_closest_names(tmp_path, net):
    def why(content, text):
        torch.save(content, tmp_path / "t.pt")
        with pytest.raises(InputError, match=text):
            read_checkpoint(tmp_path / "t.pt", Wide())

    weights = net.state_dict()
    shape = r"fc\.weight should be \(10, 16\), the file has \(5, 16\)"
    why(weights | {"fc.weight": torch.zeros(5, 16)}, shape)
    renamed = {name.replace("fc.", "head."): value for name, value in weights.items()}
    why(renamed, r"no fc\.weight; the closest of its 11 names: .*head\.weight")
    why(weights | {"fc2.weight": torch.zeros(1)}, r"has fc2\.weight, which the teacher has not")
    why(weights | {"fc.bias": torch.full((10,), torch.nan)}, r"fc\.bias .* not finite")
    why([1, 2], "holds no state dict")
    why({k: v.to_sparse() for k, v in weights.items()}, r"torch\.sparse_coo.*save plain tensors")
    itself = dict(weights)
    itself["itself"] = itself
    why(itself, "holds itself")
    twice = {k: torch.zeros_like(v) for k, v in weights.items()}
    why({**weights, **{f"module.{k}": v for k, v in twice.items()}}, "holds several weights")
    why(dict.fromkeys(weights, 3), "holds no state dict")
    why(nn.Linear(2, 2), "holds no state dict: save it by")
    other_classes = {"fc.weight": torch.zeros(1000, 16), "fc.bias": torch.zeros(1000)}
    why(weights | other_classes, r"1000 classes, the images have 10: .*your-own-images\.md")


def written(content):
    """The bytes of a file that torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def archive_of(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"t/{name}", "")
    return file.getvalue()


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"hello", "is a text file, which begins with 'hello'"),
        (b" <!DOCTYPE html>\n<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "is a git-lfs pointer"),
        (gzip.compress(b"weights"), "is a gzip archive"),
        (archive_of("fc.npy"), r"is a zip archive, but no checkpoint of PyTorch: it holds fc\.npy"),
        (archive_of("constants.pkl"), "is a TorchScript archive"),
        (written({"fc.weight": torch.zeros(99)})[:-300], "is damaged, incomplete or"),
        (b"\x08\x07\x12\x07pytorch", "is damaged, incomplete or of another format"),
        (pickle.dumps({"fc.weight": torch.zeros(3)}), "is damaged, incomplete or"),
        (None, "is a directory"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_a_file_that_is_no_checkpoint_is_described(tmp_path, content, what, ending, recwarn):
    file = tmp_path / f"t.{ending}"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(InputError, match=rf"{what}.*\. Expected: safetensors, or weights") as info:
        read_checkpoint(file, Wide())
    assert len(str(info.value)) < 400
    assert "\n" not in str(info.value)
    assert not recwarn
    with pytest.raises(InputError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pt", Wide())


def test_torchscript_is_refused_without_warnings(tmp_path, net, recwarn):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "t.pt")
    recwarn.clear()
    with pytest.raises(InputError, match="is a TorchScript archive"):
        read_checkpoint(tmp_path / "t.pt", Wide())
    assert not recwarn


def test_where_the_weights_lie_is_said(reads, net, caplog):
    caplog.set_level("INFO")
    assert reads({"state_dict": prefixed(net.state_dict(), "model."), "acc": 0.9})
    assert "the weights at state_dict.model" in caplog.text


def test_beside_a_network_in_the_notation_a_file_may_hold_others(tmp_path):
    net = network("FC5-FC10", SHAPE, seed=3)
    torch.save(net.state_dict() | {"criterion.weight": torch.zeros(3)}, tmp_path / "t.pt")
    found = read_checkpoint(tmp_path / "t.pt", network("FC5-FC10", SHAPE))
    assert all(torch.equal(found[name], value) for name, value in net.state_dict().items())
    torch.save(net.state_dict() | {"9.weight": torch.zeros(3)}, tmp_path / "t.pt")
    with pytest.raises(InputError, match=r"has 9\.weight"):
        read_checkpoint(tmp_path / "t.pt", network("FC5-FC10", SHAPE))


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder, how):
        self.folder, self.how = str(folder), how

    def __reduce__(self):
        if self.how == "call":
            return os.mkdir, (self.folder,)
        if self.how == "eval":
            return eval, (f"__import__('os').mkdir({self.folder!r})",)
        return functools.partial(os.mkdir, self.folder), ()


@pytest.mark.parametrize("how", ["call", "eval", "partial"])
@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path, net, how, legacy):
    evil = Malicious(tmp_path / "pwned", how)
    zipped = not legacy
    for place in ("hyper_parameters", "callbacks", "state_dict", "optimizer", "_class"):
        content = {"state_dict": net.state_dict()} | {place: {"x": [evil]}}
        content["model"] = net.state_dict()
        torch.save(content, tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
        read_checkpoint(tmp_path / "t.pt", Wide())
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(evil))
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "raw.pt", Wide())
    assert not (tmp_path / "pwned").exists()
