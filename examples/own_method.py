"""Write a method of your own: a function that returns a Method.

For `noisy-kd train`, save this as mine.py and add conf/method/cosine.yaml in a folder of yours:

    _target_: mine.cosine        # noisy-kd train -cd conf method=cosine method.sigma=0.3
    alpha: 0.5
    sigma: 0.3
"""

import lightning as L
from torch import Tensor
from torch.nn import functional as F

from noisy_kd import DigitsDataModule, Distiller, LogitNoise, Method, network, supervised


def cosine(alpha: float, sigma: float) -> Method:
    """Compare the directions of the student's and the noisy teacher's logits."""

    def loss(g: Tensor, z: Tensor | None, y: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(g, z).mean()

    return Method(loss=loss, target=LogitNoise(alpha, sigma))


if __name__ == "__main__":
    L.seed_everything(0)
    data = DigitsDataModule(val_size=180)
    quiet = {"logger": False, "enable_checkpointing": False}
    teacher = network("FC256-FC10", (1, 8, 8), seed=0)
    L.Trainer(max_epochs=10, **quiet).fit(Distiller(teacher, method=supervised()), data)
    distiller = Distiller(network("FC64-FC10", (1, 8, 8), seed=1), teacher, cosine(0.5, 0.3))
    trainer = L.Trainer(max_epochs=30, **quiet)
    trainer.fit(distiller, data)
    (scores,) = trainer.test(distiller, data, verbose=False)
    print(f"student: {scores['test/error']:.2%} test errors")
