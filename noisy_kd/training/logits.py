"""Stage 2: the teacher's logits of every view of every image, computed once and kept."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from noisy_kd.data import ImageDataModule, keyed_generator, loader
from noisy_kd.evaluation import predict_logits
from noisy_kd.model.layers import set_dropout_generator
from noisy_kd.model.network import notation_of
from noisy_kd.training import store

log = logging.getLogger(__name__)


def cached_logits(teacher: nn.Sequential, data: ImageDataModule, folder: Path) -> dict[str, Tensor]:
    """The teacher's logits, float32, in eval mode, from the store or made for it.

    Args:
        teacher: the trained teacher, on the device of the images.
        data: the images and their preprocessing.
        folder: the store.

    Returns:
        ``train``: of all V views of all M images that may be trained on, [V * M, C], view after
        view, held-out images included; ``test``: of the test images, [N, C]. The same tensors bit
        for bit whenever they are asked for.
    """
    made_by = {
        "layers": notation_of(teacher),
        "weights": weights_digest(teacher),
        "data": data.name,
        "images": [data.digest, data.test_digest],
        "preprocessing": weights_digest(data.preprocessing) + type(data.preprocessing).__name__,
        "views": data.views,
    }

    def make(_: Path) -> dict[str, object]:
        log.info("Computing the teacher's logits of all %d samples, once.", len(data.all_views()))
        tensors = {
            "train": predict_logits(teacher, data.all_views()),
            "test": predict_logits(teacher, data.test_table()),
        }
        return {"tensors": tensors, "facts": {"samples": len(data.all_views())}}

    tensors, _ = store.get_or_make(folder, "logits", made_by, make)
    return tensors


def cached_passes(
    fickle: nn.Sequential, passes: int, data: ImageDataModule, folder: Path
) -> Tensor:
    """The logits of a teacher whose dropout is active, [V * M, passes, C], each pass kept.

    Args:
        fickle: as :func:`noisy_kd.model.network.with_active_dropout` makes it.
        passes: how many.
        data: the images.
        folder: the store.
    """
    device = next(fickle.parameters()).device
    made_by = {
        "layers": notation_of(fickle),
        "weights": weights_digest(fickle),
        "images": data.digest,
        "data": data.name,
        "preprocessing": weights_digest(data.preprocessing) + type(data.preprocessing).__name__,
        "views": data.views,
        "dropout": True,
        "device": device.type,  # its generator draws other masks than another's
    }

    def make(number: int) -> dict[str, object]:
        set_dropout_generator(fickle, keyed_generator(number, "teacher pass", device=device))
        with torch.no_grad():
            logits = [fickle(x).float().cpu() for x, _, _ in loader(data.all_views(), 500)]
        return {"tensors": {"train": torch.cat(logits)}, "facts": {"pass": number}}

    each = [
        store.get_or_make(folder, "logits", {**made_by, "pass": n}, lambda _, n=n: make(n))[0]  # type: ignore[misc]
        for n in range(passes)
    ]
    return torch.stack([one["train"] for one in each], dim=1)


def weights_digest(net: nn.Module) -> str:
    """Fingerprint of a net's weights and buffers, names included."""
    fingerprint = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        fingerprint.update(f"{name}{tuple(tensor.shape)}".encode())
        fingerprint.update(tensor.detach().cpu().to(torch.float32).contiguous().numpy())
    return fingerprint.hexdigest()[:16]
