"""The few sentences that the page and its Markdown twin both say."""

from __future__ import annotations

import collections
from typing import Any

from hybridopt.experiment.identity import PLAIN, determining
from hybridopt.report.facts import standing
from hybridopt.report.ranking import targets_of, timing_of
from hybridopt.report.text import DASH, count, number, plural
from hybridopt.results import Results, Run
from hybridopt.results.replay import timing_of_facts

REMEDY = "To time them, one at a time: hybridopt rerun DIR --timing."
BUSY = 0.75
"""Waiting processes beside a replay's own from which on its machine was not idle."""

UNIT = (
    "One gradient-equivalent is the cost of one gradient on the task's reference samples (its training set "
    "unless stated), so an epoch of SGD costs 1. Every method pays the same nominal prices: forward 1/3, "
    "gradient 1, Hessian-vector product 2, Gauss-Newton-vector product 4/3, each in proportion to its "
    "samples. Linear algebra beside that is not counted, so seconds always stand next to it."
)
TIMES = (
    'Time to target is where an evaluation first met the target. A run that did not is censored: "> 40" says that it '
    "would need more than 40, not how much more. With several seeds the number is the median, in which a run that did "
    "not reach the target counts as infinitely late; behind it stands a 95 % bootstrap interval of the median (from 3 "
    "seeds on; with fewer than 6 it covers less than it says)."
)
CLOCK = (
    "Seconds, where nothing else is said, are training time: the clock waits for the device and stands still during "
    "evaluation and logging."
)


def title_of(results: Results) -> str:
    """Returns the experiment's name: as configured if all runs agree, else the directory's."""
    names = {str(run.config.get("experiment") or "") for run in results.runs}
    name = names.pop() if len(names) == 1 else ""
    return name or results.directory.resolve().name


def states_of(results: Results) -> str:
    """Returns how many runs stand how: "18 done, 1 failed"."""
    states = collections.Counter(run.state for run in results.runs)
    return ", ".join(f"{amount} {state}" for state, amount in states.most_common())


def subtitle_of(results: Results) -> str:
    """Returns the size of the experiment in one line."""
    methods = len(set(results.labels().values()))
    return (
        f"{plural(len(results), 'run')} ({states_of(results)}) · {plural(methods, 'method')} · "
        f"{plural(len(results.tasks), 'task')}"
    )


def banner_of(results: Results) -> str:
    """Returns what the numbers are worth, as a sentence's start: "Defaults, 1 seed: ..."."""
    text = standing(results)
    return text[:1].upper() + text[1:]


def unfinished_of(results: Results) -> str | None:
    """Returns a warning if runs are still to come, else None."""
    waiting = sum(run.state in ("running", "pending", "killed", "interrupted") for run in results.runs)
    return f"{plural(waiting, 'run')} not finished yet: the numbers will change." if waiting else None


def timing_note(results: Results) -> str | None:
    """Returns a warning about columns of seconds, None if every run had its machine alone."""
    kind = timing_of(results.runs)
    if kind == "exclusive":
        return None
    reasons = {
        "shared": "All runs shared their machine with other jobs (timing: shared): do not compare their seconds.",
        "lanes": "Several runs shared one process (timing: lanes): their seconds mean nothing for one run.",
        "unknown": "It is not recorded whether the runs had their machine alone: do not compare their seconds.",
        "mixed": "The runs' timing differs (it is given with each): compare seconds among exclusive runs only.",
    }
    note = reasons.get(kind, f"The runs' timing is {kind}: mind that when comparing seconds.")
    return note if kind not in ("shared", "lanes", "mixed") else f"{note} {REMEDY}"


def lanes_note(results: Results) -> str | None:
    """Returns which methods ran in lanes and which one by one, None if none ran in lanes.

    Args:
        results: All runs of the report.
    """
    names: dict[bool, collections.Counter[str]] = {True: collections.Counter(), False: collections.Counter()}
    for run in results.runs:
        if run.provenance:
            names[timing_of_facts(run.provenance) == "lanes"][run.optimizer] += 1
    together, alone = names[True], names[False]
    if not together:
        return None
    were = "was" if together.total() == 1 else "were"
    text = f"{plural(together.total(), 'run')} of {', '.join(sorted(together))} {were} done in lanes"
    text += ", several in one process"
    if alone:
        text += f"; {plural(alone.total(), 'run')} of {', '.join(sorted(alone))} one by one"
    return f"{text}."


def replay_notes(results: Results) -> list[str]:
    """Returns what is to be known about seconds of replays: whose they are, and which replays were not the same run.

    Args:
        results: All runs of the report.
    """
    notes = []
    replayed = [run for run in results.runs if run.replay is not None]
    used = [run for run in replayed if run.replay is not None and run.replay.difference is None]
    if used:
        text = f"The seconds of {plural(len(used), 'run')} are those of replays that had the machine alone "
        text += "(hybridopt rerun --timing); each gave the same numbers as its run in all but time"
        loose = [run.replay.rounding for run in used if run.replay is not None and run.replay.rounding]
        if loose:
            text += f", but for rounding in {plural(len(loose), 'run')}: losses to {max(loose):.1g}"
        notes.append(f"{text}.")
    busy = [load for run in used if run.replay is not None and (load := run.replay.others) > BUSY]
    if busy:
        notes.append(
            f"{plural(len(busy), 'replay')} began while something else ran on the machine (load up to {max(busy):.1f} "
            "beside it): mind that, or do them again with --again."
        )
    labels = results.labels()
    for run in replayed:
        if run.replay is not None and run.replay.difference is not None:
            notes.append(
                f"NOT THE SAME RUN: the replay of {labels[run.setting]} on {run.task}, seed {run.seed}, gave other "
                f"numbers ({run.replay.difference}); its seconds are not used."
            )
    return notes


def task_facts(runs: list[Run]) -> list[tuple[str, str]]:
    """Returns what is to be known about a task: names and texts.

    Args:
        runs: Runs of one task.
    """
    known: dict[str, Any] = next((run.task_facts for run in runs if run.task_facts), {})
    facts = [("trivial predictor's loss", number(known.get("trivial_loss"), 4))]
    targets = targets_of(runs)
    facts.append(("target" if len(targets) < 2 else "targets", "; ".join(map(str, targets)) or "none"))
    sizes = [known.get(f"{split}_size") for split in ("train", "validation", "test")]
    if any(size is not None for size in sizes):
        facts.append(("train / validation / test", " / ".join(count(size) for size in sizes)))
    if known.get("parameters") is not None:
        facts.append(("parameters", count(known["parameters"])))
    if known.get("reference_samples") is not None:
        work, size = known["reference_samples"], known.get("train_size")
        # A task whose samples are not equally dear, such as padded sequences, counts something else: valid steps.
        unit = "samples" if size in (None, work) else f"units of work in {count(size)} samples"
        facts.append(("1 gradient-equivalent", f"1 gradient on {count(work)} {unit}"))
    return facts


def options_of(run: Run) -> str:
    """Returns the options that a setting's run was made with, on one line."""
    sections = [("", run.config.get("optimizer")), ("escape ", run.config.get("escape"))]
    sections.append(("schedule ", run.config.get("schedule")))
    chosen = determining(run.config)
    sections += [(f"{kind} ", chosen.get(kind)) for kind in PLAIN]
    texts = []
    for prefix, section in sections:
        if not isinstance(section, dict):
            continue
        name = str(section.get("name"))
        options = [f"{key}={_plain(value)}" for key, value in section.items() if key != "name"]
        if prefix and name == "none":
            continue
        texts.append(" ".join([f"{prefix}{name}:" if options else f"{prefix}{name}", *options]))
    batch = run.task_facts.get("batch_size")
    if batch is not None:
        texts.append(f"batch {count(batch)}")
    budget = run.config.get("budget")
    if isinstance(budget, dict):
        limits = [f"{key}={_plain(value)}" for key, value in budget.items() if value not in (None, False)]
        if limits:
            texts.append(f"budget {' '.join(limits)}")
    return " · ".join(texts) or DASH


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
