"""Images in folders: which files there are, and their pixels, decoded once into the store.

Layouts, where ROOT is the folder::

    ROOT/{train,val,test}/<class>/...    val (valid, validation) and test may be missing
    ROOT/<class>/...                     no parts: val and test are split off
    ROOT/unlabelled/...                  beside either: images without a class
"""

import hashlib
import logging
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisy_kd.data import store as stores
from noisy_kd.data.dataset import keyed_generator
from noisy_kd.data.decode import IGNORED, Header, Pixels, decode, endings, in_parallel, inspect
from noisy_kd.data.files import read_json, write_json
from noisy_kd.data.sources import Images, Source, stratified
from noisy_kd.errors import InputError

log = logging.getLogger(__name__)

ALIASES = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"val": "val", "valid": "val", "validation": "val"},
    **{"unlabelled": "unlabelled", "unlabeled": "unlabelled"},
}
PARTS = ("train", "val", "unlabelled", "test")
DECODER = 4  # raise it when a change here or in decode.py alters pixels, facts or fingerprints
SHOWN = 10  # broken files that a message names
TEST_SHARE = 5  # a fifth is the test set where the folder has none


@dataclass(frozen=True)
class File:
    """An image file: its part of the data set, and its class in NFC (empty without one)."""

    path: Path
    part: str
    label: str


def read(
    root: Path, size: int | Sequence[int] | None, on_error: str, store: Path, seed: int
) -> Source:
    """Return the images of a folder, decoded in parallel the first time, then from the store.

    The pixels are mapped from a file, so they need not fit into memory.

    Args:
        root: the folder.
        size: of all images: N for N x N, or [H, W]; None if all have the same.
        on_error: ``fail``, or ``skip`` to leave out files that cannot be read.
        store: folder of the store.
        seed: decides the test set, where the folder has none.

    Raises:
        InputError: naming the files, classes or sizes that are not as they must be.
    """
    files = list_files(root, with_remarks=True)
    made_by: dict[str, Any] = {
        "data": "folder",
        "layers": "",
        "content": content_digest(root, store, files),
    }
    made_by |= {"size": str(size), "on_error": on_error, "decoder": DECODER}
    if not any(file.part == "test" for file in files):
        files = _with_test_set(files, seed)
        _check_classes(files, root, with_remarks=True)
        made_by["test_seed"] = seed
    tensors, facts = stores.get_or_make(
        store, "images", made_by, lambda work: _decoded(files, root, size, on_error, work)
    )
    for remark in facts["remarks"]:
        log.warning("%s: %s", root, remark)
    counts = facts["counts"]
    end = len(tensors["labels"]) - counts["test"]
    train, test = (
        Images(tensors["pixels"][part], tensors["labels"][part])
        for part in (slice(0, end), slice(end, None))
    )
    digest = hashlib.sha256(str(sorted(made_by.items())).encode()).hexdigest()[:32]
    return Source(
        train,
        test,
        tuple(facts["classes"]),
        digest=digest,
        val=counts["val"],
        unlabelled=counts["unlabelled"],
        bits=facts["bits"],
    )


def list_files(root: Path, with_remarks: bool = False) -> list[File]:
    """Return the image files below a folder: part after part, class after class.

    The remarks, about ignored files and missing classes, are logged.

    Raises:
        InputError: if there are fewer than two classes, or their folders do not match.
    """
    if not root.is_dir():
        raise InputError(f"data.root={root}: there is no such folder; name that of your images.")
    folders = {entry.name: entry for entry in _entries(root) if entry.is_dir()}
    parts: dict[str, Path] = {}
    for name, path in folders.items():
        if (part := ALIASES.get(name.lower())) in parts:
            raise InputError(f"data.root={root} has both {parts[part].name} and {name}: join them.")
        parts |= {part: path} if part else {}
    if "train" not in parts and {"val", "test"} & parts.keys():
        raise InputError(f"data.root={root} has {', '.join(folders)}, but no train: make it.")
    files: list[File] = []
    others: Counter[str] = Counter()
    for part in PARTS:
        if part == "unlabelled" and part in parts:
            files += [File(path, part, "") for path in _images(parts[part], others)]
            continue
        if part in parts:
            classes = [entry for entry in _entries(parts[part]) if entry.is_dir()]
        elif part == "train":
            classes = [path for name, path in folders.items() if name.lower() not in ALIASES]
        else:
            continue
        for folder in classes:
            files += [File(path, part, _text(folder.name)) for path in _images(folder, others)]
        empty = {_text(folder.name) for folder in classes}
        empty -= {file.label for file in files if file.part == part}
        if empty and part == "train":
            found = ", ".join(f"{count} {ending}" for ending, count in others.items())
            hint = f" ({found} found, which are no images)" if found else ""
            why = f"no images of {_some(empty)}{hint}; every folder of a class needs some"
            raise InputError(f"data.root={root}: {why}.")
    for name, path in folders.items() if "train" in parts else ():
        if name.lower() not in ALIASES and (count := len([*_images(path, others)])):
            others[f"images in {name}, beside train"] = count
    for folder in {root, *(path for part, path in parts.items() if part != "unlabelled")}:
        loose = sum(p.is_file() and p.suffix.lower() in endings() for p in _entries(folder))
        others.update({f"images in {folder.name}, but in no class folder": loose} if loose else {})
    if others and with_remarks:
        text = ", ".join(f"{count} {what}" for what, count in others.items())
        log.info("%s: files ignored: %s.", root, text)
    _check_classes(files, root, with_remarks)
    return sorted(files, key=lambda f: (PARTS.index(f.part), f.label, _text(f.path)))


def _check_classes(files: list[File], root: Path, with_remarks: bool) -> None:
    classes = {part: {f.label for f in files if f.part == part} for part in PARTS}
    if len(classes["train"]) < 2:
        found = ", ".join(sorted(classes["train"])) or "none"
        raise InputError(
            f"data.root={root} needs two classes at least, a folder of images for each "
            f"(ROOT/<class>/... or ROOT/train/<class>/...); found: {found}."
        )
    for part in ("val", "test"):
        if unknown := classes[part] - classes["train"]:
            raise InputError(f"data.root={root}: {part} has {_some(unknown)}, which train has not.")
        missing = classes["train"] - classes[part]
        if classes[part] and missing and with_remarks:
            log.warning("%s: %s has no images of %s.", root, part, _some(missing))


def content_digest(root: Path, store: Path, files: list[File] | None = None) -> str:
    """Return a fingerprint of all image files below a folder: content, class, part and order.

    Their names do not count, but for the order. It is remembered in the store for files of the same
    sizes and times of change.
    """
    files = files or list_files(root)
    states = hashlib.sha256(str(DECODER).encode())
    for file in files:
        states.update(repr((file.path, file.part, *_state(file.path))).encode())
    known = store / f"folder-{states.hexdigest()[:16]}"
    if found := read_json(known):
        return str(found["content"])
    fingerprint = hashlib.sha256()
    for k, digest in in_parallel(_digest, files, "hashing files"):
        fingerprint.update(f"{files[k].part}/{files[k].label}\0{digest}\n".encode())
    content = fingerprint.hexdigest()[:32]
    with suppress(OSError, InputError):  # a store that is read-only remembers nothing
        store.mkdir(parents=True, exist_ok=True)
        write_json(known, {"content": content})
    return content


def _decoded(
    files: list[File], root: Path, size: int | Sequence[int] | None, on_error: str, work: Path
) -> dict[str, Any]:
    """Return the pixels and labels of all files, for the store."""
    paths = [file.path for file in files]
    headers = [header for _, header in in_parallel(inspect, paths, "reading headers")]
    broken = {k: one for k, one in enumerate(headers) if isinstance(one, InputError)}
    good = [k for k in range(len(files)) if k not in broken]
    if good:
        wanted = _pixels([headers[k] for k in good], root, size)
        assert wanted.size is not None
        shape = (len(files), wanted.channels, *wanted.size)
        needed = 2 * math.prod(shape)  # they are written twice for a moment
        stores.check_room(work.parent, needed, "the decoded images", "a smaller data.size")
        try:
            pixels = np.memmap(work / "pixels", dtype=np.uint8, mode="w+", shape=shape)
        except OSError as error:
            raise InputError(
                f"{root}: {math.prod(shape) / 1e9:.1f} GB of decoded images cannot be mapped "
                f"({error.strerror}): raise the limit of this process (ulimit -v), or choose a "
                "smaller data.size."
            ) from error
        read = partial(decode, pixels=wanted)
        for place, image in in_parallel(read, [paths[k] for k in good], "decoding images"):
            if isinstance(image, InputError):
                broken[good[place]] = image
            else:
                pixels[good[place]] = image.transpose(2, 0, 1)
    if broken:
        errors = [broken[k] for k in sorted(broken)]
        if on_error != "skip":
            raise InputError(
                f"{_first(errors)} Replace or remove what is named (files: {len(errors)}), or "
                "leave it out by data.on_error=skip."
            )
        kept = [file for k, file in enumerate(files) if k not in broken]
        _check_classes(kept, root, with_remarks=True)
        content = _decoded(kept, root, size, on_error, work)
        content["facts"]["remarks"] += [f"left out (files: {len(errors)}): {_first(errors)}"]
        return content
    classes = sorted({file.label for file in files if file.label})
    index = {name: k for k, name in enumerate(classes)} | {"": -1}
    labels = torch.tensor([index[file.label] for file in files])
    counts = {part: sum(file.part == part for file in files) for part in PARTS}
    remarks = _remarks(headers, pixels)
    facts = {"classes": classes, "counts": counts, "bits": wanted.bits, "remarks": remarks}
    return {"tensors": {"pixels": torch.from_numpy(pixels), "labels": labels}, "facts": facts}


def _pixels(headers: list[Header], root: Path, size: int | Sequence[int] | None) -> Pixels:
    """Return what all images are decoded to.

    Raises:
        InputError: if they differ in size, and none is given.
    """
    bits = max((header.bits for header in headers if header.bits), default=None)
    channels = 1 if all(header.is_grey for header in headers) else 3
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        return Pixels((height, width), channels, bits)
    sizes = Counter(header.size for header in headers)
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h} ({n})" for (h, w), n in sizes.most_common(3))
        more = f" and {len(sizes) - 3} others" if len(sizes) > 3 else ""
        raise InputError(
            f"data.root={root} has images of {len(sizes)} sizes, {shown}{more}: choose one, for "
            "example data.size=64."
        )
    return Pixels(next(iter(sizes)), channels, bits)


def _remarks(headers: list[Header], pixels: np.ndarray[Any, Any]) -> list[str]:
    """Return what was done to the pixels, and whether there is nothing to see."""
    counts = Counter(remark for header in headers for remark in header.remarks)
    remarks = [f"{remark} (images: {count})." for remark, count in counts.items()]
    if len(bits := {header.bits for header in headers if header.bits}) > 1:
        remarks.append(f"images use {sorted(bits)} of 16 bits: all are scaled as {max(bits)} bits.")
    if all(image.min() == image.max() for image in pixels[:SHOWN]):
        remarks.append(f"the first {len(pixels[:SHOWN])} images are each of one colour only.")
    return remarks


def _with_test_set(files: list[File], seed: int) -> list[File]:
    """Move a stratified fifth of the training files into the test set."""
    train = [file for file in files if file.part == "train"]
    index = {name: k for k, name in enumerate(sorted({file.label for file in train}))}
    labels = torch.tensor([index[file.label] for file in train])
    if len(train) < TEST_SHARE:
        raise InputError(f"data.root: {len(train)} images are too few to split off a test set.")
    rows, _ = stratified(labels, len(train) // TEST_SHARE, keyed_generator(seed, "test split"))
    chosen = set(rows.tolist())
    rest = [file for k, file in enumerate(train) if k not in chosen]
    others = [file for file in files if file.part != "train"]
    return [*rest, *others, *(replace(train[row], part="test") for row in rows.tolist())]


def _first(errors: Collection[InputError]) -> str:
    shown = " ".join(map(str, list(errors)[:SHOWN]))
    return shown + (f" And {len(errors) - SHOWN} more." if len(errors) > SHOWN else "")


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes with a file's content; nothing for a broken link, which is no image."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(file: File) -> str:
    try:
        with file.path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return "unreadable"  # it is named when it is decoded


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder, without hidden files and those of operating systems."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise _unreadable(error) from error
    return [p for p in paths if not p.name.startswith(".") and p.name not in IGNORED]


def _unreadable(error: OSError) -> InputError:
    return InputError(f"the folder {error.filename} cannot be read ({error.strerror}).")


def _images(folder: Path, others: Counter[str], *above: Path) -> Iterator[Path]:
    """Return the image files at any depth of a folder, by their endings; count the others."""
    known, places = endings(), (*above, folder.resolve())
    for path in _entries(folder):
        if path.is_dir():
            if not any(place.is_relative_to(path.resolve()) for place in places):  # no link back
                yield from _images(path, others, *places)
        elif (ending := path.suffix.lower()) in known and (path.is_file() or path.is_symlink()):
            yield path
        else:
            others[ending or "without ending"] += 1


def _text(path: Path | str) -> str:
    """Return a path in NFC, decoded as UTF-8 whatever the locale is."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def _some(names: set[str]) -> str:
    """Return class names for a message, three at most."""
    shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    return f"the class {shown}" if len(names) == 1 else f"{len(names)} classes ({shown})"
