"""A sweep from the command line, with real job processes that die."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridopt.cli import main
from hybridopt.experiment.jsonio import read_json, read_rows
from tests.experiment import tiny

PLUGIN = str(Path(tiny.__file__).resolve())


def statuses(directory: Path) -> dict[str, str]:
    found = directory.glob("*/*/*/status.json")
    return {path.parents[1].name: read_json(path)["status"] for path in found}


def test_killed_jobs_do_not_end_a_sweep_and_go_on_when_it_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {optimizer: 'newton_cg,lbfgs'}}}\n"
        "task: {poison: kill, after: 15}\n"
        "budget: {steps: 5}\n"
        "checkpoint_every: 1e-6\n"
        "launcher: {slots: 2, time_limit: 60}\n"
    )
    command = ["run", "--config-dir", "conf", "--plugin", PLUGIN, "experiment=mine", "task=tiny"]
    command.append(f"task.antidote={tmp_path / 'antidote'}")
    # lbfgs evaluates more often per step and dies of the poison; newton_cg is done before.
    assert main([*command, "budget.steps=10"]) == 1
    out = capsys.readouterr().out
    directory = tmp_path / "outputs" / "mine"
    assert statuses(directory) == {"newton_cg": "done", "lbfgs": "interrupted"}
    assert "killed by signal 9" in out
    assert "1 of 2 runs are done." in out
    assert "a demonstration, not a comparison" in out
    for name in ("report.html", "report.md", "sweep.json"):
        assert (directory / name).is_file()
    assert str(Path("outputs") / "mine" / "report.html") in out
    (done,) = directory.glob("tiny/newton_cg/*")
    assert read_json(done / "provenance.json")["timing"] == "shared"
    history = (done / "history.jsonl").read_bytes()
    (tmp_path / "antidote").touch()
    assert main([*command, "budget.steps=10"]) == 0
    assert "2 of 2 runs are done." in capsys.readouterr().out
    assert statuses(directory) == {"newton_cg": "done", "lbfgs": "done"}
    assert (done / "history.jsonl").read_bytes() == history
    (resumed,) = directory.glob("tiny/lbfgs/*")
    steps = [row["step"] for row in read_rows(resumed / "history.jsonl") if row["type"] == "step"]
    assert steps == list(range(1, 11))
    assert main(["status", str(directory)]) == 0
    assert "2 done" in capsys.readouterr().out
