"""``hybridopt export``: what a run or a sweep leaves, for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from hybridopt.cli.directory import add_directory
from hybridopt.core.errors import StoreError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command.

    Args:
        parser: The command's parser.
    """
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    for kind, text in (
        ("weights", "parameters and buffers of a run as safetensors"),
        ("program", "the model of a run as a program of torch.export, which needs no hybridopt to run"),
    ):
        command = kinds.add_parser(kind, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("directories", metavar="RUN_DIR", nargs="+", type=Path, help="a run directory")
        command.add_argument("--model", choices=["best", "last"], default="best", help="by validation loss, or the end")
        command.add_argument("--out", metavar="FILE", type=Path, help="where to write (default: in RUN_DIR)")
    wandb = "the runs below a directory in Weights & Biases, rebuilt from their records"
    command = kinds.add_parser("wandb", help=wandb, description=wandb[0].upper() + wandb[1:] + ".")
    add_directory(command)
    command.add_argument("--out", metavar="DIR", type=Path, help="where offline runs go (default: DIR)")
    command.add_argument("--online", action="store_true", help="send them now; else later by wandb sync")
    command.add_argument("--project", help="project name (default: as configured, else hybridopt)")
    command.add_argument("--entity", help="team or user")


def main(options: argparse.Namespace, *, debug: bool) -> int:
    """Writes what was asked for.

    Args:
        options: The parsed arguments.
        debug: Whether to show traces.

    Raises:
        StoreError: If several runs are to be written into one file, or a run cannot be read.
    """
    from hybridopt.cli import console

    if options.kind == "wandb":
        return _wandb(options)
    from hybridopt.experiment.export import export_finished

    if options.out is not None and len(options.directories) > 1:
        raise StoreError("--out names one file, but there are several runs: leave it out, or export one by one.")
    for directory in options.directories:
        console.line(str(export_finished(directory, options.kind, model=options.model, out=options.out)))
    return 0


def _wandb(options: argparse.Namespace) -> int:
    from hybridopt.cli import console
    from hybridopt.results.wandb_export import export_wandb

    fresh = total = 0
    for one in export_wandb(
        options.directory, options.out, online=options.online, project=options.project, entity=options.entity
    ):
        total += 1
        fresh += one.fresh
        text = f"{one.rows} rows" if one.fresh else "unchanged"
        console.line(f"{one.run_id}  {one.directory}: {text}")
    console.line(f"{total} runs, {fresh} written.")
    if not options.online:
        console.line(f"upload: wandb sync {(options.out or options.directory) / 'wandb'}/offline-run-*")
    return 0
