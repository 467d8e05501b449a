"""Images that several processes share: one file in the store, mapped into memory by each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from noisy_kd.config import Config
from noisy_kd.data import ImageDataModule
from noisy_kd.data.sources import Images, Source
from noisy_kd.runs import store
from noisy_kd.training import build


def share_images(data: ImageDataModule, folder: Path) -> Path:
    """Put the images into the store, once; returns their file."""
    digests = [data.source_digest, data.test_digest]
    labels = hashlib.sha256(data.published.test.labels.numpy().data).hexdigest()[:16]
    made_by = {"data": data.name, "layers": "", "images": digests, "test_labels": labels}
    made_by["classes"] = list(data.classes)

    def make(_: Path) -> dict[str, Any]:
        parts = {"train": data.published.train, "test": data.published.test}
        tensors = {
            f"{name}.{kind}": getattr(part, kind)
            for name, part in parts.items()
            for kind in ("pixels", "labels")
        }
        facts = {"classes": list(data.classes), "first_part": data.first_part}
        return {"tensors": tensors, "facts": facts}

    store.get_or_make(folder, "images", made_by, make)
    return (folder / store.key_of("images", made_by) / "tensors.pt").absolute()


def shared_data(config: Config, file: Path) -> ImageDataModule:
    """The data of a run over a shared file."""
    tensors = torch.load(file, weights_only=True, mmap=True)
    about = json.loads(file.with_name("entry.json").read_text())
    train, test = (
        Images(tensors[f"{name}.pixels"], tensors[f"{name}.labels"]) for name in ("train", "test")
    )
    facts, digests = about["facts"], about["made_by"]["images"]
    classes = tuple(facts["classes"])
    return build.data_module(
        config, Source(train, test, classes, facts["first_part"], tuple(digests))
    )
