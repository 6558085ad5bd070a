"""The experiments that are shipped, cut down to a few real jobs each: they run to a report, and stand when repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridopt.cli import main
from hybridopt.experiment.jsonio import read_json

SMALL = ["tracker=none", "device=cpu", "seed=0", "launcher.slots=2", "launcher.time_limit=100"]
STEPS = ["budget=smoke", "budget.steps=3"]


def statuses(directory: Path) -> list[str]:
    return [read_json(path)["status"] for path in sorted(directory.glob("*/*/*/status.json"))]


def smoke(name: str, *overrides: str) -> int:
    return main(["run", f"experiment={name}", *SMALL, *STEPS, *overrides])


def test_saddle_sweep_reports_each_problem_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    narrow = ["optimizer=sgd", "escape=perturbation", "task.problem=plane,octopus_5"]
    assert smoke("saddle_sweep", *narrow) == 0
    out = capsys.readouterr().out
    directory = tmp_path / "outputs" / "saddle_sweep"
    assert statuses(directory) == ["done", "done"]
    assert "2 of 2 runs are done." in out
    page = (directory / "report.html").read_text()
    for problem in ("plane", "octopus_5"):
        assert f"<h2>saddle/{problem}</h2>" in page
    lines = (directory / "ranking.csv").read_text().splitlines()
    assert sorted(line.split(",")[0] for line in lines[1:]) == ["saddle/octopus_5", "saddle/plane"]
    assert smoke("saddle_sweep", *narrow) == 0
    assert "0 runs to do; 2 there already" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "narrow", "count"),
    [
        ("cnn_sweep", [], 31),
        ("rnn_sweep", ["task=adding_rnn"], 24),
        ("gpu_cnn_sweep", ["task=digits_cnn"], 21),
        ("gpu_rnn_sweep", ["task=digits_rnn"], 19),
        ("saddle_sweep", ["task.problem=octopus_5", "optimizer=lbfgs,newton_cg"], 12),
        ("lr_sensitivity", ["optimizer.lr=0.01"], 10),
        ("switch_ablation", [], 11),
    ],
)
def test_every_method_of_an_experiment_runs(
    name: str, narrow: list[str], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert smoke(name, *narrow) == 0
    (directory,) = {path.parents[3] for path in tmp_path.rglob("status.json")}
    assert statuses(directory) == ["done"] * count
