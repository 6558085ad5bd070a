"""The command line: ``hybridopt run|tune|status|rerun|report|export|list|doctor|paper|job``.

This module imports neither torch nor Hydra, so that ``--help`` answers at once; each command imports what it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from hybridopt.cli import console
from hybridopt.core.errors import ConfigError, HybridoptError

__all__ = ["main"]

_COMMANDS = {
    "run": "train, or compare: takes Hydra overrides and every Hydra flag (hybridopt run --help)",
    "tune": "search hyper-parameters, the same budget for every optimizer",
    "status": "how the runs below a directory stand",
    "rerun": "do runs again one at a time for their seconds (hybridopt rerun DIR --timing)",
    "report": "write report.html and report.md for the runs below a directory",
    "export": "weights or the program of a run, or all runs to wandb",
    "list": "names to choose from: optimizers, tasks, escapes, schedules, data policies, trackers, experiments",
    "doctor": "what this machine has and what curvature costs on it; --optimizer: whether an optimizer keeps the rules",
    "paper": "published experiments: list them, or reproduce one (hybridopt paper NAME --quick)",
    "job": "do the one run whose directory is given (what a sweep starts for each run)",
}

_EXAMPLES = """\
examples:
  hybridopt run experiment=quickstart
  hybridopt run task=digits_cnn optimizer=newton_cg seed=0
  hybridopt run -m task=digits_cnn,adding_rnn optimizer=adam,lbfgs seed=0,1,2
  hybridopt run --plugin my_method.py optimizer=my_method
  hybridopt tune task=digits_cnn optimizer=adam,lbfgs,newton_cg
  hybridopt status outputs/quickstart
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0 when all is well, 1 when a run failed, 2 when what was asked for is wrong, 130 when
        interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Taken out by hand: what stands beside it belongs to Hydra's own parser.
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _dispatch(arguments, debug)
    except HybridoptError as error:
        if debug:
            traceback.print_exc()
        console.error(str(error))
        return 2
    except KeyboardInterrupt:
        console.error("Interrupted. The same command goes on where this one stopped.")
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (`hybridopt list | head`); Python would complain again at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(arguments: list[str], debug: bool) -> int:
    world = os.environ.get("WORLD_SIZE", "")
    if arguments and arguments[0] in _STARTING and world.isdecimal() and int(world) > 1:
        raise ConfigError(
            f"hybridopt {arguments[0]} was started by torchrun (WORLD_SIZE={world}), but every one of its runs is one "
            "process: start it once, without torchrun, or unset WORLD_SIZE where that comes from elsewhere. To divide "
            "batches among processes write a loop of your own, as in docs/data_parallel.md."
        )
    if arguments and arguments[0] in _THEIR_OWN:
        command = importlib.import_module(f"hybridopt.cli.{arguments[0]}")
        return int(getattr(command, _THEIR_OWN[arguments[0]])(arguments[1:], debug=debug))
    parser = argparse.ArgumentParser(
        prog="hybridopt",
        description="Second-order and hybrid optimizers for PyTorch: train, compare, report.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--debug", action="store_true", help="show the whole trace of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, text in _COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", add_help=name in _MODULES
        )
        if name in _MODULES:
            importlib.import_module(f"hybridopt.cli.{_MODULES[name]}").add_arguments(command)
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # --help, or a wrong argument: argparse has said what
        return int(stop.code or 0)
    if options.version:
        from hybridopt._version import __version__

        console.line(f"hybridopt {__version__}")
        return 0
    if options.command is None:
        console.line(parser.format_help().rstrip())
        return 0
    return importlib.import_module(f"hybridopt.cli.{_MODULES[options.command]}").main(options, debug=debug)


_STARTING = ("run", "tune", "rerun", "paper")
"""Commands that start runs."""

_THEIR_OWN = {"run": "main", "tune": "start", "rerun": "start", "paper": "start"}
"""Commands that parse their arguments themselves, and their functions: argparse's commands want all in one row."""

_MODULES = {
    "tune": "tune",
    "status": "status",
    "report": "report",
    "export": "export",
    "list": "listing",
    "doctor": "doctor",
    "job": "job",
}
