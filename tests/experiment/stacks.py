"""A plugin by which a test sees where a process is just before it kills it: SIGUSR1 writes its stack to a file."""

from __future__ import annotations

import faulthandler
import os
import signal
from pathlib import Path

DIRECTORY = "HYBRIDOPT_TEST_STACKS"
"""Environment variable: where the files go, each named by its process id."""

if DIRECTORY in os.environ:
    _file = open(Path(os.environ[DIRECTORY]) / str(os.getpid()), "w")  # noqa: SIM115 - open as long as the process is
    faulthandler.register(signal.SIGUSR1, file=_file, all_threads=True)
