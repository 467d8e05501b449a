"""Small stacks of students on the digits, for tests."""

import torch
from lightning import Callback

from noisy_kd.config import Optimizer
from noisy_kd.data.dataset import WithColumns, loader
from noisy_kd.method import methods
from noisy_kd.model.network import network
from noisy_kd.training import build
from noisy_kd.training.callbacks import BestEpoch
from noisy_kd.training.distiller import Distiller
from noisy_kd.training.fit import TrainingSamples, fit
from noisy_kd.training.stack import StudentStack

EPOCHS = 3


class Record(Callback):
    """What happens in a training: losses by epoch, modes and sample ids by step, learning rates."""

    def __init__(self):
        self.losses, self.modes, self.rates, self.ids = [], [], [], []

    def on_train_batch_start(self, trainer, stack, batch, batch_idx):
        self.modes.append([one.student.training for one in stack.distillers])
        _, _, ids = next(iter(batch.values()))
        self.ids.append(ids)

    def on_train_epoch_end(self, trainer, stack):
        self.losses.append([metrics.get("loss") for metrics in stack.metrics()])
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def random_logits(data):
    """Logits [N, C] of every image, from no teacher."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(data.images), len(data.classes), generator=generator) * 3


def distiller(numerics, method=None, seed=1, layers="FC20-FC10", lr=1e-3, **more):
    """A student of the digits; the noisy teacher's by default."""
    optimizer = build.optimizer(Optimizer("torch.optim.Adam", lr), numerics)
    student = network(layers, (1, 8, 8), 10, seed)
    method = method or methods.noisy_teacher(0.5, 0.9)
    return Distiller(student, method=method, optimizer=optimizer, seed=seed, **more)


def train(short, data, logits, numerics, distillers, epochs=EPOCHS, callbacks=()):
    """Train the students side by side on the logits [N, C] of every image (None for no teacher)."""
    record, best = Record(), BestEpoch()
    samples, held_out = data.training_set(), data.validation_set()
    z_NTC = None
    if logits is not None:
        z_NTC = logits[samples.logit_index()].unsqueeze(1)
        held_out = WithColumns(held_out, logits[held_out.logit_index()])
    stack = StudentStack(distillers, TrainingSamples(samples, 64, z_NTC), numerics)
    trainer = build.trainer(short(), epochs, [record, best, *callbacks])
    fit(stack, trainer, loader(held_out, 1000))
    return stack, record, best


def weights(net):
    """All parameters of a net in one tensor."""
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
