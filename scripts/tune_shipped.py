"""Makes conf/settings/tuned: the options that settings=tuned gives the optimizers of the shipped sweeps.

    python scripts/tune_shipped.py digits_cnn      # below outputs/tune_shipped; goes on when repeated
    python scripts/tune_shipped.py digits_rnn      # not shipped yet: rnn_sweep has defaults until somebody has run it

It calls `hybridopt tune` as anybody can: 8 trials of the dearest optimizer, the first with the defaults and the others
from the spaces that options declare, batch size included, and as many of the others as cost the same. Trials use seed
1000, which no comparison does. Costs are counted, not timed, so other work on the machine changes nothing. Files are
written for all optimizers of the call together, since an equal budget is one of a call; one that came to no finite
result has no file, and runs with its defaults. So does one whose steps are dearer than a trial (LEFT_OUT): it would
have to be given several times the budget, and all others with it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import yaml

from hybridopt._paths import conf_dir
from hybridopt.cli import main as hybridopt
from hybridopt.tuning.chosen import FILE, nested

TASKS = {"digits_cnn": ("cnn_sweep", 15), "digits_rnn": ("rnn_sweep", 15)}
"""The sweep whose optimizers are tuned on a task, and the cost of a trial."""

LEFT_OUT = {"saddle_free_newton": "8 trials of cost 15 are one step each on digits_cnn and cost 877, the dearest 293"}
"""Optimizers of the sweeps that are not tuned, and why."""

STATED = ("trials", "gradient_equivalents", "budget_per_trial", "budget", "objective", "sampler", "seed")


def optimizers_of(experiment: str) -> list[str]:
    """Returns the optimizers of a shipped experiment but for those in `LEFT_OUT`.

    Args:
        experiment: Its name.
    """
    text = (conf_dir() / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    names = yaml.safe_load(text)["hydra"]["sweeper"]["params"]["optimizer"]
    return [name for name in (name.strip() for name in names.split(",")) if name and name not in LEFT_OUT]


def ship(task: str, optimizers: list[str], root: Path) -> None:
    """Writes the files of a task from what tuning has left.

    Args:
        task: Name of the task.
        optimizers: Those that were tuned together.
        root: Directory of the tuning.
    """
    entries = yaml.safe_load((root / FILE).read_text(encoding="utf-8"))["tasks"][task]
    directory = conf_dir() / "settings" / "tuned" / task
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name in (name for name in optimizers if name in entries):
        (directory / f"{name}.yaml").write_text(page(name, task, entries[name]), encoding="utf-8")


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


def main() -> int:
    """Tunes and writes; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=TASKS, metavar="TASK", help=" or ".join(TASKS))
    parser.add_argument("--optimizers", metavar="NAME,NAME", help="default: those of the sweep")
    parser.add_argument("--out", type=Path, default=Path("outputs/tune_shipped"))
    options = parser.parse_args()
    for task in options.tasks:
        experiment, budget = TASKS[task]
        names = options.optimizers.split(",") if options.optimizers else optimizers_of(experiment)
        command = ["tune", f"task={task}", f"optimizer={','.join(names)}", f"budget.gradient_equivalents={budget}"]
        code = hybridopt([*command, "threads=1", "device=cpu", "tracker=none", f"out={options.out}"])
        if code > 1:  # 1: some optimizer came to no finite result, which has been said
            return code
        ship(task, names, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
