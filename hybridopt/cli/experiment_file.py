"""An experiment given by its file: ``hybridopt run my_sweep.yaml``, and which file of experiments holds a swept key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from hybridopt._paths import conf_dir
from hybridopt.core import ConfigError
from hybridopt.experiment.layout import PROVENANCE, STATUS

_GROUP = "experiment"
_HEADER = "# @package _global_\n"
_SEARCHPATH = "hydra.searchpath="
_ORIGIN = ".origin"
"""Ending of the link beside a copy that leads to what it is a copy of."""


def taken_as_experiments(overrides: Sequence[str], scratch: Path) -> list[str]:
    """Returns overrides with a bare path of a YAML file replaced by what makes Hydra find it.

    ``DIR/mine.yaml`` (or ``experiment=DIR/mine.yaml``) becomes ``experiment=mine``. Its neighbours can be named in its
    defaults, and so can the groups of a directory ``conf`` in whose ``conf/experiment`` it lies. A file without
    Hydra's line ``# @package _global_`` is read as if it had it.

    Args:
        overrides: Of the command line.
        scratch: An empty directory that lasts as long as Hydra needs it.

    Raises:
        ConfigError: If there is no such file, or more than one is given, or it is no experiment.
    """
    bare = [text for text in overrides if _is_path(text.removeprefix(f"{_GROUP}="))]
    if not bare:
        return list(overrides)
    if len(bare) > 1:
        raise ConfigError(f"One experiment at a time: start {' and '.join(bare)} one after another.")
    path = Path(bare[0].removeprefix(f"{_GROUP}=")).expanduser()
    _check(path)
    # Not what a link leads to: the experiment is called, and has the neighbours, that stand where it was named.
    searched = _searchable(path.parent.resolve() / path.name, scratch)
    taken, kept = [], []
    for text in overrides:
        if text == bare[0]:
            kept.append(f"{_GROUP}={quoted(path.stem)}")
        elif searched and text.startswith(_SEARCHPATH):  # Hydra would take one of the two
            taken += OverridesParser.create().parse_overrides([text])[0].value()
        else:
            kept.append(text)
    where = ",".join(quoted(str(place)) for place in [*searched, *taken])
    return [*kept, f"{_SEARCHPATH}[{where}]"] if searched else kept


def quoted(text: str) -> str:
    """Returns a text as Hydra's grammar takes it, whatever is in it.

    Args:
        text: A value, such as a path with spaces or commas.
    """
    if re.fullmatch(r"[\w./:-]+", text):
        return text
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"


def file_of_swept(config: Any) -> dict[str, str]:
    """Returns which experiment file holds each key of ``hydra.sweeper.params``, but for keys swept on the command line.

    Args:
        config: Hydra's config of the whole sweep.
    """
    hydra = config.hydra
    choice = hydra.runtime.choices.get(_GROUP)
    roots = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    given = {str(text).lstrip("+").partition("=")[0] for text in hydra.overrides.task}
    found: dict[str, str] = {}
    waiting, seen = [str(choice)] if choice not in (None, "null") else [], set()
    while waiting:
        name = waiting.pop(0)
        path = next((path for root in roots if (path := root / _GROUP / f"{name}.yaml").is_file()), None)
        if path is None or name in seen:
            continue
        seen.add(name)
        content = _content(path)
        params = ((content.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
        for key in set(map(str, params)) - given:
            found.setdefault(key, _shown(path))
        waiting += [entry for entry in content.get("defaults") or [] if isinstance(entry, str)]
    return found


def located(message: str, raw: str, files: Mapping[str, str]) -> str:
    """Returns a message with the file in front that holds the swept key which it is about, if it is about one.

    Args:
        message: For people.
        raw: What was said at first, which names the key.
        files: What `file_of_swept` returned.
    """
    if message.startswith("In "):
        return message
    told = re.split(r" Known: | Its options|Available options", raw)[0]
    told = re.sub(r"^\s*\w+=\S+: ", "", told)  # "optimizer=adam: optimizer.lr must be": it is about the second
    if "sweep is empty" in told:
        files = {"": next(iter(files.values()))} if files else {}
    for key in sorted(files, key=len, reverse=True):
        if re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", told):
            return f"In {files[key]}, hydra.sweeper.params: {message}"
    return message


def with_paths(error: BaseException, scratch: Path) -> BaseException:
    """Returns an error in which files that `taken_as_experiments` made findable have the paths that people know.

    Args:
        error: What is to be shown.
        scratch: As it was given there.
    """
    if not isinstance(error, ConfigError):
        return error
    match = re.match(rf"In ({_GROUP}/[^:]+\.yaml): ", str(error))
    path = scratch / "searched" / match.group(1) if match else None
    if match is None or path is None or not path.is_file():
        return error
    return type(error)(f"In {_shown(path)}: {str(error)[match.end() :]}")


def _is_path(text: str) -> bool:
    return text.endswith((".yaml", ".yml")) and "=" not in text


def _check(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(
            f"There is no file {path}. Give the path of an experiment's YAML file, or the name of one that comes with "
            "this library: experiment=quickstart (hybridopt list experiments)."
        )
    if path.suffix != ".yaml":
        raise ConfigError(f"Hydra reads files that end in .yaml only: rename {path}.")
    if any((path.parent / name).exists() for name in (PROVENANCE, STATUS)):
        raise ConfigError(
            f"{path} is the config of one run. hybridopt job {path.parent} goes on with that run, hybridopt rerun "
            f"{path.parent} --timing does it again; hybridopt run takes files as in conf/experiment."
        )
    shipped = conf_dir() / _GROUP / path.name
    if shipped.exists() and not shipped.samefile(path):
        raise ConfigError(
            f"An experiment called {path.stem} comes with this library, and would be run instead of {path}: rename it."
        )


def _searchable(path: Path, scratch: Path) -> list[str]:
    """Puts an experiment and its neighbours where Hydra can look for them; returns where that is."""
    if path.parent == (conf_dir() / _GROUP).resolve():
        return []
    group = scratch / "searched" / _GROUP
    group.mkdir(parents=True)
    for neighbour in path.parent.glob("*.yaml"):
        text = neighbour.read_text(encoding="utf-8", errors="replace")
        target = group / neighbour.name
        if neighbour == path and not re.match(r"\s*#\s*@package\s", text):  # where Hydra looks for it
            target.write_text(_HEADER + text, encoding="utf-8")
            target.with_suffix(_ORIGIN).symlink_to(path)
        else:
            target.symlink_to(neighbour)
    conf = [f"file://{path.parent.parent}"] if path.parent.name == _GROUP else []
    return [f"file://{group.parent}", *conf]


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _shown(path: Path) -> str:
    """A path as a user would give it."""
    origin = path.with_suffix(_ORIGIN)
    real = (origin if origin.is_symlink() else path).resolve()
    shown = os.path.relpath(real)
    return str(real) if shown.startswith("..") else shown
