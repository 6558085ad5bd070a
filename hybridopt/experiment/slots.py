"""What waits in a queue, and where it runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place where one process at a time runs.

    Attributes:
        device: ``cpu`` or ``cuda:N``.
        threads: Threads of torch.
        cores: CPU cores that its jobs are pinned to; empty: not pinned.
    """

    device: str
    threads: int
    cores: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to be done.

    Attributes:
        directory: Its run directory, with ``config.yaml`` in it.
        name: For people.
        pause_at: Cost in gradient-equivalents at which it stops, to go on another time; None: it does not.
    """

    directory: Path
    name: str
    pause_at: float | None = None

    def options(self, slot: Slot) -> list[str]:
        """Returns the options of ``hybridopt job`` that follow from the job and from where it runs.

        Args:
            slot: Where.
        """
        options = ["--device", slot.device]
        if self.pause_at is not None:
            options += ["--pause-at", repr(self.pause_at)]
        if slot.cores:
            options += ["--cores", ",".join(map(str, slot.cores))]
        return options
