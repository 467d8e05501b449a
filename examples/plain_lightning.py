"""Distil with a stock Trainer: own networks, DataLoader, Lightning's callbacks and logger."""

from functools import partial

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from noisy_kd import Distiller, noisy_teacher, supervised


def cnn(width: int) -> nn.Module:
    """Return a small convolutional network for images of 8x8 pixels."""
    convolutions = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16 * width, 10))


L.seed_everything(0)
digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
data = TensorDataset(x, torch.tensor(digits.target))
train = DataLoader(Subset(data, range(1400)), batch_size=64, shuffle=True)
val = DataLoader(Subset(data, range(1400, 1797)), batch_size=500)

teacher = cnn(32)  # yours may come from anywhere
trainer = L.Trainer(max_epochs=15, logger=False, enable_checkpointing=False)
trainer.fit(Distiller(teacher, method=supervised()), train, val)

noise, adam = noisy_teacher(alpha=0.5, sigma=0.5), partial(torch.optim.Adam, lr=0.01)
distiller = Distiller(cnn(8), teacher, noise, optimizer=adam, seed=1)
best = ModelCheckpoint("checkpoints", monitor="val/error")
stop = EarlyStopping(monitor="val/error", patience=10)
trainer = L.Trainer(max_epochs=40, callbacks=[best, stop], logger=CSVLogger("logs"))
trainer.fit(distiller, train, val)
print(f"student: {float(best.best_model_score):.2%} validation errors")
