"""Numbers, tables and figure of Rathore et al. 2024 from stored runs; called by reproduce.py."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from common import markdown

from hybridopt.results import Results, Run

TITLES = {
    "adam 0.001": "Adam, rate 1e-3",
    "adam 0.01": "Adam, rate 1e-2",
    "lbfgs": "L-BFGS",
    "adam+lbfgs": "Adam + L-BFGS",
    "adam+lbfgs+nystrom_newton_cg": "Adam + L-BFGS + NNCG",
    "adam+lbfgs+sgd": "Adam + L-BFGS + GD",
}
"""What each arm is called, by its stages."""

NEXT = {
    "adam+lbfgs": "L-BFGS goes on",
    "adam+lbfgs+nystrom_newton_cg": "NNCG",
    "adam+lbfgs+sgd": "gradient descent",
}
"""What comes after Adam and 2,000 iterations of L-BFGS."""

LOOKS = dict(zip(TITLES, ("#c9a227", "#b5462f", "#5a9c3d", "#1f6fb2", "#7a3fa0", "#777777"), strict=True))
PUBLISHED = {
    "pinn_convection": (1.40e-4, 1.51e-5, 5.95e-6, 3.63e-7),
    "pinn_reaction": (4.73e-6, 8.93e-6, 3.26e-6, 2.89e-7),
}
"""The paper's losses of Adam, L-BFGS, Adam + L-BFGS and with NNCG after them, at its size."""


def collect(results: Results) -> dict[str, Any]:
    """Returns, by problem and arm, ``[seed, loss, l2re, before]`` of every run.

    `loss` and `l2re` (on the test points) are those at the end; `before` is the loss of a hybrid where the third stage
    begins, or would begin, None of others.
    """
    third = next((step for step in map(_third_stage, results.runs) if step is not None), None)
    problems: dict[str, Any] = {}
    for name in results.tasks:
        arms: dict[str, list[list[Any]]] = {}
        for run in sorted(results.select(task=name), key=lambda run: run.seed):
            arms.setdefault(_arm(run), []).append([run.seed, *_ends(run, third)])
        for arm, runs in arms.items():
            if len({seed for seed, *_ in runs}) < len(runs):
                raise SystemExit(
                    f"There are settings of {name}, {arm} that differ; choose an empty directory, out=DIR."
                )
        problems[name] = {arm: arms[arm] for arm in TITLES if arm in arms}
    return {"budget": results.runs[0].config["budget"]["gradient_equivalents"], "problems": problems}


def tables(data: dict[str, Any]) -> dict[str, str]:
    """Returns the README's tables from what `collect` returned."""
    ends, stages, paper = [], [], []
    for name, arms in data["problems"].items():
        title = name.removeprefix("pinn_")
        for arm, runs in arms.items():
            ends.append([title, TITLES[arm], _spread([run[1] for run in runs]), _spread([run[2] for run in runs])])
            factors = [before / loss for _, loss, _, before in runs if before]
            if factors:
                stages.append([title, NEXT[arm], *(_spread(values) for values in ([run[3] for run in runs], factors))])
        paper.append([title, *(f"{loss:.1e}" for loss in PUBLISHED[name])])
    return {
        "ends": markdown(["problem", "method", "loss", "L2RE"], ends),
        "stages": markdown(["problem", "then", "loss after L-BFGS's 2,000 iterations", "then cut by"], stages),
        "paper": markdown(["problem", "Adam", "L-BFGS", "Adam + L-BFGS", "+ NNCG"], paper),
    }


def draw(results: Results, path: Path) -> None:
    """Draws the loss against cost: one panel a problem; the median over seeds, and every run as a thin line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(results.tasks), squeeze=False, figsize=(5.2 * len(results.tasks), 4.2), layout="constrained"
    )
    for panel, name in zip(panels.flat, results.tasks, strict=True):
        for arm, title in TITLES.items():
            runs = [run for run in results.select(task=name) if _arm(run) == arm]
            for number, run in enumerate(runs):
                curve = run.curve("gradient_equivalents", "train_loss")
                label = title if number == 0 else None
                panel.plot(curve.x, curve.y, color=LOOKS[arm], linewidth=1.1, alpha=0.75, label=label)
        panel.set_yscale("log")
        panel.set_title(name.removeprefix("pinn_"), fontsize=10)
        panel.set_xlabel("gradient-equivalents", fontsize=9)
        panel.grid(color="#e6e9ee", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("loss", fontsize=9)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _arm(run: Run) -> str:
    """The key of `TITLES` that a run belongs to."""
    config = run.config["optimizer"]
    if config["name"] == "switch":
        return "+".join(stage["name"] for stage in config["stages"])
    return f"adam {config['lr']:g}" if config["name"] == "adam" else config["name"]


def _third_stage(run: Run) -> int | None:
    """The step at which a run's third stage begins, None if it has none."""
    stages = run.config["optimizer"].get("stages") or []
    return sum(stage["until"]["at_step"] for stage in stages[:2]) if len(stages) == 3 else None


def _ends(run: Run, third: int | None) -> tuple[float, float, float | None]:
    """Loss and test error at the end, and of the hybrids the loss at the last evaluation up to a step."""
    last, before = run.evaluations[-1], None
    if third is not None and _arm(run).startswith("adam+"):
        before = next((row["train_loss"] for row in reversed(run.evaluations) if row["step"] <= third), None)
    return last["train_loss"], last.get("test_l2re", last["validation_l2re"]), before


def _spread(values: list[float]) -> str:
    return f"{statistics.median_high(values):.2g} ({min(values):.2g} to {max(values):.2g})"
