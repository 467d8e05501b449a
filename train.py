"""python train.py [GROUP=NAME] [KEY=VALUE] ...; --help lists them."""

import sys

import hydra
from omegaconf import DictConfig

from noisy_kd import errors
from noisy_kd.config import register_resolvers

started = False


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """Run what the configuration says; returns the validation error, for a sweeper."""
    global started
    started = True
    from noisy_kd.command import train

    return train(cfg)


if __name__ == "__main__":
    register_resolvers()
    sys.exit(errors.run_command(main, started=lambda: started))
