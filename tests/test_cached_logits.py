"""CachedLogits adds the teacher's logits to the mini-batches of any repeatable data module."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from noisy_kd import (
    CachedLogits,
    DigitsDataModule,
    Distiller,
    fickle_teacher,
    network,
    noisy_teacher,
    two_teachers,
)

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
QUIET |= {"enable_progress_bar": False, "enable_model_summary": False}


def teacher(seed=0):
    return network("FC32-D0.5-FC10", (1, 8, 8), seed=seed)


def weights(net):
    return torch.cat([value.detach().flatten() for value in net.parameters()])


class Numbers(Dataset):
    """A dataset of another project: 50 images by their number."""

    def __init__(self, noise=0.0):
        self.noise = noise

    def __len__(self):
        return 50

    def __getitem__(self, i):
        x = torch.full((1, 8, 8), i / 50.0)
        return x + self.noise * torch.randn_like(x), i % 10


class Other(L.LightningDataModule):
    """A data module of another project."""

    def __init__(self, dataset, **arguments):
        super().__init__()
        self.dataset, self.arguments = dataset, arguments

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=8, shuffle=True, **self.arguments)

    def val_dataloader(self):
        return [DataLoader(self.dataset, batch_size=20)]

    test_dataloader = val_dataloader


class Views(DigitsDataModule):
    """The digits, each with its mirror."""

    views = 2


def ready(data, *arguments, **keywords):
    cached = CachedLogits(data, *arguments, **keywords)
    cached.prepare_data()
    cached.setup()
    return cached


@pytest.mark.parametrize(
    "data",
    [
        DigitsDataModule(val_size=180, subset=200),
        Views(val_size=180, subset=200),
        Other(Numbers()),
        Other(Numbers(), drop_last=True, num_workers=1),
        Other(Numbers(), collate_fn=lambda items: torch.utils.data.default_collate(items)),
    ],
    ids=["digits", "mirrored", "other", "workers", "collate"],
)
def test_the_logits_are_those_of_the_images_beside_them(data, tmp_path):
    net = teacher()
    cached = ready(data, net, tmp_path)
    for loaders in (cached.train_dataloader(), cached.val_dataloader(), cached.test_dataloader()):
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            seen = 0
            for x, y, z in loader:
                with torch.no_grad():
                    assert torch.allclose(z, net(x), atol=1e-5)
                seen += len(y)
            assert seen >= 40
    assert len(list(tmp_path.glob("logits-*/entry.json"))) >= 1


def test_the_teacher_is_not_asked_again(tmp_path):
    for data in (DigitsDataModule(), Other(Numbers())):
        first = next(iter(ready(data, teacher(), tmp_path).val_dataloader()))
        first = first if isinstance(first, list) else next(iter(first))
        asked, again = [], teacher()
        again.register_forward_pre_hook(lambda _, given, asked=asked: asked.append(len(given[0])))
        again = next(iter(ready(data, again, tmp_path).val_dataloader()))
        again = again if isinstance(again, list) else next(iter(again))
        assert torch.equal(first[2], again[2])
        assert sum(asked) <= 64  # of 1,797 images: whether the entry is this teacher's
    entries = len(list(tmp_path.glob("logits-*/entry.json")))
    ready(DigitsDataModule(), teacher(seed=1), tmp_path).train_dataloader()
    assert (
        len(list(tmp_path.glob("logits-*/entry.json"))) == entries + 2
    )  # of the images, of the test images


class Shifted(nn.Module):
    """Images less a mean that is neither a weight nor a buffer."""

    def __init__(self, mean):
        super().__init__()
        self.net, self.mean = network("FC10", (1, 8, 8)), mean

    def forward(self, x):
        return self.net(x - self.mean[0])


def with_hook(factor):
    net = network("FC10", (1, 8, 8))
    net.register_forward_hook(lambda _, __, z: factor * z)
    return net


def circular(mode):
    return nn.Sequential(nn.Conv2d(1, 10, 3, padding=1, padding_mode=mode), nn.Flatten(2), Mean())


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(2)


@pytest.mark.parametrize(
    "pair",
    [
        (lambda: Shifted((0.0,)), lambda: Shifted((0.5,))),
        (lambda: with_hook(1), lambda: with_hook(2)),
        (lambda: network("FC10", (1, 8, 8)), lambda: network("FC10", (1, 8, 8)).append(nn.ReLU())),
    ],
    ids=["tuple", "hook", "last ReLU"],
)
@pytest.mark.parametrize("data", [DigitsDataModule, lambda: Other(Numbers())], ids=["own", "other"])
def test_teachers_that_differ_in_what_no_key_holds_have_logits_of_their_own(pair, data, tmp_path):
    for make in (*pair, *pair):
        net = make()
        x, _, z = next(iter(ready(data(), net, tmp_path).train_dataloader()))
        assert torch.allclose(z, net.eval()(x), atol=1e-5)


def test_training_on_cached_logits_gives_what_asking_the_teacher_gives(tmp_path):
    nets = []
    for cached in (False, True):
        data = DigitsDataModule(val_size=180, subset=300)
        net, taught = network("FC16-FC10", (1, 8, 8), seed=1), teacher()
        method = noisy_teacher(0.5, 0.9)
        distiller = Distiller(net, None if cached else taught, method, seed=1)
        trainer = L.Trainer(max_epochs=3, **QUIET)
        trainer.fit(distiller, CachedLogits(data, taught, tmp_path) if cached else data)
        assert "val/agreement" in trainer.callback_metrics
        nets.append(weights(net))
    assert torch.allclose(*nets, atol=1e-5)


def test_random_augmentation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="random augmentation"):
        ready(Other(Numbers(noise=0.1)), teacher(), tmp_path).train_dataloader()


def test_samples_without_an_index_are_refused(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(Numbers())

    data = Other(Stream())
    data.train_dataloader = lambda: DataLoader(Stream(), batch_size=8)
    with pytest.raises(TypeError, match="indexed dataset"):
        ready(data, teacher(), tmp_path).train_dataloader()
    with pytest.raises(ValueError, match="passes=M"):
        ready(Other(Numbers()), teacher(), tmp_path, fickle_teacher(passes=2))


def test_noise_that_is_drawn_once_is_drawn_here(tmp_path):
    once = noisy_teacher(1.0, 0.9, resample="once")

    def targets(seed):
        data = ready(DigitsDataModule(subset=100), teacher(), tmp_path, once, seed)
        table = data.train_dataloader().dataset
        return table[torch.arange(100)][2], data.val_dataloader()

    z, held_out = targets(1)
    assert torch.equal(targets(1)[0], z)
    assert not torch.equal(targets(2)[0], z)
    x, _, clean = next(iter(held_out))
    with torch.no_grad():
        assert torch.allclose(clean, teacher().eval()(x), atol=1e-5)
    data = CachedLogits(DigitsDataModule(subset=100), teacher(), tmp_path, once, 1)
    distiller = Distiller(network("FC16-FC10", (1, 8, 8)), method=once, seed=1)
    L.Trainer(max_epochs=1, **QUIET).fit(distiller, data)


def test_several_teachers_and_passes_are_drawn_from(tmp_path):
    for method, teachers, count in (
        (two_teachers(["a", "b"], "random_teacher"), [teacher(0), teacher(1)], 2),
        (fickle_teacher(0.5, passes=3), teacher(), 3),
    ):
        data = ready(DigitsDataModule(subset=100), teachers, tmp_path, method)
        x, _, z = next(iter(data.train_dataloader()))
        assert z.shape == (64, count, 10)
        assert next(iter(data.val_dataloader()))[2].ndim == 2
        distiller = Distiller(network("FC16-FC10", (1, 8, 8)), method=method)
        L.Trainer(max_epochs=1, **QUIET).fit(distiller, data)
    mean = ready(DigitsDataModule(subset=100), [teacher(0), teacher(1)], tmp_path)
    x, y, z = next(iter(mean.train_dataloader()))
    distiller = Distiller(network("FC16-FC10", (1, 8, 8)), method=two_teachers(["a", "b"]))
    distiller.loss(x, y, z)
    assert torch.allclose(distiller.target, z.mean(dim=1))


def test_a_teacher_of_any_shape_is_told_from_another_of_the_same_weights(tmp_path):
    class Halved(nn.Sequential):
        def forward(self, x):
            return super().forward(x) / 2

    layers = [nn.Flatten(), nn.Linear(64, 10)]
    first, second = (
        next(iter(ready(DigitsDataModule(), make(*layers), tmp_path).test_dataloader()))[2]
        for make in (nn.Sequential, Halved)
    )
    assert torch.allclose(first, 2 * second, atol=1e-5)
