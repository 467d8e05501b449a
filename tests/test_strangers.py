"""Files of strangers run no code, and write nothing outside of their folder."""

import importlib
import io
import json
import os
import pickle
import re
import shutil
import sys
import tarfile
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import tensorboard.program
import torch
from conftest import ROOT, composed
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from strangers import PAYLOADS, files, legacy
from torch import nn

from noisy_kd import load_preprocessing, load_student, network
from noisy_kd.data import sources, store
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.data.decode import inspect
from noisy_kd.deploy.predict import load
from noisy_kd.errors import InputError
from noisy_kd.method import Method
from noisy_kd.model.network import from_settings
from noisy_kd.model.targets import check_allowed
from noisy_kd.report import keep
from noisy_kd.runs import read_json, read_result
from noisy_kd.training.callbacks.resume import Resume, saved_epoch
from noisy_kd.training.checkpoints import read_checkpoint
from noisy_kd.training.finished import load_config, teacher_test_logits

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


@pytest.fixture
def stranger(finished, tmp_path):
    """A copy of a finished run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def of_run(name, read):
    """Read a file of a run that has been replaced."""

    def place(run, content):
        (run / name).write_bytes(content)
        return read(run)

    return place


def of_file(name, read):
    """Read a file that lies alone."""

    def place(run, content):
        (run.parent / name).write_bytes(content)
        return read(run.parent / name)

    return place


def of_store(run, content):
    """Read an entry of the store; one that is refused would be made again."""
    entry = run.parent / store.key_of("teacher", {})
    entry.mkdir(exist_ok=True)
    (entry / "tensors.pt").write_bytes(content)
    (entry / "entry.json").write_text(json.dumps({"facts": {}, "made_by": {}}))

    def again(_):
        raise InputError("it is made again")

    return store.get_or_make(run.parent, "teacher", {}, again)


def of_cifar10(run, content):
    folder = run.parent / "cifar-10-batches-py"
    folder.mkdir(exist_ok=True)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(content)
    return sources.cifar10(run.parent)


def resumed(run):
    callback = Resume([run / "last.ckpt"], None, ["identity"])
    return saved_epoch(run / "last.ckpt", "identity"), callback._load(0)


NET = network("FC10", (1, 8, 8))
PLACES = {
    "teacher.checkpoint": of_file("t.pt", lambda file: read_checkpoint(file, NET)),
    "Lightning": of_file("t.ckpt", lambda file: read_checkpoint(file, NET)),
    "safetensors": of_file("t.safetensors", lambda file: read_checkpoint(file, NET)),
    "student.pt": of_run("student.pt", load_student),
    "preprocessing.pt": of_run("preprocessing.pt", load_preprocessing),
    "teacher_logits.pt": of_run("teacher_logits.pt", teacher_test_logits),
    "last.ckpt": of_run("last.ckpt", resumed),
    "result.json": of_run("result.json", lambda run: (read_result(run), load_student(run))),
    "config.yaml": of_run("config.yaml", load_config),
    "evaluation.json": of_run("evaluation.json", lambda run: read_json(run / "evaluation.json")),
    "kept results": of_file("table1.jsonl", keep.read),
    "store": of_store,
    "CIFAR-10": of_cifar10,
    "onnx": of_file("s.onnx", load),
    "pt2": of_file("s.pt2", load),
    "exported safetensors": of_file("s.safetensors", load),
    "an image": of_file("x.png", inspect),
}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_runs_code_if_it_is_unpickled(payload, tmp_path):
    """Else the tests below would show nothing."""
    ran = []
    for k, content in enumerate(files(payload, str(tmp_path / "marker"))):
        shutil.rmtree(tmp_path / "marker", ignore_errors=True)
        (tmp_path / "t").write_bytes(content)
        with suppress(Exception), warnings.catch_warnings(action="ignore"):
            pickle.loads(content) if k == 2 else torch.load(tmp_path / "t", weights_only=False)
        ran.append((tmp_path / "marker").exists())
    assert any(ran)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_not_run(payload, place, stranger):
    marker = stranger.parent / "marker"
    for content in files(payload, str(marker)):
        with suppress(InputError):
            PLACES[place](stranger, content)
        assert not marker.exists()


YAML = [
    "!!python/object/apply:os.mkdir [MARKER]",
    "!!python/object/new:os.mkdir [MARKER]",
    "!!python/object:os.mkdir {x: MARKER}",
    "{x: !!python/object/apply:subprocess.check_call [[mkdir, MARKER]]}",
    "{? !!python/object/apply:os.mkdir [MARKER] : 1}",
    "{x: !!python/name:os.mkdir , y: !!python/module:os }",
    "&a [*a, !!python/object/apply:builtins.eval [\"__import__('os').mkdir('MARKER')\"]]",
    "{seed: '${oc.decode:\"!!python/object/apply:os.mkdir [MARKER]\"}'}",
]


@pytest.mark.parametrize("text", YAML)
def test_yaml_with_python_in_it_is_refused(text, stranger):
    marker = stranger.parent / "marker"
    (stranger / "config.yaml").write_text(text.replace("MARKER", str(marker)))
    with pytest.raises(InputError):
        load_config(stranger)
    assert not marker.exists()


def test_archives_of_torchscript_and_of_packages_are_refused(stranger):
    torch.jit.script(nn.Linear(2, 2)).save(stranger.parent / "t.pt")
    script = (stranger.parent / "t.pt").read_bytes()
    with torch.package.PackageExporter(stranger.parent / "p.pt") as package:
        package.save_source_string("evil", "import os\nos.mkdir('marker')\n")
        package.save_pickle("evil", "data.pkl", {"x": 1})
    for content in (script, (stranger.parent / "p.pt").read_bytes()):
        for name in ("teacher.checkpoint", "student.pt", "preprocessing.pt", "store"):
            with pytest.raises(InputError):
                PLACES[name](stranger, content)


def test_another_configuration_in_a_pickle_is_refused(command, tmp_path):
    (content,) = files("os.mkdir", str(tmp_path / "marker"))[2:]
    (tmp_path / "config.pickle").write_bytes(content)
    for option in ("--experimental-rerun", "--exp"):
        done = command("train", option, "config.pickle")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "marker").exists()


# Import paths

FORBIDDEN = [
    *(
        "os.system",
        "posix.system",
        "subprocess.run",
        "builtins.eval",
        "builtins.exec",
        "runpy.run_path",
    ),
    *("torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.load", "torch.save"),
    *(
        "torch.serialization.load",
        "torch.jit.load",
        "torch.export.load",
        "torch.package.PackageImporter",
    ),
    *("torch.utils.cpp_extension.load", "torch.utils.cpp_extension.load_inline", "torch.os.system"),
    *(
        "torch.utils.model_zoo.load_url",
        "torch.storage._load_from_bytes",
        "torch.classes.load_library",
    ),
    *("torch.ops.load_library", "torch.compile", "torch.nn.Module.load_state_dict", "torch.Tensor"),
    *("torch.multiprocessing.spawn", "torch.distributed.run.main", "torch.utils.data.DataLoader"),
    *(
        "torch.nn.modules.module.torch.os.system",
        "torch.fx.symbolic_trace",
        "torch.nn.init.normal_",
    ),
    *("torchvision.io.write_file", "torchvision.io.read_file", "torchvision.datasets.CIFAR10"),
    *("torchvision.models.resnet.load_state_dict_from_url", "torchvision.models.os.system"),
    *("torchvision.datasets.utils.download_url", "torchvision.datasets.utils.extract_archive"),
    *("torchvision.models._utils.handle_legacy_interface", "torchvision.models._api.os.system"),
    *("lightning.LightningModule.load_from_checkpoint", "lightning.pytorch.cli.LightningCLI"),
    *("lightning.fabric.utilities.cloud_io.get_filesystem", "lightning.Fabric", "lightning.os"),
    *("noisy_kd.load_student", "noisy_kd.runs.load_student", "noisy_kd.model.network.instantiate"),
    *(
        "noisy_kd.model.targets.locate",
        "noisy_kd.data.preprocessing.restored",
        "noisy_kd.runs.os.system",
    ),
    *("noisy_kd.runs.shutil.rmtree", "noisy_kd.config.os.system", "noisy_kd.runs.forget"),
    *("noisy_kd.data.store.clean", "noisy_kd.__main__.main", "noisy_kd.cli.main.main"),
    *("noisy_kd.data.preprocessing.pkgutil.resolve_name", "noisy_kd.training.build.partial"),
    *(
        "noisy_kd",
        "torch",
        "torch.nn",
        "",
        ".",
        "..os.system",
        "torch..os",
        "torchx.Net",
        "torch:load",
    ),
    *("evil.Net", "evil", "torchevil.Net", "my.torch.Net", "timmy.create_model"),
]


@pytest.fixture
def write_modules(tmp_path, monkeypatch):
    """Write modules that leave a marker when they are imported."""
    marker = str(tmp_path / "marker")
    code = f"import os\nfrom torch import nn\nos.makedirs({marker!r}, exist_ok=True)\n"

    def write(*names):
        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)
            (tmp_path / f"{name}.py").write_text(f"{code}class Net(nn.Module): ...\n")
        importlib.invalidate_caches()
        return tmp_path / "marker"

    return write


@pytest.fixture
def evil(write_modules, tmp_path, monkeypatch):
    """Modules that can be imported, and their marker."""
    monkeypatch.syspath_prepend(tmp_path)
    return write_modules("evil", "torchevil", "torchx", "my", "timmy")


@pytest.mark.parametrize("target", FORBIDDEN)
def test_what_a_file_may_not_name_is_neither_imported_nor_called(target, evil, stranger):
    for expected in (nn.Module, torch.optim.Optimizer):
        with pytest.raises(InputError) as refused:
            check_allowed(target, expected)
        assert "\n" not in str(refused.value)
        assert target in str(refused.value)
    result = read_result(stranger)
    result["settings"]["student"] = {"_target_": target}
    (stranger / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError):
        load_student(stranger)
    torch.save({"kind": f"{target}", "state": {}}, stranger / "preprocessing.pt")
    with pytest.raises(InputError):
        load_preprocessing(stranger)
    assert not evil.exists()


ALLOWED = [
    ("torchvision.models.resnet18", nn.Module),
    ("torchvision.models.resnet.resnet18", nn.Module),
    ("torchvision.models.googlenet", nn.Module),
    ("torchvision.models.ResNet", nn.Module),
    ("torchvision.models.get_model", nn.Module),
    ("torch.nn.Sequential", nn.Module),
    ("torch.optim.SGD", torch.optim.Optimizer),
    ("torch.optim.adam.Adam", torch.optim.Optimizer),
    ("noisy_kd.noisy_teacher", Method),
    ("noisy_kd.DigitsDataModule", ImageDataModule),
    ("noisy_kd.training.callbacks.BestEpoch", Callback),
    ("lightning.Trainer", Trainer),
    ("lightning.pytorch.loggers.WandbLogger", Logger),
]


@pytest.mark.parametrize(("target", "expected"), ALLOWED)
def test_what_a_file_may_name(target, expected):
    check_allowed(target, expected)


def test_every_configuration_of_the_project_may_be_shared(stranger):
    for override in ("data=mnist", "model@teacher=torchvision", "logger=csv", "method=fitnets"):
        config = composed(override)
        OmegaConf.save(OmegaConf.structured(config), stranger / "config.yaml")
        assert load_config(stranger) == config


KEYS = ("data", "teacher", "student", "method", "optimizer", "trainer", "teacher.optimizer")


@pytest.mark.parametrize("key", [*KEYS, "callbacks.best", "logger.tensorboard", "callbacks.new"])
def test_every_import_path_of_a_configuration_is_checked(key, evil, stranger):
    config = OmegaConf.load(stranger / "config.yaml")
    if key in ("teacher", "student"):
        config[key].layers = None
    OmegaConf.update(config, f"{key}._target_", "evil.Net", force_add=True)
    OmegaConf.save(config, stranger / "config.yaml")
    with pytest.raises(InputError, match=r"name evil\.Net, .*add --allow evil\.$"):
        load_config(stranger)
    assert not evil.exists()
    assert load_config(stranger, ["evil"])
    assert evil.exists()


def test_a_class_of_another_kind_is_refused():
    with pytest.raises(InputError, match=r"name torch\.nn\.Linear"):
        check_allowed("torch.nn.Linear", torch.optim.Optimizer)
    with pytest.raises(InputError, match=r"name torch\.optim\.Adam"):
        check_allowed("torch.optim.Adam", nn.Module)


def test_an_allowed_module_gives_no_way_to_others(evil, tmp_path):
    (tmp_path / "permitted.py").write_text("import os, evil\nfrom os import system\n")
    for target in ("permitted.os.system", "permitted.system", "permitted.evil.Net", "permitted.os"):
        with pytest.raises(InputError, match="which may run any code"):
            check_allowed(target, nn.Module, ["permitted"])
    check_allowed("permitted.evil.Net", nn.Module, ["permitted", "evil"])
    with pytest.raises(InputError, match="which may run any code"):
        check_allowed("evil.Net", nn.Module, ["ev", "evi", "evil.N.x", "", "permitted"])


VERBS = {"evaluate": (), "export": (), "predict": ("x.png",)}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_refuses_a_strangers_code_in_one_line(
    verb, stranger, command, tmp_path, write_modules
):
    """Also if the current folder is the stranger's, and holds what the files name."""
    marker = write_modules("evil", "timm")
    (tmp_path / "x.png").touch()
    result = read_result(stranger)
    for name in ("evil", "timm"):
        result["settings"]["student"] = {"_target_": f"{name}.Net"}
        (stranger / "result.json").write_text(json.dumps(result))
        done = command(verb, stranger, *VERBS[verb])
        assert done.returncode == 2
        (line,) = (done.stdout + done.stderr).splitlines()[:1]
        assert f"{name}.Net" in line
        assert "--allow evil" in line or name == "timm"
        assert not marker.exists()
    result["settings"]["student"] = {"_target_": "evil.Net"}
    (stranger / "result.json").write_text(json.dumps(result))
    command(verb, stranger, *VERBS[verb], "--allow", "evil")
    assert marker.exists()


def test_the_weights_that_a_strangers_factory_loads_are_not_unpickled(tmp_path, monkeypatch):
    """Functions of timm take a file of weights as an argument, and so do old ones of anybody."""
    (content, *_) = files("os.mkdir", str(tmp_path / "marker"))
    (tmp_path / "t.pt").write_bytes(content)
    factory = "import torch\ndef create_model(checkpoint_path):\n"
    factory += "    return torch.load(checkpoint_path, weights_only=False)\n"
    factory += "create_model.__module__ = 'timm.models._factory'\n"
    (tmp_path / "timm.py").write_text(factory)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    importlib.invalidate_caches()
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"_target_": "timm.create_model", "checkpoint_path": str(tmp_path / "t.pt")}
    with suppress(Exception):
        from_settings(settings, "", (1, 8, 8), 10)
    assert not (tmp_path / "marker").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    with suppress(Exception):
        from_settings(settings, "", (1, 8, 8), 10, ["timm"])
    assert (tmp_path / "marker").exists()


# Names

NAMES = ["../../escaped", "/tmp/escaped", "a\nb", "..", "~/x", "a/b", "\x1b[31m", "C:\\x", "x\0y"]


def everything_but(folder, root):
    """All files below root and their content, but for those of a folder."""
    inside = [path for path in sorted(root.rglob("*")) if not path.is_relative_to(folder)]
    return {path: path.read_bytes() for path in inside if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_a_stranger_lead_to_no_other_folder(name, stranger, command, tmp_path):
    result = read_result(stranger) | {"dataset": name, "classes": [name] * 10, "method": name}
    result |= {"student": name, "teacher": name}
    (stranger / "result.json").write_text(json.dumps(result))
    config = OmegaConf.load(stranger / "config.yaml")
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    before = everything_but(stranger, tmp_path)
    predicted = command("predict", stranger, "x.png")
    assert predicted.returncode == 0
    assert len(predicted.stdout.splitlines()) == 1
    assert "\x1b" not in predicted.stdout
    command("evaluate", stranger, "--on", "clean")
    command("export", stranger, "--format", "safetensors")
    command("report", "custom", "--results", tmp_path)
    config.data.name = name
    OmegaConf.save(config, stranger / "config.yaml")
    with pytest.raises(InputError, match=r"(?s)data\.name=.* must be a plain name"):
        load_config(stranger)
    assert everything_but(stranger, tmp_path) == before


def test_an_exported_models_classes_are_printed_on_one_line(stranger, command, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    assert (
        command("export", stranger, "--format", "safetensors", "--with-preprocessing").returncode
        == 0
    )
    with safe_open(stranger / "student.safetensors", "pt") as content:
        about = json.loads(content.metadata()["noisy_kd"])
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    about["classes"] = ["../x\n\x1b[2J"] * 10
    save_file(tensors, stranger / "student.safetensors", {"noisy_kd": json.dumps(about)})
    done = command("predict", stranger / "student.safetensors", "x.png")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    "name", ["evaluation.json", "latency.json", "student.onnx.md", "student.onnx"]
)
def test_a_link_in_a_strangers_folder_is_replaced(name, stranger, command, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (stranger / name).symlink_to(tmp_path / "mine")
    verb = ("evaluate", stranger, "--on", "clean") if "eval" in name else ("export", stranger)
    done = command(*verb)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (stranger / name).is_symlink()


@pytest.mark.parametrize("member", ["../escaped", "/tmp/noisy-kd-escaped", "storages"])
def test_members_of_archives_are_not_extracted_elsewhere(member, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    with tarfile.open(folder / "t.pt", "w") as archive:
        for name in (member, "storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, "../../escaped"
            archive.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"evil"))
    with zipfile.ZipFile(folder / "z.pt", "w") as archive:
        archive.writestr(member, "evil")
        archive.writestr("t/data.pkl", pickle.dumps({"0.weight": 1}, 2))
    for name in ("t.pt", "z.pt"):
        with pytest.raises(InputError):
            read_checkpoint(folder / name, NET)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert not Path("/tmp/noisy-kd-escaped").exists()


def test_a_checkpoint_writes_no_patch_of_somebody_elses_source(tmp_path, monkeypatch):
    """torch.load writes NAME.patch where a pickle says that a class's source was another."""
    monkeypatch.chdir(tmp_path)
    for function in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nUntypedStorage\n"):
        renamed = (
            function
            + b"q\0N}X\x08\0\0\0__name__X\x06\0\0\0../pwnsX\x0c\0\0\0dump_patches\x88s\x86b0"
        )
        module = b"(X\x06\0\0\0moduleh\0X\x01\0\0\0fX\x05\0\0\0othertQ."
        (tmp_path / "t.pt").write_bytes(legacy(b"\x80\x02" + renamed + module))
        with pytest.raises(InputError):
            read_checkpoint(tmp_path / "t.pt", NET)
    assert not list(tmp_path.parent.glob("*.patch"))
    assert torch._utils._rebuild_tensor_v2.__name__ == "_rebuild_tensor_v2"


# TensorBoard

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "noisy_kd").rglob("*.py")]


def test_no_document_lets_a_server_listen_to_the_network():
    texts = [
        file.read_text()
        for file in (*DOCUMENTS, *(ROOT / "conf").rglob("*.yaml"), ROOT / "Makefile")
    ]
    assert any("tensorboard --logdir" in text for text in texts)
    for text in texts:
        assert not re.search(
            r"--bind_all|--host[ =]|0\.0\.0\.0", text.replace("without `--bind_all`", "")
        )
        for command in re.findall(r".*http\.server.*", text):
            assert "--bind 127.0.0.1" in command


def test_tensorboard_listens_on_loopback(tmp_path):
    board = tensorboard.program.TensorBoard()
    board.configure(logdir=str(tmp_path), port=0)
    server = board._make_server()
    try:
        assert server.socket.getsockname()[0] in ("127.0.0.1", "::1")
    finally:
        server.server_close()
