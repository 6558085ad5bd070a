"""Turns what Hydra and OmegaConf complain about into one paragraph that names the fix."""

from __future__ import annotations

import re
from typing import Any

from hybridopt._paths import conf_dir
from hybridopt.core import ConfigError, HybridoptError, UnknownNameError, suggest
from hybridopt.experiment import parts

_GROUPS = (*parts.KINDS, "settings", "budget", "launcher", "experiment")


def explain(error: BaseException) -> BaseException:
    """Returns an error to show instead, or the same one if it is no complaint about the config.

    Args:
        error: What ended the composition or the run.
    """
    if isinstance(error, HybridoptError):
        return error
    from hydra.errors import (
        HydraException,
        MissingConfigException,
        OverrideParseException,
        SearchPathException,
    )
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, MissingConfigException):
        return _missing(error)
    if isinstance(error, OverrideParseException):
        word = str(error.override)
        shipped = [path.stem for path in (conf_dir() / "experiment").glob("*.yaml")]
        if word in parts.names("optimizer") or word in shipped:
            group = "optimizer" if word in parts.names("optimizer") else "experiment"
            return ConfigError(f"{word} is the name of an {group}: write {group}={word}.")
        return ConfigError(
            f"The override {error.override!r} cannot be read: {_first(error)}. Write key=value; quote values with "
            "spaces, commas or brackets, e.g. 'optimizer.options={lr: 1e-3}'."
        )
    if isinstance(error, SearchPathException):
        return ConfigError(f"{_first(error)}. Give --config-dir a directory that exists.")
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _composition(error)
    if isinstance(error, OSError):
        from hybridopt.core import StoreError

        where = f" {error.filename}" if error.filename else ""
        return StoreError(f"The system refused{where}: {error.strerror or error}. Choose another place with out=DIR.")
    if isinstance(error, ValueError) and str(error).startswith(("Only one of", "The --resolve")):
        return ConfigError(_first(error))
    return error


def _missing(error: Any) -> HybridoptError:
    wanted = str(error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, name = wanted.rpartition("/")
    group = group.removeprefix("schema/")
    if group in parts.KINDS:
        if name in parts.registry(group):
            parts.part_class(group, name)  # a broken package: its own error tells more
        names = sorted({*parts.names(group), *(error.options or [])} - {""})
        listed = f"Known: {', '.join(names)}."
        return UnknownNameError(f"There is no {group} {name!r}.{suggest(name, names)} {listed}")
    if group in _GROUPS:
        options = list(error.options or [])
        known = f"Known: {', '.join(options)}." if options else "There are none yet."
        return UnknownNameError(
            f"There is no {group} {name!r}.{suggest(name, options)} {known} Your own YAML files are found with "
            "--config-dir DIR."
        )
    return ConfigError(f"{_first(error)}. Check the name, or give the directory of your YAML files with --config-dir.")


def _composition(error: BaseException) -> HybridoptError:
    text, cause = str(error), error.__cause__
    key = re.search(r"Could not override '([^']*)'", text)
    if key is not None:
        return _unknown_key(key.group(1), getattr(cause, "parent_node", None))
    merging = re.search(r"Error merging override (.+)", text)
    if merging is not None and cause is not None:
        return ConfigError(f"{merging.group(1).strip()} does not fit: {_first(cause)}. Give a value of that type.")
    present = re.search(r"An item is already at '([^']+)'", text)
    if present is not None:
        return ConfigError(
            f"The key {present.group(1)} is there already: write {present.group(1)}=VALUE without the +."
        )
    if "Ambiguous value for argument" in text:
        override = re.search(r"'(.+?)'\n", text)
        what = override.group(1) if override else "The value"
        return ConfigError(
            f"{what} has several values: add -m (hybridopt run -m ...) to run them all, or write "
            "key=[a,b] for one list."
        )
    multiple = re.search(r"Multiple values for ([\w/]+)", text)
    if multiple is not None:
        return ConfigError(
            f"{multiple.group(1)} is chosen twice. Every group has a default already: write {multiple.group(1)}=NAME "
            "without the +."
        )
    met: BaseException | None = error
    while met is not None:  # Hydra tells in words only, but what it met knows where the key was looked for
        full = getattr(met, "full_key", None)
        if isinstance(met, KeyError | AttributeError) and full and getattr(met, "parent_node", None) is not None:
            place = re.match(r"In '([^']+)'", text)
            return _unknown_key(full, met.parent_node, f"{place.group(1)}.yaml" if place else "")  # type: ignore[union-attr]
        met = met.__cause__ or met.__context__
    if cause is not None and cause is not error and _first(cause) not in text:
        return ConfigError(f"{_first(error)}: {_first(cause)}. Check that key in the command and in the YAML files.")
    return ConfigError(f"{_first(error)}. Check that key in the command and in the YAML files.")


def _unknown_key(key: str, node: Any, file: str = "") -> ConfigError:
    """The message for a key that the config does not have; `node` is where it was looked for, `file` who asked."""
    parent, _, name = key.rpartition(".")
    known = [str(item) for item in node if item != "hydra"] if node is not None and hasattr(node, "keys") else []
    root = key.partition(".")[0]
    if parent and "task" in known and root not in known:  # the node is the whole config: the mistake is in front
        parent, name = "", root
    if not parent and not known:
        known = list(_GROUPS)
    if not parent:
        known = sorted({*known, *_GROUPS})
    owner = f"{parent} has no option" if parent else "There is no config key"
    owner = f"In {file}: {owner}" if file else owner
    listed = f" Known: {', '.join(known)}." if known else ""
    chosen = ""
    if parent in parts.KINDS and "name" in known:
        chosen = f" ({parent}={node['name']})"
        options = ", ".join(item for item in known if item != "name")
        listed = f" Its options{chosen}: {options}." if options else f" It has none{chosen}."
    near = [*known, "defaults"] if file and not parent else known
    return ConfigError(f"{owner} {name!r}.{suggest(name, near)}{listed}")


def _first(error: BaseException) -> str:
    """The part of a message that people can use: without search paths and OmegaConf's internal lines."""
    kept = []
    for line in str(error).splitlines():
        stripped = line.strip()
        if re.match(r"(full_key|object_type|reference_type|Config search path|provider=)", stripped):
            break
        if stripped and not stripped.startswith("See https://"):
            kept.append(stripped)
    return " ".join(kept).rstrip(".") or type(error).__name__
