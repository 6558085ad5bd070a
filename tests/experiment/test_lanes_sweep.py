"""A sweep with lanes: which runs share a process, which do not and why, and what real processes leave."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from hybridopt.core import CombinationError, ConfigError
from hybridopt.experiment import sweep
from hybridopt.experiment.config import RunConfig, resolve, to_plain
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.job import run_directory
from hybridopt.experiment.jsonio import read_json, read_rows
from hybridopt.experiment.lanes_job import DECLINED
from hybridopt.experiment.lanes_plan import FEWEST, MOST, plan_lanes
from hybridopt.experiment.lanes_pool import LanePool
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.slots import Job, Slot
from tests.experiment import smooth, test_sweep


def run(seed: int = 0, lanes: str = "auto", **values: Any) -> RunConfig:
    base = {"task": "smooth", "optimizer": "adam", "device": "cpu", "threads": 1, "budget": {"steps": 4}}
    return resolve({**base, "seed": seed, "launcher": {"lanes": lanes, "slots": 2}, **values})


def plan(runs: list[RunConfig], processes: int = 1) -> tuple[list[list[str]], dict[str, int]]:
    named = {str(index): config for index, config in enumerate(runs)}
    return plan_lanes(named, runs[0].launcher, processes)


def test_like_runs_share_whatever_their_seeds_and_numbers() -> None:
    like = [run(seed, optimizer={"name": "adam", "lr": rate}) for seed in range(2) for rate in (0.1, 0.01)]
    other = [run(seed, optimizer="sgd") for seed in range(4)]
    structure = [run(seed, optimizer={"name": "rmsprop", "centered": seed > 1}) for seed in range(4)]
    groups, alone = plan([*like, *other, *structure])
    assert groups == [["0", "1", "2", "3"], ["4", "5", "6", "7"]]
    assert alone == {f"fewer than {FEWEST} of them have task, method and budget in common": 4}


def test_a_group_is_divided_among_processes() -> None:
    few = [run(seed) for seed in range(2 * FEWEST)]
    assert [len(group) for group in plan(few, 2)[0]] == [FEWEST, FEWEST]
    assert [len(group) for group in plan(few, 8)[0]] == [FEWEST, FEWEST]
    many = [run(seed) for seed in range(2 * MOST + 1)]
    assert max(len(group) for group in plan(many, 1)[0]) <= MOST
    assert sorted(key for group in plan(many, 1)[0] for key in group) == sorted(map(str, range(len(many))))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"optimizer": "lbfgs"}, "lbfgs declares no rule"),
        ({"optimizer": {"name": "adam", "hypergradient": 1e-4}}, "hypergradient"),
        ({"escape": "perturbation"}, "escape=perturbation"),
        ({"data": "curvature", "optimizer": "adam"}, "data=curvature"),
        ({"budget": {"seconds": 3.0}}, "no seconds of its own"),
        ({"tracker": "wandb"}, "tracker=wandb"),
        ({"precision": "bf16_autocast"}, "precision=bf16_autocast"),
        ({"stopping": "decay"}, "stopping=decay"),
        ({"export": {"program": True}}, "the key export"),
    ],
)
def test_what_lanes_do_not_know_is_named(values: dict[str, Any], reason: str) -> None:
    groups, alone = plan([run(**values)])
    assert not groups
    assert reason in next(iter(alone))
    with pytest.raises(CombinationError, match=r"launcher\.lanes=auto"):
        plan([run(lanes="on", **values)])


def test_lanes_are_no_part_of_the_identity_and_off_by_default() -> None:
    assert resolve({"device": "cpu"}).launcher.lanes == "off"
    assert run_id(to_plain(run())) == run_id(to_plain(run(lanes="off")))
    assert plan([run(lanes="off")]) == ([], {})


@pytest.mark.parametrize(("written", "meant"), [(True, "on"), (False, "off"), ("True", "on"), ("auto", "auto")])
def test_what_yaml_makes_of_on_and_off(written: Any, meant: str) -> None:
    assert run(lanes=written).launcher.lanes == meant


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"launcher\.lanes"):
        run(lanes="always")


class Notes(Monitor):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.endings: list[Outcome] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def ended(self, outcome: Outcome) -> None:
        self.endings.append(outcome)


def test_a_sweep_in_lanes_by_real_processes(tmp_path: Path) -> None:
    """Runs that can share do, the other goes alone; a second start finds everything done."""
    common = {"out": str(tmp_path), "plugins": [str(Path(smooth.__file__).resolve())], "lanes": "on"}
    shared = [run(seed, optimizer={"name": "adam", "lr": rate}, **common) for seed in range(2) for rate in (0.1, 0.01)]
    monitor = Notes()
    outcomes = sweep.run_sweep(shared, monitor)
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert [outcome.directory for outcome in outcomes] == [run_directory(config).resolve() for config in shared]
    assert {outcome.directory for outcome in monitor.endings} == {outcome.directory for outcome in outcomes}
    for config in shared:
        assert read_json(run_directory(config) / "provenance.json")["timing"] == "lanes"
        assert [row["step"] for row in read_rows(run_directory(config) / "history.jsonl")][-1] == 4
    (verdict,) = (tmp_path / "lanes").glob("*.json")
    assert read_json(verdict)["lanes"] is True
    assert [outcome.fresh for outcome in sweep.run_sweep(shared, Notes())] == [False] * 4


def test_runs_given_back_go_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "Pool", test_sweep.InProcess)
    test_sweep.InProcess.started = []
    script = f"import sys; sys.exit({DECLINED})"
    monkeypatch.setattr(LanePool, "command", lambda *arguments: [sys.executable, "-c", script])
    runs = [run(seed, out=str(tmp_path)) for seed in range(4)] + [run(optimizer="lbfgs", out=str(tmp_path))]
    monitor = Notes()
    outcomes = sweep.run_sweep(runs, monitor)
    assert [outcome.status for outcome in outcomes] == ["done"] * 5
    assert len(test_sweep.InProcess.started) == 5
    assert any("declares no rule" in note for note in monitor.notes)
    assert any(note.startswith("4 runs one by one") for note in monitor.notes)


def test_a_process_that_dies_leaves_runs_that_go_on(tmp_path: Path) -> None:
    jobs = []
    for seed in range(2):
        directory = tmp_path / str(seed)
        sweep.write_config(directory, to_plain(run(seed)))
        jobs.append(Job(directory, f"s{seed}"))

    class Dying(LanePool):
        def command(self, *arguments: Any) -> list[str]:
            return [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]

    outcomes = Dying([Slot("cpu", 1)], "auto", None, tmp_path / "lanes", Notes()).run([jobs])
    assert [outcome.status for outcome in outcomes] == ["interrupted"] * 2
    assert "SIGKILL" in read_json(jobs[1].directory / "status.json")["reason"]


def test_a_group_may_take_as_long_as_its_runs_together(tmp_path: Path) -> None:
    job = Job(tmp_path / "0", "s0")
    sweep.write_config(job.directory, to_plain(run()))

    class Slow(LanePool):
        def command(self, *arguments: Any) -> list[str]:
            return [sys.executable, "-c", "import time; time.sleep(60)"]

    (outcome,) = Slow([Slot("cpu", 1)], "auto", 0.2, tmp_path / "lanes", Notes()).run([[job]])
    assert (outcome.status, "time_limit" in outcome.reason) == ("failed", True)
