"""Files that are whole, checked and locked: what reads them back, and what is said of damage."""

import errno
import logging
import multiprocessing
import os
import time

import filelock
import pytest
import torch

from noisy_kd.data import files, store
from noisy_kd.errors import DamagedError, InputError

TENSORS = {"w": torch.arange(1000.0), "names": ["a", "b"]}


@pytest.mark.parametrize("mmap", [False, True])
def test_tensors_come_back_and_are_a_usual_archive(mmap, tmp_path):
    file = tmp_path / "t.pt"
    files.write_tensors(file, TENSORS)
    for content in (files.read_tensors(file, mmap), torch.load(file, weights_only=True)):
        assert torch.equal(content["w"], TENSORS["w"])
        assert content["names"] == TENSORS["names"]
    assert [path.name for path in tmp_path.iterdir()] == ["t.pt"]


def test_tensors_that_torch_saved_are_read(tmp_path):
    torch.save(TENSORS, tmp_path / "t.pt")
    assert torch.equal(files.read_tensors(tmp_path / "t.pt")["w"], TENSORS["w"])


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_is_damaged(content, tmp_path):
    (tmp_path / "t.pt").write_bytes(content)
    with pytest.raises(DamagedError, match=r"t\.pt is damaged"):
        files.read_tensors(tmp_path / "t.pt")


def test_a_cut_off_archive_is_damaged(tmp_path):
    file = tmp_path / "t.pt"
    files.write_tensors(file, TENSORS)
    whole = file.read_bytes()
    for length in (len(whole) - 1, len(whole) - files.HEX, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=r"t\.pt is damaged"):
            files.read_tensors(file)


def test_json_by_hand_is_read_and_a_changed_one_is_not(tmp_path, caplog):
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}')
    assert files.read_json(file) == {"a": 1}
    files.write_json(file, {"a": 1, "b": [0.1, None]})
    assert files.read_json(file) == {"a": 1, "b": [0.1, None]}
    assert not caplog.records
    file.write_text(file.read_text().replace("0.1", "0.2"))
    assert files.read_json(file) is None
    assert "a.json is damaged" in caplog.text
    assert files.read_json(tmp_path / "none.json") is None


def test_yaml_that_was_changed_is_taken_without_its_last_line(tmp_path):
    file = tmp_path / "a.yaml"
    files.write_yaml(file, "a: 1\n")
    assert files.read_yaml(file) == "a: 1\n"
    file.write_text(file.read_text().replace("1", "2", 1))
    with pytest.raises(DamagedError, match="remove its last line"):
        files.read_yaml(file)
    file.write_text("a: 2\n")
    assert files.read_yaml(file) == "a: 2\n"


def test_yaml_may_hold_the_sign_of_a_comment(tmp_path):
    file = tmp_path / "a.yaml"
    files.write_yaml(file, "root: 'it #1'\nlast: '#2'\n")
    assert files.read_yaml(file) == "root: 'it #1'\nlast: '#2'\n"
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(DamagedError):
            files.read_yaml(file)


def test_text_is_utf_8_even_if_the_locale_could_not_read_a_name(tmp_path):
    in_ascii = os.fsencode("猫").decode("ascii", "surrogateescape")
    files.write(tmp_path / "a.md", in_ascii)
    files.write_yaml(tmp_path / "a.yaml", f"root: {in_ascii}\n")
    assert (tmp_path / "a.md").read_text("utf-8") == "猫"
    assert files.read_yaml(tmp_path / "a.yaml") == "root: 猫\n"


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "a"
    files.write(file, "old")

    def full(out):
        out.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"a cannot be written \(No space left on device\)"):
        files.write(file, full)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert file.read_text() == "old"


def _hold(file):
    with files.locked(file):
        (file.parent / "held").touch()
        time.sleep(1)


def test_whoever_waits_says_for_whom(tmp_path, caplog):
    file = tmp_path / "thing.lock"
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(file,))
    holder.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with caplog.at_level(logging.WARNING), files.locked(file):
        pass
    holder.join()
    assert f"thing: process {holder.pid} on " in caplog.text
    with files.locked(file):
        assert caplog.text.count("Waiting") == 1


def test_without_locks_it_is_said(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with (
        pytest.raises(InputError, match="this file system has no locks"),
        files.locked(tmp_path / "x"),
    ):
        pass


def test_a_read_only_store_serves_what_it_has(tmp_path, monkeypatch):
    made_by = {"data": "x", "layers": "FC10"}
    content = {"tensors": {"w": torch.ones(2)}, "facts": {"samples": 2}}
    store.get_or_make(tmp_path, "teacher", made_by, lambda _: content)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files, "locked", refuse)
    tensors, facts = store.get_or_make(tmp_path, "teacher", made_by, refuse)
    assert (tensors["w"].tolist(), facts) == ([1.0, 1.0], {"samples": 2})


def test_an_entry_made_by_something_else_is_not_used(tmp_path):
    made_by = [{"data": "x", "layers": layers} for layers in ("FC10", "FC20")]
    for settings in made_by:
        content = {"tensors": {"w": torch.ones(2)}, "facts": settings}
        store.get_or_make(tmp_path, "teacher", settings, lambda _, content=content: content)
    first, second = (tmp_path / store.key_of("teacher", settings) for settings in made_by)
    second.rename(tmp_path / "aside")
    first.rename(second)
    again = {"tensors": {"w": torch.zeros(2)}, "facts": {}}
    tensors, _ = store.get_or_make(tmp_path, "teacher", made_by[1], lambda _: again)
    assert tensors["w"].tolist() == [0.0, 0.0]
