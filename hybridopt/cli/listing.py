"""``hybridopt list``: the names to choose from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from hybridopt.cli import console

KINDS = {
    "optimizers": "optimizer",
    "tasks": "task",
    "escapes": "escape",
    "schedules": "schedule",
    "data": "data",
    "initializations": "initialization",
    "augmentations": "augmentation",
    "precisions": "precision",
    "stoppings": "stopping",
    "trackers": "tracker",
    "experiments": "experiment",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("kind", nargs="?", choices=list(KINDS), help="only these (default: all)")
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE|MODULE",
        help="import it first; may be repeated",
    )


def main(options: argparse.Namespace, *, debug: bool) -> int:
    """Shows the names.

    Args:
        options: The parsed arguments.
        debug: Whether to show traces.
    """
    if options.plugin:
        from hybridopt.core.plugins import load_plugin

        for plugin in options.plugin:
            load_plugin(plugin)
    for title in [options.kind] if options.kind else KINDS:
        rows = list(_experiments() if title == "experiments" else _parts(KINDS[title]))
        if title == "optimizers":
            console.table(["optimizer", "family", "batch", "summary"], rows)
        else:
            console.table([KINDS[title], "summary"], [[row[0], row[-1]] for row in rows])
    return 0


def _parts(kind: str) -> Iterator[list[str]]:
    from hybridopt.core import HybridoptError
    from hybridopt.experiment import parts

    for name in parts.names(kind):
        if name not in parts.registry(kind):
            yield [
                name,
                "",
                "",
                "any class by its path: optimizer.cls=torch:AdamW" if kind == "optimizer" else "",
            ]
            continue
        try:
            cls = parts.part_class(kind, name)
        except HybridoptError as error:
            yield [name, "", "", f"BROKEN: {error}"]
            continue
        summary = str(getattr(cls, "summary", "") or (cls.__doc__ or "").strip().partition("\n")[0])
        yield [name, str(getattr(cls, "family", "")), str(getattr(cls, "batch", "")), summary]


def _experiments() -> Iterator[list[str]]:
    from hybridopt._paths import conf_dir

    for path in sorted((conf_dir() / "experiment").glob("*.yaml")):
        comments = [
            line.lstrip("# ").strip()
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("#") and "@package" not in line
        ]
        yield [path.stem, comments[0] if comments else ""]
