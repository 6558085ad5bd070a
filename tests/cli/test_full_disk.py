"""A sweep on a disk that fills up: no row is lost, the command tells why, and goes on when there is space."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridopt.cli import main
from hybridopt.experiment import processes
from hybridopt.experiment.ending import UNWRITTEN, settle
from hybridopt.experiment.jsonio import read_json, read_rows
from hybridopt.experiment.layout import write_config
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.pool import Pool
from hybridopt.experiment.slots import Job, Slot
from tests.experiment import tiny

COMMAND = ["run", "-m", "--plugin", str(Path(tiny.__file__).resolve()), "task=tiny", "task.samples=24", "seed=0,1"]
COMMAND += ["optimizer=lbfgs", "budget.steps=25", "checkpoint_every=1e-6", "launcher.slots=2", "device=cpu"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def content(run: Path) -> list[dict[str, object]]:
    rows = read_rows(run / "history.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.slow
def test_a_full_disk(small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 150 * 1024)
    assert main([*COMMAND, f"out={small_disk / 'out'}"]) != 0
    text = capsys.readouterr()
    assert "interrupted: tiny/lbfgs/s" in text.out, text
    runs = sorted(small_disk.glob("out/tiny/lbfgs/*"))
    assert len(runs) == 2
    had = [content(run) for run in runs]
    ballast.unlink()
    main([*COMMAND, f"out={small_disk / 'out'}"])
    assert "2 of 2 runs are done." in capsys.readouterr().out
    assert main([*COMMAND, f"out={tmp_path / 'whole'}"]) == 0
    for run, before in zip(runs, had, strict=True):
        whole = content(tmp_path / "whole" / run.relative_to(small_disk / "out"))
        assert content(run) == whole
        assert before == whole[: len(before)]


def test_a_job_that_cannot_be_started_does_not_end_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(12, os.strerror(12))

    monkeypatch.setattr(processes.subprocess, "Popen", refuse)
    write_config(tmp_path / "a", {"task": {"name": "t"}})
    ended: list[Outcome] = []
    monitor = Monitor()
    monkeypatch.setattr(monitor, "ended", ended.append)
    outcomes = Pool([Slot("cpu", 1)], None, monitor).run([Job(tmp_path / "a", "a"), Job(tmp_path / "a", "b")])
    assert outcomes == ended
    assert [outcome.status for outcome in outcomes] == ["interrupted"] * 2
    assert "could not be started" in outcomes[0].reason


def test_a_full_disk_is_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridopt.experiment.config import resolve, to_plain

    def full(descriptor: int, data: bytes) -> int:
        if b'"step"' in bytes(data[:200]):
            raise OSError(28, os.strerror(28))
        return write(descriptor, data)

    write = os.write
    monkeypatch.setattr(os, "write", full)
    write_config(tmp_path, to_plain(resolve({"task": "tiny", "optimizer": "lbfgs", "device": "cpu", "threads": 1})))
    assert main(["job", str(tmp_path)]) == UNWRITTEN
    status = read_json(tmp_path / "status.json")
    assert status["status"] == "interrupted"
    assert "Free some space" in status["reason"]


def test_a_job_that_cannot_write_goes_on_later(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    outcome = settle(Job(tmp_path / "a", "a"), UNWRITTEN)
    assert outcome.status == "interrupted"
    assert (read_json(tmp_path / "a" / "status.json") or {}).get("status") in (None, "interrupted")
