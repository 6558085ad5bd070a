"""Weights & Biases: a run mirrored while it goes on, or rebuilt from its directory afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridopt.core import option
from hybridopt.experiment import jsonio
from hybridopt.experiment.layout import PROVENANCE, task_label
from hybridopt.experiment.trackers import AXES, Tracker, flatten
from hybridopt.experiment.wandb_file import wait_until_whole

PATIENCE = 5.0
"""Seconds that wandb's service has to end."""

WRITING = 15.0
"""Seconds that it has to write an offline run to its end; less than `Mirror` waits for the end of a tracker."""


class WandbTracker(Tracker):
    """Mirrors a run to Weights & Biases, offline unless told otherwise (``wandb sync`` uploads it later).

    Args:
        config: An instance of `Config`.
    """

    @dataclasses.dataclass
    class Config:
        """Options of `WandbTracker`.

        Attributes:
            project: Project name.
            entity: Team or user; None: the default of the login.
            mode: ``offline`` or ``online``.
            tags: Beside task, optimizer, family and escape.
        """

        project: str = option("hybridopt", help="project name")
        entity: str | None = option(None, help="team or user")
        mode: str = option("offline", choices=["offline", "online"])
        tags: list[str] = option([], help="more tags")

    summary = "Weights & Biases, offline by default"

    def start(self, directory: Path, config: Mapping[str, Any], run_id: str) -> None:
        """Opens a wandb run in the run directory, with the run's id, and declares the axes."""
        self.open(directory, directory, config, run_id)

    def open(self, where: Path, directory: Path, config: Mapping[str, Any], run_id: str) -> Path | None:
        """Opens a wandb run anywhere.

        Args:
            where: Below which wandb makes its directory ``wandb``.
            directory: The run directory, whose ``provenance.json`` knows the optimizer's family.
            config: The run's config.
            run_id: Identity of the run, which becomes its id there.

        Returns:
            The directory of the offline run; None online.
        """
        import wandb

        names = [task_label(config["task"]), *(config[kind]["name"] for kind in ("optimizer", "escape"))]
        escape = [] if names[2] == "none" else [names[2]]
        family = ((jsonio.read_json(directory / PROVENANCE) or {}).get("task_facts") or {}).get("family")
        tags = [*names[:2], *([str(family)] if family else []), *escape, *self.config.tags]
        self._run = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            dir=str(where),
            id=run_id,
            name=f"{names[0]}/{'+'.join([names[1], *escape])}/s{config.get('seed')}",
            group=config.get("experiment") or "runs",
            tags=list(dict.fromkeys(tag[:64] for tag in tags)),  # wandb refuses longer ones
            config=dict(config),
            mode=self.config.mode,
            resume="allow" if self.config.mode == "online" else None,
            # Without it a second run in one process would silently go on writing the first.
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_disable_stats=True,
                disable_git=True,
                disable_code=True,
                init_timeout=30,
            ),
        )
        # A resumed run is mirrored from its first row on; the rows that the server has already are not sent again.
        self._known = int(self._run.step or 0) if self.config.mode == "online" else 0
        for axis in AXES:
            self._run.define_metric(axis)
        self._run.define_metric("*", step_metric="gradient_equivalents")
        for name in ("train_loss", "validation_loss"):
            self._run.define_metric(name, step_metric="gradient_equivalents", summary="min")
        return Path(self._run.dir).parent if self.config.mode == "offline" else None

    def log(self, row: Mapping[str, Any]) -> None:
        """Logs the numbers of a row under flat names; events as ``event/<name>``."""
        if self._known:
            self._known -= 1
            return
        self._run.log(flatten(row))

    def finish(self, status: Mapping[str, Any]) -> None:
        """Writes the summary and closes the run; an offline one is whole on the disk then.

        Raises:
            StoreError: If wandb's service has not written an offline run to its end within `WRITING` seconds.
        """
        self._run.summary.update(
            {"status": status["status"], "reason": status.get("reason"), **(status.get("summary") or {})}
        )
        file = Path(self._run.settings.sync_file) if self.config.mode == "offline" else None
        self._run.finish(exit_code=0 if status["status"] == "done" else 1)
        if file is not None:
            wait_until_whole(file, WRITING)

    def abandon(self) -> None:
        """Lets go of wandb's service; otherwise wandb would wait for it, or complain, when the process ends.

        A service that does not end within `PATIENCE` seconds, because it hangs or was stopped, is killed: wandb would
        wait for it for ever.
        """
        from wandb.sdk import wandb_setup

        service = None
        with contextlib.suppress(AttributeError):  # wandb has no public name for it; one that is shared is not ours
            service = wandb_setup._singleton._connection._proc._process  # type: ignore[union-attr]
        teardown = threading.Thread(target=_teardown, daemon=True)
        teardown.start()
        teardown.join(PATIENCE)
        if teardown.is_alive() and service is not None:
            service.kill()
            teardown.join(PATIENCE)


def _teardown() -> None:
    import wandb

    with contextlib.suppress(BaseException):  # a service that is dead says so
        wandb.teardown(exit_code=1)
