"""The process that does many runs as lanes, from their directories to their final statuses."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hybridopt.core import HybridoptError, StoreError
from hybridopt.core.plugins import load_plugin
from hybridopt.experiment import provenance
from hybridopt.experiment.build import build
from hybridopt.experiment.config import RunConfig, resolve
from hybridopt.experiment.interrupt import StopSignal
from hybridopt.experiment.job import tuned_as_stated
from hybridopt.experiment.jsonio import dumps, out_of_space, read_json, utc_now, write_atomic, writing
from hybridopt.experiment.lanes import Lanes, LaneTrainer, check_lanes
from hybridopt.experiment.lanes_plan import lane_rule
from hybridopt.experiment.lanes_probe import probe
from hybridopt.experiment.lanes_stack import NotShareable, Stack
from hybridopt.experiment.layout import read_config
from hybridopt.experiment.store import RunStore

_log = logging.getLogger(__name__)

DECLINED = 69
"""Exit code of a process that leaves its runs to be done one by one (EX_UNAVAILABLE of sysexits.h)."""


def run_lanes(
    directories: Sequence[Path],
    mode: str,
    *,
    verdict: Path | None = None,
    device: str | None = None,
    pinned: list[int] | None = None,
    pause_at: float | None = None,
    began: float | None = None,
) -> dict[Path, dict[str, Any]] | None:
    """Does runs as lanes, or finds that they had better be done one by one.

    Args:
        directories: Run directories with configs that `hybridopt.experiment.lanes_plan.lane_key` finds equal.
        mode: ``on``: in lanes or not at all; ``auto``: only if that is measured to be faster.
        verdict: File for what was decided and why; None: nowhere.
        device: Overrides the configs', e.g. to choose one of several GPUs.
        pinned: CPU cores that only this process may use, if any.
        pause_at: Cost in gradient-equivalents at which each run stops as interrupted, to go on later.
        began: Reading of `time.perf_counter` when the work on these runs began; None: now.

    Returns:
        The final status of each run, or None if nothing was done: see the verdict.

    Raises:
        NotShareable: If the mode is ``on`` and the runs cannot be lanes.
        HybridoptError: If a run's directory or its config cannot be used.
        Exception: What else all the lanes died of.
    """
    began = time.perf_counter() if began is None else began
    before = time.process_time()
    work = _Work(mode, verdict, device, pinned, pause_at)
    with contextlib.ExitStack() as files, StopSignal() as stop:
        for directory in directories:
            work.open(files, Path(directory))
        try:
            stack = work.build(stop)
        except Exception as error:
            reason = str(error) if isinstance(error, NotShareable) else f"building them failed: {_first_line(error)}"
            work.decide({"lanes": False, "reason": reason})
            if mode == "on":
                work.refuse(error)
                raise
            return None
        if not work.worth_it(stack, before):
            return None
        work.train(stack, began)
    return work.statuses


class _Work:
    """The runs of one process."""

    def __init__(
        self, mode: str, verdict: Path | None, device: str | None, pinned: list[int] | None, pause_at: float | None
    ) -> None:
        self.mode, self.verdict, self.device, self.pinned, self.pause_at = mode, verdict, device, pinned, pause_at
        self.stores: list[RunStore] = []
        self.configs: list[RunConfig] = []
        self.trainers: list[LaneTrainer] = []
        self.statuses: dict[Path, dict[str, Any]] = {}
        self.decision: dict[str, Any] = {}

    def open(self, files: contextlib.ExitStack, directory: Path) -> None:
        """Locks a run and reads its config."""
        values = read_config(directory)
        for plugin in values.get("plugins") or []:
            load_plugin(plugin)
        self.stores.append(files.enter_context(RunStore(directory)))
        self.configs.append(resolve(values, here=True))

    def build(self, stop: Callable[[], str | None]) -> Stack:
        """Builds the runs' parts and stacks them."""
        torch.set_num_threads(self.configs[0].threads or 1)
        data: dict[int, Any] = {}
        for config, store in zip(self.configs, self.stores, strict=True):
            parts = build(config, self.device, splits=data.get(config.seed))
            data.setdefault(config.seed, parts.splits)
            self.trainers.append(LaneTrainer(config, parts, store, stop=stop, pause_at=self.pause_at))
        stack = Stack([trainer.parts for trainer in self.trainers], lane_rule(self.configs[0]))
        check_lanes(stack, self.trainers)
        return stack

    def worth_it(self, stack: Stack, startup: float) -> bool:
        """Measures, decides and records the decision."""
        figures = probe(stack, self.trainers, startup)
        faster = figures.ratio > 1
        comparison = (
            f"{figures.lanes} runs are estimated to take {figures.ratio:.2f} times as long one after another "
            f"({figures.step_ratio:.2f} times for the steps alone)"
        )
        self.decide({"lanes": faster or self.mode == "on", "reason": comparison, "probe": figures.as_dict()})
        return self.decision["lanes"]

    def decide(self, decision: dict[str, Any]) -> None:
        """Records what was decided, in the verdict and in each run's log."""
        self.decision = {"mode": self.mode, **decision}
        if self.verdict is not None:
            runs = [str(store.directory) for store in self.stores]
            with writing(self.verdict):
                self.verdict.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self.verdict, dumps({"decided": utc_now(), **self.decision, "runs": runs}) + "\n")
        what = f"one of {len(self.stores)} lanes" if decision["lanes"] else "not in lanes"
        for store in self.stores:
            _tell(store, f"{what}: {decision['reason']}")

    def refuse(self, error: Exception) -> None:
        """Gives every run the status of one that could not be done."""
        self._begin()
        for store in self.stores:
            self._failed(store, error, {})

    def train(self, stack: Stack, began: float) -> None:
        """Trains; every run gets its status, however that ends, and its share of the start-up."""
        self._begin()
        try:
            self._write_provenance()
            share = (time.perf_counter() - began) / len(self.trainers)
            for trainer in self.trainers:
                trainer.clock.add({"startup": share})
            Lanes(self.trainers, stack, self._ended).run()
        except BaseException as error:
            for trainer in self.trainers:
                if self.statuses[trainer.store.directory]["status"] == "running":
                    self._failed(trainer.store, error, trainer.standing())
            raise

    def _begin(self) -> None:
        for store in self.stores:
            known = store.read_status() or {}
            status = {**known, "status": "running", "reason": "", "error": None, "finished": None}
            status["started"] = known.get("started") or utc_now()
            store.write_status(status)
            self.statuses[store.directory] = status

    def _write_provenance(self) -> None:
        first = self.trainers[0].parts
        threads = torch.get_num_threads()
        facts = provenance.collect(device=str(first.device), threads=threads, timing="lanes")
        facts |= {"pinned_cores": self.pinned, "lanes": {"count": len(self.trainers), **self.decision}}
        of_task: dict[int, dict[str, Any]] = {}
        for trainer in self.trainers:
            seed = trainer.config.seed
            of_task.setdefault(seed, trainer.parts.facts())
            tuning = {"tuning": trainer.config.tuning} if tuned_as_stated(trainer.config) else {}
            trainer.store.write_provenance({**facts, "task_facts": of_task[seed], **tuning})

    def _ended(self, trainer: LaneTrainer, status: dict[str, Any] | None) -> None:
        """Writes a lane's final status."""
        if status is None:
            assert trainer.failed is not None
            self._failed(trainer.store, trainer.failed, trainer.standing())
            return
        self._finish(trainer.store, status)

    def _failed(self, store: RunStore, error: BaseException, standing: dict[str, Any]) -> None:
        problem = {"type": type(error).__name__, "message": str(error)}
        # A full disk says nothing about the run: once there is space, it goes on from its checkpoint.
        ending = "interrupted" if out_of_space(error) else "failed"
        status: dict[str, Any] = {"status": ending, "reason": _first_line(error), "error": problem}
        if isinstance(error, KeyboardInterrupt):
            status = {"status": "interrupted", "reason": "interrupted in the middle of a step", "error": None}
        _tell(store, "".join(traceback.format_exception(error)))
        with contextlib.suppress(StoreError):
            self._finish(store, {**standing, **status})

    def _finish(self, store: RunStore, status: dict[str, Any]) -> None:
        known = self.statuses[store.directory]
        known |= {**status, "finished": utc_now()}
        store.write_status(known)
        _tell(store, f"The run ended: {known['status']} ({known['reason']}).")
        store.close()  # sets its lock and its files free while other lanes go on


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _tell(store: RunStore, text: str) -> None:
    """Adds a line to a run's log, in the form that `hybridopt.experiment.job` writes."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError), open(store.log_path, "a", encoding="utf-8") as log:
        log.write(f"{stamp},000 INFO {__name__}: {text}\n")


def read_verdict(path: Path) -> str:
    """Returns the reason in a verdict for people.

    Args:
        path: The file.
    """
    try:
        known = read_json(path) or {}
    except HybridoptError:
        known = {}
    return str(known.get("reason", "no reason was left"))
