"""What a sweep shows while it runs; the command line draws it, this room only says what there is to see."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from hybridopt.experiment.layout import HISTORY

_TAIL = 16_384  # bytes; more than a few rows


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run of a sweep stands.

    Attributes:
        directory: Its run directory.
        name: ``task/optimizer/s0``, for people.
        status: ``done``, ``failed``, ``diverged``, ``interrupted`` or ``running``.
        reason: Why, in a few words.
        fresh: Whether this sweep ran it, rather than finding it there.
    """

    directory: Path
    name: str
    status: str
    reason: str
    fresh: bool = True


class Monitor:
    """Shows nothing; base class of what the command line draws. All methods are called from one thread."""

    def begin(self, total: int, kept: list[Outcome], slots: int) -> None:
        """Called once, before the first job.

        Args:
            total: Jobs to run.
            kept: Runs that stand already and are left as they are.
            slots: Jobs at the same time.
        """

    def started(self, name: str, directory: Path) -> None:
        """Called when a job has started.

        Args:
            name: The run, for people.
            directory: Its run directory.
        """

    def note(self, text: str) -> None:
        """Called to say something about the sweep as a whole.

        Args:
            text: One line, for people.
        """

    def tick(self) -> None:
        """Called several times a second."""

    def ended(self, outcome: Outcome) -> None:
        """Called when a job has ended.

        Args:
            outcome: How.
        """

    def close(self) -> None:
        """Called once, at the end, whatever happened."""


def latest_rows(directory: Path) -> dict[str, dict[str, Any]]:
    """Returns the newest step row and the newest evaluation row of a run that may be writing just now.

    Args:
        directory: The run directory.

    Returns:
        Rows by type; types without a recent row are missing.
    """
    try:
        with open(directory / HISTORY, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            data = file.read()
    except OSError:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for line in reversed(data[: data.rfind(b"\n") + 1].splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("type") not in found:
            found[str(row.get("type"))] = row
        if {"step", "evaluation"} <= found.keys():
            break
    return found
