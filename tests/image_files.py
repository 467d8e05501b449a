"""Files in the formats of the published data sets, with few random pixels."""

import hashlib
import pickle
import struct

import numpy as np
from PIL import Image, ImageDraw
from scipy.io import savemat
from torchvision import datasets

RNG = np.random.default_rng(0)


def write_mnist(root, counts=(200, 50)):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in zip(("train", "t10k"), counts, strict=True):
        pixels = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = struct.pack(">II", 0x801, count)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return raw


def write_svhn(root, counts=None):
    for part, count in (counts or {"train": 300, "extra": 500, "test": 60}).items():
        pixels = RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)  # the digit 0 is labelled 10
        savemat(
            root / f"{part}_32x32.mat", {"X": pixels, "y": labels[:, None]}, do_compression=True
        )


def write_cifar10(root, monkeypatch, count=20):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch():
        pixels = RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": pixels, "labels": [i % 10 for i in range(count)]}

    names = [f"c{i}" for i in range(10)]
    meta = write("batches.meta", {"label_names": names})
    kind = datasets.CIFAR10
    train = [write(f"data_batch_{i}", batch()) for i in range(1, 6)]
    monkeypatch.setattr(kind, "train_list", train)
    monkeypatch.setattr(kind, "test_list", [write("test_batch", batch())])
    monkeypatch.setattr(
        kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta[1]}
    )
    return folder


def write_folder(root, size=(20, 18), mode="RGB", classes=("cat", "dog", "owl"), per_class=6):
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(per_class):
                shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
                pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def write_shapes(root, count):
    """Write JPEGs of circles, squares and triangles of any size and colour: ROOT/CLASS/K.jpg."""
    for name in ("circle", "square", "triangle"):
        (root / name).mkdir(parents=True)
        for k in range(count):
            width, height = (int(side) for side in RNG.integers(70, 160, 2))
            noise = RNG.integers(0, 90, (height, width, 3), dtype=np.uint8)
            image = Image.fromarray(noise)
            r = int(min(width, height) * RNG.uniform(0.25, 0.4))
            x, y = (side // 2 + int(RNG.integers(-8, 9)) for side in (width, height))
            colour = tuple(int(value) for value in RNG.integers(120, 256, 3))
            draw = ImageDraw.Draw(image)
            if name == "circle":
                draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
            elif name == "square":
                draw.rectangle((x - r, y - r, x + r, y + r), fill=colour)
            else:
                draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
            image.save(root / name / f"{k}.jpg", quality=90)
    return root
