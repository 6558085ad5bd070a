"""The configs of a sweep's jobs: composed by Hydra, what they share only once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException


class Composer:
    """Composes jobs as Hydra's `load_sweep_config` does, at a fraction of its price.

    Which files a config is made of depends on the choices of groups alone. They are read and merged once for every
    set of choices; the jobs that share it differ in overrides of the form ``key=value``, which Hydra too applies when
    everything else is done. Whatever is not of that form, or is refused, is left to Hydra itself.

    Args:
        loader: Hydra's config loader.
        master: The config that the sweep was started with.
    """

    def __init__(self, loader: Any, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create()
        self._parsed: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """Returns the config of a job.

        Args:
            overrides: As Hydra's sweeper made them.
            number: The job's, from 0.

        Raises:
            HydraException: What Hydra finds wrong.
        """
        config = self._derived(overrides)
        if config is None:
            config = self._loader.load_sweep_config(self._master, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _derived(self, overrides: Sequence[str]) -> DictConfig | None:
        """Returns a config made from one with the same choices of groups, or None where that could be another."""
        parsed = [self._parse(text) for text in overrides]
        values = [override for override in parsed if self._is_value(override)]
        shared = [override for override in parsed if not self._is_value(override)]
        if any(not self._is_choice(override) for override in shared):
            return None  # keys that are added or taken away: their place among the values matters
        if any(override.key_or_group.startswith(("hydra.", "hydra/")) for override in parsed):
            return None  # Hydra keeps account of its own options apart
        key = tuple(str(override.input_line) for override in shared)
        if key not in self._bases:
            self._bases[key] = self._loader.load_sweep_config(self._master, list(key))
        config = copy.deepcopy(self._bases[key])
        try:
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return None  # Hydra says what is wrong
        self._describe(config, parsed)
        return config

    def _describe(self, config: DictConfig, overrides: Sequence[Override]) -> None:
        """Writes down which overrides a job has where Hydra does."""
        lines = [str(override.input_line) for override in overrides]
        config.hydra.overrides.task = lines
        form = config.hydra.job.config.override_dirname
        kept = sorted(str(item.input_line) for item in overrides if item.key_or_group not in form.exclude_keys)
        config.hydra.job.override_dirname = form.item_sep.join(kept).replace("=", form.kv_sep)

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            self._parsed[text] = self._parser.parse_override(text)
        return self._parsed[text]

    def _is_value(self, override: Override) -> bool:
        plain = not (override.is_add() or override.is_force_add() or override.is_delete())
        return plain and override.package is None and not self._is_choice(override)

    def _is_choice(self, override: Override) -> bool:
        # As for Hydra: what follows a group's name is a choice, but a mapping is values that are merged into its node.
        group = self._loader.repository.group_exists(override.key_or_group)
        return bool(group) and not isinstance(override.value(), dict)


class Unchecked:
    """Hydra's config loader, for a sweeper: it composes every job only to see that it can be, and drops the result.

    The launcher composes all of them before it starts any, and finds the same mistakes.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Returns the config of the sweep itself.

        Args:
            master_config: That config.
            sweep_overrides: Overrides of a job, which are looked at later.
        """
        return master_config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
