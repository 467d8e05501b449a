"""Every method in whole short runs: alone and in a stack, interrupted or not."""

import pytest
import torch

from noisy_kd.errors import InputError
from noisy_kd.model.layers import Dropout
from noisy_kd.model.network import build, upto, with_active_dropout
from noisy_kd.training import run as stages
from noisy_kd.training.run import run

TEACHERS = "method.teachers=[digits_teacher,digits_student]"
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
    "batch": ("method=noisy_teacher", "data.batch_size=16"),
}


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
        common = ("precision=32", "trainer.max_epochs=4", "optimizer.lr=0.01")
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


@pytest.mark.parametrize("name", ["fitnets", "fickle_teacher", "ema", "swa", "messy_collaboration"])
def test_an_interruption_changes_nothing(name, go, monkeypatch):
    from noisy_kd.callbacks import BestEpoch

    cell = settings(name)
    (whole,), (quiet,) = go("quiet", cell)
    honest = BestEpoch.on_train_epoch_end

    def interrupted(self, trainer, learner):
        honest(self, trainer, learner)
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
    _, (plain,) = go("plain", common)
    _, (ema,) = go("ema", (*common, "optimizer.averaging=ema", "optimizer.ema_decay=0.0"))
    one, other = weights(plain), weights(ema)
    assert all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)  # decay 0: the last
    _, (slow,) = go("slow", (*common, "optimizer.averaging=ema", "optimizer.ema_decay=0.99"))
    assert not all(torch.allclose(one[k], weights(slow)[k], atol=1e-4) for k in one)
    _, (swa,) = go("swa", (*common, "optimizer.averaging=swa"))
    assert all(torch.allclose(one[k], weights(swa)[k], atol=1e-6) for k in one)  # of one epoch


def test_the_teachers_of_messy_collaboration_and_wrong_labels_are_their_own(go):
    clean = go("clean", ("method=hinton",))[0][0]
    messy = go("messy", ("method=messy_collaboration", "method.rate=0.6"))[0][0]
    student = go("student", ("method=messy_collaboration", "method.where=student"))[0][0]
    wrong = go("wrong", ("method=hinton", "data.label_noise=0.5"))[0][0]
    assert student["teacher_test_errors"] == clean["teacher_test_errors"]
    assert messy["teacher_test_errors"] != clean["teacher_test_errors"]
    assert wrong["teacher_test_errors"] > clean["teacher_test_errors"]


def test_two_teachers_are_judged_together(go):
    (both,) = go("both", settings("two_teachers"))[0]
    (alone,) = go("alone", ("method=two_teachers", "method.teachers=[digits_teacher]"))[0]
    assert both["teacher"] == "digits_teacher+digits_student"
    assert both["teacher_multiplications"] > alone["teacher_multiplications"]
    assert alone["method"] == "logit_regression"
    assert both["method"] == "two_teachers"


def test_a_live_teachers_dropout_is_decided_by_the_students_seed(go, monkeypatch):
    asked = []
    honest = stages.with_active_dropout

    def watched(net, probability):
        fickle = honest(net, probability)
        fickle.register_forward_hook(lambda module, args, out: asked.append(out.clone()))
        return fickle

    monkeypatch.setattr(stages, "with_active_dropout", watched)
    go("one", ("method=fickle_teacher", "trainer.max_epochs=1", "data.subset=64"))
    go("two", ("method=fickle_teacher", "trainer.max_epochs=1", "data.subset=64", "seed=2"))
    assert len(asked) == 2
    assert not torch.equal(asked[0].sort(dim=0).values, asked[1].sort(dim=0).values)


def test_a_part_of_a_net_ends_after_a_named_layer():
    net = build("[C3(S1P1)@4-MP2(S2)]-[C3(S1P1)@6]-FC9-FC10", (1, 8, 8))
    x = torch.rand(2, 1, 8, 8)
    assert upto(net, "C1")(x).shape == (2, 4, 8, 8)
    assert upto(net, "C2")(x).shape == (2, 6, 4, 4)
    assert upto(net, "FC1")(x).shape == (2, 9)
    assert torch.equal(upto(net, None)(x), upto(net, "C2")(x))
    assert (upto(net, "C2")(x) >= 0).all()
    assert next(upto(net, "C1").parameters()) is next(net.parameters())
    for wrong in ("FC2", "C3", "FC", "fc1"):
        with pytest.raises(InputError, match="C1, C2, FC1"):
            upto(net, wrong)


def test_dropout_goes_on_in_a_fickle_teacher_and_nothing_else():
    net = build("FC50-FC50-FC10", (1, 8, 8)).eval()
    fickle, x = with_active_dropout(net, 0.5), torch.rand(4, 1, 8, 8)
    assert [module.training for module in fickle if isinstance(module, Dropout)] == [True]
    assert not torch.equal(fickle(x), fickle(x))
    assert torch.equal(net(x), net(x))
    draws = torch.stack([fickle(x) for _ in range(4000)])
    assert torch.allclose(
        draws.mean(dim=0), net(x), atol=5 * float(draws.detach().std()) / 4000**0.5
    )
    assert torch.equal(with_active_dropout(net, 0.0)(x), net(x))
    own = build("FC50-D0.3-FC50-D0.3-FC10", (1, 8, 8)).eval()
    assert [m.p for m in with_active_dropout(own, 0.1) if isinstance(m, Dropout)] == [0.1, 0.1]


@pytest.mark.parametrize(
    "wrong, what",
    [
        (("method=fitnets", "method.hint=C9", "method.hint_epochs=1"), "no hidden layer C9"),
        (("method=fitnets", "method.guided=C1", "method.hint_epochs=1"), "no hidden layer C1"),
        (("method=two_teachers", "method.teachers=[FC3]"), "3 logits"),
        (("method=two_teachers", "method.teachers=[]"), "list of networks"),
        (("method=two_teachers", "method.combination=mean", TEACHERS), "choose geometric_mean"),
        (("method=hinton", "method.temperature=0"), "above 0"),
        (("method=hinton", "method.temperature=abc"), "method.temperature=abc must be a number"),
        (("method=fickle_teacher", "method.passes=1.5"), "must be a whole number"),
        (("method=fitnets", "method.hint_epochs=x"), "must be a whole number"),
        (("method=fitnets", "method.hint_epochs=4"), "leaves nothing of trainer.max_epochs=4"),
        (("method=random_sigma", "method.sigma_max=x"), "must be a number"),
        (("method=two_teachers", "method.combination=[a]", TEACHERS), "must be a name"),
        (("method=two_teachers", "method.teachers=[1]"), "list of networks"),
        (("method=messy_collaboration", "method.rate=2"), "probability"),
    ],
)
def test_wrong_values_are_refused_in_one_line(wrong, what, go):
    with pytest.raises(InputError, match=what):
        go("wrong", wrong)


def test_patience_is_each_nets_own_in_a_stack(go):
    """A net that has stopped waits for none and is not trained on; alone or not, it is the same."""
    common = ("method=noisy_teacher", "callbacks.best.patience=2", "trainer.max_epochs=25")
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
    from noisy_kd.method import LogitNoise, family
    from noisy_kd.method.family import Method, TeacherDropout

    losses = {}
    for passes in (0, 3):
        for sigma in (0.0, 50.0):
            method = Method(
                family._regression,
                target=LogitNoise(1.0, sigma),
                teacher_dropout=TeacherDropout(0.3, passes),
            )
            monkeypatch.setattr("noisy_kd.training.assembly.method", lambda _, m=method: m)
            _, (directory,) = go(f"{passes}-{sigma}", ("logger=csv", "trainer.max_epochs=1"))
            head, first = (directory / "metrics.csv").read_text().splitlines()[:2]
            losses[passes, sigma] = float(
                dict(zip(head.split(","), first.split(","), strict=True))["loss"]
            )
    assert losses[0, 50.0] > 50 * losses[0, 0.0]
    assert losses[3, 50.0] > 50 * losses[3, 0.0]
