"""How the outcome of a method depends on one option, by default its learning rate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from hybridopt.experiment.identity import run_id
from hybridopt.results.intervals import MedianTime, time_of_runs
from hybridopt.results.run import DEAD, Run, Target

FEWEST_VALUES = 3
"""Values of the option from which on there is something to see."""


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """One method's outcomes over the values of one option, everything else being the same.

    Attributes:
        run: Some run of the method, which tells its other options.
        values: The option's values, increasing.
        by_value: The runs with each value, which differ by their seeds.
    """

    run: Run
    values: list[float]
    by_value: list[list[Run]]

    def times(self, target: Target, axis: str) -> list[MedianTime | None]:
        """Returns the median time to a target at every value, None where no run has begun.

        Args:
            target: The target.
            axis: One of `hybridopt.results.AXES`.
        """
        return [time_of_runs(runs, target, axis) for runs in self.by_value]

    def finals(self, metric: str, worst: float = math.inf) -> list[list[float]]:
        """Returns the sorted final values of a metric at every value of the option; a lost run counts as `worst`.

        Args:
            metric: "loss" or a key of evaluation rows.
            worst: What NaN, divergence and failure count as.
        """
        found = []
        for runs in self.by_value:
            finals = [worst if run.state in DEAD else run.final(metric) for run in runs]
            found.append(sorted(worst if math.isnan(value) else value for value in finals if value is not None))
        return found


def sensitivities(runs: Sequence[Run], option: str = "lr") -> list[Sensitivity]:
    """Returns the methods of which there are at least `FEWEST_VALUES` values of an option of the optimizer.

    Args:
        runs: Runs of one task.
        option: Name of a numeric option of the optimizer.
    """
    groups: dict[str, dict[float, list[Run]]] = {}
    for run in runs:
        section = run.config.get("optimizer")
        value = section.get(option) if isinstance(section, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        rest: dict[str, Any] = {**run.config, "optimizer": {k: v for k, v in section.items() if k != option}}
        if rest.get("device") == "auto":
            rest["device"] = "cpu"
        groups.setdefault(run_id(rest, without=("seed",)), {}).setdefault(float(value), []).append(run)
    found = []
    for by_value in groups.values():
        if len(by_value) >= FEWEST_VALUES:
            values = sorted(by_value)
            found.append(Sensitivity(by_value[values[0]][0], values, [by_value[value] for value in values]))
    return found
