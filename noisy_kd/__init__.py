"""noisy-kd: small students from large frozen teachers, with noisy teachers."""

__version__ = "0.1.0"
