"""Numbers, tables and figure of Du et al. 2017 from stored runs; called by reproduce.py."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

from common import markdown

from hybridopt.results import Results, Run
from hybridopt.tasks.saddle_functions import octopus_drop

METHODS = {"gd": ("sgd", None), "pgd": ("perturbed_gd", None), "escape": ("sgd", "perturbation")}
"""Optimizer and escape of each: the paper's two, and gradient descent with this library's escape."""

TITLES = {"gd": "gradient descent", "pgd": "perturbed (algorithm 1)", "escape": "`sgd` with `escape=perturbation`"}
SHOWN = 1000
"""Iterations in the figure; the tables count all."""


def collect(results: Results) -> dict[str, Any]:
    """Returns what each run came to, by problem and method: all that the tables need.

    A run's entry is ``[seed, steps, passed]``: the iterations at which each saddle had been passed, None for those that
    were not; `steps` is the iteration at which the minimum was reached, None if it was not.
    """
    problems: dict[str, Any] = {}
    for name in sorted({run.task for run in results.runs}, key=_size):
        entry: dict[str, Any] = {"d": _size(name)[0], "L": _size(name)[1]}
        for method, (optimizer, escape) in METHODS.items():
            runs = [run for run in results.runs if (run.task, run.optimizer, run.escape) == (name, optimizer, escape)]
            runs.sort(key=lambda run: run.seed)
            if len({run.seed for run in runs}) < len(runs):
                raise SystemExit(f"{name} holds runs of more than one setting; choose an empty directory with out=DIR.")
            entry[method] = [[run.seed, *_passes(run, *_size(name))] for run in runs]
        problems[name.partition("/")[2]] = entry
    budget = max(run.config["budget"]["steps"] for run in results.runs)
    return {"budget": budget, "problems": problems}


def tables(data: dict[str, Any]) -> dict[str, str]:
    """Returns the README's tables from what `collect` returned."""
    steps, growth = [], []
    for entry in data["problems"].values():
        d, L = entry["d"], f"{entry['L']:g}"
        steps.append([d, L, *(_steps(entry[method], data["budget"]) for method in METHODS)])
        ratios = [after / before for _, _, passed in entry["gd"] for before, after in _pairs(passed)]
        growth.append(
            [
                d,
                L,
                f"{1 + entry['L']:g}",
                f"{1 + math.log(2) / math.log(1 + 1 / (2 * entry['L'])):.1f}",
                f"{statistics.median(ratios):.1f} ({len(ratios)} pairs)" if ratios else "–",
                *(_iterations(entry[method]) for method in ("pgd", "escape")),
            ]
        )
    heads = [
        "(L + γ)/γ",
        "for these steps",
        "gradient descent: growth",
        "algorithm 1: iterations",
        "`perturbation`: iterations",
    ]
    return {
        "steps": markdown(["d", "L", *TITLES.values()], steps),
        "growth": markdown(["d", "L", *heads], growth),
    }


def draw(results: Results, path: Path) -> None:
    """Draws the function against iterations: one panel a problem, one thin line a run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted({run.task for run in results.runs}, key=_size)
    columns = min(4, len(names))
    figure, panels = plt.subplots(
        -(-len(names) // columns), columns, squeeze=False, figsize=(2.7 * columns, 4.6), layout="constrained"
    )
    looks = {"gd": ("#b5462f", "-"), "pgd": ("#1f6fb2", "-"), "escape": ("#5a9c3d", ":")}
    for panel, name in zip(panels.flat, names, strict=False):
        d, L = _size(name)
        for method, (colour, line) in looks.items():
            optimizer, escape = METHODS[method]
            runs = [run for run in results.runs if (run.task, run.optimizer, run.escape) == (name, optimizer, escape)]
            for number, run in enumerate(runs):
                losses = [row["loss"] for row in run.steps[: SHOWN + 1]]
                label = TITLES[method].replace("`", "") if number == 0 else None
                panel.plot(losses, color=colour, linestyle=line, linewidth=0.9, alpha=0.8, label=label)
        panel.set_title(f"d = {d}, L = {L:g}", fontsize=9)
        panel.set_xlim(0, SHOWN)
        panel.tick_params(labelsize=7)
        panel.grid(color="#e6e9ee", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[-1]:
        panel.set_xlabel("iterations", fontsize=8)
    for row in panels:
        row[0].set_ylabel("f", fontsize=8)
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _size(name: str) -> tuple[int, float]:
    """d and L of near_saddle/octopus_d_L."""
    parts = name.partition("octopus_")[2].split("_")
    return int(parts[0]), float(parts[1]) if len(parts) > 1 else 1.0


def _passes(run: Run, d: int, L: float) -> tuple[int | None, list[int | None]]:
    """The iteration at which the minimum was reached, and those at which f was half way below each saddle."""
    # A step's row holds f before it; a run that ended with the minimum has its last value in an evaluation only.
    losses, drop = [*(row["loss"] for row in run.steps), run.evaluations[-1]["train_loss"]], octopus_drop(L)

    def first(level: float) -> int | None:
        return next((t for t, loss in enumerate(losses) if loss <= level), None)

    return first((1e-3 - d) * drop), [first((0.5 - saddle) * drop) for saddle in range(1, d + 1)]


def _durations(passed: list[int | None]) -> list[int]:
    """Iterations at each saddle from the second on: how long the first one takes is a matter of the start."""
    return [after - before for before, after in itertools.pairwise(t for t in passed if t is not None)]


def _pairs(passed: list[int | None]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(_durations(passed)))


def _steps(entries: list[list[Any]], budget: int) -> str:
    """Median and range of the iterations to the minimum, as far as it was reached."""
    reached = sorted(steps for _, steps, _ in entries if steps is not None)
    if not reached:
        most = max((sum(t is not None for t in passed) for _, _, passed in entries), default=0)
        return f"none of {len(entries)} in {budget:,} ({most} saddles passed at most)" if entries else "–"
    span = f"{reached[0]:,} to {reached[-1]:,}"
    if len(reached) < len(entries):
        return f"{len(reached)} of {len(entries)} in {budget:,} ({span})"
    return f"{statistics.median_high(reached):,} ({span})"


def _iterations(entries: list[list[Any]]) -> str:
    """Median and range of the iterations at a saddle."""
    waits = [wait for _, _, passed in entries for wait in _durations(passed)]
    return f"{statistics.median(waits):g} ({min(waits)} to {max(waits)})" if waits else "–"
