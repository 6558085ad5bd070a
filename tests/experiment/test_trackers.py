"""Trackers: a faithful mirror when they work, one warning when they do not."""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridopt.experiment import trackers
from hybridopt.experiment.config import resolve
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_rows
from hybridopt.experiment.trackers import Mirror, Tracker, flatten, registry
from tests.experiment import tiny  # noqa: F401 (registers the task)


def config(**values: Any):
    base = {"task": "tiny", "optimizer": "adam", "device": "cpu", "budget": {"epochs": 2}, "log_every": 1}
    return resolve({**base, **values})


def records(path: Path) -> Iterator[Any]:
    """Reads an offline run: a 7-byte header, then LevelDB log blocks of protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, offset, parts = path.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def test_wandb_offline_holds_every_row(tmp_path: Path) -> None:
    import json

    run_job(tmp_path, config(tracker="wandb", experiment="mine"))
    files = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 1
    history, metrics, group, ended = [], set(), None, False
    for record in records(files[0]):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = {(item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
            history.append({key: value for key, value in row.items() if not key.startswith("_")})
        elif kind == "metric":
            metrics.add(record.metric.name or record.metric.glob_name)
        elif kind == "run":
            group = record.run.run_group
            identity = record.run.run_id
        elif kind == "exit":
            ended = True
    rows = [flatten(row) for row in read_rows(tmp_path / "history.jsonl")]
    assert history == rows
    assert set(trackers.AXES) <= metrics
    assert group == "mine"
    assert identity in files[0].name
    assert ended
    assert "WARNING" not in (tmp_path / "run.log").read_text()


def test_the_mirror_of_a_resumed_run_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Listing(Tracker):
        def log(self, row: Any) -> None:
            seen.append(row)

    monkeypatch.setitem(registry._registered, "listing", Listing)
    import signal

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            signal.raise_signal(signal.SIGTERM)

    assert run_job(tmp_path, config(tracker="listing"), observer=stop)["status"] == "interrupted"
    seen.clear()
    assert run_job(tmp_path, config(tracker="listing"))["status"] == "done"
    assert seen == read_rows(tmp_path / "history.jsonl")


class Broken(Tracker):
    """Fails at its third row."""

    def start(self, *arguments: Any) -> None:
        self.seen = 0

    def log(self, row: Any) -> None:
        self.seen += 1
        if self.seen == 3:
            raise SystemExit("service killed")


class Hanging(Tracker):
    """Never comes back from its first row."""

    def log(self, row: Any) -> None:
        time.sleep(60)


def test_a_broken_tracker_is_one_warning_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, "broken", Broken)
    status = run_job(tmp_path, config(tracker="broken"))
    assert status["status"] == "done"
    log = (tmp_path / "run.log").read_text()
    assert log.count("WARNING") == 1
    assert "Broken failed in log (SystemExit: service killed)" in log
    assert [row["step"] for row in read_rows(tmp_path / "history.jsonl") if row["type"] == "step"] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_a_hanging_tracker_neither_slows_nor_holds_the_run(caplog: pytest.LogCaptureFixture) -> None:
    mirror = Mirror(Hanging(None), patience=0.3)
    start = time.monotonic()
    mirror.start(Path("."), {}, "id")
    for step in range(100):
        mirror.log({"type": "step", "step": step})
    assert time.monotonic() - start < 0.25
    with caplog.at_level(logging.WARNING):
        mirror.finish({"status": "done"})
    assert time.monotonic() - start < 2
    assert "left behind" in caplog.text


def test_wandb_that_cannot_write_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(**options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb, "init", refuse)
    status = run_job(tmp_path, config(tracker="wandb"))
    assert status["status"] == "done"
    assert "WandbTracker failed in start" in (tmp_path / "run.log").read_text()


def test_no_tracker_starts_no_thread() -> None:
    mirror = Mirror(Tracker(None))
    mirror.start(Path("."), {}, "id")
    assert mirror._thread is None
    mirror.finish({"status": "done"})


def test_importing_trackers_does_not_import_wandb() -> None:
    import subprocess
    import sys

    code = "import sys, hybridopt.experiment.trackers; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
