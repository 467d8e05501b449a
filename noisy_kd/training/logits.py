"""The teacher's logits of every view of every image, computed once and kept in the store.

Shapes: N samples, M images, V views of each, T teachers, C classes.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from noisy_kd.data import store as stores
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.data.dataset import ImageDataset, WithColumns, at_once, keyed_generator, unpack
from noisy_kd.method.method import Method
from noisy_kd.model.layers import set_dropout_generator
from noisy_kd.model.network import architecture, logits_of, with_active_dropout
from noisy_kd.training.loaders import images_digest, in_order, with_column

log = logging.getLogger(__name__)

TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""Hooks of a data module that change its batches outside of its loaders."""
CLOSE = 0.02  # of the largest logit: what devices and precisions may change


class CachedLogits(LightningDataModule):
    """A data module that adds the teacher's logits: its mini-batches are ``(x, y, z)``.

    The logits are computed once, in eval mode, and kept in a store that is keyed by the images and
    the teacher's weights. z is [B, C]; [B, T, C] for a method that draws one of T.

    Args:
        data: yields ``(x, y)``; the views of its images must be repeatable.
        teacher: one module or several.
        store: folder of the store.
        method: draws the noise that is drawn once (``resample=once``), and the teacher's passes
            (``passes=M``); None for neither.
        seed: of that noise; the ``seed`` of the Distiller.

    Raises:
        ValueError: from ``setup``, if a batch that is read twice differs (random augmentation), or
            views have no end.
        TypeError: from ``setup``, if the data module yields no mini-batches of indexed samples.

    Examples:
        >>> import tempfile
        >>> from noisy_kd import CachedLogits, DigitsDataModule, network
        >>> teacher = network("FC64-FC10", (1, 8, 8))
        >>> data = CachedLogits(DigitsDataModule(), teacher, store=tempfile.mkdtemp())
        >>> data.prepare_data()
        >>> data.setup()
        >>> x, y, z = next(iter(data.train_dataloader()))
        >>> z.shape
        torch.Size([64, 10])
    """

    def __init__(
        self,
        data: LightningDataModule,
        teacher: nn.Module | Sequence[nn.Module],
        store: str | Path = ".cache/store",
        method: Method | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(data, LightningDataModule):
            raise TypeError(f"CachedLogits needs a LightningDataModule, not {type(data).__name__}.")
        teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
        if len(teachers) > 1 and method is not None and method.teachers == "one":
            raise ValueError(f"{len(teachers)} teachers need a method for several: two_teachers.")
        for hook in TRANSFERS:
            if getattr(type(data), hook) is not getattr(LightningDataModule, hook):
                raise TypeError(
                    f"{type(data).__name__}.{hook} would not be called: no CachedLogits."
                )
        self.teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]
        self.data, self.store, self.method, self.seed = data, Path(store), method, seed

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the data and compute the logits, or find them in the store."""
        self.data.trainer = self.trainer
        self.data.setup(stage)  # type: ignore[arg-type]
        if self.trainer is not None:
            for teacher in self.teachers:
                teacher.to(self.trainer.strategy.root_device)
        if isinstance(self.data, ImageDataModule):
            if self.data.views.count is None:
                raise ValueError(
                    "views without end have no stored logits: give Views a count, or the teacher "
                    "to Distiller(student, teacher) without CachedLogits."
                )
            self._train, self._test = stacked_logits(
                self.teachers, self.data, self.store, self.method
            )
        elif self.method is not None and self.method.passes:
            raise ValueError("passes=M: only for the data modules of noisy_kd.")

    def teardown(self, stage: str) -> None:
        self.data.teardown(stage)

    def train_dataloader(self) -> DataLoader[Any]:
        """Mini-batches of the training samples, in the data module's own order."""
        return self._with_logits(self.data.train_dataloader(), with_noise=True)

    def val_dataloader(self) -> Any:
        """The validation set, with the logits without noise."""
        return self._evaluation(self.data.val_dataloader())

    def test_dataloader(self) -> Any:
        """The test set, with the logits without noise."""
        return self._evaluation(self.data.test_dataloader())

    def predict_dataloader(self) -> Any:
        """The batches of the data module, without logits."""
        return self.data.predict_dataloader()

    def _evaluation(self, loaders: Any) -> Any:
        if isinstance(loaders, list | tuple):
            return [self._with_logits(loader, with_noise=False) for loader in loaders]
        return self._with_logits(loaders, with_noise=False)

    def _with_logits(self, given: DataLoader[Any], with_noise: bool) -> DataLoader[Any]:
        """Return the loader with another column; with the noise that is drawn once, if any."""
        if not isinstance(given, DataLoader):
            raise TypeError(f"CachedLogits needs a DataLoader, not {type(given).__name__}.")
        dataset = given.dataset
        if isinstance(dataset, ImageDataset) and isinstance(self.data, ImageDataModule):
            is_test = dataset.pixels is self.data.test_images.pixels
            z_NTC = (self._test if is_test else self._train)[dataset.logit_index().cpu()]
            columns = WithColumns(dataset, self._target(z_NTC, with_noise))
            return DataLoader(columns, sampler=given.sampler, batch_size=None)
        z_NTC = torch.stack([_of_loader(net, given, self.store) for net in self.teachers], dim=1)
        return with_column(given, self._target(z_NTC, with_noise))

    def _target(self, z_NTC: Tensor, with_noise: bool) -> Tensor:
        if self.method is None:
            return z_NTC[:, 0] if z_NTC.shape[1] == 1 else z_NTC
        if with_noise:
            return self.method.fixed_target(z_NTC, keyed_generator(self.seed, "frozen noise"))
        return self.method.clean_target(z_NTC)


def stacked_logits(
    teachers: Sequence[nn.Module], data: ImageDataModule, folder: Path, method: Method | None = None
) -> tuple[Tensor, Tensor]:
    """Return the teachers' logits of all views, [V * M, T, C], and of the test images, [N, T, C].

    For a method with passes T is one more than their number: the pass without dropout comes first.
    ``folder`` is the store's.
    """
    each = [cached_logits(teacher, data, folder) for teacher in teachers]
    train, test = (
        torch.stack([logits[part] for logits in each], dim=1) for part in ("train", "test")
    )
    if method is not None and method.passes and method.teacher_dropout is not None:
        fickle = with_active_dropout(teachers[0], method.teacher_dropout.probability)
        train = torch.cat([train, cached_passes(fickle, method.passes, data, folder)], dim=1)
    return train, test


def cached_logits(teacher: nn.Module, data: ImageDataModule, folder: Path) -> dict[str, Tensor]:
    """Return the teacher's logits, float32, in eval mode, from the store or computed for it.

    Each view is an entry of its own: an interrupted pass goes on at the view where it was, and more
    views are added to those that are there.

    Returns:
        ``train``: of all V views of all M images that may be trained on, [V * M, C], view after
        view, the validation set included (without end: of the images themselves); ``test``: of the
        test images, [N, C]. The same tensors bit for bit whenever they are asked for.
    """
    made_by, logits = _made_by(teacher, data), partial(predict_logits, teacher)
    test, key = data.test_set(), made_by | {"images": data.test_digest}
    first = partial(_of_first, teacher, test)
    return {
        "train": _of_views(data, folder, made_by, logits, teacher),
        "test": _stored(folder, key, partial(logits, test), first),
    }


def cached_passes(fickle: nn.Module, passes: int, data: ImageDataModule, folder: Path) -> Tensor:
    """Return the logits of a teacher with active dropout, [V * M, passes, C], each pass kept."""
    device = _device(fickle)
    made_by = _made_by(fickle, data) | {"dropout": True}
    made_by["device"] = device.type  # its generator draws other masks than another's

    def one_pass(number: int, dataset: ImageDataset, view: int) -> Tensor:
        generator = keyed_generator(number, "teacher pass", view, device)
        set_dropout_generator(fickle, generator)
        return _pass(fickle, dataset, view)

    keys = [(number, made_by | {"pass": number}) for number in range(passes)]
    logits = [_of_views(data, folder, key, partial(one_pass, number)) for number, key in keys]
    return torch.stack(logits, dim=1)


def _of_views(
    data: ImageDataModule,
    folder: Path,
    made_by: dict[str, Any],
    logits: Callable[[ImageDataset, int], Tensor],
    teacher: nn.Module | None = None,
) -> Tensor:
    """Return the logits of all views, [V * M, C], of a function of the images and the view."""
    dataset, count = data.all_views(), data.views.count or 1

    def of_view(v: int) -> Tensor:
        if v % max(1, count // 10) == 0:
            log.info("Computing the teacher's logits, once: view %d of %d.", v + 1, count)
        return logits(dataset, v)

    if count > 1:
        needed = 4 * count * len(dataset.pixels) * len(data.classes)
        stores.check_room(folder, needed, f"the logits of {count} views", "fewer data.views")
    parts = []
    for v in range(count):
        key = made_by | {"images": data.digest, "view": v} | data.views.decided_by(v)
        first = None if teacher is None else partial(_of_first, teacher, dataset, v)
        parts.append(_stored(folder, key, partial(of_view, v), first))
    return torch.cat(parts)


def _of_first(teacher: nn.Module, dataset: ImageDataset, view: int = 0) -> Tensor:
    """Return the logits of a view of the first two images."""
    args = (dataset.pixels, dataset.labels, dataset.rows[:2], dataset.preprocess, dataset.views)
    return predict_logits(teacher, ImageDataset(*args), view)


def _stored(
    folder: Path,
    made_by: dict[str, Any],
    logits: Callable[[], Tensor],
    first: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Return logits [N, C] of the store, which are computed if it has none made by this.

    ``first`` gives those of the first samples, with which an entry is compared: two teachers may
    differ in what no key holds (a hook, a buffer that is not saved). Then each has an entry.
    """
    computed: list[Tensor] = []

    def make(_: Path) -> dict[str, object]:
        computed.append(logits())
        return {"tensors": {"logits": computed[0]}, "facts": {"samples": len(computed[0])}}

    twin = 0
    while True:
        key = made_by | ({"twin": twin} if twin else {})
        stored: Tensor = stores.get_or_make(folder, "logits", key, make)[0]["logits"]
        if computed or first is None or _agree(stored, first()):
            return stored
        twin += 1


def _agree(stored: Tensor, now: Tensor) -> bool:
    """Return whether the first of the stored logits are these, but for a device's precision."""
    stored = stored[: len(now)]
    largest = float(stored.nan_to_num().abs().max())
    return torch.allclose(stored, now, 0.0, CLOSE * largest, equal_nan=True)


def predict_logits(net: nn.Module, dataset: ImageDataset, view: int = 0) -> Tensor:
    """Return the net's logits of a view of every image, in order, float32 [N, C], on the CPU.

    They are computed in eval mode; the net's mode is then what it was before.
    """
    was_training = net.training
    logits = _pass(net.eval(), dataset, view)
    net.train(was_training)
    return logits


def weights_digest(net: nn.Module) -> str:
    """Return a fingerprint of a net's weights and buffers, names included."""
    fingerprint = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        fingerprint.update(f"{name}{tuple(tensor.shape)}".encode())
        fingerprint.update(tensor.detach().cpu().to(torch.float32).contiguous().numpy())
    return fingerprint.hexdigest()[:16]


@torch.no_grad()
def _pass(net: nn.Module, dataset: ImageDataset, view: int) -> Tensor:
    device, count = _device(net), len(dataset.rows)
    samples = torch.arange(view * count, (view + 1) * count)
    batches = (dataset[part][0] for part in samples.split(at_once(dataset.pixels, 500)))
    return torch.cat([logits_of(net(x.to(device))).float() for x in batches]).cpu()


def _device(net: nn.Module) -> torch.device:
    return next((p.device for p in net.parameters()), torch.device("cpu"))


def _made_by(teacher: nn.Module, data: ImageDataModule) -> dict[str, Any]:
    preprocessing = data.preprocessing
    return {
        "layers": architecture(teacher),
        "weights": weights_digest(teacher),
        "data": data.name,
        "preprocessing": weights_digest(preprocessing) + type(preprocessing).__name__,
    }


def _of_loader(teacher: nn.Module, given: DataLoader[Any], folder: Path) -> Tensor:
    """Return the teacher's logits [N, C] of a loader's samples, in the order of its dataset."""
    batches, device = in_order(given), _device(teacher.eval())
    images = images_digest(batches)
    made_by = {"layers": architecture(teacher), "weights": weights_digest(teacher), "data": ""}
    made_by["images"] = images

    @torch.no_grad()
    def logits() -> Tensor:
        log.info("Computing the teacher's logits of %d samples, once.", len(given.dataset))  # type: ignore[arg-type]
        if images_digest(batches) != images:
            raise ValueError(
                "the same images were read twice and differ: with random augmentation the teacher "
                "must be asked at each step, Distiller(student, teacher) without CachedLogits."
            )
        return torch.cat([of(batch) for batch in batches])

    @torch.no_grad()
    def of(batch: Any) -> Tensor:
        return logits_of(teacher(unpack(batch)[0].to(device))).float().cpu()

    return _stored(folder, made_by, logits, lambda: of(next(iter(batches)))[:2])
