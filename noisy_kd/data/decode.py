"""Decode image files: one function for training and for ``noisy-kd predict``.

What is done to the pixels: the EXIF orientation is applied; transparency is composited on white;
16-bit values are scaled to 8 bits from the range that they use (8, 10, 12, 14 or 16 bits);
palettes, CMYK and other colour spaces become RGB, or grey; of several frames the first is used.
Colour profiles are not applied.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import cpu_count
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from noisy_kd.errors import InputError

Array = np.ndarray[Any, Any]

MANY = 1000  # files, for which processes are started
IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")
NOT_IMAGES = {"EPS", "WMF", "GRIB", "HDF5", "BUFR", "MPEG"}
"""Formats of Pillow that run other programs, or are no images."""

GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I", "F")
BITS = (8, 10, 12, 14, 16)
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # of an image; larger ones Pillow refuses
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28  # bytes, of colour profiles


@dataclass(frozen=True)
class Pixels:
    """What decoded images have in common.

    Args:
        size: (height, width); None keeps the size of the file.
        channels: 1 (grey) or 3 (RGB).
        bits: that 16-bit files use; None decides for each file.
    """

    size: tuple[int, int] | None
    channels: int
    bits: int | None = None


@dataclass(frozen=True)
class Header:
    """What a file says of its image: (height, width) as displayed, and how it stores pixels."""

    size: tuple[int, int]
    is_grey: bool
    bits: int | None
    remarks: tuple[str, ...]


def endings() -> set[str]:
    """Return the endings of files that Pillow can read as images."""
    formats = Image.registered_extensions()
    return {end for end, name in formats.items() if name in Image.OPEN and name not in NOT_IMAGES}


def images_in(path: Path) -> list[Path]:
    """Return the images anywhere below a folder, by their endings; of a file itself.

    Raises:
        InputError: if there are none.
    """
    known = endings()
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in known
        and not file.is_dir()
        and not any(part[0] == "." or part in IGNORED for part in file.relative_to(path).parts)
    )
    if path.is_dir() and not files:
        raise InputError(f"{path} holds no images.")
    return files if path.is_dir() else [path]


def inspect(file: Path) -> Header:
    """Read the header of an image file (of 16-bit files the pixels, too).

    Raises:
        InputError: if it cannot be read as an image.
    """
    with _opened(file) as image:
        remarks = []
        width, height = image.size
        if image.format == "TIFF":  # whose size Pillow may have turned already
            width, height = (image.tag_v2[tag] for tag in (256, 257))  # type: ignore[attr-defined]
        orientation = image.getexif().get(0x0112, 1)
        if orientation > 1:
            remarks.append("turned as its EXIF orientation says")
        if _has_alpha(image):
            remarks.append("transparency composited on white")
        bits = None
        if (deep := _deep(file, image)) is not None:
            bits = _bits(image, deep)
            remarks.append("16 bits scaled to 8")
        size = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
        return Header(size, _is_grey(image), bits, tuple(remarks))


def decode(file: Path, pixels: Pixels) -> Array:
    """Return the image in a file as uint8 [H, W, C].

    With a size the shorter side is scaled to it, antialiased, and the centre is cut out.

    Raises:
        InputError: if it cannot be read as an image.
    """
    with _opened(file) as image:
        if pixels.size is not None:  # JPEG decodes at 1/2, 1/4 or 1/8 of the size for less work
            image.draft(None, (2 * max(pixels.size), 2 * max(pixels.size)))
        if (deep := _deep(file, image)) is not None:
            is_float = image.mode == "F"  # from 0 to 1, whatever the others are
            bits = _bits(image, deep) if is_float or pixels.bits is None else pixels.bits
            scaled = _scaled_to_8_bits(file, deep, bits)
            scaled.getexif().update(image.getexif())  # with its orientation
            image = scaled
        image.load()
        image = ImageOps.exif_transpose(image)
        if _has_alpha(image):
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        image = image.convert("L" if pixels.channels == 1 else "RGB")
        if pixels.size is not None and image.size != pixels.size[::-1]:
            image = ImageOps.fit(image, pixels.size[::-1], Image.Resampling.BILINEAR)
        return np.array(image, dtype=np.uint8).reshape(image.height, image.width, pixels.channels)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open an image file; any error, also while its pixels are read, becomes one line."""
    Image.init()
    formats = [name for name in Image.ID if name not in NOT_IMAGES]
    if file.exists() and not file.is_file() and not file.is_dir():  # reading might never end
        raise InputError(f"{file} cannot be read as an image (it is not a file).")
    try:
        with file.open("rb") as content:  # given a path, Pillow maps some turned TIFFs wrongly
            with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
                image = Image.open(content, formats=formats)
            with image:
                yield image
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        text = getattr(error, "strerror", None) or str(error)
        why = " ".join(text.split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "no image format that Pillow reads"
        if isinstance(error, Image.DecompressionBombError):
            why = f"it has more than {MOST_PIXELS:,} pixels: scale it down or cut it into tiles"
        raise InputError(f"{file} cannot be read as an image ({why[:120]}).") from error


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = np.array(image.getpalette()).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in GREY


def _deep(file: Path, image: Image.Image) -> Array | None:
    """Return the pixels [H, W] or [H, W, C] of an image of more than 8 bits, as integers.

    Pillow keeps only the upper 8 bits of 16-bit colour, so torchvision reads such PNG files.
    """
    if image.format == "PNG" and _png_bit_depth(file) == 16:
        import torch
        from torchvision.io import ImageReadMode, decode_image

        image.load()  # its errors are clearer
        content = torch.from_numpy(np.fromfile(file, dtype=np.uint8))
        return np.asarray(decode_image(content, ImageReadMode.UNCHANGED).permute(1, 2, 0))
    if image.mode == "F":
        values = np.asarray(image)
        if not 0 <= values.min() <= values.max() <= 1:
            raise InputError(f"{file}: floating-point pixels must lie between 0 and 1.")
        return (values * 65535).round().astype(np.int32)
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            ends = f"{values.min()} to {values.max()}"
            raise InputError(f"{file} has pixels of {ends}: save it with 16 bits, 0 to 65535.")
        return values
    tags: Any = getattr(image, "tag_v2", {})
    if max(tags.get(258, (8,))) > 8 and image.format == "TIFF":  # BitsPerSample
        raise InputError(f"{file} is a colour TIFF of more than 8 bits: save it as PNG.")
    return None


def _png_bit_depth(file: Path) -> int:
    with file.open("rb") as content:
        return content.read(25)[24]


def _bits(image: Image.Image, deep: Array) -> int:
    """Return the fewest bits that hold all values."""
    largest = int(_colours(deep).max())
    return 16 if image.mode == "F" else next(n for n in BITS if largest < 2**n)


def _colours(deep: Array) -> Array:
    """Return pixels without their opacity, which uses all 16 bits."""
    return deep[..., :-1] if deep.ndim == 3 and deep.shape[2] in (2, 4) else deep


def _scaled_to_8_bits(file: Path, deep: Array, bits: int) -> Image.Image:
    largest = int(_colours(deep).max())
    if largest >= 2**bits:
        raise InputError(
            f"{file} has pixels up to {largest}, but the student was trained on {bits} bits: scale "
            "it to them."
        )
    values = (deep.astype(np.float32) * (255 / (2**bits - 1))).round()
    if (count := _colours(deep).shape[-1]) < deep.shape[-1]:
        values[..., count:] = (deep[..., count:] / 257).round()
    values = values.astype(np.uint8)
    return Image.fromarray(values.squeeze(-1) if values.shape[2:] == (1,) else values)


class _Calls(Dataset[Any]):
    """The results of a function for each item; an InputError counts as a result."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> Any:
        try:
            return self.function(self.items[k])
        except InputError as error:
            return error


def in_parallel(
    function: Callable[[Any], Any], items: Sequence[Any], what: str
) -> Iterator[tuple[int, Any]]:
    """Yield the index and the result, or the error, of each item, with a progress bar.

    Many items are shared out to the worker processes of a DataLoader.
    """
    many = len(items) >= MANY
    workers = min(16, cpu_count()) if many else 0
    loader = DataLoader(
        _Calls(function, items), batch_size=64, num_workers=workers, collate_fn=list
    )
    console = Console(stderr=True)
    hidden = not many or not console.is_terminal
    batches = track(loader, what, len(loader), console=console, disable=hidden, transient=True)
    yield from enumerate(result for batch in batches for result in batch)
