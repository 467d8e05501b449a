import subprocess
import sys

import pytest
import torch

from noisy_kd.model.network import build
from noisy_kd.training import hardware

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restore():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("speed", "precision"), [(1.0, "32"), (2.0, "bf16")])
def test_auto_takes_bf16_where_it_is_faster(monkeypatch, speed, precision):
    monkeypatch.setattr(hardware, "bf16_speed", lambda device: speed)
    assert hardware.choose("auto", True, CPU).precision == precision
    assert hardware.choose("auto", False, CPU).precision == "32"
    assert hardware.choose("32", True, CPU).precision == "32"
    assert hardware.choose("bf16", True, CPU).precision == "bf16"


@pytest.mark.parametrize("exact", [True, False])
def test_float32_stays_float32(monkeypatch, exact):
    """On AMX "medium" computes in bf16: it is used only where a probe finds float32's accuracy."""
    monkeypatch.setattr(hardware, "_medium_is_exact", lambda: exact)
    hardware.choose("32", True, CPU)
    assert torch.get_float32_matmul_precision() == ("medium" if exact else "highest")
    a = torch.randn(256, 256)
    if not exact:
        error = ((a @ a).double() - a.double() @ a.double()).norm() / (a @ a).norm()
        assert error < hardware.FLOAT32_ERROR


def test_the_processes_of_a_sweep_decide_alike(monkeypatch):
    """They are told what one of them has found."""
    monkeypatch.setattr(hardware, "bf16_speeds", {"cpu": 2.0})
    monkeypatch.setattr(hardware, "_seconds", lambda *_: pytest.fail("tried again"))
    assert hardware.choose("auto", True, CPU).precision == "bf16"


def test_the_probes_run(monkeypatch):
    monkeypatch.setattr(hardware, "bf16_speeds", {})
    assert hardware.bf16_speed(CPU) > 0
    assert isinstance(hardware._medium_is_exact(), bool)


def test_layouts_keep_the_values():
    fast, plain = (hardware.Numerics(CPU, "32", fast=f) for f in (True, False))
    x = torch.randn(2, 3, 4, 4)
    assert fast.arrange(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fast.arrange(x), x)
    assert plain.arrange(x) is x


def test_keeping_memory_is_for_glibc_alone(monkeypatch):
    code = "from noisy_kd.training.hardware import _keep_memory; _keep_memory()"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("not here"))
    hardware._keep_memory.__wrapped__()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "layers", ["FC30-FC5", "[C3(S1P1)@4-MP2(S2)]-FC30-FC5", "C3(S1P1)@5-AP8(S1)"]
)
def test_bf16_is_near_float32_by_either_route(monkeypatch, layers, exact):
    """Fully connected layers: under autocast, or in float32 tensors with oneDNN's bf16 products."""
    monkeypatch.setattr(hardware, "_medium_is_exact", lambda: exact)
    numerics, net = hardware.Numerics(CPU, "bf16", fast=True), build(layers, (3, 8, 8), 5, seed=0)
    x = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = torch.get_float32_matmul_precision()
    with numerics.products():
        assert torch.get_float32_matmul_precision() == (before if exact else "medium")
        g = numerics.logits(net, x)
        g.square().sum().backward()
    assert torch.get_float32_matmul_precision() == before
    assert g.dtype == torch.float32
    got = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    plain = net(x)
    plain.square().sum().backward()
    assert (g - plain).norm() < 0.02 * plain.norm()
    for gradient, parameter in zip(got, net.parameters(), strict=True):
        assert (gradient - parameter.grad).norm() < 0.05 * parameter.grad.norm()


def test_float32_uses_no_bf16_product(monkeypatch):
    monkeypatch.setattr(hardware, "_medium_is_exact", lambda: False)
    assert not hardware.Numerics(CPU, "32", fast=True).own_products
    assert not hardware.Numerics(CPU, "bf16", fast=False).own_products
    assert hardware.Numerics(torch.device("cuda"), "bf16", fast=True).own_products
    assert not hardware.Numerics(torch.device("cuda"), "32", fast=True).own_products


@pytest.mark.parametrize("pool", ["MP2(S2)", "MP3(S2)"])
def test_relu_after_the_pool_gives_the_same_values_and_gradients(pool):
    net = build(f"[C3(S1P1)@4-{pool}]-[C3(S1P1)@6-{pool}]-FC5", (3, 9, 9), 5, seed=0)
    x = torch.randn(8, 3, 9, 9)
    found = []
    for fast in (False, True):
        net.zero_grad()
        g = hardware.Numerics(CPU, "32", fast).logits(net, x)
        g.square().sum().backward()
        found.append([g.detach(), *[parameter.grad.clone() for parameter in net.parameters()]])
    for plain, reordered in zip(*found, strict=True):
        assert torch.equal(plain, reordered)


def test_an_average_pool_keeps_its_place():
    layers = [torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    assert hardware.relu_after_pool(layers) == [*layers[:2], layers[3], layers[2]]


@pytest.mark.parametrize(
    ("text", "name"),
    [("flags\t: sse\nmodel name\t: Some CPU @ 2 GHz\n", "cpu (Some CPU @ 2 GHz)"), (None, "cpu")],
)
def test_a_result_names_the_processor(monkeypatch, text, name):
    def read_text(self):
        if text is None:
            raise FileNotFoundError(self)
        return text

    monkeypatch.setattr(hardware.Path, "read_text", read_text)
    monkeypatch.setattr(hardware.platform, "processor", str)
    assert hardware.device_name(CPU) == name
