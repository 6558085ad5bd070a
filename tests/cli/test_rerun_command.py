"""``hybridopt rerun DIR --timing`` with real processes: one at a time, the same numbers, killed and gone on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybridopt.cli import main
from hybridopt.core.plugins import load_plugin
from hybridopt.experiment import rerun
from hybridopt.experiment.config import Budget, resolve
from hybridopt.experiment.job import run_directory, run_job
from hybridopt.experiment.jsonio import read_json, read_rows
from hybridopt.experiment.lock import RunLock
from hybridopt.experiment.monitor import Outcome
from hybridopt.experiment.processes import job_environment
from hybridopt.results import load
from hybridopt.tasks import registry
from tests.experiment import tiny
from tests.plugins import forgotten
from tests.synthetic_runs import METHODS, write_replay, write_run

PLUGIN = str(Path(tiny.__file__).resolve())


def sweep(*optimizers: str, budget: dict[str, float] | None = None, **task: object) -> list[Path]:
    """Runs below ``runs`` that say that they shared the machine."""
    found = []
    with forgotten(registry):
        load_plugin(PLUGIN)
        for name in optimizers:
            config = resolve(
                {
                    "task": {"name": "tiny", **task},
                    "optimizer": name,
                    "budget": budget or {"steps": 12},
                    "tracker": {"name": "wandb"},
                    "export": {"weights": False},
                    "launcher": {"slots": 2},
                    "checkpoint_every": 1e-6,
                    "device": "cpu",
                    "threads": 1,
                    "out": "runs",
                    "plugins": [PLUGIN],
                }
            )
            config.tracker = {"name": "none"}
            run_job(run_directory(config), config, timing="shared")
            found.append(run_directory(config))
    return found


def timeless(directory: Path) -> list[dict[str, object]]:
    rows = read_rows(directory / "history.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_runs_are_done_again_with_the_same_numbers_and_once_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (adam,), (newton,) = sweep("adam", budget={"seconds": 0.05}), sweep("newton_cg")
    assert read_json(adam / "status.json")["reason"].startswith("budget.seconds=0.05")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["rerun", "runs", "optimizer=adam", "--timing"]) == 0
    assert not (newton / "timing").exists()
    assert main(["rerun", "--timing", "runs"]) == 0
    text = capsys.readouterr().out
    assert "1 run to do; 1 there already" in text
    assert text.count("same numbers") == 3
    for directory in (adam, newton):
        assert timeless(directory / "timing") == timeless(directory)
        facts = read_json(directory / "timing" / "provenance.json")
        assert facts["timing"] == "exclusive"
    assert facts["run_id"] == read_json(newton / "provenance.json")["run_id"]
    assert {path: path.read_bytes() for path in before} == before
    runs = load("runs")
    assert [run.timing for run in runs] == ["exclusive", "exclusive"]
    assert "The seconds of 2 runs are those of replays" in Path("runs/report.md").read_text()
    assert "do not compare their seconds" not in Path("runs/report.md").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("timing/*")}
    assert main(["rerun", "runs", "--timing"]) == 0
    assert "0 runs to do; 2 there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("timing/*")} == stamps

    rows = read_rows(adam / "history.jsonl")
    rows[-2]["train_loss" if "train_loss" in rows[-2] else "loss"] = 0.125  # as another machine might have computed it
    (adam / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["rerun", "runs", "--timing"]) == 1
    said = capsys.readouterr()
    assert "THE REPLAY OF tiny/adam/s0 IS NOT THE SAME RUN, so its seconds are not used" in said.err
    assert "instead of 0.125" in said.err
    assert "OTHER NUMBERS" in said.out
    assert "NOT THE SAME RUN" in Path("runs/report.html").read_text()


def test_a_killed_replay_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    antidote = tmp_path / "antidote"
    antidote.touch()
    (directory,) = sweep("adam", poison="kill", after=7, antidote=str(antidote))
    antidote.unlink()
    assert main(["rerun", "runs", "--timing"]) == 1
    assert "killed by signal 9" in capsys.readouterr().err
    assert load("runs").runs[0].timing == "shared"
    antidote.touch()
    assert main(["rerun", "runs", "--timing"]) == 0
    assert timeless(directory / "timing") == timeless(directory)
    (resumed,) = read_json(directory / "timing" / "provenance.json")["resumed"]
    assert "timing" not in resumed
    assert load("runs").runs[0].timing == "exclusive"


@pytest.mark.slow
def test_ctrl_c_saves_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    antidote = tmp_path / "antidote"
    antidote.touch()
    (directory,) = sweep("adam", poison="slow", after=0, antidote=str(antidote))
    antidote.unlink()
    command = [sys.executable, "-m", "hybridopt", "rerun", "runs", "--timing"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=job_environment(1), cwd=os.getcwd())
    deadline = time.monotonic() + 60
    while not (directory / "timing" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.count("goes on where this one stopped")) == (130, 1)
    assert read_json(directory / "timing" / "status.json")["status"] == "interrupted"
    antidote.touch()
    assert main(["rerun", "runs", "--timing"]) == 0
    assert timeless(directory / "timing") == timeless(directory)


def test_again_begins_anew_and_runs_of_other_versions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_run(tmp_path, cost=2)
    write_replay(directory)
    assert main(["rerun", str(tmp_path), "--timing"]) == 0
    assert main(["rerun", str(tmp_path), "--timing", "--again"]) == 2  # its options are not those of adam now
    assert "This version of hybridopt would not do the run" in capsys.readouterr().err
    assert (directory / "timing" / "history.jsonl").exists()

    def done(jobs, kept, monitor) -> list[Outcome]:
        return [Outcome(job.directory, job.name, "interrupted", "here") for job, _ in jobs]

    monkeypatch.setattr(rerun, "_replay_config", lambda directory: resolve({"seed": 5}))
    monkeypatch.setattr(rerun, "_one_by_one", done)
    assert main(["rerun", str(tmp_path), "--timing", "--again"]) == 1
    assert [path.name for path in (directory / "timing").iterdir()] == ["config.yaml"]
    assert "interrupted: digits_cnn/adam/s0: here" in capsys.readouterr().err


def test_what_is_not_timed_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs", method=METHODS[0], timing="exclusive")
    write_run(tmp_path / "runs", method=METHODS[1], end="failed")
    write_run(tmp_path / "runs", method=METHODS[2], end="pending")
    timed = write_run(tmp_path / "runs", method=METHODS[3])
    config = (timed / "config.yaml").read_text().replace("schedule:\n  name: none", "schedule:\n  name: cosine")
    assert "cosine" in config
    (timed / "config.yaml").write_text(config)
    status = json.loads((timed / "status.json").read_text())
    (timed / "status.json").write_text(json.dumps({**status, "reason": "budget.seconds=3 is used"}))
    assert main(["rerun", "runs", "--timing"]) == 0
    text = capsys.readouterr().out
    assert "1 run passed over: failed; only runs that ended by themselves are timed" in text
    assert "1 run passed over: pending;" in text
    assert "1 run passed over: timed already: they had the machine alone" in text
    assert "1 run passed over: ended by budget.seconds within a schedule;" in text
    assert text.endswith("There is nothing to do again.\n")
    assert list(tmp_path.rglob("timing")) == []


@pytest.mark.parametrize(
    ("budget", "status", "wanted"),
    [
        ({"epochs": 3.0}, {}, {"epochs": 3.0}),
        ({"seconds": 9.0}, {"reason": "budget.seconds=9 is used", "steps": 40}, {"steps": 40}),
        ({"seconds": 9.0, "steps": 99}, {"reason": "budget.seconds=9 is used", "steps": 40}, {"steps": 40}),
        ({"seconds": 9.0, "epochs": 2.0}, {"reason": "budget.epochs=2 is used", "steps": 40}, {"epochs": 2.0}),
        ({"seconds": 9.0}, {"status": "diverged", "reason": "the loss", "steps": 40}, {"steps": 41}),
        ({"seconds": 9.0}, {"reason": "every target is reached", "steps": 40}, {"steps": 40}),
    ],
)
def test_a_replay_ends_where_the_run_did_however_long_that_takes(budget, status, wanted) -> None:
    assert rerun._timeless(Budget(**budget), status) == Budget(**wanted)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--timing"], "the following arguments are required: DIR\n"),
        (["runs"], "Say what to run again for: hybridopt rerun DIR --timing."),
        (["nowhere", "--timing"], "There is no directory nowhere"),
        (["empty", "--timing"], "There are no runs below empty"),
        (["runs", "--timing", "optimizer=adm"], "No run has optimizer=adm. Did you mean 'adam'?"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch, arguments: list[str], said: str, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "runs", cost=2)
    assert main(["rerun", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_two_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_run(tmp_path, cost=2)
    write_replay(directory)
    lock = RunLock(tmp_path)
    assert main(["rerun", str(tmp_path), "--timing"]) == 2
    assert "Another hybridopt rerun is timing the runs in" in capsys.readouterr().err
    lock.release()
    lock = RunLock(directory / "timing")
    assert main(["rerun", str(tmp_path), "--timing"]) == 2
    assert "timing is being done by process" in capsys.readouterr().err
    lock.release()
