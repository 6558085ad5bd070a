"""A sweep whose launcher is killed at any moment, with its jobs or without, ends as if nothing had happened."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridopt.cli import main
from hybridopt.experiment.config import resolve
from hybridopt.experiment.ending import HELD, settle
from hybridopt.experiment.interrupt import PARENT
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_json, read_rows
from hybridopt.experiment.layout import read_config
from hybridopt.experiment.lock import lock_holder
from hybridopt.experiment.processes import job_environment
from hybridopt.experiment.slots import Job
from tests.experiment import stacks, tiny

PLUGINS = [f"--plugin={Path(module.__file__).resolve()}" for module in (tiny, stacks)]
TIMES = ("seconds", "phases", "started", "finished")
"""What two equal runs may differ in, in their rows and statuses."""

PHASES = {
    "conjugate gradients": r"linalg/cg\.py",
    "escape": r"escape/transaction\.py",
    "switch": r"hybrid/.*\.py",
    "checkpoint": r"experiment/checkpoint\.py\", line \d+ in save",
    "evaluation": r"experiment/evaluation\.py",
    "rehearsal": r"experiment/rehearsal\.py",
    "building": r"experiment/build\.py",
    "waiting for jobs": r"experiment/processes\.py",
    "composition": r"experiment/composition\.py",
    "optimizer": r"optimizers/.*\.py",
}
"""Which file in a stack says what a process was doing; the first that is found does."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds a launcher's jobs in /proc")


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def content(directory: Path) -> dict[str, Any]:
    """Everything of a run's rows and status that is not time."""
    rows = read_rows(directory / "history.jsonl")
    return {"rows": timeless(rows), "status": timeless(read_json(directory / "status.json"))}


def runs(out: Path) -> dict[str, Path]:
    return {str(path.parent.relative_to(out)): path.parent for path in sorted(out.glob("*/*/*/config.yaml"))}


def jobs_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def is_job(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"hybridopt\0job\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class Launcher:
    """``hybridopt run`` in a forked process, which saves it the imports; its jobs are processes as ever."""

    def __init__(self, sweep: Sweep) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.chdir(sweep.where)
                os.environ |= {**job_environment(1), PARENT: "", stacks.DIRECTORY: str(sweep.where / "stacks")}
                log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                for stream in (1, 2):
                    os.dup2(log, stream)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                code = main(sweep.arguments)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, state = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(state) if pid else None
        return self.returncode

    def wait(self, seconds: float = 600) -> int | None:
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.returncode


class Sweep:
    """A sweep from the command line in a directory, started as often as it takes."""

    def __init__(self, where: Path, overrides: list[str]) -> None:
        self.where, self.out = where, where / "out"
        (where / "stacks").mkdir(parents=True)
        self.arguments = ["run", "-m", *PLUGINS, *overrides, "out=out"]
        self.orphans: list[int] = []

    def start(self) -> Launcher:
        return Launcher(self)

    def log(self) -> str:
        return (self.where / "log").read_text()

    def growing(self) -> Callable[[], bool]:
        """A function that tells whether a history has grown since it was asked last; a resume cuts them first."""

        def sizes() -> dict[Path, int]:
            return {path: path.stat().st_size for path in self.out.glob("*/*/*/history.jsonl")}

        def ask() -> bool:
            nonlocal known
            before, known = known, sizes()
            return any(size > before.get(path, 0) for path, size in known.items())

        known = sizes()
        return ask

    def kill(self, pid: int) -> str:
        """Kills a process, and returns what it was doing."""
        stack = self.where / "stacks" / str(pid)
        if not stack.exists():
            os.kill(pid, signal.SIGKILL)
            return "starting"
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
            deadline = time.monotonic() + 1
            while stack.stat().st_size == 0 and time.monotonic() < deadline:
                pass
            os.kill(pid, signal.SIGKILL)
        text = stack.read_text()
        phase = next((phase for phase, pattern in PHASES.items() if re.search(pattern, text)), "something else")
        return phase + self.escaping(pid)

    def escaping(self, pid: int) -> str:
        """Says whether the run of a job is on trial after an escape's jump."""
        for run in runs(self.out).values():
            if (read_json(run / ".lock") or {}).get("pid") == pid:
                events = [row["event"] for row in read_rows(run / "history.jsonl") if row["type"] == "event"]
                verdicts = [event for event in events if event.startswith("escape")]
                return " in an escape's trial" if verdicts[-1:] == ["escape_jump"] else ""
        return ""

    def wait_for_orphans(self) -> None:
        wait_until(lambda: not any(map(is_job, self.orphans)), self)
        self.orphans.clear()

    def end(self) -> None:
        """Leaves nothing running behind."""
        for pid in self.orphans:
            if is_job(pid):
                os.kill(pid, signal.SIGKILL)


def wait_until(condition: Any, sweep: Sweep, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, sweep.log()
        time.sleep(0.01)


def disturb(sweep: Sweep, chance: random.Random, kills: int, early: float = 0.0) -> list[str]:
    """Kills a sweep's launcher at random moments, half the time its jobs too; returns what was killed doing what."""
    story: list[str] = []
    while len(story) < kills:
        growing = sweep.growing()
        launcher = sweep.start()
        if chance.random() < early:  # any time after the start: before there are jobs, and while they start
            moment = chance.uniform(0, 8)
            launcher.wait(moment)
        else:
            wait_until(lambda p=launcher, grows=growing: p.poll() is not None or grows(), sweep)
            time.sleep(chance.uniform(0, 1))
        if launcher.poll() is not None:
            # Refused, as an orphan of the kill before is still at its step; or all is done.
            assert launcher.returncode == 0 or "is being done by" in sweep.log(), (story, sweep.log())
            if launcher.returncode == 0:
                break
            time.sleep(0.2)
            continue
        jobs = [pid for pid in jobs_of(launcher.pid) if is_job(pid)]
        if jobs and chance.random() < 0.2:
            victims = [chance.choice(jobs)]  # a job alone: the launcher goes on, and is killed at once after it
            story.append(f"job: {sweep.kill(victims[0])}")
        story.append(f"launcher: {sweep.kill(launcher.pid)}")
        launcher.wait()
        if chance.random() < 0.5:
            story += [f"job: {sweep.kill(pid)}" for pid in jobs if is_job(pid)]
        sweep.orphans += jobs
        if chance.random() < 0.7:  # else the next launcher meets them
            sweep.wait_for_orphans()
    return story


def finish(sweep: Sweep, story: list[str]) -> None:
    """Starts a sweep until it is done; it may be refused only while orphans are at their last step."""
    sweep.wait_for_orphans()
    deadline = time.monotonic() + 300
    while (code := sweep.start().wait()) != 0:
        refused = "is being done by" in sweep.log() or "another process is doing it" in sweep.log()
        assert refused, (code, story, sweep.log())
        assert time.monotonic() < deadline, sweep.log()
        time.sleep(0.2)


def check(sweep: Sweep, whole: dict[str, dict[str, Any]], story: list[str]) -> None:
    assert {name: content(path) for name, path in runs(sweep.out).items()} == whole, story
    assert len(whole) > 1


@pytest.fixture
def sweeps() -> Any:
    made: list[Sweep] = []
    yield made
    for sweep in made:
        sweep.end()


def undisturbed(out: Path, where: Path) -> dict[str, dict[str, Any]]:
    """The same runs, done in this process."""
    found = {}
    for name, directory in runs(out).items():
        run_job(where / name, resolve(read_config(directory), here=True))
        found[name] = content(where / name)
    return found


@pytest.mark.timeout(600)
def test_killed_launchers_change_no_number_and_orphans_do_not_write_beside_their_followers(
    tmp_path: Path, sweeps: list[Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["task=tiny", "optimizer=lbfgs", "seed=0,1", "budget.steps=20", "checkpoint_every=1e-6"]
    overrides += ["task.poison=slow", "task.after=0", "device=cpu", "threads=1", "launcher.slots=1"]
    sweep = Sweep(tmp_path / "disturbed", overrides)
    sweeps.append(sweep)
    growing = sweep.growing()
    launcher = sweep.start()
    wait_until(growing, sweep)
    (orphan,) = (pid for pid in jobs_of(launcher.pid) if is_job(pid))
    sweep.orphans.append(orphan)
    os.kill(orphan, signal.SIGSTOP)  # in the middle of a long step, as it were
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    (run,) = (path for path in runs(sweep.out).values() if lock_holder(path))
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert sweep.start().wait() == 2
    assert f"is being done by process {orphan} on" in sweep.log()
    # What becomes of the job of a launcher that had looked before the orphan took its lock.
    assert main(["job", str(run)]) == HELD
    assert f"is being written by process {orphan} on" in capsys.readouterr().err
    outcome = settle(Job(run, "run"), HELD)
    assert (outcome.status, outcome.reason[:23]) == ("interrupted", "another process is doin")
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    os.kill(orphan, signal.SIGCONT)
    sweep.wait_for_orphans()
    status = read_json(run / "status.json")
    assert (status["status"], status["reason"]) == ("interrupted", "the launcher of this job is gone")
    seed = 3
    story = disturb(sweep, random.Random(seed), kills=1)
    assert story, f"seed {seed}: the sweep was over before"
    finish(sweep, story)
    check(sweep, undisturbed(sweep.out, tmp_path / "whole"), story)


def test_a_job_whose_launcher_is_gone_before_it_begins_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PARENT, "1" if os.getppid() != 1 else "2")
    assert main(["job", str(tmp_path)]) == 130
    assert "The run is not begun: the launcher of this job is gone." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_kills_of_launchers_and_jobs(tmp_path: Path, sweeps: list[Sweep]) -> None:
    switch = tmp_path / "conf" / "optimizer" / "early_switch.yaml"
    switch.parent.mkdir(parents=True)
    switch.write_text("defaults: [/schema/optimizer/adam_lbfgs@_here_, _self_]\nat_step: 15\n")
    overrides = ["--config-dir", str(tmp_path / "conf"), "task=tiny", "device=cpu", "threads=1", "launcher.slots=2"]
    overrides += ["optimizer=newton_cg,early_switch,adam,stochastic_lbfgs", "budget.steps=60", "checkpoint_every=0.05"]
    overrides += ["task.poison=slow", "task.after=0", "escape=perturbation", "escape.stall_window=3"]
    overrides += ["escape.window=3", "escape.stall_tolerance=0.5"]
    sweeps.append(Sweep(tmp_path / "whole", overrides))
    assert sweeps[0].start().wait() == 0, sweeps[0].log()
    whole = {name: content(path) for name, path in runs(sweeps[0].out).items()}
    counts: collections.Counter[str] = collections.Counter()
    first = int(os.environ.get("HYBRIDOPT_TEST_SEED", "0"))
    wanted = ("job: conjugate gradients", "job: checkpoint", "in an escape's trial", "launcher: waiting for jobs")
    for seed in range(first, first + 20):  # the moments are those of the clock: until each phase was met
        sweep = Sweep(tmp_path / f"seed{seed}", overrides)
        sweeps.append(sweep)
        story = disturb(sweep, random.Random(seed), kills=12, early=0.2)
        sys.stdout.write(f"seed {seed}: {story}\n")
        finish(sweep, story)
        check(sweep, whole, [f"seed {seed}", *story])
        counts.update(story)
        if all(any(phase in text for text in counts) for phase in wanted):
            return
    pytest.fail(f"no kill in one of {wanted}: {counts}")
