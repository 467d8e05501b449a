"""Files that a later run trusts: whole or not there, and checked when they are read.

A file is written under a temporary name and flushed to the disk; then it is renamed, and its folder
flushed. So neither a killed process nor a power failure leaves half of it. Its checksum is inside:
as the comment of the archive that torch saves, as a key of JSON, as a comment of YAML.
"""

import errno
import hashlib
import json
import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from noisy_kd.errors import DamagedError, InputError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

HEX = 64  # characters of a SHA-256
UNSEALED = b"PK\x05\x06"  # begins the last 22 bytes of an archive without a comment
SEAL = b"# sha256: "
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EROFS)


def write(file: Path, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all; ``content`` may be a function that writes into it.

    Raises:
        InputError: if it cannot be written.
    """
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with writing(file):
        try:
            temporary.unlink(missing_ok=True)  # a link is replaced, not followed
            with temporary.open("x+b") as out:
                if callable(content):
                    content(out)
                else:
                    out.write(_encoded(content) if isinstance(content, str) else content)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(file)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        sync(file.parent)


def _encoded(text: str) -> bytes:
    """Return UTF-8, whatever the locale has made of the names of files in a text."""
    return text.encode("utf-8", "surrogateescape")


@contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """Say which file or folder cannot be written, where that happens.

    Raises:
        InputError: naming it.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        disk = error if isinstance(error, OSError) else disk_error(error)
        if disk is None and "inline_container" in str(error):  # torch's writer
            disk = OSError(errno.EIO, os.strerror(errno.EIO))
        if disk is None:
            raise
        raise InputError(unwritable(place, disk)) from error


def unwritable(place: Path | str, error: OSError) -> str:
    """Return what is said of a file or folder that cannot be written."""
    return (
        f"{place} cannot be written ({error.strerror}): mend that, or choose another folder; the "
        "same command then goes on."
    )


def disk_error(error: BaseException | None) -> OSError | None:
    """Return the error of a disk or of too many open files that has led to an error, if one has."""
    while error is not None and not (isinstance(error, OSError) and error.errno in DISK):
        error = error.__cause__ or error.__context__
    return error


def sync(folder: Path) -> None:
    """Flush what a folder lists to the disk, where the system can."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_tensors(file: Path, content: Any) -> None:
    """Write what ``torch.save`` writes, with its checksum as the comment of the archive."""
    import torch

    def save(out: BinaryIO) -> None:
        torch.save(content, out)
        out.seek(-2, os.SEEK_END)
        out.write(HEX.to_bytes(2, "little"))  # the length of the comment
        out.seek(0)
        digest = hashlib.file_digest(out, "sha256").hexdigest()  # type: ignore[arg-type]
        out.seek(0, os.SEEK_END)
        out.write(digest.encode())

    write(file, save)


def read_tensors(file: Path, mmap: bool = False) -> Any:
    """Return what :func:`write_tensors` has written, on the CPU; nothing else is unpickled.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedError: if it is.
        InputError: if there is no memory to map it.
    """
    import torch

    with file.open("rb") as content:
        if not _is_whole(content):
            raise DamagedError(f"{file} is damaged (its checksum differs).")
        content.seek(0)
        source, size = (file if mmap else content), file.stat().st_size / 1e9
        try:
            with warnings.catch_warnings(action="ignore"):  # of archives that are refused
                return torch.load(source, weights_only=True, map_location="cpu", mmap=mmap)
        except Exception as error:  # of many kinds
            if "mmap" not in str(error):
                raise DamagedError(f"{file} is damaged ({reason(error)}).") from error
            raise InputError(
                f"{file}: {size:.1f} GB cannot be mapped: raise the limit of this process "
                "(ulimit -v)."
            ) from error


def reason(error: Exception) -> str:
    """Return an error's text in a few words."""
    return (" ".join(str(error).split()) or type(error).__name__)[:80]


def _is_whole(content: BinaryIO) -> bool:
    size = content.seek(0, os.SEEK_END)
    content.seek(max(size - 22, 0))
    end = content.read()
    if end.startswith(UNSEALED) and end.endswith(b"\0\0"):  # saved by somebody else
        return True
    content.seek(0)
    fingerprint, left = hashlib.sha256(), size - HEX
    while left > 0:
        part = content.read(min(left, 1 << 20))
        fingerprint.update(part)
        left -= len(part)
    return content.read() == fingerprint.hexdigest().encode()


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a mapping as JSON, with its checksum."""
    write(file, json.dumps(sealed(content), indent=1, allow_nan=False) + "\n")


def read_json(file: Path) -> dict[str, Any] | None:
    """Return the mapping of a file; None, with a warning, if it is damaged; None without one."""
    try:
        return unsealed(file.read_bytes())
    except ValueError:
        log.warning("%s is damaged and ignored.", file)
    except OSError:
        pass
    return None


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping of JSON values with the checksum of all others as its last key."""
    return content | {"checksum": _checksum(json.loads(json.dumps(content)))}


def unsealed(text: str | bytes) -> dict[str, Any]:
    """Return the mapping of a sealed text; one by hand, without a checksum, is taken as it is.

    Raises:
        ValueError: if it is damaged.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it is no mapping")
    key, seal = next(reversed(content.items()), ("", ""))
    if isinstance(seal, str) and len(seal) == HEX:
        del content[key]
        if (key, seal) != ("checksum", _checksum(content)):
            raise ValueError("its checksum differs")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_yaml(file: Path, text: str) -> None:
    """Write a text of YAML with its checksum as a comment."""
    write(file, _sealed_yaml(_encoded(text)))


def read_yaml(file: Path) -> str:
    """Return the text of :func:`write_yaml`; one by hand, without a checksum, is taken as it is.

    Raises:
        DamagedError: if it is.
    """
    content = file.read_bytes()
    *lines, last = content.removesuffix(b"\n").split(b"\n")
    if not (last.startswith(SEAL[:1]) or SEAL[1:] in last):
        return content.decode("utf-8", "replace")
    text = b"".join(line + b"\n" for line in lines)
    if content != _sealed_yaml(text):
        raise DamagedError(
            f"{file} is damaged (its checksum differs). If you have changed it yourself, remove "
            "its last line."
        )
    return text.decode()


def _sealed_yaml(text: bytes) -> bytes:
    return text + SEAL + hashlib.sha256(text).hexdigest().encode() + b"\n"


_USED: dict[Path, BinaryIO] = {}
"""Files that this process uses until it ends."""


def hold(file: Path) -> None:
    """Say until this process ends that a file is in use, where the file system can."""
    if file not in _USED and fcntl is not None:
        with suppress(OSError):
            _USED[file] = file.open("rb")
            fcntl.flock(_USED[file], fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_used(file: Path) -> bool:
    """Return whether another process has said that it uses a file."""
    if file in _USED:
        _USED.pop(file).close()
    try:
        with file.open("rb") as content:
            if fcntl is not None:
                fcntl.flock(content, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK


@contextmanager
def locked(file: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock. Whoever waits for it says so, and for whom.

    Args:
        file: of the lock; a file beside it says who holds it.
        timeout: seconds after which to stop waiting; -1 for never.

    Raises:
        Timeout: if another process holds it for longer.
        InputError: if the file system has no locks, or cannot be written.
    """
    lock, holder = FileLock(file), file.with_suffix(".holder")
    try:
        lock.acquire(timeout=max(timeout, 0))
    except Timeout:
        if timeout >= 0:
            raise
        who = holder.read_text("utf-8", "replace") if holder.exists() else "another process"
        log.warning("Waiting for %s: %s works on it.", file.with_suffix(""), who)
        lock.acquire()
    except NotImplementedError as error:
        raise InputError(
            f"{file.parent}: this file system has no locks; choose a folder on another."
        ) from error
    except OSError as error:
        raise InputError(unwritable(file, error)) from error
    try:
        with suppress(OSError):
            holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()
