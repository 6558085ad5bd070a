"""Trackers: a faithful mirror when they work, one warning when they do not."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridopt.core.errors import ConfigError
from hybridopt.experiment import trackers
from hybridopt.experiment.config import resolve
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_rows
from hybridopt.experiment.trackers import AXES, Mirror, Tracker, flatten, registry
from tests.experiment import tiny  # noqa: F401 (registers the task)

ROOT = Path(__file__).resolve().parents[2]


def config(**values: Any):
    base = {"task": "tiny", "optimizer": "adam", "device": "cpu", "budget": {"epochs": 2}, "log_every": 1}
    return resolve({**base, **values})


def records(path: Path) -> Iterator[Any]:
    """Reads an offline run: a 7-byte header, then LevelDB log blocks of protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, offset, parts = path.read_bytes(), 7, b""
    while offset < len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        assert offset + 7 + length <= len(data)
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
            tags = list(record.run.tags)
            identity = record.run.run_id
        elif kind == "exit":
            ended = True
    rows = [flatten(row) for row in read_rows(tmp_path / "history.jsonl")]
    assert history == rows
    assert set(trackers.AXES) <= metrics
    assert group == "mine"
    assert tags == ["tiny", "adam", "first-order"]
    assert identity in files[0].name
    assert ended
    assert "WARNING" not in (tmp_path / "run.log").read_text()


def kept_and_expected(directory: Path) -> tuple[list[Any], list[Any]]:
    """The rows of a run of `TROUBLE` without their seconds, and those of one that nothing happened to."""
    run_job(directory / "undisturbed", config(budget={"epochs": 40}))
    kept, expected = (
        [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(path / "history.jsonl")]
        for path in (directory, directory / "undisturbed")
    )
    return kept, expected


def in_trouble(directory: Path, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Does a run in a process of its own, whose wandb service gets a signal at step 20."""
    # What wandb complains of at the end of a process would show.
    # It would take the service of this one, if the environment told where that is.
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-c", TROUBLE, str(directory), str(int(number))]
    return subprocess.run(command, env=own, cwd=ROOT, capture_output=True, text=True, timeout=270)


def test_a_killed_wandb_service_costs_its_mirror_and_nothing_else(tmp_path: Path) -> None:
    done = in_trouble(tmp_path, signal.SIGKILL)
    assert done.stdout.split()[1:] == ["sent", "done"], done.stderr
    assert done.returncode == 0
    assert done.stderr == ""
    log = (tmp_path / "run.log").read_text()
    assert log.count("WARNING") == 1
    assert re.search("WandbTracker failed in (log|finish)", log)  # wandb notices it soon, or at the latest in the end
    kept, expected = kept_and_expected(tmp_path)
    assert kept == expected


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stopped_wandb_service_does_not_hold_the_run(tmp_path: Path) -> None:
    done = in_trouble(tmp_path, signal.SIGSTOP)  # would not end; the bound is three times 20 s
    service, *words = done.stdout.split()
    assert words == ["sent", "done"], done.stderr
    assert done.returncode == 0
    assert done.stderr in ("", "wandb: ERROR Problem finishing run\n")  # wandb's own words, from its own thread
    log = (tmp_path / "run.log").read_text()
    assert log.count("WARNING") == 1
    assert "WandbTracker did not finish within 20 s and is left behind; history.jsonl has every row." in log
    assert not Path(f"/proc/{service}").exists()
    kept, expected = kept_and_expected(tmp_path)
    assert kept == expected


TROUBLE = """
import os, sys, time
from pathlib import Path

from hybridopt.experiment.job import run_job
from tests.experiment.test_trackers import config

def trouble(row):
    if row["type"] != "step" or row["step"] != 20:
        return
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().partition(" (")[2].rpartition(") ")
        except OSError:  # it is gone
            continue
        if name.startswith("wandb") and int(rest.split()[1]) == os.getpid():
            os.kill(int(entry.name), int(sys.argv[2]))
            print(entry.name, "sent")
            time.sleep(0.2)  # or the run would be over before anybody notices

print(run_job(sys.argv[1], config(tracker="wandb", budget={"epochs": 40}), observer=trouble)["status"])
"""


def test_a_run_that_has_nothing_left_to_do_is_mirrored_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Listing(Tracker):
        def log(self, row: Any) -> None:
            seen.append(row)

    monkeypatch.setitem(registry._registered, "listing", Listing)
    run_job(tmp_path, config(tracker="listing"))
    seen.clear()
    run_job(tmp_path, config(tracker="listing"))  # as after a kill between the last checkpoint and the status
    assert seen == read_rows(tmp_path / "history.jsonl")


def events(directory: Path) -> list[tuple[str, int, float, float]]:
    """Reads all scalars of a TensorBoard directory: tag, step, wall time, value."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found = []
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for event in loader.LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.append((value.tag, event.step, event.wall_time, value.simple_value))
    return found


def test_tensorboard_holds_every_number_on_three_axes_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            signal.raise_signal(signal.SIGTERM)

    assert run_job(tmp_path, config(tracker="tensorboard"), observer=stop)["status"] == "interrupted"
    assert run_job(tmp_path, config(tracker="tensorboard"))["status"] == "done"
    rows = read_rows(tmp_path / "history.jsonl")
    found = events(tmp_path / "tensorboard")
    start = min(time for _, _, time, _ in found)
    for section, axis, factor in (
        ("step", "step", 1),
        ("milli_gradient_equivalents", "gradient_equivalents", 1000),
        ("ms", "seconds", 1000),
    ):
        expected = [
            (f"{section}/{name}", round(factor * row[axis]), pytest.approx(value, rel=1e-6, nan_ok=True))
            for row in rows
            for name, value in flatten(row).items()
            if isinstance(value, int | float) and (name not in AXES or (section == "step" and name != "step"))
        ]
        own = [(tag, step, value) for tag, step, _, value in found if tag.startswith(f"{section}/")]
        assert own == expected
    times = [time - start for tag, _, time, _ in found if tag == "step/train_loss"]
    seconds = [row["seconds"] for row in rows if row["type"] == "evaluation"]
    assert times == pytest.approx(seconds, abs=1e-5)
    assert "WARNING" not in (tmp_path / "run.log").read_text()


def test_tensorboard_that_is_not_installed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracker=tensorboard: .*hybridopt\[tensorboard\]"):
        config(tracker="tensorboard")


class FakeRun:
    """A run that the server knows already, with a few rows."""

    step = 4

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.summary: dict[str, Any] = {}

    def define_metric(self, *arguments: Any, **options: Any) -> None:
        pass

    def log(self, row: Any) -> None:
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        pass


def test_rows_that_the_wandb_server_has_are_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    run = FakeRun()
    monkeypatch.setattr(wandb, "init", lambda **options: run)
    run_job(tmp_path, config(tracker={"name": "wandb", "mode": "online"}))
    assert run.rows == [flatten(row) for row in read_rows(tmp_path / "history.jsonl")][4:]


def test_the_mirror_of_a_resumed_run_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Listing(Tracker):
        def log(self, row: Any) -> None:
            seen.append(row)

    monkeypatch.setitem(registry._registered, "listing", Listing)

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
    """Never comes back from its first row, unless it is told to let go; then not from that."""

    abandoned = False

    def log(self, row: Any) -> None:
        time.sleep(60)

    def abandon(self) -> None:
        self.abandoned = True
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
    tracker = Hanging(None)
    mirror = Mirror(tracker, patience=0.3)
    start = time.monotonic()
    mirror.start(Path("."), {}, "id")
    for step in range(100):
        mirror.log({"type": "step", "step": step})
    assert time.monotonic() - start < 30, "the first row takes a minute"
    with caplog.at_level(logging.WARNING):
        mirror.finish({"status": "done"})
    assert time.monotonic() - start < 30
    assert [record.getMessage() for record in caplog.records] == [
        "Hanging did not finish within 0.3 s and is left behind; history.jsonl has every row."
    ]
    assert tracker.abandoned


def test_wandb_that_cannot_write_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(**options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb, "init", refuse)
    status = run_job(tmp_path, config(tracker="wandb"))
    assert status["status"] == "done"
    assert "WandbTracker failed in start" in (tmp_path / "run.log").read_text()


def test_a_wandb_directory_that_cannot_be_made_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Modes do not stop root; a regular file in the place of the directory stops anybody.
    for name in ("wandb", ".wandb"):
        (tmp_path / name).write_text("")
    status = run_job(tmp_path, config(tracker="wandb"))
    assert status["status"] == "done"
    assert (tmp_path / "run.log").read_text().count("WARNING") == 1
    assert len(read_rows(tmp_path / "history.jsonl")) == 9


def test_no_tracker_starts_no_thread() -> None:
    mirror = Mirror(Tracker(None))
    mirror.start(Path("."), {}, "id")
    assert mirror._thread is None
    mirror.finish({"status": "done"})


def test_importing_trackers_does_not_import_wandb() -> None:
    code = "import sys, hybridopt.experiment.trackers; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
