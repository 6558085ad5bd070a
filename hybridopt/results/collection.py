"""All runs of a directory, grouped, named and as pandas frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridopt.core.errors import ConfigError, suggest
from hybridopt.core.packages import need
from hybridopt.experiment.identity import determining
from hybridopt.results.run import Curve, Run, Target, TimeToTarget, flat

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass
class Results:
    """All runs below a directory.

    Attributes:
        directory: The directory.
        runs: The runs, sorted by task, optimizer, escape, setting and seed.
        problems: What could not be read, one sentence each.
    """

    directory: Path
    runs: list[Run]
    problems: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, sorted."""
        return sorted({run.task for run in self.runs})

    def select(self, **wanted: Any) -> Results:
        """Returns the runs whose attributes have the given values.

        Args:
            **wanted: Attributes of `Run` (task, optimizer, escape, seed, state, setting, timing) and their
            values.

        Raises:
            ConfigError: If an attribute is unknown.
        """
        known = ("task", "optimizer", "escape", "seed", "state", "setting", "timing")
        for name in wanted:
            if name not in known:
                raise ConfigError(
                    f"Runs cannot be selected by {name!r}.{suggest(name, known)} Known: {', '.join(known)}."
                )
        runs = [run for run in self.runs if all(getattr(run, name) == value for name, value in wanted.items())]
        return dataclasses.replace(self, runs=runs)

    def settings(self) -> dict[str, list[Run]]:
        """Returns the runs grouped by setting: the runs of one group differ by their seeds only."""
        groups: dict[str, list[Run]] = {}
        for run in self.runs:
            groups.setdefault(run.setting, []).append(run)
        return groups

    def labels(self) -> dict[str, str]:
        """Returns a short name for every setting, unique within its task.

        The name is the optimizer's, with the escape strategy behind a "+"; settings of one task that share it
        get the options in which they differ as well: "adam lr=0.01".
        """
        by_name: dict[tuple[str, str], dict[str, Run]] = {}
        for run in self.runs:
            name = f"{run.optimizer} + {run.escape}" if run.escape else run.optimizer
            by_name.setdefault((run.task, name), {}).setdefault(run.setting, run)
        labels = {}
        for (_, name), settings in by_name.items():
            options = {setting: _options(run) for setting, run in settings.items()}
            varying = _varying(options.values())
            for setting, own in options.items():
                shown = [f"{_short(key)}={own[key]}" for key in varying if key in own]
                labels[setting] = " ".join([name, *shown])
        return labels

    def learning_curve(self, run: Run, axis: str, metric: str) -> Curve:
        """Returns one metric of a run along one axis; see `Run.curve`."""
        return run.curve(axis, metric)

    def time_to_target(
        self, run: Run, target: Target | None = None, axis: str = "gradient_equivalents"
    ) -> TimeToTarget:
        """Returns when a run first reached a target; see `Run.time_to_target`."""
        return run.time_to_target(target, axis)

    def frame(self) -> pandas.DataFrame:
        """Returns all history rows as one long pandas frame: one row each, with the run's columns in front.

        Raises:
            HybridoptError: If pandas is not installed.
        """
        records = []
        labels = self.labels()
        for run in self.runs:
            front = {
                "task": run.task,
                "label": labels[run.setting],
                "optimizer": run.optimizer,
                "escape": run.escape,
                "seed": run.seed,
                "setting": run.setting,
            }
            records.extend({**front, **dict(flat(row))} for row in run.rows)
        return _pandas().DataFrame.from_records(records)

    def runs_frame(self) -> pandas.DataFrame:
        """Returns the runs as a pandas frame, one row each: see `Run.record`.

        Raises:
            HybridoptError: If pandas is not installed.
        """
        labels = self.labels()
        return _pandas().DataFrame.from_records([{"label": labels[run.setting], **run.record()} for run in self.runs])


def _options(run: Run) -> dict[str, str]:
    """All options of a run that belong to its setting, as texts."""
    kept = determining(run.config, without=("seed",))
    return {key: _text(value) for key, value in flat(kept) if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def _varying(mappings: Iterable[Mapping[str, str]]) -> list[str]:
    """Keys that do not have the same value in all mappings, in order of appearance."""
    mappings = list(mappings)
    keys = dict.fromkeys(key for one in mappings for key in one)
    return [key for key in keys if len({one.get(key) for one in mappings}) > 1]


def _short(key: str) -> str:
    return key.removeprefix("optimizer.").removesuffix(".name")


def _pandas() -> Any:
    otherwise = "use the plain records in Results.runs (Run.record(), Run.rows)"
    need("pandas", extra="frames", owner="A data frame", otherwise=otherwise)
    import pandas

    return pandas
