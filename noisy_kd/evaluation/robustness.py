"""What a student is worth beyond its clean error: on noise, corruptions, attacks, other data.

Shapes: N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error

from noisy_kd.data.dataset import at_once, keyed_generator
from noisy_kd.evaluation import attacks
from noisy_kd.evaluation.corruptions import CORRUPTIONS, gaussian_noise

NOISE = (0.05, 0.1, 0.2, 0.3, 0.5)  # standard deviations on the scale [0, 1]
EPSILONS = {1: (0.05, 0.1, 0.2, 0.3), 3: (1 / 255, 2 / 255, 4 / 255, 8 / 255)}  # by channels
BINS = 15  # of the calibration error
BATCH = 500


class Classifier(nn.Module):
    """A student on images in [0, 1]: preprocessing and net, frozen, in eval mode."""

    def __init__(self, preprocessing: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.preprocessing, self.net = preprocessing, net
        self.eval().requires_grad_(False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.net(self.preprocessing(x_BCHW * 255))
        return logits


class Evaluation:
    """One student on one test set.

    Args:
        model: from images in [0, 1] to logits.
        images: uint8, [N, C, H, W].
        labels: int64, [N].
        seed: decides all draws.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> None:
        self.model, self.images, self.labels, self.seed = model, images, labels, seed

    def clean(self, taught: Tensor | None = None) -> dict[str, Any]:
        """Error, negative log-likelihood, and agreement with the teacher's logits [N, K]."""
        logits = self.logits()
        guess = logits.argmax(dim=1)
        found = {
            "error": float((guess != self.labels).float().mean()),
            "nll": float(nn.functional.cross_entropy(logits, self.labels)),
        }
        if taught is not None:
            found["agreement"] = float((guess == taught.argmax(dim=1)).float().mean())
        return found

    def calibration(self) -> dict[str, Any]:
        """Expected calibration error in 15 bins, mean confidence."""
        probabilities = self.logits().softmax(dim=1)
        classes = probabilities.shape[1]
        error = multiclass_calibration_error(probabilities, self.labels, classes, n_bins=BINS)
        return {
            "ece": float(error),
            "confidence": float(probabilities.max(dim=1).values.mean()),
        }

    def noise(self) -> dict[str, Any]:
        """Accuracy with Gaussian noise on the pixels, by its standard deviation."""
        return {f"{sigma:g}": self._corrupted(gaussian_noise, sigma, "noise") for sigma in NOISE}

    def corruptions(self) -> dict[str, Any]:
        """Accuracy at severities 1 to 5 of each corruption, and the mean of all."""
        found: dict[str, Any] = {
            name: [self._corrupted(corrupt, strength, name) for strength in strengths]
            for name, (corrupt, strengths) in CORRUPTIONS.items()
        }
        every = [accuracy for severities in found.values() for accuracy in severities]
        return {**found, "mean": sum(every) / len(every)}

    def fgsm(self) -> dict[str, Any]:
        """Accuracy under FGSM, by epsilon."""
        return self._attacked(lambda x, y, epsilon, _: attacks.fgsm(self.model, x, y, epsilon))

    def pgd(self) -> dict[str, Any]:
        """Accuracy under PGD with 20 steps from a random start, by epsilon."""
        return self._attacked(
            lambda x, y, epsilon, draws: attacks.pgd(self.model, x, y, epsilon, 20, draws)
        )

    def ood(self, others: dict[str, Tensor]) -> dict[str, Any]:
        """AUROC of telling other images (uint8) from the test set's by the maximum softmax."""
        own = self._confidence(self.images)
        noise = torch.randint(
            256, self.images.shape, generator=keyed_generator(self.seed, "ood"), dtype=torch.uint8
        )
        return {
            name: _auroc(own, self._confidence(images))
            for name, images in {"uniform_noise": noise, **others}.items()
        }

    @torch.no_grad()
    def logits(self, images: Tensor | None = None) -> Tensor:
        """Of these uint8 images or the test set, [N, K]."""
        images = self.images if images is None else images
        return torch.cat(
            [self.model(part.float() / 255) for part in images.split(at_once(images, BATCH))]
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = at_once(self.images, BATCH)
        for x, y in zip(self.images.split(size), self.labels.split(size), strict=True):
            yield x.float() / 255, y

    def _corrupted(self, corrupt: Callable[..., Tensor], strength: float, purpose: str) -> float:
        draws = keyed_generator(self.seed, f"{purpose} {strength}")
        right = 0
        with torch.no_grad():
            for x, y in self._batches():
                guess = self.model(corrupt(x, strength, draws)).argmax(dim=1)
                right += int((guess == y).sum())
        return right / len(self.labels)

    def _attacked(self, attack: Callable[..., Tensor]) -> dict[str, Any]:
        found = {}
        for epsilon in EPSILONS[self.images.shape[1]]:
            draws, right = keyed_generator(self.seed, f"attack {epsilon}"), 0
            for x, y in self._batches():
                guess = self.model(attack(x, y, epsilon, draws)).argmax(dim=1)
                right += int((guess == y).sum())
            found[f"{epsilon:.4g}"] = right / len(self.labels)
        return found

    def _confidence(self, images: Tensor) -> Tensor:
        return self.logits(images).softmax(dim=1).max(dim=1).values


def _auroc(own: Tensor, other: Tensor) -> float:
    """Probability that an own image is more confident than another; ties count half."""
    target = torch.cat([torch.ones(len(own)), torch.zeros(len(other))]).long()
    return float(binary_auroc(torch.cat([own, other]), target))
