"""Runs through a cluster's queue: the same directories, statuses and numbers as on the local one."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hybridopt.cli import main
from hybridopt.core import ConfigError, DeviceError
from hybridopt.experiment import cluster
from hybridopt.experiment.config import Launcher, resolve
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_json, read_rows
from hybridopt.experiment.layout import HISTORY, read_config
from hybridopt.experiment.remote import RemoteJob
from tests.experiment import fake_slurm, tiny

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

PLUGIN = str(Path(tiny.__file__).resolve())


def sweep(out: Path, *arguments: str) -> int:
    command = ["run", "-m", "--plugin", PLUGIN, "task=tiny", "device=cpu", "checkpoint_every=1e-6", f"out={out}"]
    return main([*command, *arguments])


def undisturbed(out: Path) -> bool:
    """Whether the runs have the rows of runs that nothing happened to, but for times."""
    for run in out.glob("tiny/*/*"):
        whole = out.parent / "whole" / run.name
        run_job(whole, resolve(read_config(run), here=True))
        found, expected = (
            [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(place / HISTORY)]
            for place in (run, whole)
        )
        if found != expected or read_json(run / "status.json")["status"] != "done":
            return False
    return True


@pytest.mark.slow
def test_submitit_local(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["optimizer=sgd,lbfgs", "budget.steps=10", "task.poison=kill", "task.after=15"]
    common += [f"task.antidote={tmp_path / 'antidote'}"]
    through = ["launcher=submitit_local", "launcher.slots=2", "launcher.options.timeout_min=3"]
    # lbfgs evaluates more often than once a step and dies; that ends neither the sweep nor its worker.
    assert sweep(tmp_path / "cluster", *common, *through) == 1
    text = capsys.readouterr().out
    assert "started   tiny/lbfgs/s0" in text
    assert "1 of 2 runs are done." in text
    (dead,) = tmp_path.glob("cluster/tiny/lbfgs/*/status.json")
    assert "killed by signal 9" in read_json(dead)["reason"]
    (tmp_path / "antidote").touch()
    assert sweep(tmp_path / "cluster", *common, *through) == 0
    assert "1 run to do" in capsys.readouterr().out
    assert undisturbed(tmp_path / "cluster")
    (facts,) = tmp_path.glob("cluster/tiny/sgd/*/provenance.json")
    assert read_json(facts)["timing"] == "shared"


def test_slurm_jobs_are_submitted_as_one_array_and_cancelled_jobs_save_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", fake_slurm.install(tmp_path / "bin"))
    monkeypatch.setattr(cluster, "_POLL", 0.05)
    common = ["optimizer=lbfgs", "seed=0,1", "budget.steps=30", "task.poison=slow", "task.after=0"]
    common += [f"task.antidote={tmp_path / 'antidote'}"]
    through = ["launcher=submitit_slurm", "launcher.options.partition=long", "launcher.options.timeout_min=7"]
    through += ["launcher.options.cpus_per_task=2", "threads=1", "+launcher.options.additional_parameters.nice=9"]

    def stop() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            runs = list((tmp_path / "cluster").glob("*/*/*/history.jsonl"))
            if len(runs) == 2 and all(len(read_rows(run)) > 4 for run in runs):
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert sweep(tmp_path / "cluster", *common, *through) == 130
    thread.join()
    for status in tmp_path.glob("cluster/*/*/*/status.json"):
        assert (read_json(status)["status"], read_json(status)["reason"]) == ("interrupted", "stopped by SIGTERM")
    (script,) = [path.read_text() for path in (tmp_path / "bin").glob("*.script")]
    for line in ("--array=0-1%2", "--partition=long", "--time=7", "--cpus-per-task=2", "--nice=9", "--signal=USR2@120"):
        assert f"#SBATCH {line}\n" in script
    (tmp_path / "antidote").touch()
    assert sweep(tmp_path / "cluster", *common, *through) == 0
    assert undisturbed(tmp_path / "cluster")


@pytest.mark.slow
def test_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    common = ["optimizer=sgd,lbfgs", "budget.steps=5"]
    assert sweep(tmp_path / "cluster", *common, "launcher=ray") == 0
    assert undisturbed(tmp_path / "cluster")


def test_what_travels_is_the_path_and_numbers() -> None:
    job = RemoteJob("/shared/run", "tiny/sgd/s0", "cuda", 2, (0, 1), "shared", 60.0)
    data = pickle.dumps(job)
    assert len(data) < 400
    assert pickle.loads(data) == job


def test_a_run_that_was_submitted_twice_is_done_once(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"format": 1, "status": "done"}')
    assert RemoteJob(str(tmp_path), "x", "cpu", 1)() == "done"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("submitit_slurm", {"partitoin": "gpu"}, "Did you mean 'partition'?"),
        ("submitit_slurm", {"timeout_min": "long"}, "launcher.options.timeout_min does not fit"),
        ("submitit_slurm", {}, "finds no sbatch here"),
        ("submitit_slurm", {"tasks_per_node": 2}, "has no option 'tasks_per_node'"),
        ("submitit_local", {"partition": "gpu"}, "launcher=submitit_local has no option 'partition'"),
        ("local", {"partition": "gpu"}, "launcher=local has no launcher.options"),
    ],
)
def test_what_cannot_work_is_refused(
    name: str, options: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError) as caught:
        cluster.check_launcher(Launcher(name=name, options=options))
    assert expected in str(caught.value)


@pytest.mark.parametrize(("name", "extra"), [("submitit_slurm", "sweep"), ("submitit_local", "sweep"), ("ray", "ray")])
def test_a_missing_package_is_named_before_anything_is_written(
    name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    assert main(["run", f"launcher={name}", "budget.steps=1", f"out={tmp_path / 'out'}", "device=cpu"]) == 2
    captured = capsys.readouterr()
    assert f"pip install 'hybridopt[{extra}]'" in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_devices_are_those_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def device(wanted: str, name: str, **options: Any) -> str:
        return resolve({"device": wanted, "launcher": {"name": name, "options": options}}).device

    assert device("auto", "submitit_slurm") == "cpu"
    assert device("auto", "submitit_slurm", gpus_per_node=1) == "cuda"
    assert device("auto", "ray", remote={"num_gpus": 0.5}) == "cuda"
    assert device("cuda", "submitit_slurm") == "cuda"
    with pytest.raises(DeviceError):
        device("cuda", "submitit_local")
    with pytest.raises(DeviceError):  # on the node that turned out to have none
        resolve({"device": "cuda", "launcher": {"name": "submitit_slurm"}}, here=True)
    assert resolve({"launcher": {"name": "submitit_slurm", "options": {"cpus_per_task": 3}}}).threads == 3
