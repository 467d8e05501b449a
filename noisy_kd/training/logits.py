"""Stage 2: the teacher's logits of every view of every image, computed once and kept."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from noisy_kd.data import ImageDataModule
from noisy_kd.evaluation import predict_logits
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
        log.info("Computing the teacher's logits of %d samples.", len(data.all_views()))
        tensors = {
            "train": predict_logits(teacher, data.all_views()),
            "test": predict_logits(teacher, data.test_table()),
        }
        return {"tensors": tensors, "facts": {"samples": len(data.all_views())}}

    tensors, _ = store.get_or_make(folder, "logits", made_by, make)
    return tensors


def weights_digest(net: nn.Module) -> str:
    """Fingerprint of a net's weights and buffers, names included."""
    fingerprint = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        fingerprint.update(f"{name}{tuple(tensor.shape)}".encode())
        fingerprint.update(tensor.detach().cpu().to(torch.float32).contiguous().numpy())
    return fingerprint.hexdigest()[:16]
