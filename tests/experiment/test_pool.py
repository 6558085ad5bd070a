"""The queue of job processes: whatever ends a process, the others go on and its run has a status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hybridopt.experiment import processes
from hybridopt.experiment.jsonio import read_json
from hybridopt.experiment.layout import write_config
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.pool import Pool
from hybridopt.experiment.slots import Job, Slot

CONFIG = {
    "task": {"name": "t"},
    "optimizer": {"name": "o"},
    "escape": {"name": "none"},
    "seed": 0,
    "device": "cpu",
}
DONE = "write('done')"


class ScriptPool(Pool):
    """Starts a small script instead of a real job; `write(status)` in it writes status.json."""

    def __init__(self, scripts: dict[str, str], slots: int = 1, time_limit: float | None = None) -> None:
        super().__init__([Slot("cpu", 1)] * slots, time_limit, Monitor())
        self.scripts = scripts

    def command(self, job: Job, slot: Slot) -> list[str]:
        prelude = (
            "import json, os, signal, sys, time\n"
            f"d = {str(job.directory)!r}\n"
            "def write(status):\n"
            "    open(d + '/status.json', 'w').write(json.dumps({'format': 1, 'status': status, 'reason': 'so'}))\n"
        )
        return [sys.executable, "-S", "-c", prelude + self.scripts[job.name]]


def do(tmp_path: Path, scripts: dict[str, str], **options: object) -> dict[str, Outcome]:
    jobs = []
    for name in scripts:
        write_config(tmp_path / name, {**CONFIG, "seed": len(jobs)})
        jobs.append(Job(tmp_path / name, name))
    outcomes = ScriptPool(scripts, **options).run(jobs)  # type: ignore[arg-type]
    return {outcome.name: outcome for outcome in outcomes}


def test_a_dead_job_never_ends_the_queue(tmp_path: Path) -> None:
    row = '{"type":"step","step":7,"epoch":1.0,"gradient_equivalents":2.5,"seconds":0.5,"loss":1.0}'
    outcomes = do(
        tmp_path,
        {
            "killed": f"write('running'); open(d+'/history.jsonl','w').write("
            f"{row + chr(10)!r}); os.kill(os.getpid(), 9)",
            "exited": "write('running'); os._exit(3)",
            "silent": "os._exit(0)",
            "diverged": "write('diverged'); sys.exit(1)",
            "fine": DONE,
        },
    )
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "killed": "interrupted",
        "exited": "failed",
        "silent": "failed",
        "diverged": "diverged",
        "fine": "done",
    }
    assert "killed by signal 9 (SIGKILL)" in outcomes["killed"].reason
    assert "exit code 3" in outcomes["exited"].reason
    stored = read_json(tmp_path / "killed" / "status.json")
    assert stored["status"] == "interrupted", "a kill says nothing about the run: it goes on when started again"
    assert "signal 9" in stored["reason"]
    assert (stored["steps"], stored["gradient_equivalents"]) == (7, 2.5)
    assert read_json(tmp_path / "silent" / "status.json")["status"] == "failed"


def test_the_status_of_an_earlier_attempt_is_not_taken_for_this_one(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "status.json").write_text('{"format": 1, "status": "interrupted", "reason": "before"}')
    os.utime(tmp_path / "again" / "status.json", ns=(1, 1))
    outcome = do(tmp_path, {"again": "os.kill(os.getpid(), 9)"})["again"]
    assert outcome.status == "interrupted"
    assert "signal 9" in outcome.reason


def test_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.5)
    outcomes = do(
        tmp_path,
        {
            "saves": "signal.signal(15, lambda *a: (write('interrupted'), os._exit(0)))\ntime.sleep(9)",
            "deaf": "write('running'); signal.signal(15, signal.SIG_IGN); time.sleep(30)",
            "quick": DONE,
        },
        slots=3,
        time_limit=2.0,
    )
    assert outcomes["quick"].status == "done"
    for name in ("saves", "deaf"):
        assert outcomes[name].status == "failed"
        assert "launcher.time_limit=2" in outcomes[name].reason
        assert read_json(tmp_path / name / "status.json")["status"] == "failed"


def test_slots_run_at_the_same_time_and_no_more(tmp_path: Path) -> None:
    # Each waits until it has met another, then counts who is there.
    meet = """
def count(name):
    return sum(name in files for _, _, files in os.walk(os.path.dirname(d)))
open(d + '/entered', 'w')
deadline = time.monotonic() + 30
while count('entered') < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.2)
entered = count('entered')
open(d + '/seen', 'w').write(f"{entered} {entered - count('left')}")
open(d + '/left', 'w')
write('done')
"""
    outcomes = do(tmp_path, dict.fromkeys("abcd", meet), slots=2)
    assert [outcome.status for outcome in outcomes.values()] == ["done"] * 4
    seen = [tuple(map(int, (tmp_path / name / "seen").read_text().split())) for name in "abcd"]
    assert min(entered for entered, _ in seen) == 2
    assert max(inside for _, inside in seen) <= 2


def test_interrupt_lets_the_jobs_save_themselves(tmp_path: Path) -> None:
    scripts = {
        "running": "write('running'); signal.signal(15, lambda *a: (write('interrupted'), os._exit(130)))\n"
        "open(d+'/up','w'); time.sleep(30)",
        "waiting": DONE,
    }

    def interrupt() -> None:
        while not (tmp_path / "running" / "up").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        do(tmp_path, scripts)
    thread.join()
    assert read_json(tmp_path / "running" / "status.json")["status"] == "interrupted"
    assert read_json(tmp_path / "waiting" / "status.json") is None
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_timing_says_whether_jobs_shared_the_machine(tmp_path: Path) -> None:
    job = Job(tmp_path, "x")
    alone, together = (
        Pool([Slot("cpu", 1)], None, Monitor()),
        Pool([Slot("cpu", 1, (0,))] * 2, None, Monitor()),
    )
    assert "exclusive" in alone.command(job, Slot("cpu", 1))
    command = together.command(job, Slot("cuda:1", 1, (0, 3)))
    assert command[command.index("--timing") + 1] == "shared"
    assert command[command.index("--device") + 1] == "cuda:1"
    assert command[command.index("--cores") + 1] == "0,3"


def test_jobs_find_this_package_from_anywhere(tmp_path: Path) -> None:
    environment = processes.job_environment(threads=3)
    assert environment["OMP_NUM_THREADS"] == "3"
    code = "import hybridopt, sys; sys.stdout.write(hybridopt.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    import hybridopt

    assert done.stdout == hybridopt.__file__
