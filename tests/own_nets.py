"""Networks outside the package, named by their import path."""

from collections import OrderedDict

import numpy as np
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


class InPlace(nn.Module):
    """Normalises its images in place, as ``x -= mean; x /= std`` does."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x):
        x -= 0.3
        x /= 0.25
        return self.body(x)


class NumpyNoise(nn.Module):
    """Draws its first weights, and noise at each step, with NumPy."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
        with torch.no_grad():
            self.body[1].weight.copy_(torch.from_numpy(0.1 * np.random.randn(num_classes, 64)))

    def forward(self, x):
        if self.training:
            x = x + torch.from_numpy(np.random.randn(*x.shape).astype(np.float32)) / 10
        return self.body(x)


class Rows(nn.Module):
    """Rows as a sequence; the first state is made in forward, as in many tutorials."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, batch_first=True)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x):
        h0, c0 = torch.zeros(1, x.size(0), 32), torch.zeros(1, x.size(0), 32)
        out, _ = self.lstm(x.squeeze(1), (h0, c0))
        return self.fc(out[:, -1])


class Branch(nn.Module):
    """Asks its images whether they are in 0..255; returns logits and features."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(64, 32), nn.Linear(32, num_classes)

    def forward(self, x):
        if x.max() > 1:
            x = x / 255
        features = self.hidden(x.flatten(1)).relu()
        return self.fc(features), {"feats": [features]}


def colour(num_classes: int = 10):
    """Takes colour images of 16x16."""
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, num_classes))
    return nn.Sequential(*layers)


class ModelOutput(OrderedDict):
    """As transformers' class of this name: a mapping whose entries are attributes, too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


class Transformers(nn.Module):
    """A network as transformers' image classifiers: its logits are not the first entry."""

    def __init__(self, num_labels: int = 10) -> None:
        super().__init__()
        self.hidden, self.classifier = nn.Linear(64, 32), nn.Linear(32, num_labels)

    def forward(self, pixel_values, labels=None):
        hidden = self.hidden(pixel_values.flatten(1)).relu()
        return ModelOutput(hidden_states=(hidden,), logits=self.classifier(hidden))


class Pair(nn.Module):
    """Logits and features, as in mdistiller."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(64, 32), nn.Linear(32, num_classes)

    def forward(self, x):
        features = self.hidden(x.flatten(1)).relu()
        return self.fc(features), {"feats": [features]}


def any_channels(num_classes):
    """Takes images of any number of channels."""
    return nn.Sequential(nn.AdaptiveAvgPool3d((1, 8, 8)), nn.Flatten(), nn.Linear(64, num_classes))


def pretrained(num_classes):
    """A classifier of the digits by the nearest class mean."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    means = torch.stack(
        [torch.from_numpy(pixels[labels == k]).mean(0) / 16 for k in range(num_classes)]
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    with torch.no_grad():
        net[1].weight.copy_(means)
        net[1].bias.copy_(-means.square().sum(dim=1) / 2)
    return net


def scratch(num_classes):
    """The same layers with torch's initial weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


class Frozen(nn.Module):
    """Has nothing to train."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes)).requires_grad_(False)

    def forward(self, x):
        return self.body(x)


class Detached(Frozen):
    """Loses its gradient."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.requires_grad_(True)

    def forward(self, x):
        return self.body(x).detach()


class AlwaysDropping(Detached):
    """Drops in eval mode, too."""

    def forward(self, x):
        return nn.functional.dropout(self.body(x))


class Sharing(nn.Module):
    """Its layer belongs to the class: all students have the same."""

    layer = nn.Linear(64, 10)

    def __init__(self, num_classes=10):
        super().__init__()
        self.own = self.layer

    def forward(self, x):
        return self.own(x.flatten(1))


class Contrast(Detached):
    """Divides by the images' deviation: nothing for an image of one colour."""

    def forward(self, x):
        return self.body(x / (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)))


class ZeroHead(Detached):
    """Begins with logits that are all zero."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        nn.init.zeros_(self.body[1].weight)
        nn.init.zeros_(self.body[1].bias)

    def forward(self, x):
        return self.body(x)


class Raising(nn.Module):
    """Raises what no network of others does."""

    def __init__(self):
        super().__init__()
        raise KeyError("weights")
