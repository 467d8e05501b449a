"""Compose a sweep's jobs: once for those that differ in plain values alone."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

Compose = Callable[[DictConfig, list[str]], DictConfig]


def share(loader: ConfigLoader) -> Compose:
    """Return a function that composes a sweep's jobs from each other, as Hydra composes each.

    Composing takes a tenth of a second. A job whose overrides have the keys of another one's gets a
    copy of that one's configuration with its own values. Hydra's sweeper, which composes all jobs
    to see whether they can be, composes one of them.
    """
    compose, parse = loader.load_sweep_config, cache(OverridesParser.create().parse_override)
    like: dict[tuple[str, ...], DictConfig] = {}

    def is_plain(override: Override) -> bool:
        key, value = override.key_or_group, override.value()
        is_group = override.package is not None or loader.repository.group_exists(key)  # type: ignore[attr-defined]
        changes = override.type is OverrideType.CHANGE and not override.is_hydra_override()
        return changes and not is_group and not isinstance(value, dict | list)

    def read(lines: list[str]) -> tuple[list[Override], list[Override], tuple[str, ...]]:
        """Return a job's overrides, the plain ones, and what jobs like it have in common."""
        overrides = [parse(line) for line in lines]
        places = [f"{override.key_or_group}." for override in overrides]
        alone = [sum(p.startswith(q) or q.startswith(p) for q in places) == 1 for p in places]
        plain = [o for o, once in zip(overrides, alone, strict=True) if once and is_plain(o)]
        keys = tuple(o.key_or_group if o in plain else str(o.input_line) for o in overrides)
        return overrides, plain, keys

    def first(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Return the configuration of the first job like this one."""
        *_, keys = read(sweep_overrides)
        if master_config.hydra.searchpath or keys not in like:
            like[keys] = compose(master_config, sweep_overrides)
        return like[keys]

    def load(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = deepcopy(first(master_config, sweep_overrides))
        if master_config.hydra.searchpath:  # adds groups that the loader does not know
            return config
        overrides, plain, _ = read(sweep_overrides)
        ConfigLoaderImpl._apply_overrides_to_config(plain, config)
        own = [override for override in overrides if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in own]
        names = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            own, kv_sep=names.kv_sep, item_sep=names.item_sep, exclude_keys=names.exclude_keys
        )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    loader.load_sweep_config = first  # type: ignore[method-assign]
    return load
