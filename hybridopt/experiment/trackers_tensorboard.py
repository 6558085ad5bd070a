"""TensorBoard: every number of a run against steps, cost and training seconds."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hybridopt.core import ConfigError, need, option
from hybridopt.experiment import jsonio
from hybridopt.experiment.layout import PROVENANCE
from hybridopt.experiment.trackers import AXES, Tracker, flatten

FOLDER = "tensorboard"
SECTIONS = {"step": ("step", 1), "gradient_equivalents": ("milli_gradient_equivalents", 1000), "seconds": ("ms", 1000)}
"""Axes of the rows, each with the section of its charts and the factor that makes it a whole number.

TensorBoard draws against whole numbers only, so cost is in thousandths of a gradient-equivalent, time in milliseconds.
"""


class TensorBoardTracker(Tracker):
    """Writes a run's numbers as TensorBoard events into ``tensorboard/`` of its directory.

    Every number stands in three sections of charts, one an axis: ``step/train_loss``,
    ``milli_gradient_equivalents/train_loss`` and ``ms/train_loss``. The time of an event is the start of the run plus
    its seconds of training. The events of a resumed run are written anew from its first row on, so none is there twice.
    TensorBoard keeps numbers in single precision.

    Args:
        config: An instance of `Config`.
    """

    @dataclasses.dataclass
    class Config:
        """Options of `TensorBoardTracker`.

        Attributes:
            flush_every: Seconds between two writes to the disk.

        Raises:
            ConfigError: If tensorboard is not installed.
        """

        flush_every: float = option(30.0, gt=0, help="seconds between two writes to the disk")

        def __post_init__(self) -> None:
            otherwise = "leave tracker=none; history.jsonl has every row in any case"
            need("tensorboard", extra="tensorboard", owner="this tracker", otherwise=otherwise, error=ConfigError)

    summary = "TensorBoard event files in the run directory"

    def start(self, directory: Path, config: Mapping[str, Any], run_id: str) -> None:
        """Opens a new event file, removes older ones, and writes the config as a text."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        from torch.utils.tensorboard.summary import text

        folder = directory / FOLDER
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        started = (jsonio.read_json(directory / PROVENANCE) or {}).get("started") or jsonio.utc_now()
        self._started = datetime.datetime.fromisoformat(started).timestamp()
        self._writer = EventFileWriter(str(folder), flush_secs=self.config.flush_every)
        # Four spaces make Markdown leave it as it is.
        lines = yaml.safe_dump(jsonio.to_plain(config), sort_keys=False).splitlines()
        self._add(text("config", "\n".join(f"    {line}" for line in lines)), 0, 0.0)

    def log(self, row: Mapping[str, Any]) -> None:
        """Adds the numbers of a row under their flat names, once an axis."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = {name: value for name, value in flatten(row).items() if isinstance(value, int | float)}
        for axis, (section, factor) in SECTIONS.items():
            values = [
                Summary.Value(tag=f"{section}/{name}", simple_value=value)
                for name, value in numbers.items()
                if name not in AXES or (axis == "step" and name != "step")
            ]
            self._add(Summary(value=values), round(factor * row[axis]), row["seconds"])

    def finish(self, status: Mapping[str, Any]) -> None:
        """Writes what is left and closes the file."""
        self._writer.close()

    def abandon(self) -> None:
        """Closes the file as it is."""
        self._writer.close()

    def _add(self, summary: Any, step: int, seconds: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=self._started + seconds, step=step, summary=summary))
