"""What the configuration accepts, what a run is named by, and what its hash covers."""

import re

import pytest
import torch
from conftest import composed
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from noisy_kd.cli.arguments import compose
from noisy_kd.cli.errors import one_line
from noisy_kd.config import CONF, Network, check_range
from noisy_kd.errors import InputError
from noisy_kd.runs.identity import config_hash, run_name, settings_hash

BASE = ["data=mnist"]


def hash_of(*overrides):
    return config_hash(composed(*BASE, *overrides))


@pytest.mark.parametrize(
    "override",
    [
        "method.sigma=0.3",
        "method.alpha=0.3",
        "method.selection=exact",
        "method.resample=once",
        "method=logit_regression",
        "seed=2",
        "data.seed=1",
        "data.subset=1000",
        "data.val_size=0",
        "data.batch_size=32",
        "model@student=shallow1",
        "model@teacher=nin",
        "student.dropout=0.1",
        "teacher.seed=1",
        "teacher.max_epochs=3",
        "teacher.lr=0.01",
        "teacher.subset=100",
        "trainer.max_epochs=3",
        "optimizer.lr=0.01",
        "optimizer.weight_decay=0.01",
        "optimizer.schedule=constant",
        "callbacks.best.patience=3",
        "fast=false",
        "data=svhn",
    ],
)
def test_the_hash_covers_what_decides_the_numbers(override):
    assert hash_of(override) != hash_of()


def test_the_hash_covers_the_resolved_precision(monkeypatch):
    assert hash_of("precision=32") != hash_of("precision=bf16")
    for units, precision in ((True, "bf16"), (False, "32")):
        monkeypatch.setattr("noisy_kd.model.device.has_bf16_units", lambda _, has=units: has)
        assert hash_of() == hash_of(f"precision={precision}")


@pytest.mark.parametrize(
    "override",
    [
        "data.root=/elsewhere",
        "data.download=false",
        "store=/elsewhere",
        "force=true",
        "logger=csv",
        "callbacks=quiet",
        "trainer=cpu",
        "trainer=ddp",
    ],
)
def test_the_hash_covers_nothing_else(override):
    assert hash_of(override) == hash_of()


def test_equal_numbers_and_equal_networks_have_equal_hashes():
    assert hash_of("method.sigma=0") == hash_of("method.sigma=0.0") == hash_of("method.sigma=-0.0")
    assert hash_of("data.seed=9007199254740992") != hash_of("data.seed=9007199254740993")
    raw = 'student.layers="FC800 - FC800 - FC10"'
    assert hash_of(raw) == hash_of()


def test_the_architecture_counts_and_not_its_name(monkeypatch):
    config = composed(*BASE)
    before = config_hash(config)
    config.student.layers = "FC400-FC10"
    monkeypatch.setattr("noisy_kd.config.named_networks", lambda: {"FC400-FC10": "fc800"})
    assert run_name(config).startswith("mnist-fc800-")
    assert config_hash(config) != before


def test_a_student_without_a_teacher_does_not_depend_on_one():
    base = hash_of("method=supervised")
    assert hash_of("method=supervised", "teacher.lr=0.1") == base
    assert hash_of("method=supervised", "model@teacher=nin") != base  # it sets the compression


def test_the_settings_leave_out_the_method():
    one, other = (composed(*BASE, f"method={m}") for m in ("noisy_teacher", "logit_regression"))
    assert settings_hash(one) == settings_hash(other)
    assert settings_hash(composed(*BASE, "seed=5")) != settings_hash(one)


def test_a_checkpoint_and_a_folder_count_by_their_content(tmp_path):
    from image_files import write_folder

    one, copy, other = tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "c.pt"
    for file, value in ((one, 1), (copy, 1), (other, 2)):
        torch.save({"w": torch.tensor([value])}, file)
    content = {f.name: f.read_bytes() for f in (one, copy, other)}
    copy.write_bytes(content["a.pt"])
    hashes = [hash_of(f"teacher.checkpoint={file}") for file in (one, copy, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    # A checkpoint's training settings do not matter.
    assert hash_of(f"teacher.checkpoint={one}", "teacher.max_epochs=3") == hashes[0]

    write_folder(tmp_path / "x")
    write_folder(tmp_path / "y")
    names = [run_name(compose(["data=folder", f"data.root={tmp_path / d}"])) for d in "xy"]
    assert names[0] != names[1]


@pytest.mark.parametrize("name", ["mnist", "svhn"])
def test_other_files_of_a_published_format_are_another_data_set(tmp_path, name):
    import image_files

    published = hash_of(f"data={name}")
    roots = [tmp_path / "a", tmp_path / "b", tmp_path / "missing"]
    for root in roots[:2]:
        root.mkdir()
        getattr(image_files, f"write_{name}")(root)
    hashes = [hash_of(f"data={name}", f"data.root={root}") for root in roots]
    assert len({published, *hashes[:2]}) == 3
    assert hashes[2] == published  # its files will be fetched


def test_the_published_files_count_by_their_name(real_data, tmp_path):
    roots = [real_data, tmp_path]
    assert len({hash_of("data=mnist", f"data.root={root}") for root in roots}) == 1


def test_a_choice_of_the_epoch_of_ones_own_counts():
    own = [f"callbacks.best._target_=own_callbacks.{name}" for name in ("Last", "Other")]
    assert len({hash_of(), *map(hash_of, own)}) == 3


def test_the_views_of_the_teacher_count():
    mirror = ("teacher.augment=mirror", "augment.mirror.views=1")
    assert hash_of(*mirror) != hash_of(mirror[0])


def test_a_run_is_named_by_what_it_is():
    config = compose(["data=cifar10", "model@student=shallow3", "method.sigma=0.25", "seed=7"])
    start = "cifar10-shallow3-noisy_teacher-a0.5-s0.25-seed7-"
    assert run_name(config) == start + config_hash(config)
    raw = compose([*BASE, 'student.layers="[C5(S2P2)@16-MP2(S2)]-FC10"', "method=supervised"])
    assert run_name(raw).startswith("mnist-C5S2P216_MP2S2_FC10-supervised-seed1-")


def test_data_sets_choose_their_networks_and_noise():
    expected = {
        "mnist": ("lenet", "fc800", 0.15, 0.8),
        "svhn": ("nin", "lenet_svhn", 0.15, 0.3),
        "cifar10": ("nin", "lenet_cifar", 0.5, 0.9),
    }
    for data, (teacher, student, alpha, sigma) in expected.items():
        config = compose([f"data={data}"])
        assert (config.teacher_name, config.student_name) == (teacher, student)
        assert (config.method["alpha"], config.method["sigma"]) == (alpha, sigma)
        assert config.data.batch_size == 64
    assert compose(["data=mnist", "model@student=shallow1"]).student_name == "shallow1"
    assert str(Network("FC3")) == "FC3"


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["method.sigma=-1"], "method.sigma=-1.0 must be at least 0"),
        (["method.sigma=nan"], "method.sigma=nan must be a finite number"),
        (["method.sigma=inf"], "finite"),
        (["method.sigma=abc"], "method.sigma=abc must be a number"),
        (["method.alpha=1.5"], "method.alpha=1.5 must be at most 1"),
        (["seed=-1"], "seed=-1 must be at least 0"),
        (["seed=99999999999999999999"], "seed=99999999999999999999 must be at most"),
        (["callbacks.best.patience=x"], "patience=x must be at least 1"),
        (["callbacks.best.patience=0"], "patience=0 must be at least 1"),
        (["trainer.devices=0"], "trainer.devices=0 must be at least 1"),
        (["trainer.devices=2"], "needs trainer=ddp"),
        (["trainer.strategy=foo"], "must be one of auto, ddp"),
        (["trainer.accelerator=abacus"], "must be one of auto, cpu, gpu, mps"),
        (["student.layers=FC9999999999999-FC10"], "at most"),
        (["student.layers=[C5(S1P2)@4"], "this bracket is never closed"),
        (["seed=x"], "seed: Value 'x' .* could not be converted to Integer"),
        (["seed=null"], "seed: Incompatible value 'None'"),
        (["data.seed=-1"], "data.seed=-1"),
        (["data.batch_size=0"], "data.batch_size=0 must be at least 1"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0"),
        (["teacher.max_epochs=-1"], "teacher.max_epochs=-1"),
        (["optimizer.lr=0"], "optimizer.lr=0.0 must be above 0"),
        (["optimizer.schedule=up"], "must be one of constant, linear, cosine"),
        (["student.dropout=1"], "student.dropout=1.0 must be below 1"),
        (["precision=16"], "must be one of auto, 32, bf16"),
        (["student.layers=FC8-FCten"], "position 5"),
        (["teacher.layers=FC"], "position 1"),
        (["student.layers=FC10", "student.dropout=0.5"], "no hidden FC"),
        (["sede=1"], "sede is not a key"),
        (["+sede=1"], "sede is not a key"),
        (["+callbacks.x=1"], "callbacks.x._target_=null"),
        (["method=logit_regression", "method.sigma=1"], "method.sigma is not a key"),
        (["data=imagenet"], "data/imagenet.*in .data.: cifar10 digits"),
        (["method=noisy"], "method/noisy.*in .method.: fickle_teacher"),
        (["model@student=resnet"], "model/resnet.*in .model.: alexnet_mod"),
        (["teacher.checkpoint=/no/such"], "/no/such cannot be read"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(overrides, what):
    with pytest.raises(Exception) as caught:
        run_name(compose(overrides))
    line = one_line(caught.value)
    assert "\n" not in line
    assert re.search(what, line), line


def test_ranges():
    check_range("x", 0.5, least=0, above=0, most=1, below=1)
    with pytest.raises(InputError, match="x=1 must be below 1"):
        check_range("x", 1, below=1)


def test_the_resolver_names_the_directory():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra_compose("config", return_hydra_config=True)
    assert cfg.hydra.run.dir == f"runs/{run_name(compose([]))}"
    assert OmegaConf.is_config(cfg)
