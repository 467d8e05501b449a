"""Data sets of a user's own, with preprocessings of their own."""

from torch import nn

from noisy_kd.data.datamodules import DigitsDataModule


class Standardise(nn.Module):
    """Its buffers are its constructor's arguments."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images):
        return (images.float() - self.mean) / self.std


class Standardised(DigitsDataModule):
    """The digits with mean 0 and standard deviation 1."""

    name = "standardised"

    def fitted_preprocessing(self):
        pixels = self.images.pixels[self.train_rows].float()
        return Standardise(pixels.mean(), pixels.std())


class Forgetful(Standardised):
    """Its preprocessing cannot be restored."""

    def fitted_preprocessing(self):
        return nn.Sequential(super().fitted_preprocessing())
