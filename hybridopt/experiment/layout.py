"""Names in a run directory, and its config file; imports no torch, so that readers start fast."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hybridopt.core.errors import StoreError
from hybridopt.experiment import jsonio
from hybridopt.experiment.identity import FORMAT

CONFIG = "config.yaml"
PROVENANCE = "provenance.json"
HISTORY = "history.jsonl"
CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.prev.pt"
DAMAGED = "checkpoint.damaged.pt"
STATUS = "status.json"
LOG = "run.log"
ABANDONED = "history.abandoned.jsonl"

TIMING = "timing"
"""Folder in a run directory that holds the same run, done again for its seconds by `hybridopt rerun --timing`."""

PAUSED = "paused at"
"""How the reason of an interrupted run begins that was told to stop at some cost, to go on another time."""

STATUSES = ("running", "done", "failed", "diverged", "interrupted")
ROW_TYPES = ("step", "evaluation", "event")


# The C parser is ten times faster than the Python one; wheels of PyYAML have it nearly everywhere.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML in which 1e-3 is a number, as in YAML 1.2 and in what OmegaConf writes."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: a text that looks like 1e-3 gets quotes."""


_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+")
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def section_name(section: Any) -> str | None:
    """Returns the name in a config section, which is a mapping with "name" or the name itself.

    Args:
        section: Such as a config's "task".
    """
    if isinstance(section, Mapping):
        section = section.get("name")
    return str(section) if section else None


def task_label(section: Any) -> str:
    """Returns what results and reports call a task: its name, or ``name/problem``.

    A task that is a collection says by an option ``problem`` which of its problems is meant (``saddle/digits``,
    ``test_function/watson_9``). These have different values and targets, hence rankings of their own.

    Args:
        section: A config's "task".
    """
    name = section_name(section) or "unknown"
    if not isinstance(section, Mapping) or not isinstance(section.get("problem"), str):
        return name
    label = f"{name}/{section['problem']}"
    return f"{label}_{section['n']}" if section.get("n") else label


def write_config(directory: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Writes a run's resolved config; the directory is made if it does not exist.

    Raises:
        StoreError: If it cannot be written.
    """
    with jsonio.writing(directory):
        Path(directory).mkdir(parents=True, exist_ok=True)
    text = yaml.dump(jsonio.to_plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    jsonio.write_atomic(Path(directory) / CONFIG, text)


def read_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns a run's resolved config.

    Raises:
        StoreError: If there is none, or it is not YAML.
    """
    path = Path(directory) / CONFIG
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{directory} is not a run directory: it has no readable {CONFIG}. Give the directory of a run, "
            "or start one with `hybridopt run`."
        ) from error
    try:
        config = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise StoreError(f"{path} is damaged: {error}. Remove the run directory and start the run again.") from error
    if not isinstance(config, dict):
        raise StoreError(f"{path} holds no config. Remove the run directory and start the run again.")
    return config


def check_format(directory: str | os.PathLike[str]) -> None:
    """Refuses a run directory of another format version.

    Raises:
        StoreError: If the directory was written by another format.
    """
    for name in (PROVENANCE, STATUS):
        known = (jsonio.read_json(Path(directory) / name) or {}).get("format", FORMAT)
        if known != FORMAT:
            raise StoreError(
                f"{directory} was written in run format {known}; this version of hybridopt reads and writes "
                f"format {FORMAT}. Use the version that wrote it, or choose another directory with out=DIR."
            )
