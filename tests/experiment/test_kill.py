"""Real processes, really killed: what they resume to equals what was never disturbed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hybridopt.experiment import processes
from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_json, read_rows
from hybridopt.experiment.layout import write_config
from hybridopt.experiment.lock import lock_holder
from tests.experiment import tiny


def slow_config(tmp_path: Path):
    """A run that takes two seconds, or none while the antidote is there; both are the same run."""
    task = {"name": "tiny", "poison": "slow", "after": 0, "antidote": str(tmp_path / "antidote")}
    optimizer = {"name": "lbfgs", "history": 5}
    plugins = [str(Path(tiny.__file__).resolve())]
    return resolve(
        {
            "task": task,
            "optimizer": optimizer,
            "escape": {"name": "perturbation", "stall_window": 3, "window": 3},
            "budget": {"steps": 24},
            "device": "cpu",
            "threads": 1,
            "checkpoint_every": 1e-6,
            "plugins": plugins,
        }
    )


def start(directory: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hybridopt", "job", str(directory)]
    with open(directory / "stdout", "ab") as log:
        return subprocess.Popen(
            command, env=processes.job_environment(1) | {"HYBRIDOPT_LAUNCHER_PID": ""}, stdout=log, stderr=log
        )


def wait_for_rows(directory: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(read_rows(directory / "history.jsonl")) < count:
        assert time.monotonic() < deadline, (directory / "stdout").read_text()
        time.sleep(0.02)


def timeless(directory: Path) -> list[dict[str, Any]]:
    found = read_rows(directory / "history.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def test_sigkill_and_sigterm_change_no_number(tmp_path: Path) -> None:
    config = slow_config(tmp_path)
    disturbed, whole = tmp_path / "disturbed", tmp_path / "whole"
    write_config(disturbed, to_plain(config))
    process = start(disturbed)
    wait_for_rows(disturbed, 8)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_json(disturbed / "status.json")["status"] == "running"
    assert lock_holder(disturbed) is None
    assert list(disturbed.glob("checkpoint*.pt"))  # between two renames there is only the one before
    process = start(disturbed)
    wait_for_rows(disturbed, 24)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    status = read_json(disturbed / "status.json")
    assert (status["status"], status["reason"]) == ("interrupted", "stopped by SIGTERM")
    (tmp_path / "antidote").touch()
    ended = run_job(disturbed)
    undisturbed = run_job(whole, config)
    assert ended["status"] == undisturbed["status"] == "done"
    assert timeless(disturbed) == timeless(whole)
    assert ended["summary"] == undisturbed["summary"]
    assert len(read_json(disturbed / "provenance.json")["resumed"]) == 2
