"""The store of teachers and logits: made once, checked, listed, cleaned."""

import json
import multiprocessing
import sys
import time

import pytest
import torch
from commands import command
from filelock import FileLock

from noisy_kd.data import files, store
from noisy_kd.errors import InputError

MADE_BY = {"data": "digits", "layers": "FC10", "seed": 0}


def make(_):
    return {"tensors": {"w": torch.arange(3.0)}, "facts": {"val_error": 0.5}}


def forbidden(_):
    pytest.fail("computed again")


def test_an_entry_is_made_once(tmp_path):
    tensors, facts = store.get_or_make(tmp_path, "teacher", MADE_BY, make)
    assert torch.equal(tensors["w"], torch.arange(3.0))
    again, _ = store.get_or_make(tmp_path, "teacher", MADE_BY, forbidden)
    assert torch.equal(again["w"], tensors["w"])
    assert facts == {"val_error": 0.5}
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob("*.unfinished"))


def test_the_key_changes_with_everything_that_made_it(tmp_path, monkeypatch):
    keys = {store.key_of("teacher", MADE_BY), store.key_of("logits", MADE_BY)}
    keys |= {store.key_of("teacher", MADE_BY | {key: "other"}) for key in MADE_BY}
    monkeypatch.setattr(store, "VERSION", store.VERSION + 1)
    keys.add(store.key_of("teacher", MADE_BY))
    assert len(keys) == 6


@pytest.mark.parametrize("file", ["tensors.pt", "entry.json"])
def test_a_damaged_entry_is_recomputed_with_a_warning(tmp_path, file, caplog):
    store.get_or_make(tmp_path, "teacher", MADE_BY, make)
    (entry,) = tmp_path.glob("teacher-*/")
    content = bytearray((entry / file).read_bytes())
    content[len(content) // 2] ^= 255
    (entry / file).write_bytes(bytes(content[:-1]))
    tensors, _ = store.get_or_make(tmp_path, "teacher", MADE_BY, make)
    assert torch.equal(tensors["w"], torch.arange(3.0))
    assert "damaged" in caplog.text
    (entry / "tensors.pt").unlink()
    store.get_or_make(tmp_path, "teacher", MADE_BY, make)


def test_unfinished_work_is_no_entry_and_is_kept(tmp_path):
    def interrupted(work):
        (work / "last.ckpt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_make(tmp_path, "teacher", MADE_BY, interrupted)

    def resumed(work):
        assert (work / "last.ckpt").read_text() == "half"
        return make(work)

    store.get_or_make(tmp_path, "teacher", MADE_BY, resumed)


def ask(folder, log):
    def slow(_):
        log.put("made")
        time.sleep(1)
        return make(_)

    tensors, _ = store.get_or_make(folder, "teacher", MADE_BY, slow)
    log.put(tensors["w"].tolist())


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_one_process_makes_what_the_others_wait_for(tmp_path):
    context = multiprocessing.get_context("fork")
    log = context.Queue()
    processes = [context.Process(target=ask, args=(tmp_path, log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    found = [log.get(timeout=5) for _ in range(4)]
    assert found.count("made") == 1
    assert found.count([0.0, 1.0, 2.0]) == 3


def test_a_store_that_cannot_be_written_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        store.get_or_make(tmp_path / "file" / "store", "teacher", MADE_BY, make)


def test_the_command_line_lists_and_cleans(tmp_path):
    def shown(action):
        done = command("store", action, "--store", tmp_path)
        assert done.code == 0
        return done.stdout

    assert "is empty" in shown("list")
    store.get_or_make(tmp_path, "teacher", MADE_BY, make)
    listed = shown("list")
    assert "teacher-" in listed
    assert "val error 50.00%" in listed
    assert "FC10" in listed
    assert "max_epochs" not in listed
    store.get_or_make(tmp_path, "teacher", MADE_BY | {"max_epochs": 7}, make)
    store.get_or_make(tmp_path, "teacher", MADE_BY | {"max_epochs": 9}, make)
    assert "\n    max_epochs 7\n" in shown("list"), "in what the teachers differ"
    store.get_or_make(tmp_path, "teacher", MADE_BY | {"data": "mnist"}, make)
    damaged = tmp_path / store.key_of("teacher", MADE_BY) / "entry.json"
    damaged.write_text("{")
    listed = shown("list")
    assert "damaged" in listed
    assert "seed" not in listed, "neither another data set nor a damaged entry is like them"
    (tmp_path / "mine.txt").write_text("not an entry")
    assert "removed 4 entries" in shown("clean")
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]
    done = command("store", "list", "--store", tmp_path / "nowhere")
    assert done.code == 2
    assert "no such folder" in done.stderr


def test_cleaning_spares_entries_in_the_making_and_removes_damaged_ones(tmp_path):
    store.get_or_make(tmp_path, "teacher", MADE_BY, make)
    (entry,) = tmp_path.glob("teacher-*/")
    (entry / "entry.json").write_text("[]")
    assert store.entries(tmp_path)[0][1]["made"] == "damaged"
    with FileLock(f"{entry}.lock"):
        assert store.clean(tmp_path) == (0, 0)
        assert entry.exists()
    assert store.clean(tmp_path) == (1, 0)
    assert not entry.exists()


def test_nothing_is_unpickled(tmp_path):
    store.get_or_make(tmp_path, "teacher", MADE_BY, make)
    (entry,) = tmp_path.glob("teacher-*/")
    assert torch.load(entry / "tensors.pt", weights_only=True)
    assert json.loads((entry / "entry.json").read_text())["made_by"] == MADE_BY


def test_entries_without_lock_files_are_removed_too(tmp_path):
    """Some versions of filelock delete their files."""
    store.get_or_make(tmp_path, "logits", MADE_BY, lambda _: {"tensors": {}, "facts": {}})
    for file in tmp_path.glob("*.lock"):
        file.unlink()
    assert store.clean(tmp_path) == (1, 0)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def _use(folder, done):
    store.get_or_make(folder, "teacher", MADE_BY, forbidden)
    (folder / "ready").touch()
    done.wait(30)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_what_a_live_run_has_read_stays(tmp_path):
    store.get_or_make(tmp_path, "teacher", MADE_BY, make)
    store.get_or_make(tmp_path, "teacher", MADE_BY | {"seed": 9}, make)
    files._USED.clear()  # or the fork would use both
    context = multiprocessing.get_context("fork")
    done = context.Event()
    user = context.Process(target=_use, args=(tmp_path, done))
    user.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    (tmp_path / "ready").unlink()
    assert store.clean(tmp_path) == (1, 1)
    done.set()
    user.join()
    assert store.clean(tmp_path) == (1, 0)
