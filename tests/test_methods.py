"""Every method in whole short runs: alone and in a stack, interrupted or not."""

import pytest
import torch

from noisy_kd.errors import InputError
from noisy_kd.method import LogitNoise, Method, logit_regression, methods
from noisy_kd.method.method import TeacherDropout
from noisy_kd.model.network import network
from noisy_kd.training.callbacks import BestEpoch
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.stages import run

TEACHERS = "method.teachers=[digits_teacher,digits_student]"
VIEWS = ("data.augment=crops", "trainer.max_epochs=6")
METHODS = {
    "noisy_student": (),
    "random_sigma": (),
    "two_teachers": (TEACHERS,),
    "random_teacher": ("method=two_teachers", "method.combination=random_teacher", TEACHERS),
    "hinton": (),
    "fitnets": ("method.hint_epochs=1",),
    "fickle_teacher": (),
    "fickle_passes": ("method=fickle_teacher", "method.passes=2"),
    "soft_randomization": (),
    "messy_collaboration": (),
    "logit_noise_additive": (),
    "supervised": (),
    "ema": ("method=noisy_teacher", "optimizer.averaging=ema", "optimizer.ema_decay=0.9"),
    "swa": ("method=noisy_teacher", "optimizer.averaging=swa"),
    "step": ("method=noisy_teacher", "optimizer.schedule=step"),
    "batch": ("method=noisy_teacher", "data.batch_size=16", "teacher.batch_size=64"),
    "views": ("method=noisy_teacher", *VIEWS, "data.views=3"),
    "views_passes": ("method=fickle_teacher", "method.passes=2", *VIEWS, "data.views=3"),
    "endless_views": ("method=noisy_teacher", *VIEWS, "data.views=null"),
    "endless_fickle": ("method=fickle_teacher", *VIEWS, "data.views=null"),
    "endless_teachers": ("method=two_teachers", TEACHERS, *VIEWS, "data.views=null"),
    "endless_random": (
        *("method=two_teachers", TEACHERS, "method.combination=random_teacher"),
        *(*VIEWS, "data.views=null"),
    ),
}
RESUMED = "fitnets fickle_teacher ema swa messy_collaboration views endless_views"


def settings(name):
    overrides = METHODS[name]
    own = any(o.startswith("method=") for o in overrides)
    return overrides if own else (f"method={name}", *overrides)


def weights(directory):
    return torch.load(directory / "student.pt", weights_only=True)


@pytest.fixture
def go(short, tmp_path):
    def make(name, *cells):
        """Runs of these cells, in one stack; their results and directories."""
        directories = [tmp_path / f"{name}{i}" for i in range(len(cells))]
        for directory in directories:
            directory.mkdir(exist_ok=True)
        common = ("precision=32", "trainer.max_epochs=4", "optimizer.lr=0.01", "logger=csv")
        configs = [short(*common, *cell) for cell in cells]
        return run(configs, directories), directories

    return make


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_and_is_the_same_in_a_stack(name, go):
    cells = [(*settings(name), f"seed={seed}") for seed in (1, 2)]
    together, stacked = go("stack", *cells)
    for i, cell in enumerate(cells):
        (alone,), (directory,) = go(f"alone{i}", cell)
        assert alone["status"] == "done"
        assert alone["test_error"] < 0.7  # by chance: 0.9
        assert alone["test_errors"] == together[i]["test_errors"]
        one, other = weights(directory), weights(stacked[i])
        assert all(torch.allclose(one[k], other[k], rtol=1e-5, atol=1e-7) for k in one)
    first, second = (weights(directory) for directory in stacked)
    assert not all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("name", RESUMED.split())
def test_a_resumed_training_gives_the_same_student(name, go, monkeypatch):
    cell = settings(name)
    (whole,), (quiet,) = go("quiet", cell)
    honest = BestEpoch.on_train_epoch_end

    def interrupted(self, trainer, stack):
        honest(self, trainer, stack)
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BestEpoch, "on_train_epoch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go("broken", cell)
    (again,), (healed,) = go("broken", cell)
    assert again["test_errors"] == whole["test_errors"]
    one, other = weights(quiet), weights(healed)
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_averaged_weights_are_the_mean_they_say(go):
    """With a constant rate of nearly nothing all weights agree; with a real one they do not."""
    common = ("method=logit_regression", "data.val_size=0", "optimizer.schedule=constant")
    common += ("data.subset=300",)
    _, (plain,) = go("plain", common)
    _, (ema,) = go("ema", (*common, "optimizer.averaging=ema", "optimizer.ema_decay=0.0"))
    one, other = weights(plain), weights(ema)
    assert all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)  # decay 0: the last
    _, (slow,) = go("slow", (*common, "optimizer.averaging=ema", "optimizer.ema_decay=0.99"))
    assert not all(torch.allclose(one[k], weights(slow)[k], atol=1e-4) for k in one)
    _, (swa,) = go("swa", (*common, "optimizer.averaging=swa"))
    assert all(torch.allclose(one[k], weights(swa)[k], atol=1e-6) for k in one)  # of one epoch


def test_label_noise_of_the_teacher_gives_a_teacher_of_its_own(go):
    short = ("trainer.max_epochs=1", "data.subset=100")
    messy_collaboration = (*short, "method=messy_collaboration")
    clean = go("clean", (*short, "method=hinton"))[0][0]
    messy = go("messy", (*messy_collaboration, "method.rate=0.6"))[0][0]
    student = go("student", (*messy_collaboration, "method.where=student"))[0][0]
    wrong = go("wrong", (*short, "method=hinton", "data.label_noise=0.5"))[0][0]
    assert student["teacher_test_errors"] == clean["teacher_test_errors"]
    assert messy["teacher_test_errors"] != clean["teacher_test_errors"]
    assert wrong["teacher_test_errors"] > clean["teacher_test_errors"]


def test_two_teachers_count_together(go):
    (both,) = go("both", settings("two_teachers"))[0]
    (alone,) = go("alone", ("method=two_teachers", "method.teachers=[digits_teacher]"))[0]
    assert both["teacher"] == "digits_teacher+digits_student"
    assert both["teacher_multiplications"] > alone["teacher_multiplications"]
    assert alone["method"] == "logit_regression"
    assert both["method"] == "two_teachers"


def test_the_students_seed_and_the_epoch_decide_a_live_teachers_dropout():
    teacher, x, y = network("FC50-FC10", (1, 8, 8)), torch.rand(9, 1, 8, 8), torch.arange(9)

    def target(seed, epoch=0):
        student = network("FC5-FC10", (1, 8, 8), seed=seed)
        distiller = Distiller(student, teacher, methods.fickle_teacher(0.5), seed=seed)
        distiller.begin_fit(torch.device("cpu"))
        distiller.begin_epoch(epoch)
        distiller.loss(x, y)
        return distiller.target

    assert torch.equal(target(1), target(1))
    assert not torch.equal(target(1), target(2))
    assert not torch.equal(target(1), target(1, epoch=1))


@pytest.mark.parametrize(
    "wrong, what",
    [
        (("method=fitnets", "method.hint=C9", "method.hint_epochs=1"), "no hidden layer C9"),
        (("method=fitnets", "method.guided=C1", "method.hint_epochs=1"), "no hidden layer C1"),
        (("method=two_teachers", "method.teachers=[FC3]"), "3 logits"),
        (("method=two_teachers", "method.teachers=[]"), "must be a list"),
        (("method=two_teachers", "method.teachers=[FC9-FC10,FC9-FC10]"), "of different ones"),
        (("method=two_teachers", "method.combination=mean", TEACHERS), "choose geometric_mean"),
        (("method=hinton", "method.temperature=0"), "above 0"),
        (("method=hinton", "method.temperature=abc"), "temperature=abc"),
        (("method=fickle_teacher", "method.passes=1.5"), r"passes=1\.5: 0 .* or a number"),
        (("method=fitnets", "method.hint_epochs=x"), "hint_epochs=x: a number of epochs"),
        (("method=fitnets", "method.hint_epochs=4"), "leaves nothing of trainer.max_epochs=4"),
        (("method=random_sigma", "method.sigma_max=x"), "sigma_max=x"),
        (("method=two_teachers", "method.combination=[a]", TEACHERS), r"combination=\['a'\]"),
        (("method=two_teachers", "method.teachers=[1]"), "must be a list"),
        (("method=messy_collaboration", "method.rate=2"), "probability"),
    ],
)
def test_wrong_values_are_refused_in_one_line(wrong, what, go):
    with pytest.raises(InputError, match=what):
        go("wrong", wrong)


def test_each_student_of_a_stack_has_its_own_patience(go):
    """A student that has stopped is not trained on; it is the same alone and in a stack."""
    common = ("method=noisy_teacher", "callbacks.best.patience=2", "trainer.max_epochs=25")
    common += ("data.subset=300",)
    cells = [(*common, f"seed={seed}", f"method.sigma={s}") for seed in (1, 2) for s in (0, 0.9)]
    together, stacked = go("stack", *cells)
    for i, cell in enumerate(cells):
        (alone,), (directory,) = go(f"alone{i}", cell)
        for key in ("epochs", "steps", "best_epoch", "test_errors", "val_error"):
            assert alone[key] == together[i][key], key
        one, other = weights(directory), weights(stacked[i])
        assert all(torch.equal(one[k], other[k]) for k in one)
    assert len({result["epochs"] for result in together}) > 1


def test_swa_keeps_averaged_weights_alone(go):
    (result,) = go(
        "swa",
        (
            "method=noisy_teacher",
            "optimizer.averaging=swa",
            "trainer.max_epochs=12",
            "optimizer.schedule=constant",
        ),
    )[0]
    assert result["best_epoch"] >= 10  # averaging begins after three quarters


def test_noise_on_the_target_of_a_live_teacher_acts(short, go, monkeypatch):
    losses = {}
    for passes in (0, 3):
        for sigma in (0.0, 50.0):
            method = Method(
                logit_regression,
                target=LogitNoise(1.0, sigma),
                teacher_dropout=TeacherDropout(0.3, passes),
            )
            monkeypatch.setattr("noisy_kd.training.build.method", lambda _, m=method: m)
            _, (directory,) = go(f"{passes}-{sigma}", ("trainer.max_epochs=1",))
            head, first = (directory / "metrics.csv").read_text().splitlines()[:2]
            losses[passes, sigma] = float(
                dict(zip(head.split(","), first.split(","), strict=True))["loss"]
            )
    assert losses[0, 50.0] > 50 * losses[0, 0.0]
    assert losses[3, 50.0] > 50 * losses[3, 0.0]
