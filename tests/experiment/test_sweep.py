"""A sweep does what is missing, leaves what stands, and refuses what cannot work before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hybridopt.core import ConfigError, DeviceError, StoreError
from hybridopt.experiment import sweep
from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.job import run_directory, run_job
from hybridopt.experiment.jsonio import read_json
from hybridopt.experiment.layout import read_config
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.slots import Job, Slot
from hybridopt.experiment.store import RunStore
from tests.experiment import tiny  # noqa: F401 (registers the task)


def config(tmp_path: Path, **values: Any):
    base = {
        "task": "tiny",
        "optimizer": "adam",
        "device": "cpu",
        "budget": {"steps": 2},
        "out": str(tmp_path),
    }
    return resolve({**base, **values})


class InProcess:
    """Stands in for the pool: does the jobs here."""

    started: list[str]

    def __init__(self, slots: Sequence[Slot], time_limit: float | None, monitor: Monitor) -> None:
        self.slots = slots

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        outcomes = []
        for job in jobs:
            InProcess.started.append(job.name)
            try:
                status = run_job(job.directory)
            except RuntimeError as error:
                status = {"status": "failed", "reason": str(error)}
            outcomes.append(Outcome(job.directory, job.name, status["status"], status["reason"]))
        return outcomes


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sweep, "Pool", InProcess)
    InProcess.started = []
    return InProcess.started


def test_a_second_start_does_only_what_is_new(tmp_path: Path, started: list[str]) -> None:
    first = [config(tmp_path, optimizer=name) for name in ("adam", "lbfgs")]
    outcomes = sweep.run_sweep(first, Monitor())
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    assert started == ["tiny/adam/s0", "tiny/lbfgs/s0"]
    more = [config(tmp_path, optimizer=name, seed=seed) for name in ("adam", "lbfgs") for seed in (0, 1)]
    started.clear()
    outcomes = sweep.run_sweep(more, Monitor())
    assert started == ["tiny/adam/s1", "tiny/lbfgs/s1"]
    assert [outcome.fresh for outcome in outcomes] == [False, True, False, True]
    manifest = read_json(tmp_path / "sweep.json")
    assert len(manifest["runs"]) == 4
    assert all((tmp_path / path / "status.json").is_file() for path in manifest["runs"].values())


def test_failed_runs_wait_for_retry_and_diverged_ones_for_ever(tmp_path: Path, started: list[str]) -> None:
    antidote = tmp_path / "antidote"
    poisoned = [
        {"name": "tiny", "poison": poison, "after": 1, "antidote": str(antidote)} for poison in ("error", "nan")
    ]
    values = [{"task": task, "optimizer": "lbfgs"} for task in poisoned]
    outcomes = sweep.run_sweep([config(tmp_path, **one) for one in values], Monitor())
    assert [outcome.status for outcome in outcomes] == ["failed", "diverged"]
    antidote.touch()
    started.clear()
    outcomes = sweep.run_sweep([config(tmp_path, **one) for one in values], Monitor())
    assert (started, [outcome.status for outcome in outcomes]) == ([], ["failed", "diverged"])
    outcomes = sweep.run_sweep([config(tmp_path, **one, retry="failed") for one in values], Monitor())
    assert started == ["tiny/lbfgs/s0"]
    assert [outcome.status for outcome in outcomes] == ["done", "diverged"]


def test_equal_configs_are_one_run(tmp_path: Path, started: list[str]) -> None:
    sweep.run_sweep([config(tmp_path, checkpoint_every=seconds) for seconds in (5, 6)], Monitor())
    assert len(started) == 1


def test_names_of_run_directories(tmp_path: Path) -> None:
    plain = run_directory(config(tmp_path, seed=3))
    assert plain.relative_to(tmp_path).parts[:2] == ("tiny", "adam")
    assert plain.name.startswith("s3-")
    escaping = run_directory(config(tmp_path, escape="perturbation"))
    assert escaping.parent.name == "adam+perturbation"
    external = run_directory(config(tmp_path, optimizer={"name": "external", "cls": "torch:SGD"}))
    assert external.parent.name == "torch.SGD"
    assert run_directory(config(tmp_path)) != run_directory(config(tmp_path, budget={"steps": 3}))
    elsewhere = resolve({**to_plain(config(tmp_path)), "out": None, "experiment": "mine"})
    assert run_directory(elsewhere).parts[:2] == ("outputs", "mine")


@pytest.mark.parametrize(
    "values",
    [
        {"task": {"name": "tiny", "batch_size": 100}},
        {"schedule": "cosine", "budget": {"seconds": 1}},
        {"optimizer": {"name": "external", "cls": "torch:SGD", "options": {"lrr": 1}}},
    ],
)
def test_nothing_starts_when_one_run_cannot(tmp_path: Path, started: list[str], values: dict) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError):
        sweep.run_sweep([config(out), config(out, **values)], Monitor())
    assert started == []
    assert not out.exists()


def test_a_run_of_another_process_is_refused(tmp_path: Path, started: list[str]) -> None:
    run = config(tmp_path)
    with (
        RunStore(run_directory(run), to_plain(run)),
        pytest.raises(StoreError, match="is being done by process"),
    ):
        sweep.run_sweep([run], Monitor())
    assert started == []


def test_a_directory_of_another_format_is_refused(tmp_path: Path, started: list[str]) -> None:
    run = config(tmp_path)
    run_directory(run).mkdir(parents=True)
    (run_directory(run) / "status.json").write_text('{"format": 99, "status": "done"}')
    with pytest.raises(StoreError, match="format 99"):
        sweep.run_sweep([run], Monitor())


def test_an_unwritable_directory_is_named(tmp_path: Path, started: list[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="out=DIR"):
        sweep.run_sweep([config(tmp_path / "file" / "below")], Monitor())
    assert started == []


def test_config_in_the_run_directory_is_complete(tmp_path: Path, started: list[str]) -> None:
    run = config(tmp_path)
    sweep.run_sweep([run], Monitor())
    assert read_config(run_directory(run)) == to_plain(run)


def test_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridopt.experiment import config as configs

    monkeypatch.setattr(configs, "cores", lambda: 4)
    monkeypatch.setattr(sweep.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(sweep.os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    slots = sweep.make_slots([config(tmp_path)])
    assert [slot.cores for slot in slots] == [(0,), (1,), (2,), (3,)]
    slots = sweep.make_slots([config(tmp_path, launcher={"slots": 2})])
    assert [(slot.threads, slot.cores) for slot in slots] == [(2, (0, 1)), (2, (2, 3))]
    assert [slot.cores for slot in sweep.make_slots([config(tmp_path, launcher={"slots": 1})])] == [()]
    oversubscribed = sweep.make_slots([config(tmp_path, launcher={"slots": 8})])
    assert {slot.cores for slot in oversubscribed} == {()}
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus = sweep.make_slots([config(tmp_path, device="cuda", launcher={"jobs_per_gpu": 2})])
    assert [slot.device for slot in gpus] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert [slot.device for slot in sweep.make_slots([config(tmp_path, device="cuda:1")])] == ["cuda:1"]
    with pytest.raises(DeviceError, match="two sweeps"):
        sweep.make_slots([config(tmp_path), config(tmp_path, device="cuda")])
