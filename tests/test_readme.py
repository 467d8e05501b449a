"""What the README shows is there and runs."""

import re

import torch
from conftest import ROOT
from image_files import write_mnist

import noisy_kd
from noisy_kd.model.network import build
from noisy_kd.training.stages import run

README = (ROOT / "README.md").read_text()


def test_its_python_runs(tmp_path, monkeypatch, short):
    write_mnist(tmp_path / "data", counts=(300, 50))
    monkeypatch.chdir(tmp_path)
    _, loop, cache, load = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    student = build("FC20-FC10", (1, 28, 28))
    before = student[1].weight.clone()
    names = {
        "student": student,
        "optimizer": torch.optim.Adam(student.parameters()),
        "batches": [(torch.randn(8, 1, 28, 28), torch.randn(8, 10)) for _ in range(3)],
    }
    exec(loop, names)
    assert not torch.equal(student[1].weight, before)

    teacher = re.search(r'build\("(.*?)"', cache).group(1)
    torch.save(build(teacher, (1, 28, 28)).state_dict(), "teacher.pt")
    exec(cache.replace("10_000", "50"), names)
    assert names["z"].shape == (64, 10)
    (tmp_path / "run").mkdir()
    run([short()], [tmp_path / "run"])
    names |= {"noisy_kd": noisy_kd, "run": tmp_path / "run", "pixels": torch.zeros(2, 1, 8, 8)}
    exec(load, names)
    assert names["classes"].shape == (2,)


def test_its_own_method_trains(tmp_path, monkeypatch, short):
    own = re.findall(r"```python\n(.*?)```", README, flags=re.S)[0]
    (tmp_path / "mine.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    text = re.search(r"# conf/method/absolute.yaml.*?\n((?:    .*\n)+)", README).group(1)
    keys = dict(line.strip().split(": ") for line in text.splitlines())
    config = short()
    config.method = {k: v if k == "_target_" else float(v) for k, v in keys.items()}
    (result,) = run([config], [tmp_path])
    assert (result["status"], result["method"]) == ("done", "absolute")


def test_its_groups_exist():
    for group, name in re.findall(r"\b(data|method|trainer|logger)=(\w+)", README):
        assert (ROOT / "conf" / group / f"{name}.yaml").exists() or name in ("DIR", "absolute"), (
            name
        )
