"""Bad input: exit code 2, one line that names the value, no traceback, and nothing written."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra.types import RunMode
from image_files import write_folder
from PIL import Image

from noisy_kd.runs import read_result


@pytest.fixture
def composed_once(monkeypatch):
    """Hydra composes each configuration a second time to learn whether it is a sweep."""
    monkeypatch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *_, **__: RunMode.RUN)


@pytest.fixture
def refused(command, tmp_path, recwarn):
    """Run a command that must be refused; return the line that it prints."""

    def run(*arguments):
        before = set(tmp_path.rglob("*"))
        done = command(*arguments)
        assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
        (line,) = done.stderr.strip().splitlines()
        assert "Traceback" not in line
        assert "\x1b" not in line
        assert not [w for w in recwarn if issubclass(w.category, UserWarning | FutureWarning)]
        new = [p for p in set(tmp_path.rglob("*")) - before if p.is_file()]
        own = (".log", ".lock", "multirun.yaml")  # what Hydra writes before the run
        assert not [p for p in new if not p.name.endswith(own)], new
        return line

    return run


UNNAMED = (
    "is not a key",
    "no such argument",
    "Invalid value assigned",
    "not a class or function",
    "is a group of keys",
)
"""What is said of keys whose value does not matter."""


# Each is refused for its last argument, which the line names.
SETTINGS = """
seed=abc
seed=1.5
seed=-1
seed=9223372036854775808
seed=[1]
precision=16
precision=null
fast=maybe
force=maybe
deterministic=maybe
devices=0
devices=abc
max_stack=0
max_stack=-1
data.batch_size=0
data.batch_size=-3
data.batch_size=abc
data.batch_size=1e3.5
data.val_size=-1
data.val_size=1.5
data.val_size=99999
data.subset=0
data.subset=-5
data.subset=5
data.subset=99999
data.seed=-1
data.seed=abc
data.label_noise=1.5
data.label_noise=-0.1
data.label_noise=nan
data.label_noise=abc
data.augment=foo
data.augment=null
data.augment=true
data.views=0
data.views=-1
data.views=abc
data.views=5
data.download=perhaps
data.name=../x
data.name=/tmp/x
data.name=null
augment=null
augment=crops
augment.foo.views=3
data.augment=crops ++augment.crops.seed=5
data.augment=crops ++augment.crops.count=5
data.augment=crops ++augment.crops.foo=5
data.augment=crops augment.crops.shift=2
data.augment=crops augment.crops.shift=abc
data.augment=crops augment.crops.mirror=3
data.augment=strong augment.strong.rotation=999
data.augment=strong augment.strong.scale=0
data.augment=strong augment.strong.colour=-1
teacher.augment=foo
teacher.max_epochs=-1
teacher.max_epochs=abc
teacher.lr=0
teacher.lr=-1
teacher.lr=nan
teacher.lr=inf
teacher.lr=abc
teacher.weight_decay=-1
teacher.schedule=foo
teacher.subset=0
teacher.subset=5
teacher.batch_size=0
teacher.shift=-1
teacher.shift=8
teacher.batch_norm=maybe
teacher.label_smoothing=1
teacher.label_smoothing=-0.1
teacher.label_smoothing=nan
teacher.seed=-1
teacher.checkpoint=missing
teacher.checkpoint=nowhere/t.pt
teacher.checkpoint=/
teacher.checkpoint=
teacher.input.size=0
teacher.input.size=abc
teacher.input.mean=abc
teacher.input.mean=[0.5,0.5]
teacher.input.std=[0.0]
teacher.input.std=[-1.0]
teacher.input.mean=[nan]
teacher.input.foo=1
teacher.optimizer._target_=
teacher.optimizer._target_=null
teacher.optimizer._target_=os.system
teacher.optimizer._target_=torch.optim.Foo
teacher.optimizer._target_=nowhere.Foo
teacher.optimizer._target_=torch.nn.ReLU
teacher.optimizer.lr=0.1
teacher.optimizer.foo=1
teacher.foo=1
teacher=foo
student.dropout=1
student.dropout=-0.1
student.dropout=nan
student.dropout=abc
student.batch_norm=maybe
student.layers=null
student.foo=1
student=null
optimizer.lr=0
optimizer.lr=-1
optimizer.lr=nan
optimizer.lr=abc
optimizer.weight_decay=-1
optimizer.weight_decay=inf
optimizer.schedule=foo
optimizer.averaging=foo
optimizer.ema_decay=1
optimizer.ema_decay=-0.5
optimizer._target_=
optimizer._target_=null
optimizer._target_=torch
optimizer._target_=torch.nn.ReLU
optimizer._target_=builtins.dict
optimizer._target_=torch..Adam
optimizer.betas=3
trainer.max_epochs=0
trainer.max_epochs=-1
trainer.max_epochs=1.5
trainer.max_epochs=abc
trainer.max_epochs=inf
trainer.accelerator=tpu
trainer.devices=0
trainer.devices=2
trainer.strategy=foo
trainer._target_=torch.nn.ReLU
trainer._target_=builtins.dict
trainer._target_=
trainer.gradient_clip_val=-1
trainer.gradient_clip_val=abc
trainer.precision=16
trainer.foo=1
trainer.callbacks=[]
trainer.limit_train_batches=abc
method.alpha=-0.1
method.alpha=1.01
method.alpha=nan
method.alpha=abc
method.alpha=true
method.alpha=null
method.sigma=-1
method.sigma=inf
method.sigma=abc
method.sigma=[1]
method.nonsense=1
method._target_=null
method._target_=
method._target_=nowhere.foo
method=foo
method=hinton method.temperature=0
method=hinton method.temperature=abc
method=hinton method.weight=2
method=fitnets method.hint_epochs=99999
method=fickle_teacher method.p=1.5
method=two_teachers method.teachers=3
method=two_teachers method.teachers=[]
method=two_teachers method.combination=foo
method=random_sigma method.sigma_min=-1
data=foo
data._target_=
data._target_=nowhere.Foo
data._target_=torch.nn.ReLU
data._target_=builtins.dict
data.foo=1
logger=foo
logger.tensorboard._target_=
logger.tensorboard._target_=os.getcwd
logger.tensorboard._target_=torch.nn.ReLU
+logger.foo=1
callbacks=foo
+callbacks.foo=1
+callbacks.foo._target_=torch.nn.ReLU
+callbacks.foo._target_=os.getcwd
+callbacks.best.patience=0
+callbacks.best.patience=abc
callbacks.best._target_=nowhere.Foo
callbacks.best._target_=lightning.pytorch.callbacks.Timer
optimizer.amsgrad=maybe
trainer.overfit_batches=1
trainer.max_steps=5
trainer.check_val_every_n_epoch=2
model@student=module student._target_=own_nets.Raising
store=/dev/null/x
store=
recipe=foo
trainer=foo
optimizer=foo
training@teacher=foo
model@student=foo
model@teacher=foo
model@student=torchvision student.name=foo
model@student=module student._target_=
model@student=module student._target_=nowhere.Net
model@student=module student._target_=os.getcwd
model@student=module student._target_=torch.nn.Linear
model@student=module student._target_=own_nets.wrong
model@student=module student._target_=own_nets.nothing
model@student=module student._target_=own_nets.SHAPELESS
model@student=module student._target_=own_nets
hydra.run.dir=/dev/null/x
nonsense=1
+nonsense=1
nonsense
"""
NOTATIONS = """
FC
FC0
FC-1
FC10-
-FC10
FC8--FC10
fc10
FC10.5
FCten
FC8-FCten
FC8-FC9
C5
C5@4
[C5(S1P2)@4
C5(S1P2)@4]-FC10
[C5(S0P2)@4]-FC10
[C0(S1P0)@4]-FC10
[C5(S1P2)@0]-FC10
[C9(S1P0)@4]-FC10
[C5(S1P2)@4-MP0(S1)]-FC10
MP99(S1)-FC10
FC8-MP2(S2)-FC10
FC8-[C5(S1P2)@4]-FC10
FC8-D1-FC10
FC99999999999-FC10
x
[]
σ
"""
OTHERS = {
    "train data=imagenet": "'data/imagenet' Available options in 'data': cifar10",
    "train ~method.alpha": "missing 1 required positional argument: 'alpha'",
    "train method=fitnets method.hint=C9": "no hidden layer C9",
    "train method=two_teachers method.teachers=[foo]": "foo",
    "train method._target_=torch.nn.ReLU": "ReLU has no such argument",
    "train method=supervised method._target_=torch.nn.ReLU": "makes no noisy_kd.Method",
    "train model@teacher=torchvision teacher.name=": "teacher._target_=torchvision.models.",
    "train model@student=module": "student._target_ has no value",
    "train logger=wandb": "pip install wandb",
    "train data.views=null method.resample=once": "data.views=null",
    "train broken=[": "broken=[: ",
    "train seed=0,1": "add `-m`",
    "train seed": "seed",
    "train --config-name=tabel3": "there is no sweep named tabel3: choose additive, alpha_sigma, ",
    "train -cn": "-cn takes the name of a sweep: choose additive, alpha_sigma, ",
    "train -cn table1 nonsense=1": "nonsense",
    "train -cn quick method.sigma=-1": "method.sigma=-1",
    "train --seed=3": "--seed=3: settings have no dashes",
    "train optimizer.differentiable=true": "cannot be used with differentiable=True",
    "train hydra.job_logging.root.level=NOSUCH": "Unable to configure root logger",
    "train --epochs 3": "--epochs: settings have no dashes",
    "train --exp=x.pickle": "--exp=x.pickle: it reads a pickle",
    "report seed=1": "seed=1 needs a sweep",
    "reproduce": "the following arguments are required: TABLE",
    "train -seed": "unrecognized arguments: -seed",
    "train --resolve": "can only be used in conjunction with --cfg",
    "train -m method.sigma=range(0,1,0)": "must not be zero",
    "train -cp sweeps -cn quick": "sweeps",
    "train -cd nowhere": "nowhere",
    "train --experimental-rerun x.pickle": "--experimental-rerun",
    "train data=mnist data.root=nowhere data.download=false": "nowhere",
    "train data=cifar10 data.root=nowhere data.download=false": "nowhere",
    "train data=svhn data.root=nowhere data.download=false": "nowhere",
    "train data=folder data.root=nowhere": "nowhere",
    "describe -cn table1": "leave the sweep's name",
    "describe data=imagenet": "imagenet",
    "describe nonsense=1": "nonsense",
    "describe data.subset=99999": "data.subset=99999",
    "describe data.val_size=2000": "data.val_size=2000",
    "describe teacher.checkpoint=missing": "teacher.checkpoint=missing",
    "describe student.layers=FC9": "9 logits",
    "evaluate": "RUN_DIR",
    "evaluate nowhere": "1 of 1 runs skipped",
    "evaluate RUN --on foo": "--on foo",
    "evaluate RUN --on ": "--on",
    "evaluate RUN --limit 0": "--limit 0",
    "evaluate RUN --limit abc": "abc",
    "evaluate RUN --allow": "--allow",
    "evaluate RUN --foo": "--foo",
    "export": "RUN_DIR",
    "export nowhere": "nowhere holds no finished student",
    "export RUN --format foo": "foo",
    "export RUN --int8 foo": "foo",
    "export RUN --int8 static --format safetensors": "--int8 static",
    "export RUN --output x.txt": "--output x.txt",
    "export RUN --output /dev/null/x.onnx": "/dev/null/x.onnx cannot be written",
    "export RUN --format torch_export --output x.onnx": "--output x.onnx",
    "predict": "RUN_DIR",
    "predict RUN": "IMAGE",
    "predict nowhere x.png": "there is no nowhere",
    "predict RUN nowhere.png": "nowhere.png",
    "predict RUN x.png --top 0": "--top 0",
    "predict RUN x.png --top abc": "abc",
    "predict RUN x.png --format foo": "foo",
    "predict x.png x.png": "x.png is not exported: name a run, or a file in .onnx, .pt2, ",
    "predict bad.onnx x.png": "bad.onnx cannot be read",
    "predict bad.safetensors x.png": "bad.safetensors cannot be read",
    "predict bad.pt2 x.png": "--allow torch.export",
    "predict bad.pt2 x.png --allow torch.export": "bad.pt2 cannot be read",
    "predict empty x.png": "empty holds no finished student",
    "report nowhere": "nowhere",
    "report --results nowhere": "nowhere",
    "report --plot x.png": "--plot",
    "report table1 --plot x.txt": "x.txt",
    "report table1 --plot /dev/null/x.png": "/dev/null/x.png",
    "report table1 --add": "--keep NAME",
    "report table1 --keep x --add --replace": "--replace",
    "report table1 --keep ../x": "--keep ../x",
    "report table1 --keep x": "no runs of table1",
    "report table1 student.layers=FCx": "FCx",
    "report table1 teacher.checkpoint=missing": "missing",
    "report --format foo": "foo",
    "report robustness": "no such run was evaluated",
    "store": "action",
    "store foo": "foo",
    "store list --store nowhere": "nowhere",
    "store clean --store nowhere": "nowhere",
    "trian": "there is no command trian",
    "help": "there is no command help",
}


@pytest.mark.parametrize("setting", SETTINGS.strip().splitlines())
def test_a_wrong_setting(setting, refused, composed_once):
    *before, last = setting.split(" ")
    line = refused("train", *before, last)
    key, _, value = last.lstrip("+").partition("=")
    part = key.rpartition(".")[2].partition("@")[0]
    assert part in line or part == "_target_", line
    is_named = value.replace(",", ", ") in line or value == "null"
    assert is_named or any(text in line for text in UNNAMED) or value == "1", line


@pytest.mark.parametrize("layers", NOTATIONS.strip().splitlines())
def test_a_wrong_notation(layers, refused, composed_once):
    line = refused("train", f"student.layers={layers}")
    assert layers in line.replace(">>>", ""), line


@pytest.mark.parametrize("arguments", OTHERS)
def test_a_wrong_command(arguments, refused, finished, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "empty").mkdir()
    for ending in ("onnx", "pt2", "safetensors"):
        (tmp_path / f"bad.{ending}").write_bytes(b"damaged")
    line = refused(*(str(finished) if a == "RUN" else a for a in arguments.split(" ")))
    assert OTHERS[arguments] in line, line


def result_with(**changes):
    """Change fields of result.json; None removes one."""

    def change(run):
        result = {**read_result(run), **changes}
        content = {key: value for key, value in result.items() if value is not None}
        (run / "result.json").write_text(json.dumps(content))

    return change


def file_with(name, content):
    """Replace a file; None removes it."""

    def change(run):
        (run / name).unlink()
        if content is not None:
            (run / name).write_bytes(content)

    return change


def tensors_with(name, content):
    def change(run):
        torch.save(content, run / name)

    return change


STUDENT = {
    "no result": file_with("result.json", None),
    "an empty result": file_with("result.json", b""),
    "no JSON": file_with("result.json", b"{"),
    "a list": file_with("result.json", b"[]"),
    "an empty mapping": file_with("result.json", b"{}"),
    "bytes": file_with("result.json", bytes(range(256))),
    "no classes": result_with(classes=None),
    "classes=3": result_with(classes=3),
    "two classes": result_with(classes=["a", "b"]),
    "no shape": result_with(input_shape=None),
    "shape=8": result_with(input_shape=8),
    "another shape": result_with(input_shape=[3, 8, 8]),
    "shape of texts": result_with(input_shape=["a", "b", "c"]),
    "a negative shape": result_with(input_shape=[1, -8, 8]),
    "no settings": result_with(settings=None),
    "settings=3": result_with(settings=3),
    "no layers": result_with(student_layers=None),
    "layers=FC": result_with(student_layers="FC"),
    "layers=3": result_with(student_layers=3),
    "other layers": result_with(student_layers="FC3-FC10"),
    "a failed run": result_with(status="failed"),
    "a diverged run": result_with(status="diverged"),
    "a student of a class": result_with(settings={"student": {"_target_": "nowhere.Net"}}),
    "a student of no class": result_with(settings={"student": {"_target_": 3}}),
    "no weights": file_with("student.pt", None),
    "empty weights": file_with("student.pt", b""),
    "damaged weights": file_with("student.pt", b"damaged"),
    "other weights": tensors_with("student.pt", {"x": torch.zeros(1)}),
    "weights=3": tensors_with("student.pt", 3),
}
"""Changes that every verb refuses."""

PREPROCESSING = {
    "no preprocessing": file_with("preprocessing.pt", None),
    "damaged preprocessing": file_with("preprocessing.pt", b"damaged"),
    "preprocessing=3": tensors_with("preprocessing.pt", 3),
    "an unknown kind": tensors_with("preprocessing.pt", {"kind": "Foo", "state": {}}),
    "a kind elsewhere": tensors_with("preprocessing.pt", {"kind": "nowhere.Foo", "state": {}}),
    "a wrong state": tensors_with("preprocessing.pt", {"kind": "Scale", "state": {"x": 1}}),
    "state=3": tensors_with("preprocessing.pt", {"kind": "Scale", "state": 3}),
}
SETTINGS_FILE = {
    "no settings": file_with("config.yaml", None),
    "empty settings": file_with("config.yaml", b""),
    "a list": file_with("config.yaml", b"[1]"),
    "no YAML": file_with("config.yaml", b"{"),
    "bytes": file_with("config.yaml", bytes(range(256))),
    "an unknown key": file_with("config.yaml", b"foo: 1"),
    "a wrong type": file_with("config.yaml", b"seed: abc"),
    "half of the settings": file_with("config.yaml", b"seed: 1"),
    "other test logits": tensors_with("teacher_logits.pt", 3),
    "damaged test logits": file_with("teacher_logits.pt", b"damaged"),
}
FOLDERS = [
    *(("predict", name, change) for name, change in (STUDENT | PREPROCESSING).items()),
    *(("evaluate", name, change) for name, change in (STUDENT | SETTINGS_FILE).items()),
    *(("export", name, change) for name, change in PREPROCESSING.items()),
]


@pytest.mark.parametrize(("verb", "name", "change"), FOLDERS)
def test_a_damaged_run(verb, name, change, command, finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    change(run)
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = command(
        verb, "run", *{"predict": ["x.png"], "evaluate": ["--on", "clean"]}.get(verb, [])
    )
    assert done.returncode == 2, (done.stdout, done.stderr)
    line = (done.stdout if verb == "evaluate" else done.stderr).strip()
    assert "\n" not in line
    assert "run" in line.replace("which may run", "")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def emptied(root):
    shutil.rmtree(root)
    root.mkdir()


IMAGES = {
    "an empty folder": (emptied, "", "needs two classes at least"),
    "one class": (
        lambda root: [shutil.rmtree(root / "train" / name) for name in ("dog", "owl")],
        "",
        "needs two classes at least",
    ),
    "a class without images": (
        lambda root: (root / "train" / "zebra").mkdir(),
        "",
        "no images of the class zebra",
    ),
    "images of many sizes": (lambda root: Image.new("L", (9, 9)).save(larger(root)), "", "2 sizes"),
    "a broken image": (lambda root: larger(root).write_bytes(b"x"), "data.size=8", "larger.png"),
    "an empty image": (lambda root: larger(root).write_bytes(b""), "data.size=8", "larger.png"),
    "an image of text": (
        lambda root: larger(root).write_text("hello"),
        "data.size=8",
        "larger.png",
    ),
    "a test class that train lacks": (
        lambda root: shutil.copytree(root / "test" / "cat", root / "test" / "zebra"),
        "",
        "zebra",
    ),
    "size=0": (None, "data.size=0", "data.size=0"),
    "size=-1": (None, "data.size=-1", "data.size=-1"),
    "size=abc": (None, "data.size=abc", "data.size=abc"),
    "size=1.5": (None, "data.size=1.5", "data.size=1.5"),
    "size=true": (None, "data.size=true", "data.size="),
    "three sizes": (None, "data.size=[1,2,3]", "data.size=[1, 2, 3]"),
    "on_error=foo": (None, "data.on_error=foo", "data.on_error=foo"),
    "val_size": (None, "data.val_size=9999", "data.val_size=9999"),
    "a folder of nothing": (None, "data.root=x.txt", "data.root=x.txt"),
    "a student of other classes": (None, "student.layers=FC9", "9 logits"),
}


def larger(root):
    return root / "train" / "cat" / "larger.png"


@pytest.mark.parametrize("name", IMAGES)
def test_a_wrong_folder_of_images(name, command, tmp_path):
    change, setting, what = IMAGES[name]
    root = write_folder(tmp_path / "images", size=(8, 8))
    (tmp_path / "x.txt").touch()
    if change is not None:
        change(root)
    settings = ("data=folder", f"data.root={root}", f"store={tmp_path / 'store'}", "trainer=cpu")
    done = command("train", *settings, *([setting] if setting else []))
    assert done.returncode == 2, (done.stdout, done.stderr)
    (line,) = done.stderr.strip().splitlines()
    assert what in line
