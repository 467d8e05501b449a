"""A GPU gives what the CPU gives; skipped where there is none."""

import logging

import pytest
import torch
from image_files import write_folder

from noisy_kd import load_student
from noisy_kd.training import compiled, stack
from noisy_kd.training.graphs import capture
from noisy_kd.training.numerics import Numerics
from noisy_kd.training.stack import StudentStack
from noisy_kd.training.stages import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CONVOLUTION = "[C3(S1P1)@8-MP2(S2)]-FC20-FC10"


@pytest.fixture
def go(short, tmp_path):
    def make(name, *overrides, cells=("",)):
        each = [short("trainer=gpu", "precision=32", *overrides, *cell.split()) for cell in cells]
        places = [tmp_path / f"{name}{k}" for k in range(len(each))]
        for place in places:
            place.mkdir()
        return run(each, places), places

    return make


def weights(directory):
    return torch.cat([p.detach().flatten().cpu() for p in load_student(directory).parameters()])


@pytest.mark.parametrize("student", ["FC20-FC10", CONVOLUTION])
def test_float32_gives_the_cpus_student_to_rounding(go, student):
    settings = ("method=logit_regression", f'student.layers="{student}"', "trainer.max_epochs=2")
    (gpu,), (there,) = go("gpu", *settings)
    (cpu,), (here,) = go("cpu", *settings, "trainer=cpu")
    assert not gpu["device"].startswith("cpu") and cpu["device"].startswith("cpu")
    difference = weights(there) - weights(here)
    assert difference.norm() < 0.02 * weights(here).norm()


@pytest.mark.parametrize("colour", [False, True])
def test_a_stack_gives_what_each_run_gives_alone(go, tmp_path, colour):
    settings = ["trainer.max_epochs=6"]
    if colour:
        write_folder(tmp_path / "images", size=(8, 8), per_class=700)
        settings += ["data=folder", f"data.root={tmp_path / 'images'}"]
        settings += [f'student.layers="{CONVOLUTION.replace("FC10", "FC3")}"']
    cells = [f"method.sigma={sigma} seed={seed}" for sigma in (0, 0.9) for seed in (1, 2)]
    stacked, places = go("stack", *settings, cells=cells)
    for cell, result, place in zip(cells, stacked, places, strict=True):
        (alone,), (own,) = go(cell, *settings, cells=[cell])
        assert result["test_errors"] == alone["test_errors"]
        assert torch.allclose(weights(place), weights(own), atol=1e-5)


@pytest.mark.parametrize("averaging", ["none", "swa"])
def test_graphs_give_what_single_launches_give(go, monkeypatch, averaging):
    settings = ("trainer.max_epochs=6", "student.dropout=0.2", f"optimizer.averaging={averaging}")
    _, (graphs,) = go("graphs", *settings)
    monkeypatch.setattr(Numerics, "graphs", False)
    _, (launches,) = go("launches", *settings)
    assert torch.allclose(weights(graphs), weights(launches), atol=1e-4)


@pytest.mark.parametrize("method", ["noisy_teacher", "fickle_teacher", "soft_randomization"])
def test_bfloat16_learns_as_well(go, method):
    settings = (f"method={method}", "trainer.max_epochs=30", "teacher.max_epochs=10")
    (exact,), _ = go("float32", *settings)
    (coarse,), _ = go("bf16", *settings, "precision=bf16")
    assert coarse["test_error"] == pytest.approx(exact["test_error"], abs=0.05)


@pytest.mark.parametrize("student", ["FC20-D0.3-FC10", f"{CONVOLUTION[:-5]}-D0.3-FC10"])
def test_compiled_steps_learn_the_same(go, monkeypatch, caplog, student):
    settings = ("precision=bf16", "trainer.max_epochs=6", f'student.layers="{student}"')
    cells = [f"method.sigma={sigma}" for sigma in (0, 0.9)]
    plain, places = go("plain", *settings, cells=cells)
    monkeypatch.setattr(stack, "WORTH_COMPILING", 0)
    used, step = [], compiled.CompiledStudent.step
    monkeypatch.setattr(compiled.CompiledStudent, "step", lambda s: used.append(s) or step(s))
    with caplog.at_level(logging.INFO, "noisy_kd"):
        fast, others = go("fast", *settings, cells=cells)
    assert len(set(used)) == 2 and "compiled steps" not in caplog.text
    for one, other, place, there in zip(plain, fast, places, others, strict=True):
        assert other["test_error"] == pytest.approx(one["test_error"], abs=0.02)
        assert (weights(there) - weights(place)).norm() < 0.05 * weights(place).norm()


def test_steps_are_graphs_and_do_not_wait_for_the_device(go, monkeypatch):
    step, graphed = StudentStack.training_step, []

    def watched(stack, batch, batch_idx):
        tried = stack.current_epoch > 1
        each = [one for steps in stack.steps for one in steps.replays.values() if tried]
        graphed.extend(one is not None for one in each)
        torch.cuda.set_sync_debug_mode("error" if tried else "default")
        try:
            step(stack, batch, batch_idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(StudentStack, "training_step", watched)
    go("run", "trainer.max_epochs=4", 'student.layers="FC20-D0.3-FC10"')
    assert graphed and all(graphed)


def test_after_a_capture_that_fails_all_generators_draw_on():
    """As with a custom method that looks at a value in its steps."""
    generator, stream = torch.Generator("cuda").manual_seed(0), torch.cuda.current_stream()

    def steps():
        drawn = torch.rand(3, generator=generator, device="cuda") + torch.rand(3, device="cuda")
        return {"loss": drawn * drawn.sum().item()}

    steps()
    with pytest.raises(RuntimeError):
        capture(steps, [generator], torch.cuda.Stream())
    assert torch.cuda.current_stream() == stream
    assert steps()["loss"].isfinite().all()
