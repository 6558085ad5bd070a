"""Makes conf/settings/tuned: the options that settings=tuned gives the optimizers of the shipped sweeps.

    python scripts/tune_shipped.py digits_cnn digits_rnn         # all of the sweeps; goes on when repeated
    python scripts/tune_shipped.py digits_cnn --optimizers sgd   # this one; the others' files stay as they are

It calls `hybridopt tune` as anybody can, once for each optimizer: as many trials of cost 15 as SPEND pays for (the last
ones may overdraw a little), the first with the defaults and the others from the spaces that options declare, batch size
included. Trials use seed 1000, which no comparison does. Costs are counted, not timed, so other work on the machine
changes nothing. A file is written as soon as its optimizer's search has ended, and a search that was stopped goes on
from its trials; what stands below outputs/tune_shipped is believed, so delete an optimizer's directories there after a
change of the optimizer.

An optimizer has no file, and runs with its defaults, if the sum pays for less than the eight trials that tuning should
have, or no trial came to a result: the first step of saddle_free_newton alone costs 61 on digits_cnn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from hybridopt._paths import conf_dir
from hybridopt.cli import main as hybridopt
from hybridopt.tuning.chosen import FILE, nested
from hybridopt.tuning.settings import LEAST_TRIALS

TASKS = {"digits_cnn": "cnn_sweep", "digits_rnn": "rnn_sweep"}
"""The sweep whose optimizers are tuned on a task."""

TRIAL, SPEND = 15, 217
"""Cost of a trial, and of all trials of an optimizer: what eight of cubic_newton cost on digits_cnn; they overdraw."""

STATED = ("trials", "gradient_equivalents", "budget_per_trial", "budget", "objective", "sampler", "seed")


def optimizers_of(experiment: str) -> list[str]:
    """Returns the optimizers of a shipped experiment.

    Args:
        experiment: Its name.
    """
    text = (conf_dir() / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    names = yaml.safe_load(text)["hydra"]["sweeper"]["params"]["optimizer"]
    return [name for name in (name.strip() for name in names.split(",")) if name]


def tune(task: str, optimizer: str, root: Path) -> int:
    """Tunes one optimizer and writes its file, or takes away the one that is there.

    Args:
        task: Name of the task.
        optimizer: Name of the optimizer.
        root: Directory of the tuning.

    Returns:
        0, or the exit code of a search that did not end.
    """
    command = ["tune", f"task={task}", f"optimizer={optimizer}", f"budget.gradient_equivalents={TRIAL}"]
    command += [f"spend={SPEND}", f"at_once={LEAST_TRIALS}"]
    code = hybridopt([*command, "threads=1", "device=cpu", "tracker=none", f"out={root}"])
    if code > 1:
        return code
    path = conf_dir() / "settings" / "tuned" / task / f"{optimizer}.yaml"
    if code == 1:  # no trial came to a finite result, which has been said
        path.unlink(missing_ok=True)
        return 0
    entry = yaml.safe_load((root / FILE).read_text(encoding="utf-8"))["tasks"][task][optimizer]
    if entry["trials"] < LEAST_TRIALS:
        print(f"{optimizer}: {entry['trials']} trials are too few to call it tuned; no file")
        path.unlink(missing_ok=True)
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(optimizer, task, entry), encoding="utf-8")
    return 0


def page(optimizer: str, task: str, entry: dict[str, Any]) -> str:
    """Returns the text of a file.

    Args:
        optimizer: Name of the optimizer.
        task: Name of the task.
        entry: Of ``tuned.yaml``.
    """
    best = "the defaults were best" if entry["defaults_best"] else entry["score"]
    edges = "".join(f" On the {edge(text)} edge of its space: {name}." for name, text in entry["edges"].items())
    lines = [
        "# @package _global_",
        f"# {optimizer} on {task}: {entry['trials']} trials of cost {entry['budget_per_trial']:g}, {best}.{edges}",
        "# By scripts/tune_shipped.py; all files of this directory had the same budget.",
    ]
    stated = {"values": entry["values"], **{key: entry[key] for key in STATED}}
    content = {**nested(entry["values"]), "tuning": stated}
    return "\n".join(lines) + "\n" + yaml.safe_dump(content, sort_keys=False, width=110)


def edge(advice: str) -> str:
    """Returns "lower" or "upper".

    Args:
        advice: What tuning says about a value on an edge.
    """
    return "lower" if "lower edge" in advice else "upper"


def main(arguments: list[str] | None = None) -> int:
    """Tunes and writes; returns the exit code.

    Args:
        arguments: Of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=TASKS, metavar="TASK", help=" or ".join(TASKS))
    parser.add_argument("--optimizers", metavar="NAME,NAME", help="default: those of the sweep")
    parser.add_argument("--out", type=Path, default=Path("outputs/tune_shipped"))
    options = parser.parse_args(arguments)
    for task in options.tasks:
        names = options.optimizers.split(",") if options.optimizers else optimizers_of(TASKS[task])
        for name in names:
            if code := tune(task, name, options.out):
                return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
