"""A run has one writer; when it ends, however it ends, the run is free."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from hybridopt.core.errors import StoreError
from hybridopt.experiment.layout import write_config
from hybridopt.experiment.lock import lock_holder
from hybridopt.experiment.store import RunStore
from tests.experiment.stored import CONFIG

HOLD = """
    import sys, time
    from hybridopt.experiment.lock import RunLock
    lock = RunLock(sys.argv[1])
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_process_is_refused_and_a_kill_frees_the_run(tmp_path: Path) -> None:
    write_config(tmp_path, CONFIG)
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        known = lock_holder(tmp_path)
        assert known is not None
        assert known.pid == holder.pid
        with pytest.raises(StoreError, match=rf"process {holder.pid} on {known.host}"):
            RunStore(tmp_path)
        holder.send_signal(signal.SIGKILL)
    finally:
        holder.kill()
        holder.wait()
    assert lock_holder(tmp_path) is None
    with RunStore(tmp_path) as store:
        assert store.resume() is None
        assert lock_holder(tmp_path).pid == os.getpid()  # type: ignore[union-attr]


def test_two_stores_in_one_process(tmp_path: Path) -> None:
    with RunStore(tmp_path, CONFIG), pytest.raises(StoreError, match=str(os.getpid())):
        RunStore(tmp_path)
    RunStore(tmp_path).close()


def test_looking_does_not_disturb_a_start(tmp_path: Path) -> None:
    RunStore(tmp_path, CONFIG).close()
    descriptor = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # what lock_holder holds for a moment
    threading.Timer(0.1, os.close, [descriptor]).start()
    RunStore(tmp_path).close()


def test_nobody_holds_what_is_not_there(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "nothing") is None


def test_a_failed_open_frees_the_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"config\.yaml"):
        RunStore(tmp_path)
    RunStore(tmp_path, CONFIG).close()
