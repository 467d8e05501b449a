"""Devices, precision, memory layout: what is chosen, and that it keeps the numbers."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from noisy_kd.errors import InputError
from noisy_kd.model import device
from noisy_kd.model.network import network
from noisy_kd.training import build, numerics
from noisy_kd.training.numerics import Numerics

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restore():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def processor(monkeypatch):
    """Let the processor have these units, and be of Intel or not."""

    def make(amx=False, avx512_bf16=False, intel=False):
        monkeypatch.setattr(device, "_is_intel", lambda: intel)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)
        numerics._medium_is_exact.cache_clear()

    yield make
    numerics._medium_is_exact.cache_clear()


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "mm" in function.__name__
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("units", "precision"),
    [
        ({}, "32"),
        ({"amx": True}, "bf16"),
        ({"avx512_bf16": True}, "bf16"),
        ({"avx512_bf16": True, "intel": True}, "32"),
        ({"amx": True, "avx512_bf16": True, "intel": True}, "bf16"),
        ({"intel": True}, "32"),
    ],
)
def test_auto_is_bf16_on_processors_where_it_is_faster(processor, units, precision):
    processor(**units)
    with Products() as products:
        assert device.resolve_precision("auto", True, CPU) == precision
    assert products.count == 0
    assert device.resolve_precision("auto", False, CPU) == "32"
    assert device.resolve_precision("32", True, CPU) == "32"
    assert device.resolve_precision("bf16", True, CPU) == "bf16"


@pytest.mark.parametrize(
    ("text", "intel"),
    [
        ("vendor_id\t: GenuineIntel\n", True),
        ("vendor_id\t: AuthenticAMD\n", False),
        (None, True),
    ],
)
def test_the_vendor_is_read_from_the_system(monkeypatch, text, intel):
    def read_text(self):
        if text is None:
            raise FileNotFoundError(self)
        return text

    monkeypatch.setattr(device.Path, "read_text", read_text)
    monkeypatch.setattr(device.platform, "processor", lambda: "Intel64 Family 6")
    assert device._is_intel.__wrapped__() == intel


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "32"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_auto_is_bf16_on_gpus_of_capability_8(monkeypatch, capability, precision):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
    assert device.resolve_precision("auto", True, torch.device("cuda")) == precision
    assert device.resolve_precision("auto", False, torch.device("cuda")) == "32"


def test_auto_is_float32_on_an_apple_gpu():
    assert device.resolve_precision("auto", True, torch.device("mps")) == "32"


def test_without_bf16_units_a_run_is_float32_and_no_matrix_product_is_made(processor, short):
    processor()
    with Products() as products:
        assert build.numerics(short("precision=auto")).precision == "32"
    assert products.count == 0
    assert torch.get_float32_matmul_precision() == "medium"  # exact without such units


@pytest.mark.parametrize("intel", [True, False])
def test_with_bf16_units_the_accuracy_of_medium_products_is_probed_once(processor, intel):
    processor(avx512_bf16=True, intel=intel)
    with Products() as products:
        exact = [numerics._medium_is_exact() for _ in range(3)]
    assert products.count == 2  # in double precision and in medium
    assert len(set(exact)) == 1


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "chosen"),
    [
        ("cpu", True, True, "cpu"),
        ("auto", False, False, "cpu"),
        ("auto", False, True, "mps"),
        ("auto", True, False, "cuda:0"),
        ("gpu", True, False, "cuda:0"),
        ("mps", False, True, "mps"),
        ("gpu", False, False, "no GPU found; use trainer=cpu"),
        ("mps", False, False, "no Apple GPU found; use trainer=cpu"),
    ],
)
def test_the_device_is_the_best_there_is(monkeypatch, accelerator, cuda, mps, chosen):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if "found" in chosen:
        with pytest.raises(InputError, match=f"trainer.accelerator={accelerator}: {chosen}"):
            device.choose_device(accelerator)
    else:
        assert str(device.choose_device(accelerator)) == chosen


@pytest.mark.parametrize("exact", [True, False])
def test_float32_stays_float32(monkeypatch, exact):
    """On AMX "medium" computes in bf16: it is used only where a probe finds float32's accuracy."""
    monkeypatch.setattr(numerics, "_medium_is_exact", lambda: exact)
    numerics.set_up("32", True, CPU)
    assert torch.get_float32_matmul_precision() == ("medium" if exact else "highest")
    a = torch.randn(256, 256)
    if not exact:
        error = ((a @ a).double() - a.double() @ a.double()).norm() / (a @ a).norm()
        assert error < numerics.FLOAT32_ERROR


def test_channels_last_keeps_the_values():
    fast, plain = (Numerics(CPU, "32", fast=f) for f in (True, False))
    x = torch.randn(2, 3, 4, 4)
    assert fast.to_channels_last(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fast.to_channels_last(x), x)
    assert plain.to_channels_last(x) is x


def test_memory_is_kept_with_glibc_alone(monkeypatch):
    numerics._keep_memory.__wrapped__()
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("not here"))
    numerics._keep_memory.__wrapped__()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "layers", ["FC30-FC5", "[C3(S1P1)@4-MP2(S2)]-FC30-FC5", "C3(S1P1)@5-AP8(S1)"]
)
def test_bf16_is_near_float32_by_either_route(monkeypatch, layers, exact):
    """Fully connected layers: under autocast, or in float32 tensors with oneDNN's bf16 products."""
    monkeypatch.setattr(numerics, "_medium_is_exact", lambda: exact)
    bf16, net = Numerics(CPU, "bf16", fast=True), network(layers, (3, 8, 8), 5, seed=0)
    x = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = torch.get_float32_matmul_precision()
    with bf16.matmul_precision():
        assert torch.get_float32_matmul_precision() == (before if exact else "medium")
        g = bf16.logits(net, x)
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


def test_only_fast_bf16_uses_tf32_or_amx(monkeypatch):
    monkeypatch.setattr(numerics, "_medium_is_exact", lambda: False)
    assert not Numerics(CPU, "32", fast=True).uses_tf32_or_amx
    assert not Numerics(CPU, "bf16", fast=False).uses_tf32_or_amx
    assert Numerics(torch.device("cuda"), "bf16", fast=True).uses_tf32_or_amx
    assert not Numerics(torch.device("cuda"), "32", fast=True).uses_tf32_or_amx


@pytest.mark.parametrize("pool", ["MP2(S2)", "MP3(S2)"])
def test_relu_after_the_pool_gives_the_same_values_and_gradients(pool):
    net = network(f"[C3(S1P1)@4-{pool}]-[C3(S1P1)@6-{pool}]-FC5", (3, 9, 9), 5, seed=0)
    x = torch.randn(8, 3, 9, 9)
    found = []
    for fast in (False, True):
        net.zero_grad()
        g = Numerics(CPU, "32", fast).logits(net, x)
        g.square().sum().backward()
        found.append([g.detach(), *[parameter.grad.clone() for parameter in net.parameters()]])
    for plain, reordered in zip(*found, strict=True):
        assert torch.equal(plain, reordered)


def test_an_average_pool_keeps_its_place():
    layers = [torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    assert numerics.relu_after_pool(layers) == [*layers[:2], layers[3], layers[2]]


@pytest.mark.parametrize(
    ("text", "name"),
    [("flags\t: sse\nmodel name\t: Some CPU @ 2 GHz\n", "cpu (Some CPU @ 2 GHz)"), (None, "cpu")],
)
def test_a_result_names_the_processor(monkeypatch, text, name):
    def read_text(self):
        if text is None:
            raise FileNotFoundError(self)
        return text

    monkeypatch.setattr(numerics.Path, "read_text", read_text)
    monkeypatch.setattr(numerics.platform, "processor", str)
    assert numerics.device_name(CPU) == name


@pytest.mark.parametrize(
    ("device", "multiplications", "deterministic", "threads"),
    [
        ("cpu", 1_300_000, False, 1),  # FC800-FC800 on MNIST
        ("cpu", 65_700_000, False, 2),
        ("cpu", 65_700_000, True, 1),
        ("cuda", 1_300_000, False, 2),
    ],
)
def test_small_networks_and_deterministic_ones_are_computed_on_one_thread(
    device, multiplications, deterministic, threads, monkeypatch
):
    given = []
    monkeypatch.setattr(numerics, "THREADS", 2)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    numerics.choose_threads(torch.device(device), multiplications, deterministic)
    assert given == [threads]
