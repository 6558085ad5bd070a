"""Runs rebuilt in wandb equal their directories, and a second export adds nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybridopt import cli
from hybridopt.core.errors import StoreError
from hybridopt.experiment import trackers_wandb
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_json, read_rows
from hybridopt.experiment.layout import read_config
from hybridopt.experiment.trackers import AXES, flatten
from hybridopt.results.wandb_export import RECEIPT, export_wandb
from tests.experiment.test_trackers import config, records


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for seed in (0, 1):
        run_job(tmp_path / "sweep" / f"s{seed}", config(seed=seed, experiment="mine"))
    return tmp_path / "sweep"


def read(path: Path) -> dict[str, Any]:
    """Returns what an offline run holds."""
    found: dict[str, Any] = {"rows": [], "metrics": {}, "summary": {}, "exit": None}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = {(item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
            found["rows"].append({key: value for key, value in row.items() if not key.startswith("_")})
        elif kind == "metric":
            found["metrics"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "run":
            found["run"] = record.run
        elif kind == "summary":
            for item in record.summary.update:
                found["summary"][item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def test_a_sweep_is_rebuilt_whole_and_only_once(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "wandb", str(sweep), "--project", "paper"]) == 0
    assert "2 runs, 2 written." in capsys.readouterr().out
    for directory in (sweep / "s0", sweep / "s1"):
        values = read_config(directory)
        identity = run_id(values)
        (path,) = (sweep / "wandb").glob(f"offline-run-*-{identity}*/run-{identity}.wandb")
        found = read(path)
        assert found["rows"] == [flatten(row) for row in read_rows(directory / "history.jsonl")]
        run = found["run"]
        assert (run.run_id, run.project, run.run_group) == (identity, "paper", "mine")
        assert list(run.tags) == ["tiny", "adam", "first-order"]
        own = {item.key: json.loads(item.value_json) for item in run.config.update if not item.key.startswith("_")}
        assert own == values
        assert set(AXES) <= found["metrics"].keys()
        assert found["metrics"]["*"] == "gradient_equivalents"
        status = read_json(directory / "status.json")
        expected = {"status": "done", "reason": status["reason"], **status["summary"]}
        assert {key: found["summary"].get(key) for key in expected} == expected
        assert found["exit"] == 0
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*.wandb")}
    assert [one.fresh for one in export_wandb(sweep, project="paper")] == [False, False]
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*.wandb")} == before


def test_a_run_that_has_changed_replaces_its_copy(sweep: Path) -> None:
    assert [one.fresh for one in export_wandb(sweep)] == [True, True]
    with open(sweep / "s0" / "history.jsonl", "a") as file:
        file.write('{"type":"event","event":"late","step":9,"epoch":3.0,"gradient_equivalents":3.0,"seconds":1.0}\n')
    assert sorted(one.fresh for one in export_wandb(sweep)) == [False, True]
    identity = run_id(read_config(sweep / "s0"))
    (path,) = (sweep / "wandb").glob(f"offline-run-*-{identity}*/run-{identity}.wandb")
    assert read(path)["rows"][-1]["event/late"] == 1
    assert len(list((sweep / "wandb").glob("offline-run-*"))) == 2


def test_a_copy_that_is_not_written_to_its_end_replaces_none(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.fresh for one in export_wandb(sweep)] == [True, True]
    with open(sweep / "s0" / "history.jsonl", "a") as file:
        file.write('{"type":"event","event":"late","step":9,"epoch":3.0,"gradient_equivalents":3.0,"seconds":1.0}\n')
    identity = run_id(read_config(sweep / "s0"))
    (before,) = (sweep / "wandb").glob(f"offline-run-*-{identity}*")

    def never(path: Path, seconds: float) -> None:
        raise StoreError(f"{path} is not whole.")

    with monkeypatch.context() as patch:
        patch.setattr(trackers_wandb, "wait_until_whole", never)
        with pytest.raises(StoreError, match="is not whole"):
            list(export_wandb(sweep))
    assert (before / RECEIPT).exists()
    assert sum(one.fresh for one in export_wandb(sweep)) == 1  # the copy that broke off counts for nothing


def test_no_runs_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "wandb", str(tmp_path)]) == 2
    assert "There are no runs" in capsys.readouterr().err
