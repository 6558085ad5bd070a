"""What the replay of a run tells: whether it gave the same numbers, and its seconds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridopt.experiment import jsonio
from hybridopt.experiment.layout import HISTORY, PROVENANCE, STATUS, TIMING

TIMES = ("seconds", "phases", "started", "finished")
"""Keys of rows and of status.json in which a replay may differ."""

PLACE = ("type", "step", "epoch", "gradient_equivalents", "cost")
"""Keys of rows that say what had been done by then."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """A run that was done again for its seconds.

    Attributes:
        directory: Its directory.
        provenance: Content of its provenance.json.
        status: Content of its status.json.
        rows: Its rows.
        difference: Where it first differs from the run in anything but time, for people; None if it does not, and its
            seconds are the run's.
        rounding: Largest relative difference of losses where no equal bits are promised (lanes, GPUs), 0 elsewhere.
    """

    directory: Path
    provenance: dict[str, Any]
    status: dict[str, Any]
    rows: list[dict[str, Any]]
    difference: str | None
    rounding: float

    @property
    def others(self) -> float:
        """How many processes were waiting when the replay began, beside one that came just before it; 0 if unknown."""
        return max(0.0, float(self.provenance.get("load") or 0.0) - float(self.provenance.get("threads") or 1))

    def timed_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns the rows of the run with the replay's seconds.

        Args:
            rows: Those of the run.
        """
        # Between two recorded steps nothing but an event is known; elsewhere the other rows win.
        events_first = sorted(self.rows, key=lambda row: row.get("type") != "event")
        seconds = {row.get("step"): row["seconds"] for row in events_first}
        return [{**row, "seconds": seconds.get(row.get("step"), math.nan)} for row in rows]

    def timed_status(self, status: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the status of the run with the replay's seconds.

        Args:
            status: That of the run.
            rows: What `timed_rows` returned.
        """
        at = {row.get("step"): row["seconds"] for row in rows if row.get("type") == "evaluation"}
        targets = [{**entry, "seconds": at.get(entry.get("step"))} for entry in status.get("targets") or []]
        return {**status, "targets": targets, **{key: self.status.get(key) for key in ("seconds", "phases")}}


def replay_of(
    directory: Path, rows: Sequence[Mapping[str, Any]], status: Mapping[str, Any], *, equal_bits: bool
) -> Replay | None:
    """Returns the replay of a run, None if there is none that has ended.

    Args:
        directory: The run directory.
        rows: The run's rows.
        status: Content of its status.json.
        equal_bits: Whether the same run gives the same bits; otherwise (lanes, GPUs) the replay has to do the same
            steps and evaluations at the same cost, and its losses may differ.
    """
    place = directory / TIMING
    ending = jsonio.read_json(place / STATUS) or {}
    if ending.get("status") not in ("done", "diverged"):
        return None
    other = jsonio.read_rows(place / HISTORY)
    rounding = 0.0
    difference = _difference(_known(rows, status), _known(other, ending))
    if difference is not None and not equal_bits:
        rounding = _rounding(rows, other)
        difference = _difference({"rows": _places(rows)}, {"rows": _places(other)})
    return Replay(place, jsonio.read_json(place / PROVENANCE) or {}, ending, other, difference, rounding)


def timing_of_facts(provenance: Mapping[str, Any]) -> str | None:
    """Returns what the seconds of a run are worth, also of one that went on under other circumstances.

    Args:
        provenance: Content of its provenance.json.
    """
    kinds = [provenance.get("timing"), *(entry.get("timing") for entry in provenance.get("resumed") or [])]
    return next((kind for kind in ("lanes", "shared") if kind in kinds), kinds[0])


def _known(rows: Sequence[Mapping[str, Any]], status: Mapping[str, Any]) -> dict[str, Any]:
    """All of a run but its times."""
    kept = {key: status.get(key) for key in ("status", "steps", "summary")}
    return {"rows": [{key: item for key, item in row.items() if key not in TIMES} for row in rows], **kept}


def _places(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row.get(key) for key in PLACE} for row in rows if row.get("type") != "event"]


def _difference(one: Any, other: Any, path: str = "") -> str | None:
    """Returns where two values first differ, for people; NaN is equal to NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key not in one or key not in other:
                return f"{_joined(path, key)} is {'missing' if key in one else 'new'}"
            found = _difference(one[key], other[key], _joined(path, key))
            if found is not None:
                return found
        return None
    if isinstance(one, list) and isinstance(other, list):
        for number, pair in enumerate(zip(one, other, strict=False)):
            found = _difference(*pair, _place(path, number, one))
            if found is not None:
                return found
        return None if len(one) == len(other) else f"{len(other)} {path or 'entries'} instead of {len(one)}"
    same = one == other or (one != one and other != other)
    return None if same else f"{path} is {other!r} instead of {one!r}"


def _joined(path: str, key: str) -> str:
    return f"{path}{'' if path.endswith(': ') else '.'}{key}" if path else str(key)


def _place(path: str, number: int, values: list[Any]) -> str:
    if path == "rows":
        return f"row {number + 1} ({values[number].get('type')} at step {values[number].get('step')}): "
    return f"{path}[{number}]"


def _rounding(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> float:
    """Returns the largest relative difference between the losses of two runs."""
    kept = [[row for row in own if row.get("type") != "event"] for own in (rows, others)]
    largest = 0.0
    for one, other in zip(*kept, strict=False):
        for key in ("loss", "train_loss", "validation_loss"):
            values = one.get(key), other.get(key)
            if all(isinstance(value, float) and math.isfinite(value) for value in values) and any(values):
                largest = max(largest, abs(values[0] - values[1]) / max(map(abs, values)))
    return largest
