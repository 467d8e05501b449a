"""Every file of conf composes, names only what exists, and becomes the objects of a run."""

import pytest
import yaml
from hydra.utils import get_object
from lightning import Callback
from lightning.pytorch.loggers import Logger, WandbLogger

from noisy_kd.cli.arguments import compose
from noisy_kd.config import CONF, Optimizer
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.errors import InputError
from noisy_kd.method import Method
from noisy_kd.model.device import choose_device
from noisy_kd.training import build
from noisy_kd.training.checks import check_settings
from noisy_kd.training.numerics import Numerics
from noisy_kd.training.stages import run

FILES = sorted(CONF.rglob("*.yaml"))
GROUPS = [f for f in FILES if f.parent != CONF]


def choices(group):
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def targets(node):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key == "_target_" else targets(value)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(CONF)))
def test_every_target_exists(file):
    for target in set(targets(yaml.safe_load(file.read_text()))) - {"???"}:  # the user's to give
        if "wandb" not in target.lower():
            assert callable(get_object(target.replace("${.name}", "resnet18")))
        assert target.split(".")[0] in ("noisy_kd", "lightning", "torch", "torchvision")


@pytest.mark.parametrize("file", GROUPS, ids=lambda f: str(f.relative_to(CONF)))
def test_every_choice_composes(file):
    group = file.parent.name
    key = {"model": "model@student", "training": "training@teacher"}.get(group, group)
    own = ["student._target_=own_nets.Small"] if file.stem == "module" else []
    config = compose([f"{key}={file.stem}", "data.root=/nowhere", *own])
    assert config.seed == 1


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(CONF)))
def test_every_key_is_commented(file):
    """On its line; what opens a block, and what the file's first comment says, need no more."""
    lines = file.read_text().splitlines()
    assert any(line.startswith("# ") or " # " in line for line in lines)
    told = ("defaults", "hydra", "_target_", "layers", "accelerator")
    for line in lines:
        key = line.strip().split(":")[0]
        if not line.startswith((" ", "#")) and line.partition(": ")[2] and key not in told:
            assert "#" in line, line


@pytest.mark.parametrize("name", choices("method"))
def test_every_method_is_a_composition(name):
    assert isinstance(build.method(compose([f"method={name}"])), Method)


@pytest.mark.parametrize("name", choices("data"))
def test_every_data_set_is_a_lightning_data_module(name):
    config = compose([f"data={name}", "data.root=images"])
    assert issubclass(get_object(config.data._target_), ImageDataModule)
    assert get_object(config.data._target_).name == config.data.name == name


def test_loggers_write_into_the_run(tmp_path):
    (logger,) = build.loggers(compose(["logger=tensorboard"]), tmp_path)
    assert isinstance(logger, Logger)
    assert str(logger.log_dir).rstrip("/") == str(tmp_path)
    assert build.loggers(compose(["logger=csv"]), tmp_path) == []  # metrics.csv is there anyway


def test_wandb_is_configured():
    assert get_object(compose(["logger=wandb"]).logger["wandb"]["_target_"]) is WandbLogger


def test_callbacks_and_trainers():
    config = compose(["trainer=cpu"])
    (bar,) = build.callbacks(config)
    assert isinstance(bar, Callback)
    assert build.callbacks(compose(["callbacks=quiet"])) == []
    trainer = build.trainer(config, 3, [])
    assert trainer.max_epochs == 3
    assert build.best_epoch(compose(["callbacks.best.patience=4"])).patience == 4
    debug = compose(["trainer=debug"])
    assert (debug.trainer.max_epochs, debug.teacher.max_epochs) == (1, 1)
    assert (debug.data.subset, debug.teacher.subset, debug.fast) == (200, 200, False)


@pytest.mark.parametrize("accelerator", ["gpu", "mps"])
def test_an_accelerator_that_is_not_there_is_refused(accelerator, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(InputError, match=f"trainer.accelerator={accelerator}"):
        choose_device(accelerator)
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["+method.foo=1"], "method.foo: .* no such argument"),
        (["method.selection=some"], "method.selection=some: choose bernoulli or exact"),
    ],
)
def test_a_method_refuses_what_it_does_not_know(overrides, what):
    with pytest.raises(InputError, match=what):
        build.method(compose(overrides))


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "NAdam", "Adamax", "Adagrad"])
def test_other_optimisers_of_torch_step_too(name, short, tmp_path):
    config = short(f"optimizer._target_=torch.optim.{name}", "trainer.max_epochs=1")
    check_settings(config)
    (result,) = run([config], [tmp_path])
    assert result["status"] == "done"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Rprop", "cannot be used.*weight_decay"),
        ("LBFGS", "cannot be used.*weight_decay"),
        ("Foo", "cannot be imported.*Foo"),
    ],
)
def test_an_optimiser_that_cannot_step_is_refused(name, why):
    config = compose([f"optimizer._target_=torch.optim.{name}"])
    with pytest.raises(InputError, match=f"torch.optim.{name} {why}"):
        check_settings(config)


def test_optimisers_are_fused_where_that_is_faster(float32):
    import torch

    net = torch.nn.Linear(3, 3)
    made = build.optimizer(Optimizer("torch.optim.Adam", 0.1, 0.2), float32)(net.parameters())
    assert (made.defaults["lr"], made.defaults["weight_decay"]) == (0.1, 0.2)
    assert made.defaults["fused"]
    plain = Numerics(torch.device("cpu"), "32", fast=False)
    made = build.optimizer(Optimizer("torch.optim.Adam", 0.1), plain)(net.parameters())
    assert not made.defaults["fused"]
