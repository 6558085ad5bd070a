"""How good a trial was."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hybridopt.results.run import Run

OBJECTIVES = ("target", "loss")
"""``target``: cost until the task's main target is reached; ``loss``: best validation loss."""

SLACK = 1.05
"""Evaluations count up to so many times the budget: the last step of a run may end a little behind it."""


@dataclasses.dataclass(frozen=True, order=True)
class Score:
    """A trial's score; smaller is better.

    Under the objective ``target`` the trials that reached the main target come first, by their cost until then in
    gradient-equivalents; the others are censored and follow by their best validation loss. Under ``loss`` only that
    loss counts. Diverged and failed trials come last. No evaluation beyond the budget counts, so a method whose
    steps are dear gains nothing by overdrawing it; nor does the one before the first step, which all trials share: if
    the first step is dearer than the budget, nothing is known of the trial.

    Attributes:
        rank: 0 reached the target (or the objective is ``loss``), 1 did not, 2 diverged or failed.
        value: Cost to the target for rank 0 under ``target``, else the best validation loss; infinite if there is none.
    """

    rank: int
    value: float

    @classmethod
    def of(cls, run: Run, objective: str, limit: float) -> Score:
        """Returns the score of a run.

        Args:
            run: The trial as it lies on the disk.
            objective: One of `OBJECTIVES`.
            limit: Budget in gradient-equivalents up to which its evaluations count.
        """
        if run.state in ("diverged", "failed"):
            return cls(2, math.inf)
        rows = [row for row in run.evaluations if 0 < row["gradient_equivalents"] <= limit * SLACK]
        if objective == "target" and run.targets:
            goal = run.targets[0]
            for row in rows:
                if goal.reached_by(row.get(goal.metric)):
                    return cls(0, float(row["gradient_equivalents"]))
        losses = [float(row["validation_loss"]) for row in rows if _finite(row.get("validation_loss"))]
        return cls(1 if objective == "target" else 0, min(losses, default=math.inf))

    def describe(self, objective: str) -> str:
        """Returns the score in words.

        Args:
            objective: The one it was made for.
        """
        if self.rank == 2:
            return "diverged or failed"
        if objective == "target" and self.rank == 0:
            return f"target reached at cost {self.value:.4g}"
        return f"validation loss {self.value:.4g}" + (", target not reached" if objective == "target" else "")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
