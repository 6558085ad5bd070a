"""``hybridopt status``: what is running, what is missing, and how long it will take."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from hybridopt.cli import main, status
from hybridopt.experiment import jsonio
from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.job import run_directory
from hybridopt.experiment.store import RunStore
from tests.experiment import tiny  # noqa: F401 (registers the task)

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def stamp(seconds: float) -> str:
    return (START + datetime.timedelta(seconds=seconds)).isoformat()


def test_time_left() -> None:
    done = {"status": "done", "started": stamp(0), "finished": stamp(100)}
    running = {"status": "running", "started": stamp(60), "finished": None}
    now = START + datetime.timedelta(seconds=100)
    # 60 of the running one's 100 seconds are left, and two more runs of 100.
    assert status.time_left([done, running], 2, now) == pytest.approx(260)
    assert status.time_left([done, running, running], 2, now) == pytest.approx((60 + 60 + 200) / 2)
    assert status.time_left([running], 2, now) is None
    assert status.time_left([done], 2, now) is None
    assert status.time_left([done, {**running, "started": stamp(-500)}], 0, now) == 0


def test_running_missing_and_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        resolve({"task": "tiny", "optimizer": "adam", "seed": seed, "device": "cpu", "out": str(tmp_path)})
        for seed in (0, 1, 2)
    ]
    places = [run_directory(run) for run in runs]
    manifest = {"runs": {str(i): str(place.relative_to(tmp_path)) for i, place in enumerate(places)}}
    jsonio.write_atomic(tmp_path / "sweep.json", jsonio.dumps(manifest))
    ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    with RunStore(places[0], to_plain(runs[0])) as store:
        store.write_status({"status": "done", "started": ago.isoformat(), "finished": jsonio.utc_now()})
    going = RunStore(places[1], to_plain(runs[1]))
    going.write_status({"status": "running", "started": jsonio.utc_now(), "finished": None})
    shown = 0

    def pause(seconds: float) -> None:
        nonlocal shown
        shown += 1
        if shown == 1:
            going.write_status({"status": "done", "started": jsonio.utc_now(), "finished": jsonio.utc_now()})
            going.close()
        else:
            monkeypatch.setattr(status, "QUIET", 0.0)

    monkeypatch.setattr(status.time, "sleep", pause)
    assert main(["status", str(tmp_path), "--watch"]) == 0
    out = capsys.readouterr().out
    assert "1 done, 1 running, 1 missing; about 2.0 h left" in out
    assert out.count("2 done, 1 missing\n") == 2, "goes on while a run is missing, until it has been quiet"
    assert shown == 2
