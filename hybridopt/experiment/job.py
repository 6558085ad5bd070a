"""One run, from its directory to its final status."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from hybridopt.core import StoreError
from hybridopt.core.plugins import load_plugin
from hybridopt.experiment import provenance
from hybridopt.experiment.build import Experiment, build
from hybridopt.experiment.config import RunConfig, resolve, to_plain
from hybridopt.experiment.export import export_at_end
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.interrupt import StopSignal
from hybridopt.experiment.jsonio import out_of_space, utc_now
from hybridopt.experiment.layout import read_config
from hybridopt.experiment.loop import Trainer
from hybridopt.experiment.parts import EXTERNAL
from hybridopt.experiment.store import RunStore
from hybridopt.experiment.trackers import Mirror, make_tracker

_log = logging.getLogger("hybridopt.run")


def run_directory(config: RunConfig) -> Path:
    """Returns where a run belongs: ``<out>/<task>/<optimizer>[+escape]/s<seed>-<first half of its id>``.

    Args:
        config: A checked config.
    """
    out = Path(config.out or f"outputs/{config.experiment or 'runs'}")
    optimizer = config.optimizer["name"]
    if optimizer == EXTERNAL:
        optimizer = str(config.optimizer["cls"]).replace(":", ".")
    if config.escape["name"] != "none":
        optimizer += f"+{config.escape['name']}"
    return out / config.task["name"] / optimizer / f"s{config.seed}-{run_id(to_plain(config))[:8]}"


def run_job(
    directory: str | os.PathLike[str],
    config: RunConfig | None = None,
    *,
    device: str | None = None,
    timing: str = "exclusive",
    pinned: list[int] | None = None,
    built: Experiment | None = None,
    observer: Callable[[dict[str, Any]], None] = lambda row: None,
    pause_at: float | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Does a run, or goes on with one, and returns its final status.

    Whatever happens, it is told in ``run.log`` (with the whole trace of an error) and in ``status.json``.

    Args:
        directory: The run directory.
        config: The run's checked config; None reads the one in the directory.
        device: Overrides the config's, e.g. to choose one of several GPUs.
        timing: ``exclusive``, or ``shared`` when other jobs run on the machine at the same time.
        pinned: CPU cores that only this job may use, if any.
        built: The run's parts if they are built already; then nothing is written before they could be.
        observer: Called with every row once it is recorded.
        pause_at: Cost in gradient-equivalents at which to stop as interrupted, to go on later.
        began: Reading of `time.perf_counter` when the work on this run began; None: now.

    Raises:
        KeyboardInterrupt: On a second SIGINT, in the middle of a step.
        HybridoptError: If the run cannot be done as it is configured, or its directory cannot be used.
        Exception: What else the run died of.
    """
    began = time.perf_counter() if began is None else began
    if config is None:
        values = read_config(directory)
        for plugin in values.get("plugins") or []:
            load_plugin(plugin)
        config = resolve(values, here=True)
    with RunStore(directory, to_plain(config)) as store, _logging_to(store.log_path), StopSignal() as stop:
        before = store.read_status() or {}
        status = {**before, "status": "running", "reason": "", "error": None, "finished": None}
        status["started"] = before.get("started") or utc_now()
        store.write_status(status)
        try:
            torch.set_num_threads(config.threads or 1)
            parts = built or build(config, device)
            circumstances = {"timing": timing, "pinned_cores": pinned}
            _train(config, parts, store, status, circumstances, stop, observer, pause_at, began)
        except KeyboardInterrupt:
            status |= {"status": "interrupted", "reason": "interrupted in the middle of a step"}
            _end(store, status)
            raise
        except BaseException as error:
            _log.exception("The run failed.")
            problem = {"type": type(error).__name__, "message": str(error)}
            # A full disk says nothing about the run: once there is space, it goes on from its checkpoint.
            ending = "interrupted" if out_of_space(error) else "failed"
            status |= {"status": ending, "reason": _first_line(error), "error": problem}
            with contextlib.suppress(StoreError):  # a full disk: the error itself is worth more
                _end(store, status)
            raise
        return _end(store, status)


def tuned_as_stated(config: RunConfig) -> bool:
    """Tells whether a run still has the tuned values that its config speaks of: the user may have changed them since.

    Args:
        config: A checked config.
    """
    plain = to_plain(config)
    for name, value in ((config.tuning or {}).get("values") or {}).items():
        found: Any = plain
        for key in str(name).split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if found != value:
            return False
    return bool(config.tuning)


def _train(
    config: RunConfig,
    parts: Experiment,
    store: RunStore,
    status: dict[str, Any],
    circumstances: dict[str, Any],
    stop: StopSignal,
    observer: Callable[[dict[str, Any]], None],
    pause_at: float | None,
    began: float,
) -> None:
    """Trains; keeps `status` up to date however it ends."""
    threads = torch.get_num_threads()
    facts = provenance.collect(device=str(parts.device), threads=threads, timing=circumstances["timing"])
    facts = {**facts, **circumstances, "task_facts": parts.facts()}
    if tuned_as_stated(config):
        facts["tuning"] = config.tuning
    store.write_provenance(facts)
    mirror = Mirror(make_tracker(config.tracker))
    mirror.start(store.directory.resolve(), to_plain(config), store.run_id)

    mirrored = False

    def see(row: dict[str, Any]) -> None:
        nonlocal mirrored
        # A resumed run is a new one for an offline tracker, which therefore gets the rows before as well.
        for known in [row] if mirrored else store.read_rows():
            mirror.log(known)
        mirrored = True
        observer(row)

    trainer = Trainer(config, parts, store, stop=stop, observer=see, pause_at=pause_at)
    trainer.clock.add({"startup": time.perf_counter() - began})
    try:
        status |= trainer.run()
        if status["status"] == "done":
            with trainer.clock.phase("checkpoints"):
                status |= export_at_end(config, trainer)
    except BaseException:
        status |= {**trainer.standing(), "status": "failed"}
        raise
    finally:
        with trainer.clock.phase("recording"):
            for known in [] if mirrored else store.read_rows():  # it went on at its very end: there was nothing to do
                mirror.log(known)
            mirror.finish(status)
        status["phases"] = trainer.clock.phases


def _end(store: RunStore, status: dict[str, Any]) -> dict[str, Any]:
    status["finished"] = utc_now()
    store.write_status(status)
    _log.info("The run ended: %s (%s).", status["status"], status["reason"])
    return status


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Sends the library's log and Python's warnings to a run's log file."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger("hybridopt"), logging.getLogger("py.warnings")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        handler.close()
