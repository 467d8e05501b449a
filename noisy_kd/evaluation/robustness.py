"""What a student is worth beyond its clean error: on noise, corruptions, attacks, other data.

Shapes: N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error

from noisy_kd.data.dataset import at_once, keyed_generator
from noisy_kd.errors import InputError
from noisy_kd.evaluation import attacks
from noisy_kd.evaluation.attacks import Model
from noisy_kd.evaluation.corruptions import CORRUPTIONS, Corruption, gaussian_noise

NOISE = (0.05, 0.1, 0.2, 0.3, 0.5)  # standard deviations on the scale [0, 1]
EPSILONS = {1: (0.05, 0.1, 0.2, 0.3), 3: (1 / 255, 2 / 255, 4 / 255, 8 / 255)}  # by channels
BINS = 15  # of the calibration error
BATCH = 500
SEED = 0  # of all draws


def classifier(preprocessing: nn.Module, net: nn.Module) -> Model:
    """Return a student, frozen and in eval mode, from images in [0, 1] to logits."""
    preprocessing.eval()
    net.eval().requires_grad_(False)
    return lambda x_BCHW: net(preprocessing(x_BCHW * 255))


class Evaluation:
    """One student on one test set.

    Args:
        model: from images in [0, 1] to logits.
        images: uint8, [N, C, H, W].
        labels: int64, [N].
    """

    def __init__(self, model: Model, images: Tensor, labels: Tensor) -> None:
        self.model, self.images, self.labels = model, images, labels

    def clean(self, taught: Tensor | None = None) -> dict[str, Any]:
        """Error, negative log-likelihood, and agreement with the teacher's logits [N, K]."""
        logits = self.logits(self.images)
        guess = logits.argmax(dim=1)
        measures = {
            "error": float((guess != self.labels).float().mean()),
            "nll": float(nn.functional.cross_entropy(logits, self.labels)),
        }
        if taught is not None:
            measures["agreement"] = float((guess == taught.argmax(dim=1)).float().mean())
        return measures

    def calibration(self) -> dict[str, Any]:
        """Expected calibration error in 15 bins, mean confidence."""
        probabilities = self.logits(self.images).softmax(dim=1)
        classes = probabilities.shape[1]
        error = multiclass_calibration_error(probabilities, self.labels, classes, n_bins=BINS)
        return {"ece": float(error), "confidence": float(probabilities.amax(dim=1).mean())}

    def noise(self) -> dict[str, Any]:
        """Accuracy with Gaussian noise on the pixels, by its standard deviation."""
        return {f"{sigma:g}": self._corrupted(gaussian_noise, sigma, "noise") for sigma in NOISE}

    def corruptions(self) -> dict[str, Any]:
        """Accuracy at severities 1 to 5 of each corruption, and the mean of all."""
        accuracies: dict[str, Any] = {
            name: [self._corrupted(corrupt, strength, name) for strength in strengths]
            for name, (corrupt, strengths) in CORRUPTIONS.items()
        }
        every = [accuracy for severities in accuracies.values() for accuracy in severities]
        return {**accuracies, "mean": sum(every) / len(every)}

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
        draws = keyed_generator(SEED, "ood")
        noise = torch.randint(256, self.images.shape, generator=draws, dtype=torch.uint8)
        own = self.logits(self.images).softmax(dim=1).amax(dim=1)
        aurocs = {}
        for name, images in {"uniform_noise": noise, **others}.items():
            other = self.logits(images).softmax(dim=1).amax(dim=1)
            is_own = torch.cat([torch.ones_like(own), torch.zeros_like(other)]).long()
            aurocs[name] = float(binary_auroc(torch.cat([own, other]), is_own))
        return aurocs

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Of uint8 images, [N, K]."""
        parts = images.split(at_once(images, BATCH))
        logits = torch.cat([self.model(part.float() / 255) for part in parts])
        if (wrong := int((~logits.isfinite()).any(dim=1).sum())) > 0:
            text = f"the student's logits of {wrong} images are not finite"
            raise InputError(f"{text}: train it again with precision=32.")
        return logits

    def _corrupted(self, corrupt: Corruption, strength: float, purpose: str) -> float:
        return self._accuracy(lambda x, _, s, draws: corrupt(x, s, draws), strength, purpose)

    def _attacked(self, attack: Callable[..., Tensor]) -> dict[str, Any]:
        epsilons = EPSILONS.get(self.images.shape[1], EPSILONS[3])
        return {f"{e:.4g}": self._accuracy(attack, e, "attack") for e in epsilons}

    def _accuracy(self, change: Callable[..., Tensor], strength: float, purpose: str) -> float:
        """Accuracy on changed images; ``change`` takes images, labels, strength and generator."""
        draws, right = keyed_generator(SEED, f"{purpose} {strength}"), 0
        size = at_once(self.images, BATCH)
        for images, y in zip(self.images.split(size), self.labels.split(size), strict=True):
            changed = change(images.float() / 255, y, strength, draws)
            with torch.no_grad():
                right += int((self.model(changed).argmax(dim=1) == y).sum())
        return right / len(self.labels)
