"""Distiller and StudentStack under a stock Lightning Trainer."""

import copy
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from noisy_kd import (
    BestEpoch,
    CachedLogits,
    CIFAR10DataModule,
    DigitsDataModule,
    Distiller,
    MNISTDataModule,
    StudentStack,
    fickle_teacher,
    hinton,
    logit_regression,
    messy_collaboration,
    network,
    noisy_student,
    noisy_teacher,
    random_sigma,
    soft_randomization,
    supervised,
    two_teachers,
)
from noisy_kd.data.dataset import loader, unpack
from noisy_kd.training.fit import TrainingSamples, fit
from noisy_kd.training.logits import stacked_logits
from noisy_kd.training.numerics import Numerics

SHAPE = (1, 8, 8)
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def student(seed=1):
    return network("FC16-FC10", SHAPE, seed=seed)


def teacher(seed=0):
    return network("[C3(S1P1)@4-MP2(S2)]-D0.3-FC32-FC10", SHAPE, seed=seed)


@pytest.fixture(scope="module")
def images():
    data = DigitsDataModule(val_size=180, subset=300)
    data.setup()
    return data


def weights(net):
    return torch.cat([value.detach().flatten().float() for value in net.parameters()])


METHODS = {
    "logit_regression": logit_regression(),
    "noisy_teacher": noisy_teacher(0.5, 0.9),
    "noisy_student": noisy_student(0.5, 0.9),
    "random_sigma": random_sigma(0.5),
    "two_teachers": two_teachers(["a", "b"]),
    "random_teacher": two_teachers(["a", "b"], "random_teacher"),
    "hinton": hinton(),
    "fickle_teacher": fickle_teacher(0.3),
    "soft_randomization": soft_randomization(),
    "messy_collaboration": messy_collaboration(),
    "supervised": supervised(),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_distiller_and_stack_of_one_give_the_same_weights(name, schedule, images, tmp_path):
    """Under a stock Trainer, batch by batch, and on the fast path in chunks."""
    method, seed = METHODS[name], 3
    teachers = [teacher(0), teacher(1)] if method.teachers != "one" else [teacher()]
    asked = teachers if method.has_teacher else None
    dataset, held_out = images.training_set(300), loader(images.validation_set(), 1000)

    alone = Distiller(student(), asked, method, schedule=schedule, seed=seed)
    L.Trainer(max_epochs=3, **QUIET).fit(alone, loader(dataset, 64, seed), held_out)

    live = asked if method.teacher_dropout else None
    stacked = Distiller(student(), live, method, schedule=schedule, seed=seed)
    logits = stacked_logits(teachers, images, tmp_path)[0][dataset.logit_index()]
    samples = TrainingSamples(dataset, 64, logits if method.has_teacher else None)
    stack = StudentStack([stacked], samples, Numerics(torch.device("cpu"), "32", fast=True))
    trainer = L.Trainer(max_epochs=3, num_sanity_val_steps=0, **QUIET)
    fit(stack, trainer, held_out)

    assert torch.allclose(weights(alone.student), weights(stacked.student), atol=2e-5)
    assert not torch.allclose(weights(alone.student), weights(student()), atol=5e-3)


def test_a_stack_of_several_gives_what_stacks_of_one_give(images):
    methods = [noisy_teacher(0.5, 0.0), noisy_teacher(0.5, 0.9), hinton()]

    def train(methods, seeds):
        stack = StudentStack(
            [
                Distiller(student(s), teacher(), m, seed=s)
                for m, s in zip(methods, seeds, strict=True)
            ]
        )
        best = BestEpoch()
        L.Trainer(max_epochs=2, callbacks=[best], **QUIET).fit(stack, images)
        return [weights(one.student) for one in stack.distillers], best.best, stack.metrics()

    together, best, metrics = train(methods, [1, 2, 3])
    for k, (method, seed) in enumerate(zip(methods, [1, 2, 3], strict=True)):
        (alone,), (own,), (shown,) = train([method], [seed])
        assert torch.equal(together[k], alone)
        assert (best[k].epoch, best[k].val_error) == (own.epoch, own.val_error)
        assert metrics[k] == shown


def test_it_logs_loss_error_and_agreement_and_the_error_is_that_of_the_whole_set(images):
    distiller = Distiller(student(), teacher(), noisy_teacher(0.5, 0.9))
    trainer = L.Trainer(max_epochs=1, **QUIET)
    trainer.fit(distiller, images)
    logged = trainer.callback_metrics
    assert {"train/loss", "val/loss", "val/error", "val/agreement"} <= logged.keys()
    x, y = images.validation_set()[torch.arange(180)]
    batches = DataLoader(TensorDataset(x, y), batch_size=77)  # 77, 77, 26: not the mean of means
    (scores,) = trainer.validate(distiller, batches, verbose=False)
    with torch.no_grad():
        guess, taught = (
            net.eval()(x).argmax(1) for net in (distiller.student, *distiller.teachers)
        )
    assert scores["val/error"] == pytest.approx(float((guess != y).float().mean()))
    assert scores["val/agreement"] == pytest.approx(float((guess == taught).float().mean()))
    assert torch.cat(trainer.predict(distiller, batches)).shape == (180, 10)


def test_a_fickle_teacher_is_asked_though_batches_bring_its_clean_logits(images):
    x, y = images.training_set()[torch.arange(64)]
    net = teacher()
    distiller = Distiller(student(), net, fickle_teacher(0.5))
    distiller.loss(x, y, net.eval()(x).detach())
    assert not torch.allclose(distiller.target, net(x))


@pytest.mark.parametrize("z", [torch.arange(16), torch.rand(16)], ids=["numbers", "a column"])
def test_a_third_entry_that_is_no_logits_is_refused(z, images):
    x, y = images.training_set()[torch.arange(16)]
    with pytest.raises(ValueError, match="third entry of a batch must be logits"):
        Distiller(student(), teacher()).loss(x, y, z)


@pytest.mark.parametrize(
    "drawn, trained",
    [
        ((noisy_teacher(0.5, 0.9, resample="once"), 1), (noisy_teacher(0.5, 0.9), 1)),
        (
            (noisy_teacher(0.5, 0.9, resample="once"), 0),
            (noisy_teacher(0.5, 0.9, resample="once"), 1),
        ),
        ((None, 0), (fickle_teacher(0.3, passes=2), 0)),
    ],
    ids=["twice", "another seed", "no passes"],
)
def test_noise_that_was_drawn_for_another_is_refused(drawn, trained, images, tmp_path):
    (method, seed), (own, own_seed) = drawn, trained
    cached = CachedLogits(images, teacher(), tmp_path, method=method, seed=seed)
    with pytest.raises(ValueError, match="CachedLogits"):
        L.Trainer(max_epochs=1, **QUIET).fit(
            Distiller(student(), method=own, seed=own_seed), cached
        )


def test_the_noise_within_an_epoch_is_the_seeds_after_a_resume(images, tmp_path):
    seeds = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, module, *_):
            seeds.append((module.epoch, module.draws["noise"].initial_seed()))

    save = ModelCheckpoint(tmp_path, every_n_train_steps=7, save_top_k=-1)
    settings = QUIET | {"enable_checkpointing": True}
    net = Distiller(student(), teacher(), noisy_teacher(0.5, 0.9), seed=3)
    L.Trainer(max_epochs=2, callbacks=[save, Watch()], **settings).fit(net, images)
    (file,) = tmp_path.glob("*step=7.ckpt")
    whole, seeds[:] = list(seeds), []
    net = Distiller(student(), teacher(), noisy_teacher(0.5, 0.9), seed=3)
    L.Trainer(max_epochs=2, callbacks=[Watch()], **settings).fit(net, images, ckpt_path=file)
    assert seeds and set(seeds) == {whole[-1]}


def test_a_second_fit_has_an_average_of_its_own(images):
    net = Distiller(student(), teacher(), averaging="swa")
    for _ in range(2):
        L.Trainer(max_epochs=4, **QUIET).fit(net, images)
        assert int(net.average.n_averaged) == 1


def test_the_loss_of_an_epoch_is_logged_under_its_name(images, tmp_path):
    trainer = L.Trainer(max_epochs=1, **QUIET | {"logger": CSVLogger(tmp_path)})
    trainer.fit(Distiller(student(), teacher()), images)
    (file,) = tmp_path.rglob("metrics.csv")
    assert "train/loss" in file.read_text().splitlines()[0].split(",")


def test_the_mean_over_the_last_epochs_needs_their_number(images):
    trainer = L.Trainer(max_steps=9, max_epochs=-1, **QUIET)
    with pytest.raises(ValueError, match="max_epochs"):
        trainer.fit(Distiller(student(), teacher(), averaging="swa"), images)


def test_the_teacher_is_frozen_in_eval_mode_and_in_no_checkpoint(images, tmp_path):
    frozen = teacher()
    before = weights(frozen)
    distiller = Distiller(student(), frozen, noisy_teacher(0.5, 0.9))
    frozen.train()  # whatever others do with it meanwhile
    trainer = L.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(distiller, images)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    assert torch.equal(weights(frozen), before)
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    content = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert all(name.startswith("student.") for name in content["state_dict"])
    fresh = Distiller(student(9), frozen)
    fresh.load_state_dict(content["state_dict"])
    assert torch.equal(weights(fresh.student), weights(distiller.student))


def test_the_fickle_teacher_alone_keeps_its_dropout_active(images):
    x, y = images.training_set()[torch.arange(64)]
    fickle = Distiller(student(), teacher(), fickle_teacher(0.5))
    steady = Distiller(student(), teacher(), hinton())
    for distiller, differs in ((fickle, True), (steady, False)):
        targets = []
        for _ in range(2):
            distiller.loss(x, y)
            targets.append(distiller.target)
        assert torch.equal(*targets) != differs
        assert not any(module.training for module in distiller.teachers[0].modules())


def test_training_goes_on_from_a_checkpoint_with_the_same_weights(images, tmp_path):
    def distil(epochs, folder, resume=None):
        distiller = Distiller(
            student(), teacher(), noisy_teacher(0.5, 0.9), seed=2, schedule="constant"
        )
        keep = ModelCheckpoint(tmp_path / folder, filename="last", every_n_epochs=1)
        trainer = L.Trainer(
            max_epochs=epochs, callbacks=[keep], **QUIET | {"enable_checkpointing": True}
        )
        trainer.fit(distiller, images, ckpt_path=resume)
        return weights(distiller.student)

    whole = distil(4, "whole")
    distil(2, "half")
    assert torch.equal(distil(4, "rest", tmp_path / "half" / "last.ckpt"), whole)


@pytest.mark.parametrize(
    "arguments",
    [
        {"precision": "bf16-mixed"},
        {"gradient_clip_val": 0.1},
        {"accumulate_grad_batches": 2},
        {"callbacks": [EarlyStopping("val/error", patience=1)]},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_arguments_of_a_stock_trainer_work(arguments, images):
    distiller = Distiller(student(), teacher(), noisy_teacher(0.5, 0.9), averaging="ema")
    trainer = L.Trainer(max_epochs=3, **QUIET | arguments)
    trainer.fit(distiller, images)
    assert trainer.callback_metrics["val/error"] < 0.95
    assert weights(distiller.student).dtype == torch.float32


def test_gradients_are_clipped_in_a_stack_too(images):
    def moved(clip):
        sgd = torch.optim.SGD
        net, start = student(), weights(student())
        one = Distiller(net, teacher(), optimizer=lambda p: sgd(p, lr=0.01), schedule="constant")
        stack = StudentStack([one], clip=clip)
        trainer = L.Trainer(max_epochs=1, limit_train_batches=1, **QUIET)
        trainer.fit(stack, loader(images.training_set(), 64, 0))
        return (weights(net) - start).norm()

    assert moved({"gradient_clip_val": 0.5}) == pytest.approx(0.005, rel=1e-3)
    assert moved(None) > 0.05


@pytest.mark.slow
def test_two_processes_share_a_training(tmp_path):
    """devices=2, strategy="ddp" on the CPU, as a script runs it."""
    import subprocess
    import sys

    script = tmp_path / "train.py"
    script.write_text(
        "import lightning as L\n"
        "from noisy_kd import DigitsDataModule, Distiller, network, noisy_teacher\n"
        "nets = [network(n, (1, 8, 8)) for n in ('FC64-FC10', 'FC16-FC10')]\n"
        "distiller = Distiller(nets[1], nets[0], noisy_teacher(0.5, 0.9))\n"
        "trainer = L.Trainer(max_epochs=2, accelerator='cpu', devices=2, strategy='ddp',\n"
        "                    logger=False, enable_checkpointing=False)\n"
        "trainer.fit(distiller, DigitsDataModule(val_size=180))\n"
        "total = sum(float(p.double().sum()) for p in distiller.student.parameters())\n"
        "file = open(f'rank{trainer.global_rank}.txt', 'w')\n"
        "print(f'{total:.9f}', trainer.global_step, file=file)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert first.split()[1] == "20"  # 1,257 images: 20 mini-batches, half of them each


@pytest.mark.parametrize(
    "make",
    [
        lambda z: (z, None),
        lambda z: SimpleNamespace(logits=z),
        lambda z: {"logits": z, "other": 1},
        lambda z: [z],
    ],
)
def test_outputs_that_are_no_tensor_give_their_logits(make, images):
    class Wrapped(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return make(self.net(x))

    class Last(nn.Module):
        def forward(self, z):
            return make(z)

    x, y = images.training_set()[torch.arange(8)]
    plain = Distiller(student(), teacher()).loss(x, y)
    assert torch.equal(Distiller(Wrapped(student()), Wrapped(teacher())).loss(x, y), plain)
    in_a_row = nn.Sequential(*student(), Last())
    fast = Numerics(torch.device("cpu"), "32", fast=True)
    assert torch.equal(fast.logits(in_a_row, x), student()(x))


class Endless(IterableDataset):
    """Samples without a length."""

    def __init__(self, x, y):
        self.samples = list(zip(x, y, strict=True))

    def __iter__(self):
        return iter(self.samples)


def test_what_cannot_work_is_refused_clearly(images):
    x, y = images.training_set()[torch.arange(8)]
    text = nn.Module()
    text.forward = lambda x: "text"
    shared = student()
    for call, error, words in (
        (lambda: Distiller(student()).loss(x, y), ValueError, "no teacher"),
        (lambda: Distiller(text, teacher()).loss(x, y), TypeError, "returned str"),
        (lambda: Distiller(student(), [teacher()] * 2), ValueError, "two_teachers"),
        (lambda: Distiller(*[teacher()] * 2), ValueError, "share weights"),
        (lambda: StudentStack([Distiller(shared), Distiller(shared)]), ValueError, "share weights"),
        (lambda: unpack((x, y[:, None])), ValueError, r"shape \[B\], not \[8, 1\]"),
        (
            lambda: L.Trainer(max_epochs=1, **QUIET).fit(
                Distiller(student(), teacher()), DataLoader(Endless(x, y), 4)
            ),
            ValueError,
            "Give the Trainer max_steps",
        ),
        (
            lambda: Distiller(network("FC7", SHAPE), teacher()).loss(x, y),
            ValueError,
            "the student has 7 classes, the teacher 10",
        ),
        (lambda: Distiller(student(), averaging="mean"), ValueError, "choose none, ema, swa"),
        (lambda: Distiller(student(), schedule="quadratic"), ValueError, "choose constant, linear"),
        (
            lambda: Distiller(student(), teacher(), fickle_teacher(passes=3)).loss(x, y),
            ValueError,
            "CachedLogits",
        ),
        (
            lambda: L.Trainer(max_epochs=1, **QUIET).fit(
                Distiller(student(), teacher(), noisy_teacher(0.5, 0.9, resample="once")), images
            ),
            ValueError,
            "resample=once",
        ),
        (
            lambda: L.Trainer(max_epochs=1, **QUIET).fit(
                Distiller(student(), teacher()), DataLoader(TensorDataset(x))
            ),
            TypeError,
            r"must be tensors, \(x, y\)",
        ),
    ):
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_averaged_weights_are_those_that_are_evaluated(averaging, images):
    distiller = Distiller(student(), teacher(), averaging=averaging, ema_decay=0.9)
    L.Trainer(max_epochs=8, **QUIET).fit(distiller, images)
    assert distiller.eval_model is not distiller.student
    assert not torch.equal(weights(distiller.eval_model), weights(distiller.student))
    x, _ = images.training_set()[torch.arange(8)]
    assert torch.equal(distiller(x), distiller.eval_model(x))


class Foreign(L.LightningModule):
    """A module that knows nothing of this project."""

    def __init__(self, pixels):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 10))

    def training_step(self, batch, _):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def validation_step(self, batch, _):
        x, y = batch
        self.log("accuracy", (self.net(x).argmax(1) == y).float().mean())

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def test_digits_train_a_module_of_another_project():
    trainer = L.Trainer(max_epochs=20, **QUIET)
    trainer.fit(module := Foreign(64), data := DigitsDataModule())
    (scores,) = trainer.test(module, data, verbose=False)
    assert scores["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("data", "pixels", "least"),
    [(MNISTDataModule, 784, 0.85), (CIFAR10DataModule, 3072, 0.2)],
    ids=["mnist", "cifar10"],
)
def test_real_data_train_a_module_that_knows_nothing_of_this_project(
    data, pixels, least, real_data
):
    trainer = L.Trainer(max_epochs=1, limit_train_batches=200, **QUIET)
    trainer.fit(module := Foreign(pixels), images := data(real_data, download=False))
    (scores,) = trainer.test(module, images, verbose=False)
    assert scores["accuracy"] > least


def test_a_trained_student_can_be_copied_and_distilled_again(images):
    dropping = network("FC16-D0.5-FC10", SHAPE, seed=1)
    distiller = Distiller(dropping, teacher(), noisy_teacher(0.5, 0.9))
    L.Trainer(max_epochs=1, **QUIET).fit(distiller, images)
    assert all(getattr(module, "generator", None) is None for module in dropping.modules())
    again = Distiller(copy.deepcopy(distiller.student), teacher(), averaging="ema")
    assert torch.equal(weights(again.student), weights(distiller.student))
