"""Networks outside the package, named by their import path."""

import torch
from torch import nn

SHAPELESS = 3


class Small(nn.Module):
    """Batch normalisation, dropout, and a forward pass that is no sequence."""

    def __init__(self, num_classes: int = 7, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        h = self.norm(self.conv(x)).relu()
        return self.head(self.drop(torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1)))


def of_ten():
    """Takes no argument."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def wrong():
    """Gives no logits."""
    return nn.Conv2d(1, 4, 3)


def nothing():
    """Gives no module."""
    return 3


class Random(nn.Module):
    """Draws from torch's global generator, has a recurrent part and a weight outside any layer."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.rows = nn.GRU(8, 6, batch_first=True)
        self.weight = nn.Parameter(torch.randn(6, num_classes))

    def forward(self, x):
        states, _ = self.rows(x.squeeze(1))
        return nn.functional.dropout(states[:, -1], 0.3, self.training) @ self.weight
