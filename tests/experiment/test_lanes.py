"""Runs done in lanes are the runs that they would have been alone, each with numbers and an end of its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridopt import results
from hybridopt.core import CombinationError
from hybridopt.experiment import lanes_job, lanes_probe
from hybridopt.experiment.config import RunConfig, resolve, to_plain
from hybridopt.experiment.interrupt import StopSignal
from hybridopt.experiment.job import run_directory, run_job
from hybridopt.experiment.jsonio import read_json, read_rows
from hybridopt.experiment.lanes import Lanes
from hybridopt.experiment.lanes_job import run_lanes
from hybridopt.experiment.lanes_stack import NotShareable
from hybridopt.experiment.layout import write_config
from tests.experiment import smooth, tiny  # noqa: F401 (registers the tasks)

STEPS = 20


@pytest.fixture(autouse=True)
def short_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_probe, "SECONDS", 0.0)


def configs(out: Path, optimizers: list[dict[str, Any]], seeds: tuple[int, ...] = (0, 1), **values: Any):
    task = {"name": "smooth", **values.pop("task", {})}
    base = {"device": "cpu", "threads": 1, "log_every": 1, "budget": {"steps": STEPS}, "dtype": "float64", **values}
    return [
        resolve({**base, "task": task, "optimizer": optimizer, "seed": seed, "out": str(out)})
        for optimizer in optimizers
        for seed in seeds
    ]


def prepare(runs: list[RunConfig]) -> list[Path]:
    directories = [run_directory(run) for run in runs]
    for directory, run in zip(directories, runs, strict=True):
        write_config(directory, to_plain(run))
    return directories


def both(tmp_path: Path, optimizers: list[dict[str, Any]], **values: Any) -> list[tuple[Path, Path]]:
    """Does runs alone and in lanes; returns pairs of their directories."""
    alone, together = (
        configs(tmp_path / "alone", optimizers, **values),
        configs(tmp_path / "lanes", optimizers, **values),
    )
    for run in alone:
        run_job(run_directory(run), run)
    directories = prepare(together)
    assert run_lanes(directories, "on") is not None
    return list(zip([run_directory(run) for run in alone], directories, strict=True))


def compare(one: Any, other: Any, tolerance: float, path: str = "") -> None:
    """Compares what two runs left: the same structure, the same text and integers, numbers to a tolerance."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            if key not in ("seconds", "phases", "started", "finished"):
                compare(one[key], other[key], tolerance, f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            compare(*pair, tolerance, f"{path}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert (one.shape, one.dtype) == (other.shape, other.dtype), path
        assert other.untyped_storage().nbytes() == one.untyped_storage().nbytes(), f"{path}: saved with other lanes"
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda m: path + m)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=tolerance, abs=tolerance, nan_ok=True), path
    else:
        assert one == other, path


def compare_runs(alone: Path, lane: Path, tolerance: float) -> None:
    rows = [read_rows(directory / "history.jsonl") for directory in (alone, lane)]
    compare(*rows, tolerance)
    assert [list(row) for row in rows[0]] == [list(row) for row in rows[1]], "columns in another order"
    compare(read_json(alone / "status.json"), read_json(lane / "status.json"), tolerance)
    saved = [directory / "checkpoint.pt" for directory in (alone, lane)]
    assert saved[0].exists() == saved[1].exists()
    if saved[0].exists():
        one, other = (torch.load(path, weights_only=True)["state"] for path in saved)
        compare(one, other, tolerance)


METHODS: dict[str, list[dict[str, Any]]] = {
    "sgd": [{"name": "sgd", "lr": 0.1, "clip_norm": 0.3}, {"name": "sgd", "lr": 0.02, "clip_value": 0.05}],
    "nesterov": [{"name": "nesterov", "momentum": 0.5}, {"name": "nesterov", "weight_decay": 0.1}],
    "adam": [
        {"name": "adam", "lr": 0.01},
        {"name": "adam", "lr": 0.1, "betas": [0.5, 0.9], "weight_decay": 0.1, "eps": 1e-4},
    ],
    "nadam": [{"name": "nadam", "lr": 0.01}, {"name": "nadam", "lr": 0.1, "weight_decay": 0.1}],
}


@pytest.mark.filterwarnings("error:Detected call of .lr_scheduler:UserWarning")
@pytest.mark.parametrize("method", METHODS)
def test_lanes_equal_separate_runs(tmp_path: Path, method: str) -> None:
    for pair in both(tmp_path, METHODS[method], schedule={"name": "cosine"}):
        compare_runs(*pair, 1e-10)


def test_lanes_equal_separate_runs_in_single_precision(tmp_path: Path) -> None:
    for pair in both(tmp_path, METHODS["adam"], dtype="float32"):
        compare_runs(*pair, 1e-5)


@pytest.mark.parametrize("batch", ["full", 7])
def test_any_batch(tmp_path: Path, batch: Any) -> None:
    for pair in both(tmp_path, METHODS["adam"], task={"batch_size": batch}):
        compare_runs(*pair, 1e-10)


def test_work_that_a_task_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smooth.Smooth, "work", lambda task, inputs, targets: int((inputs[:, 0] > 0).sum()))
    for alone, lane in both(tmp_path, [{"name": "adam"}]):
        compare_runs(alone, lane, 1e-9)


def test_frozen_parameters_that_agree_are_left(tmp_path: Path) -> None:
    for pair in both(tmp_path, METHODS["adam"], seeds=(0,), task={"kind": "frozen"}):
        compare_runs(*pair, 1e-10)


def test_a_lane_that_diverges_ends_alone(tmp_path: Path) -> None:
    optimizers = [{"name": "momentum", "lr": rate} for rate in (0.05, 1e150, 0.01)]
    pairs = both(tmp_path, optimizers)
    statuses = [read_json(lane / "status.json") for _, lane in pairs]
    assert [status["status"] for status in statuses] == ["done", "done", "diverged", "diverged", "done", "done"]
    assert statuses[2]["steps"] < STEPS
    for pair in pairs:
        compare_runs(*pair, 1e-10)


def test_lanes_end_when_their_own_budget_does(tmp_path: Path) -> None:
    """Targets, patience and steps are each lane's own; the others go on."""
    optimizers = [{"name": "adam", "lr": rate} for rate in (0.1, 0.03, 1e-12)]
    budget = {"epochs": 30, "stop_at_targets": False, "patience": 4}
    pairs = both(tmp_path, optimizers, budget=budget)
    steps = {read_json(lane / "status.json")["steps"] for _, lane in pairs}
    assert len(steps) > 2, "the lanes should differ in length for this test to mean anything"
    for pair in pairs:
        compare_runs(*pair, 1e-8)


def test_an_error_of_one_lane_stays_there(tmp_path: Path) -> None:
    runs = configs(tmp_path, [{"name": "sgd", "lr": rate} for rate in (0.05, 1e5)], task={"intolerant": True})
    directories = prepare(runs)
    statuses = run_lanes(directories, "on")
    assert [statuses[directory]["status"] for directory in directories] == ["done", "done", "failed", "failed"]
    assert read_json(directories[2] / "status.json")["error"]["type"] == "ArithmeticError"
    assert "ArithmeticError" in (directories[2] / "run.log").read_text()
    assert "ArithmeticError" not in (directories[0] / "run.log").read_text()


def interrupt_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    asked = 0

    def answer(signal: StopSignal) -> str | None:
        nonlocal asked
        asked += 1
        return "stopped by a test" if asked > calls else None

    monkeypatch.setattr(StopSignal, "__call__", answer)


@pytest.mark.parametrize("goes_on", ["lanes", "alone"])
def test_interrupted_lanes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: str) -> None:
    """Each lane leaves an ordinary checkpoint, at a place of its own, from which both ways of going on work."""
    optimizers = METHODS["adam"]
    whole = configs(tmp_path / "whole", optimizers)
    for run in whole:
        run_job(run_directory(run), run)
    runs = configs(tmp_path / "parts", optimizers)
    directories = prepare(runs)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4 * 7 + 2)  # two lanes stop a step before the others
        statuses = run_lanes(directories, "on")
    assert {status["status"] for status in statuses.values()} == {"interrupted"}
    assert len({status["steps"] for status in statuses.values()}) == 2
    if goes_on == "lanes":
        run_lanes(directories, "on")
    else:
        for directory in directories:
            run_job(directory)
    for run, directory in zip(whole, directories, strict=True):
        compare_runs(run_directory(run), directory, 1e-10)


def test_a_kill_between_checkpoints_leaves_no_torn_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    whole = configs(tmp_path / "whole", METHODS["adam"])
    for run in whole:
        run_job(run_directory(run), run)
    directories = prepare(configs(tmp_path / "parts", METHODS["adam"], checkpoint_every=1e-9))
    step = Lanes._step
    count = 0

    def dies(self: Lanes) -> None:
        nonlocal count
        count += 1
        if count == 9:
            raise Killed
        if count == 6:
            for trainer in self.trainers:
                trainer.config.checkpoint_every = math.inf
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Lanes, "_step", dies)
        patch.setattr(lanes_job._Work, "_failed", lambda *arguments: None)  # a killed process writes no status
        with pytest.raises(Killed):
            run_lanes(directories, "on")
    assert len(read_rows(directories[0] / "history.jsonl")) > 8
    run_lanes(directories, "on")
    for run, directory in zip(whole, directories, strict=True):
        compare_runs(run_directory(run), directory, 1e-10)


def test_what_a_lane_records_about_itself(tmp_path: Path) -> None:
    directories = prepare(configs(tmp_path, METHODS["adam"]))
    verdict = tmp_path / "verdict.json"
    run_lanes(directories, "on", verdict=verdict)
    known = read_json(directories[1] / "provenance.json")
    assert known["timing"] == "lanes"
    assert known["lanes"]["count"] == 4
    assert known["lanes"]["probe"]["together"] > 0
    assert known["task_facts"]["parameters"] == 41
    assert "one of 4 lanes" in (directories[1] / "run.log").read_text()
    assert read_json(verdict)["lanes"] is True
    from hybridopt.report import ranking_table
    from hybridopt.report.comparison import timing_of

    found = results.load(tmp_path)
    assert timing_of(found.runs) == "lanes"
    assert {row.timing for row in ranking_table(found)} == {"lanes"}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("norm", "BatchNorm"),
        ("dropout", "random numbers"),
        ("noisy_loss", "random numbers"),
        ("table", "buffers"),
        ("frozen", "frozen"),
        ("unused", "does not depend"),
        ("lstm", "cannot be mapped"),
    ],
)
def test_models_that_cannot_share(tmp_path: Path, kind: str, reason: str) -> None:
    directories = prepare(configs(tmp_path, METHODS["adam"], task={"kind": kind}))
    verdict = tmp_path / "verdict.json"
    assert run_lanes(directories, "auto", verdict=verdict) is None
    assert reason in read_json(verdict)["reason"]
    assert f"not in lanes: {read_json(verdict)['reason']}" in (directories[0] / "run.log").read_text()
    assert not (directories[0] / "history.jsonl").exists()
    assert not (directories[0] / "status.json").exists()
    with pytest.raises(NotShareable, match=reason):
        run_lanes(directories, "on")
    assert read_json(directories[0] / "status.json")["status"] == "failed"


def test_a_wrong_gradient_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers by more than its parameters, as one does that its seed made different, is found out."""
    build = smooth.Smooth.build_model

    def secretly_different(self: smooth.Smooth) -> torch.nn.Module:
        model = build(self)
        factor = float(torch.rand(()))
        model.append(Scaled(factor))
        return model

    monkeypatch.setattr(smooth.Smooth, "build_model", secretly_different)
    with pytest.raises(NotShareable, match="seed 1"):
        run_lanes(prepare(configs(tmp_path, METHODS["adam"])), "on")


class Scaled(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def test_auto_leaves_the_runs_alone_where_lanes_are_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = prepare(configs(tmp_path, METHODS["adam"]))
    verdict = tmp_path / "verdict.json"
    slow = lanes_probe.Probe(lanes=4, together=5.0, alone=1.0, startup=1.0, steps=100)
    monkeypatch.setattr(lanes_job, "probe", lambda *arguments: slow)
    assert run_lanes(directories, "auto", verdict=verdict) is None
    assert read_json(verdict)["probe"]["step_ratio"] == pytest.approx(0.8)
    assert not (directories[0] / "history.jsonl").exists()
    assert run_lanes(directories, "on") is not None
    assert read_json(directories[0] / "status.json")["status"] == "done"


def test_the_probe_leaves_no_trace_and_counts_start_up() -> None:
    figures = lanes_probe.Probe(lanes=10, together=2.0, alone=0.1, startup=3.0, steps=10)
    assert figures.step_ratio == pytest.approx(0.5)
    assert figures.ratio == pytest.approx(10 * (3 + 1) / (3 + 20))
    endless = lanes_probe.Probe(lanes=10, together=2.0, alone=0.1, startup=3.0, steps=None)
    assert endless.ratio == endless.step_ratio


def test_runs_of_unlike_models_are_told_apart(tmp_path: Path) -> None:
    runs = configs(tmp_path, [{"name": "adam"}]) + configs(tmp_path, [{"name": "adam"}], task={"batch_size": 8})
    with pytest.raises((CombinationError, NotShareable), match="batches differ"):
        run_lanes(prepare(runs), "on")
