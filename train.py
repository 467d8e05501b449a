"""python train.py [GROUP=NAME] [KEY=VALUE] ...; --help lists them."""

import os
import sys

import hydra
from omegaconf import DictConfig

from noisy_kd import errors
from noisy_kd.arguments import for_hydra
from noisy_kd.identity import register_resolvers
from noisy_kd.plugins import add_to_path

add_to_path()
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # for nets side by side
started = False


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """Run what the configuration says; returns the validation error, for a sweeper."""
    global started
    started = True
    from noisy_kd.command import train

    return train(cfg)


def command() -> None:
    """Look at the words first: of what is wrong in them Hydra would say too little."""
    sys.argv[1:] = for_hydra(sys.argv[1:])
    main()


if __name__ == "__main__":
    register_resolvers()
    sys.exit(errors.run_command(command, started=lambda: started))
