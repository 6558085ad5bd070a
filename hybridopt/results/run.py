"""One run as it lies on the disk, its curves and its times to target."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hybridopt.core.errors import ConfigError, suggest
from hybridopt.experiment import jsonio
from hybridopt.experiment.identity import IDENTITY, run_id
from hybridopt.experiment.layout import HISTORY, TIMING, section_name, task_label
from hybridopt.results.replay import Replay, replay_of, timing_of_facts

AXES = {
    "steps": "step",
    "gradient_equivalents": "gradient_equivalents",
    "seconds": "seconds",
    "epochs": "epoch",
}
"""Axis names and the keys of a row that they stand for."""

STATES = ("done", "running", "killed", "interrupted", "diverged", "failed", "pending")
"""States of a run: those of status.json, "killed" (says running, but no process holds it) and "pending"."""

DEAD = ("failed", "diverged")
"""States of a run that will never reach its target."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A value that a run is timed to.

    Attributes:
        metric: Key of an evaluation row, e.g. "validation_accuracy".
        value: The value to reach.
        mode: "max" if larger is better, "min" if smaller is.
    """

    metric: str
    value: float
    mode: str

    def reached_by(self, value: Any) -> bool:
        """Tells whether a metric's value is at least as good; NaN and non-numbers are not."""
        if not isinstance(value, int | float) or math.isnan(value):
            return False
        return value >= self.value if self.mode == "max" else value <= self.value

    def __str__(self) -> str:
        return f"{self.metric.replace('_', ' ')} {'≥' if self.mode == 'max' else '≤'} {self.value:g}"


@dataclasses.dataclass(frozen=True)
class TimeToTarget:
    """When a run first reached a target, or how far it came without.

    Attributes:
        reached: Whether it did.
        value: Position on the axis: of the first evaluation that reached the target, or of the run's end if
            none did (then the time to target is censored: it is more than this); None if there are no rows.
        axis: The axis, one of `AXES`.
    """

    reached: bool
    value: float | None
    axis: str


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric of one run along one axis.

    Attributes:
        x: Positions, not decreasing.
        y: Values; NaN and infinities are kept.
        axis: The axis, one of `AXES`.
        metric: Key of the rows' values.
    """

    x: list[float]
    y: list[float]
    axis: str
    metric: str

    def __len__(self) -> int:
        return len(self.x)


@dataclasses.dataclass(eq=False)
class Run:
    """One run as it lies on the disk.

    Seconds of one that was done again by `hybridopt rerun --timing` are those of its replay, if that gave the same
    numbers; all else is the run's own.

    Attributes:
        directory: The run directory.
        config: The resolved config; what could be told from the path if config.yaml is missing.
        provenance: Content of provenance.json, empty if missing.
        status: Content of status.json, empty if missing.
        state: How the run stands, one of `STATES`.
    """

    directory: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    status: dict[str, Any]
    state: str

    @property
    def task(self) -> str:
        """Name of the task; of a collection with its problem, as in "saddle/digits"."""
        return task_label(self.config.get("task"))

    @property
    def optimizer(self) -> str:
        """Name of the optimizer; of an external one its class, e.g. "torch:AdamW"."""
        section = self.config.get("optimizer")
        if isinstance(section, Mapping) and section.get("cls"):
            return str(section["cls"])
        return section_name(section) or "unknown"

    @property
    def escape(self) -> str | None:
        """Name of the escape strategy, None if there is none."""
        name = section_name(self.config.get("escape"))
        return None if name in (None, "none") else name

    @property
    def seed(self) -> int | None:
        """The seed."""
        return self.config.get("seed")

    @property
    def timing(self) -> str | None:
        """What the seconds are worth: "exclusive", "shared" or "lanes"; None if unknown."""
        return timing_of_facts(self.provenance if self._timed is None else self._timed.provenance)

    @property
    def family(self) -> str | None:
        """Family of the optimizer ("first-order", "quasi-newton", "newton", "hybrid"); None if unknown."""
        return self.task_facts.get("family")

    @property
    def task_facts(self) -> dict[str, Any]:
        """Trivial loss, targets, reference samples and sizes of the task, as far as recorded."""
        return self.provenance.get("task_facts") or {}

    @property
    def tuned(self) -> bool:
        """Whether the options were chosen by tuning, as recorded under "tuning" in provenance.json."""
        return bool(self.provenance.get("tuning"))

    @functools.cached_property
    def setting(self) -> str:
        """Identity of everything but the seed: the runs of one setting differ by their seeds only."""
        known = self.config if self.config.get("device") != "auto" else {**self.config, "device": "cpu"}
        return run_id(known, without=("seed",))

    @functools.cached_property
    def targets(self) -> list[Target]:
        """The targets that the run was timed to, the first one being the task's main one."""
        given = self.status.get("targets") or self.task_facts.get("targets") or []
        return [
            Target(str(one["metric"]), float(one["value"]), str(one.get("mode", "min")))
            for one in given
            if isinstance(one, Mapping) and one.get("metric") and one.get("value") is not None
        ]

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """All whole rows of the history, read at the first call; with the seconds of the replay if that counts."""
        return self.recorded if self._timed is None else self._timed.timed_rows(self.recorded)

    @functools.cached_property
    def recorded(self) -> list[dict[str, Any]]:
        """All whole rows of the history as they were recorded, read at the first call."""
        return jsonio.read_rows(self.directory / HISTORY)

    @functools.cached_property
    def replay(self) -> Replay | None:
        """The same run, done again for its seconds; None if it was not, or that has not ended."""
        if not (self.directory / TIMING).is_dir():
            return None
        on_cpu = str(self.config.get("device") or "cpu").startswith("cpu")
        equal_bits = on_cpu and timing_of_facts(self.provenance) != "lanes"
        return replay_of(self.directory, self.recorded, self.status, equal_bits=equal_bits)

    @property
    def _timed(self) -> Replay | None:
        """The replay, if its seconds count."""
        return None if self.replay is None or self.replay.difference is not None else self.replay

    @functools.cached_property
    def _ending(self) -> dict[str, Any]:
        """The status, with the seconds of the replay if that counts."""
        return self.status if self._timed is None else self._timed.timed_status(self.status, self.rows)

    @functools.cached_property
    def steps(self) -> list[dict[str, Any]]:
        """The rows of optimizer steps."""
        return [row for row in self.rows if row.get("type") == "step"]

    @functools.cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of evaluations."""
        return [row for row in self.rows if row.get("type") == "evaluation"]

    @functools.cached_property
    def events(self) -> list[dict[str, Any]]:
        """The rows of events: switches, escapes, restarts."""
        return [row for row in self.rows if row.get("type") == "event"]

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, see `hybridopt.experiment.clock.PHASES`.

        NaN where a run went on from a checkpoint that did not say; empty if the run has not ended, or did under a
        version that did not record them.
        """
        found = self._ending.get("phases")
        if self.state in ("running", "killed") or not isinstance(found, Mapping):
            return {}
        return {str(name): float(value) for name, value in found.items() if _number(value)}

    def end(self, axis: str) -> float | None:
        """Returns how far the run came on an axis, None if it has not started.

        Args:
            axis: One of `AXES`.
        """
        key = _key(axis)
        stated = self._ending.get({"step": "steps"}.get(key, key))
        stated = stated if _number(stated) else None
        if self.state == "done" and stated is not None:
            return stated
        # The status of a run that did not end by itself may be older than its rows.
        return next((row[key] for row in reversed(self.rows) if _number(row.get(key))), stated)

    def curve(self, axis: str, metric: str) -> Curve:
        """Returns one metric along one axis.

        Args:
            axis: One of `AXES`.
            metric: "loss" for the loss at every step (on the step's batch); "report.NAME" for a value of the
                optimizer's report ("report.damping"); "event.NAME" for a value of events ("event.lambda_min");
                else a key of evaluation rows such as "train_loss" or "validation_accuracy". A metric that the run
                does not have gives an empty curve.
        """
        key = _key(axis)
        kind, _, name = metric.rpartition(".")
        if kind == "report":
            found = [(row.get(key), (row.get("report") or {}).get(name)) for row in self.steps]
        elif kind == "event":
            found = [(row.get(key), row.get(name)) for row in self.events]
        else:
            rows = self.steps if metric == "loss" else self.evaluations
            found = [(row.get(key), row.get(metric)) for row in rows]
        points = [(x, y) for x, y in found if _number(x) and _number(y)]
        return Curve([float(x) for x, _ in points], [float(y) for _, y in points], axis, metric)

    def time_to_target(self, target: Target | None = None, axis: str = "gradient_equivalents") -> TimeToTarget:
        """Returns when the run first reached a target.

        Args:
            target: The target; None takes the task's main one.
            axis: One of `AXES`.

        Raises:
            ConfigError: If no target is given and the task states none, or the axis is unknown.
        """
        key = _key(axis)
        if target is None:
            if not self.targets:
                raise ConfigError(f"The task {self.task!r} states no target: give time_to_target one.")
            target = self.targets[0]
        for known in self._ending.get("targets") or []:
            if known.get("metric") == target.metric and known.get("value") == target.value:
                if known.get("reached") and _number(known.get(key)):
                    return TimeToTarget(True, float(known[key]), axis)
                break
        for row in self.evaluations:
            if target.reached_by(row.get(target.metric)) and _number(row.get(key)):
                return TimeToTarget(True, float(row[key]), axis)
        return TimeToTarget(False, self.end(axis), axis)

    def final(self, metric: str) -> float | None:
        """Returns the last value of a metric ("loss" or a key of evaluation rows), None if there is none."""
        rows = self.steps if metric == "loss" else self.evaluations
        return next((float(row[metric]) for row in reversed(rows) if _number(row.get(metric))), None)

    def best(self, metric: str, mode: str) -> float | None:
        """Returns the best finite value of a metric of evaluation rows, None if there is none.

        Args:
            metric: Key of evaluation rows.
            mode: "min" or "max".
        """
        values = [row[metric] for row in self.evaluations if _number(row.get(metric))]
        values = [value for value in values if math.isfinite(value)]
        return (max(values) if mode == "max" else min(values)) if values else None

    def record(self) -> dict[str, Any]:
        """Returns the run as one flat record of plain values, the row of `Results.runs_frame`."""
        record: dict[str, Any] = {
            "task": self.task,
            "optimizer": self.optimizer,
            "family": self.family,
            "escape": self.escape,
            "seed": self.seed,
            "state": self.state,
            "timing": self.timing,
            "setting": self.setting,
            "run_id": self.provenance.get("run_id"),
            "directory": str(self.directory),
        }
        for axis in AXES:
            record[axis] = self.end(axis)
        record.update({f"phases.{name}": value for name, value in self.phases.items()})
        for number, target in enumerate(self.targets):
            prefix = f"target{number}"
            record[prefix] = str(target)
            for axis in ("steps", "gradient_equivalents", "seconds"):
                time = self.time_to_target(target, axis)
                record[f"{prefix}_reached"] = time.reached
                record[f"{prefix}_{axis}"] = time.value if time.reached else None
        summary = self.status.get("summary") or {}
        record.update({f"summary.{name}": value for name, value in flat(summary)})
        for section in IDENTITY:
            if section in ("task", "seed"):
                continue
            value = self.config.get(section)
            record.update({name: value for name, value in flat({section: value}) if not name.endswith(".name")})
        return record


def _key(axis: str) -> str:
    if axis not in AXES:
        raise ConfigError(f"There is no axis {axis!r}.{suggest(axis, AXES)} Known: {', '.join(AXES)}.")
    return AXES[axis]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested mappings with their dotted names."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
