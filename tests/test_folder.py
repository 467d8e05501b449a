"""Folders of images: every format, size, mode and layout; what is wrong is named."""

import errno
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import unicodedata
import zlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from image_files import write_shapes
from PIL import Image, PngImagePlugin

from noisy_kd import ImageFolderDataModule
from noisy_kd.data import decode as decoding
from noisy_kd.data import folder
from noisy_kd.data.decode import Pixels, decode, images_in, inspect
from noisy_kd.errors import InputError
from noisy_kd.training.stages import run

DRAWS = np.random.default_rng(0)
COLOUR, GREY = Pixels(None, 3), Pixels(None, 1)


def pixels(height=20, width=30, channels=3):
    return DRAWS.integers(0, 256, (height, width, channels), dtype=np.uint8)


def write(root, classes=("cat", "dog"), count=6, part="train", ending="png", size=(20, 30)):
    """Write images of noise: ROOT/PART/CLASS/K.ENDING."""
    for name in classes:
        (root / part / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            Image.fromarray(pixels(*size)).save(root / part / name / f"{k}.{ending}")
    return root


def write_png16(file, values):
    """Write uint16 pixels [H, W, C], which Pillow cannot."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return file


@pytest.fixture
def module(tmp_path):
    def make(root=tmp_path, **settings):
        data = ImageFolderDataModule(root, store=tmp_path / "store", **settings)
        data.prepare_data()
        data.setup()
        return data

    return make


# Pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_files_are_scaled_from_the_bits_that_they_use(tmp_path, channels, bits):
    image = pixels(channels=channels)
    image[0, 0] = 255
    deep = (image.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    file = write_png16(tmp_path / "a.png", deep)
    decoded = decode(file, Pixels(None, channels))
    assert np.abs(decoded.astype(int) - image).max() <= 1
    assert inspect(file).bits == bits


def test_a_file_of_more_bits_than_the_others_is_refused(tmp_path):
    file = write_png16(tmp_path / "a.png", pixels(channels=1).astype(np.uint16) * 257)
    with pytest.raises(InputError, match="trained on 12 bits"):
        decode(file, Pixels(None, 1, bits=12))


def test_a_16_bit_tiff_and_floating_point_pixels_are_scaled(tmp_path):
    image = pixels(channels=1)[..., 0]
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "a.tif")
    assert np.array_equal(decode(tmp_path / "a.tif", GREY)[..., 0], image)
    Image.fromarray((image / 255).astype(np.float32)).save(tmp_path / "f.tif")
    assert np.array_equal(decode(tmp_path / "f.tif", GREY)[..., 0], image)
    Image.fromarray(image.astype(np.float32)).save(tmp_path / "g.tif")
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        decode(tmp_path / "g.tif", GREY)


@pytest.mark.parametrize("depth", [8, 16])
def test_transparency_is_composited_on_white(tmp_path, depth):
    image = np.concatenate([pixels(), np.full((20, 30, 1), 255, np.uint8)], axis=2)
    image[:5, :, 3] = 0
    if depth == 16:
        write_png16(tmp_path / "a.png", image.astype(np.uint16) * 257)
    else:
        Image.fromarray(image).save(tmp_path / "a.png")
    decoded = decode(tmp_path / "a.png", COLOUR)
    assert (decoded[:5] == 255).all()
    assert np.array_equal(decoded[5:], image[5:, :, :3])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, orientation):
    image = Image.fromarray(pixels())
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = image.transpose(turn[orientation]) if orientation in turn else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "a.png", COLOUR), np.asarray(image))
    assert inspect(tmp_path / "a.png").size == (20, 30)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_tiffs_are_as_they_are_displayed(tmp_path, mode, compression, orientation):
    upright = Image.fromarray(pixels(channels=1)[..., 0]).convert(mode)
    if mode == "I;16":
        upright = Image.fromarray(pixels(channels=1)[..., 0].astype(np.uint16) * 257)
    upright.save(tmp_path / "upright.tif")
    values = np.asarray(upright)
    turn = {  # from what is displayed to what is stored
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    stored = np.ascontiguousarray(turn.get(orientation, lambda a: a)(values))
    image = Image.frombytes(mode, stored.shape[1::-1], stored.tobytes())
    image.save(tmp_path / "a.tif", compression=compression, tiffinfo={274: orientation})
    wanted = Pixels(None, 1 if mode in ("L", "I;16") else 3)
    turned, plain = (decode(tmp_path / name, wanted) for name in ("a.tif", "upright.tif"))
    assert inspect(tmp_path / "a.tif").size == (20, 30)
    assert np.array_equal(turned, plain)


def test_opacity_and_floats_do_not_decide_how_16_bits_are_scaled(tmp_path):
    deep = np.full((4, 4, 4), 65535, np.uint16)
    deep[..., :3] = 1023
    file = write_png16(tmp_path / "a.png", deep)
    assert inspect(file).bits == 10
    assert (decode(file, Pixels(None, 3)) == 255).all()
    assert (decode(file, Pixels(None, 3, bits=12)) == 64).all()
    Image.fromarray(np.full((4, 4), 0.01, np.float32)).save(tmp_path / "f.tif")
    assert inspect(tmp_path / "f.tif").bits == 16
    assert (decode(tmp_path / "f.tif", GREY) == 3).all()
    assert (decode(tmp_path / "f.tif", Pixels(None, 1, bits=12)) == 3).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBA", "LA"])
def test_every_mode_becomes_grey_or_colour(tmp_path, mode):
    source = Image.fromarray(pixels())
    if mode in ("LAB", "HSV"):
        image = source.convert("RGB") if mode == "HSV" else source
        image = image.convert(mode) if mode == "HSV" else image
    else:
        image = source.convert(mode)
    file = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "LAB") else "a.png")
    (image.convert("RGB") if mode == "HSV" else image).save(file)
    assert decode(file, COLOUR).shape == (20, 30, 3)
    assert decode(file, GREY).shape == (20, 30, 1)
    assert inspect(file).is_grey == (mode in ("1", "L", "LA"))


def test_long_text_and_a_large_colour_profile_do_no_harm(tmp_path):
    image, text = pixels(), PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 5_000_000, zip=True)
    profile = bytes(3_000_000)
    Image.fromarray(image).save(tmp_path / "a.png", pnginfo=text, icc_profile=profile)
    assert np.array_equal(decode(tmp_path / "a.png", COLOUR), image)


def test_the_shorter_side_is_scaled_and_the_centre_cut_out(tmp_path):
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200  # the centre
    Image.fromarray(image).save(tmp_path / "a.png")
    square = decode(tmp_path / "a.png", Pixels((10, 10), 3))
    assert square.shape == (10, 10, 3)
    assert (square[:, 1:-1] == 200).all()
    assert (square > 150).all()
    checks = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "b.png")
    small = decode(tmp_path / "b.png", Pixels((8, 8), 1))
    assert np.abs(small.astype(int) - 127).max() < 10  # antialiased


# Which files, which classes


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "webp", "bmp", "gif", "tiff", "PNG"])
def test_any_format_in_any_case_is_read(tmp_path, module, ending):
    write(tmp_path, ending=ending)
    assert module().input_shape == (3, 20, 30)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_parts_that_are_there_are_used(tmp_path, module, val):
    write(tmp_path, count=6)
    write(tmp_path, count=2, part=val)
    write(tmp_path, count=3, part="test")
    data = module()
    assert (len(data.train_rows), len(data.val_rows), len(data.test_images)) == (12, 4, 6)
    x, y = data.validation_set()[torch.arange(4)]
    assert y.tolist() == [0, 0, 1, 1]
    with Image.open(tmp_path / val / "dog" / "1.png") as image:
        assert torch.equal(
            (x[3] * 255).round().byte().permute(1, 2, 0), torch.tensor(np.array(image))
        )


def test_parts_that_are_missing_are_split_off_by_the_data_seed(tmp_path, module):
    root = write(tmp_path / "images", part=".", count=50)
    first, again, other = module(root), module(root), module(root, seed=1)
    assert (len(first.test_images), len(first.val_rows), len(first.train_rows)) == (20, 8, 72)
    assert torch.bincount(first.test_images.labels).tolist() == [10, 10]
    assert torch.equal(first.test_images.pixels, again.test_images.pixels)
    assert not torch.equal(first.test_images.pixels, other.test_images.pixels)


def test_files_of_systems_and_folders_within_a_class(tmp_path, module):
    write(tmp_path)
    write(tmp_path / "train" / "cat", classes=("day", "night"), count=2, part="deep")
    for name in (
        ".hidden.png",
        "._0.png",
        "Thumbs.db",
        "__MACOSX/x.png",
        ".ipynb_checkpoints/y.png",
    ):
        file = tmp_path / "train" / "cat" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("no image")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    data = module()
    assert data.classes == ("cat", "dog")
    assert len(data.images) + len(data.test_images) == 12 + 4


def test_class_names_with_spaces_accents_and_signs(tmp_path, module):
    names = ("a b", "été", "$HOME", "007", "it's")
    write(tmp_path, classes=[unicodedata.normalize("NFC", name) for name in names])
    nfd = [unicodedata.normalize("NFD", name) for name in names]
    write(tmp_path, classes=nfd, count=2, part="test")
    assert module().classes == tuple(sorted(names))


def test_class_names_do_not_depend_on_the_locale(tmp_path, module):
    write(tmp_path, classes=("été", "zoo", "猫"))
    (tmp_path / os.fsdecode(b"train/caf\xe9")).mkdir()  # latin-1
    Image.new("L", (30, 20)).save(tmp_path / os.fsdecode(b"train/caf\xe9/0.png"))
    here = module()
    assert here.classes == ("caf\\xe9", "zoo", "été", "猫")
    program = (
        "from noisy_kd import ImageFolderDataModule as M\n"
        f"data = M({str(tmp_path)!r}, store={str(tmp_path / 'other')!r})\n"
        "data.setup()\n"
        "print(ascii(data.classes), data.digest)"
    )
    locale = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | locale | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{here.classes!a} {here.digest}"


def test_unlabelled_images_have_no_class(tmp_path, module):
    write(tmp_path)
    (tmp_path / "unlabelled" / "x").mkdir(parents=True)
    for k in range(3):
        Image.fromarray(pixels()).save(tmp_path / "unlabelled" / "x" / f"{k}.jpg")
    data = module(val_size=0)
    assert len(data.training_set()) == 10
    both = data.training_set(unlabelled=True)
    assert both[torch.arange(len(both))][1].tolist()[-3:] == [-1, -1, -1]
    assert len(data.all_views()) == 13
    assert data.classes == ("cat", "dog")


# What is wrong


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_class_that_only_one_part_has_is_named(tmp_path, module, part, caplog):
    names = [f"c{k:03}" for k in range(40)]
    write(tmp_path, classes=names, count=2)
    write(tmp_path, classes=names[:-1], count=1, part=part)
    module()
    assert f"{part} has no images of the class c039." in caplog.text
    assert "c038" not in caplog.text
    write(tmp_path, classes=["extra"], count=1, part=part)
    with pytest.raises(InputError, match=f"{part} has the class extra, which train has not"):
        module()


def test_images_beside_the_class_folders_are_named(tmp_path, module, caplog):
    caplog.set_level("INFO")
    write(tmp_path)
    write(tmp_path, classes=(".",), count=3, part="val")
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    (tmp_path / "extra").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "extra" / "a.png")
    data = module(val_size=4)
    assert len(data.val_rows) == 4
    assert "1 images in extra, beside train, 3 images in val, but in no class folder" in caplog.text


def test_what_is_no_image_of_a_folder_is_not_predicted(tmp_path):
    for name in ("a.png", ".a.png", "__MACOSX/b.png", "dir.png/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels()).save(tmp_path / name)
    assert [file.name for file in images_in(tmp_path)] == ["a.png", "c.png"]


def test_images_of_several_sizes_are_named_with_what_to_type(tmp_path, module):
    write(tmp_path)
    write(tmp_path, classes=("cat",), count=2, part="test", size=(8, 9))
    write(tmp_path, classes=("dog",), count=2, part="test")
    with pytest.raises(InputError, match=r"2 sizes, 30x20 \(14\), 9x8 \(2\): .* data\.size=64"):
        module()
    assert module(size=16).input_shape == (3, 16, 16)
    assert module(size=[10, 12]).input_shape == (3, 10, 12)


def test_all_broken_files_are_named_at_once_or_left_out(tmp_path, module, caplog):
    write(tmp_path, ending="jpg", size=(90, 90), count=12)
    write(tmp_path, part="test", ending="jpg", size=(90, 90), count=2)
    whole = (tmp_path / "train" / "cat" / "0.jpg").read_bytes()
    (tmp_path / "train" / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train" / "cat" / "1.jpg").write_bytes(b"")
    (tmp_path / "train" / "dog" / "2.jpg").write_text("no image")
    with pytest.raises(InputError) as error:
        module()
    for name in ("cat/0.jpg", "cat/1.jpg", "dog/2.jpg", "(files: 3)", "data.on_error=skip"):
        assert name in str(error.value)
    (tmp_path / "train" / "cat" / "1.jpg").write_bytes(whole)
    (tmp_path / "train" / "dog" / "2.jpg").write_bytes(whole)
    with pytest.raises(InputError, match=r"cat/0\.jpg cannot be read .*truncated"):
        module()
    (tmp_path / "train" / "dog" / "2.jpg").write_text("no image")
    data = module(on_error="skip")
    assert len(data.images) == 22
    assert "dog/2.jpg" in caplog.text


def test_no_class_is_left_empty_by_skipping(tmp_path, module):
    write(tmp_path, count=6)
    write(tmp_path, part="test", count=2)
    for file in (tmp_path / "train" / "cat").iterdir():
        file.write_text("no image")
    with pytest.raises(InputError, match=r"needs two classes at least|test has the class cat"):
        module(on_error="skip")


def test_two_folders_for_one_part_are_refused(tmp_path, module):
    write(tmp_path, count=6)
    write(tmp_path, part="training", count=6)
    with pytest.raises(InputError, match="has both train and training: join them"):
        module()


def test_too_few_images_for_a_test_set_are_refused(tmp_path, module):
    write(tmp_path, count=2)
    with pytest.raises(InputError, match="4 images are too few to split off a test set"):
        module()


def test_what_is_no_file_and_no_image_format_is_passed_over(tmp_path, module):
    write(tmp_path, count=6)
    os.mkfifo(tmp_path / "train" / "cat" / "x.png")
    (tmp_path / "train" / "cat" / "notes.pdf").write_bytes(b"%PDF-1.4")
    assert len(module().images) + len(module().test_images) == 12


def test_a_broken_link_is_a_broken_file(tmp_path, module):
    write(tmp_path, count=7)
    (tmp_path / "train" / "cat" / "x.png").symlink_to(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"x\.png cannot be read .*No such file or directory"):
        module()
    write(tmp_path, part="test")
    assert len(module(on_error="skip").images) == 14
    Image.fromarray(pixels(20, 30)).save(tmp_path / "none.png")
    assert len(module().images) == 15


def test_links_into_their_own_folder_are_not_followed(tmp_path, module):
    write(tmp_path)
    write(tmp_path / "else", classes=("owls",), count=4, part=".")
    (tmp_path / "train" / "owl").symlink_to(tmp_path / "else" / "owls")
    (tmp_path / "train" / "owl" / "self").symlink_to(".")
    (tmp_path / "train" / "cat" / "up").symlink_to("..")
    data = module()
    assert data.classes == ("cat", "dog", "owl")
    assert len(data.images) + len(data.test_images) == 12 + 4


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_very_large_image_is_read_or_refused_in_one_line(tmp_path, module, side, recwarn):
    write(tmp_path)
    Image.new("1", (side, 10_000)).save(tmp_path / "train" / "cat" / "slide.png")
    refused = pytest.raises(
        InputError, match=r"slide\.png .*more than 178,956,970 pixels: scale it"
    )
    with refused if side > 10_000 else nullcontext():
        module(size=8)
    assert not recwarn


def test_folders_without_images_or_classes_are_refused(tmp_path, module):
    with pytest.raises(InputError, match="no such folder; name that of your images"):
        module(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"needs two classes at least.*found: none"):
        module()
    write(tmp_path, classes=("cat",))
    with pytest.raises(InputError, match="found: cat"):
        module()
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "train" / "dog" / "a.txt").write_text("no image")
    with pytest.raises(InputError, match=r"no images of the class dog \(1 \.txt found"):
        module()
    (tmp_path / "train").rename(tmp_path / "test")
    with pytest.raises(InputError, match="but no train: make it"):
        module()


@pytest.mark.parametrize("size", [0, -3, [1, 2, 3], [16], [], [0, 4], 2.5, "big", True])
def test_a_wrong_size_is_refused(tmp_path, size):
    with pytest.raises(InputError, match=r"data\.size="):
        ImageFolderDataModule(tmp_path, size=size)


def test_images_of_one_colour_are_a_warning(tmp_path, module, caplog):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for k in range(10):
            Image.new("L", (9, 9), 30).save(tmp_path / "train" / name / f"{k}.png")
    module()
    assert "each of one colour only" in caplog.text


# The store


def test_images_are_decoded_once_and_again_when_a_file_changes(tmp_path, module, monkeypatch):
    write(tmp_path)
    decoded, honest = [], folder.decode

    def count(file, pixels):
        decoded.append(file)
        return honest(file, pixels)

    monkeypatch.setattr(folder, "decode", count)
    first = module()
    assert len(decoded) == 12
    assert torch.equal(module().images.pixels, first.images.pixels)
    assert len(decoded) == 12
    Image.fromarray(pixels()).save(tmp_path / "train" / "cat" / "0.png")
    assert module().digest != first.digest
    assert len(decoded) == 24


def test_a_renamed_file_is_the_same_image_unless_the_order_changes(tmp_path, module):
    write(tmp_path)
    first = module()
    cat = tmp_path / "train" / "cat"
    (cat / "5.png").rename(cat / "6.jpg")
    (cat / "0.png").rename(cat / "00.png")
    assert module().digest == first.digest
    (cat / "6.jpg").rename(cat / "000.jpg")
    assert module().digest != first.digest


def test_a_store_without_room_is_refused(tmp_path, module, monkeypatch):
    write(tmp_path)
    bytes_needed = 2 * 12 * 20 * 30 * 3
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=bytes_needed - 1))
    with pytest.raises(
        InputError, match=r"store=.*store has 0\.0 GB left, but the decoded images need"
    ):
        module()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=bytes_needed))
    module()


def test_many_files_are_decoded_as_few_are(tmp_path, module, monkeypatch):
    write(tmp_path)
    few = module()
    monkeypatch.setattr(decoding, "MANY", 1)
    module_of_many = ImageFolderDataModule(tmp_path, store=tmp_path / "other")
    module_of_many.setup()
    assert torch.equal(module_of_many.images.pixels, few.images.pixels)


def peak_of_anonymous_memory(command, folder):
    """Run a command; return the most bytes that its process held beside mapped files."""
    running = subprocess.Popen(
        [sys.executable, "-m", "noisy_kd", *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    peak = 0
    while running.poll() is None:
        status = Path(f"/proc/{running.pid}/status").read_text()
        peak = max(peak, *(int(kb) << 10 for kb in re.findall(r"RssAnon:\s+(\d+)", status)), 0)
        time.sleep(0.01)
    assert running.returncode == 0
    return peak


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_images_are_trained_on_from_the_disk_and_need_no_memory(tmp_path):
    """Ten times as many images, 1 GB, take hardly more anonymous memory."""
    side, peaks = 512, []
    for count in (65, 650):
        root = write(tmp_path / f"{count}", count=1, ending="bmp", size=(side, side))
        for name in ("cat", "dog"):
            first = root / "train" / name / "0.bmp"
            for k in range(1, count):
                (root / "train" / name / f"{k}.bmp").hardlink_to(first)
        nets = [f"{net}.layers=[C8(S8P0)@2-AP64(S64)]-FC2" for net in ("teacher", "student")]
        epochs = ["teacher.max_epochs=1", "trainer.max_epochs=2", "data.batch_size=8"]
        where = [f"data.root={root}", f"hydra.run.dir={tmp_path / f'run{count}'}", "trainer=cpu"]
        command = ["train", "data=folder", *where, *nets, *epochs, "callbacks=quiet"]
        peaks.append(peak_of_anonymous_memory(command, tmp_path))
    images = 2 * 650 * side * side * 3
    assert peaks[0] > 0
    assert peaks[1] - peaks[0] < images / 8, [peak >> 20 for peak in peaks]


def test_a_student_trains_on_a_folder_and_changed_images_are_noticed(tmp_path, short, monkeypatch):
    """The settings name the folder from where the training started; any other place will do."""
    from noisy_kd.training.finished import load_data

    monkeypatch.chdir(tmp_path)

    root = write(tmp_path / "images", count=20)
    write(root, count=4, part="test")
    nets = ("student.layers=FC4-FC2", "teacher.layers=FC8-FC2")
    config = short("data=folder", "data.root=images", "++data.size=8", *nets)
    run([config], [tmp_path])
    monkeypatch.chdir("/")
    assert load_data(tmp_path).input_shape == (3, 8, 8)
    image = root / "test" / "cat" / "0.png"
    whole = image.read_bytes()
    Image.fromarray(pixels()).save(image)
    with pytest.raises(InputError, match="does not hold the images"):
        load_data(tmp_path)
    image.unlink()
    with pytest.raises(InputError, match="does not hold the images"):
        load_data(tmp_path)
    image.write_bytes(whole)
    load_data(tmp_path)
    for part in ("train", "test"):  # the same images, but their class comes last
        (root / part / "cat").rename(root / part / "zcat")
    with pytest.raises(InputError, match="does not hold the images"):
        load_data(tmp_path)
    for part in ("train", "test"):
        (root / part / "zcat").rename(root / part / "cat")
    load_data(tmp_path)
    write(root, classes=("bird",))
    with pytest.raises(InputError, match="does not hold the images"):
        load_data(tmp_path)


def test_a_student_learns_from_unlabelled_images(tmp_path, short):
    """Three labelled images, one of each class, are nothing to learn from; 300 others are."""
    shapes = write_shapes(tmp_path / "shapes", 130)
    (tmp_path / "few" / "unlabelled").mkdir(parents=True)
    for name in ("circle", "square", "triangle"):
        for part, first, last in (("train", 0, 10), ("test", 10, 30), ("unlabelled", 30, 130)):
            place = tmp_path / "few" / part / (name if part != "unlabelled" else ".")
            place.mkdir(parents=True, exist_ok=True)
            for k in range(first, last):
                (shapes / name / f"{k}.jpg").rename(place / f"{name}{k}.jpg")
    teacher = ("teacher.layers=[C5(S2P2)@16-MP2(S2)]-FC64-FC3", "teacher.max_epochs=20")
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "few" / "test", whole / "test")
    for file in (tmp_path / "few" / "unlabelled").iterdir():
        place = whole / "train" / file.name.rstrip("0123456789.jpg")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    settings = ("data=folder", "++data.size=16", "data.val_size=0", *teacher)
    settings += ("student.layers=[C5(S2P2)@8-MP2(S2)]-FC32-FC3", "trainer.max_epochs=40")
    settings += ("method=logit_regression", "data.batch_size=16", f"store={tmp_path / 'store'}")
    (tmp_path / "a").mkdir()
    run([short(*settings, f"data.root={whole}", "trainer.max_epochs=1")], [tmp_path / "a"])
    (entry,) = (tmp_path / "store").glob("teacher-*/tensors.pt")
    checkpoint = f"teacher.checkpoint={entry}"
    few = (*settings, f"data.root={tmp_path / 'few'}", "data.subset=3", checkpoint)
    errors = {}
    for method in ("logit_regression", "hinton"):  # hinton needs labels
        (tmp_path / method).mkdir()
        (result,) = run([short(*few, f"method={method}")], [tmp_path / method])
        errors[method] = result["test_error"]
    assert errors["logit_regression"] < 0.3 < errors["hinton"]


def test_images_that_may_not_be_mapped_are_one_line(tmp_path, module, monkeypatch):
    """As under ``ulimit -v``."""

    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    write(tmp_path)
    monkeypatch.setattr("numpy.memmap", refuse)
    with pytest.raises(InputError, match=r"GB of decoded images cannot be mapped .*ulimit -v"):
        module()
