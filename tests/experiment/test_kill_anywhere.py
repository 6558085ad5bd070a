"""Runs killed at any moment, with their files damaged afterwards, end as if nothing had happened.

Each attempt is a forked process that a profile hook kills at a function call: the n-th of all, drawn at random, or
the n-th in a given file, which is in the middle of conjugate gradients, of an escape, of a switch, of a checkpoint.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridopt.experiment.config import RunConfig, resolve
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_json, read_rows
from tests.experiment import tiny

METHODS: dict[str, dict[str, Any]] = {
    "newton_cg": {
        "optimizer": {"name": "newton_cg", "max_cg": 8},
        "escape": {"name": "perturbation", "stall_window": 3, "window": 3, "stall_tolerance": 0.5},
    },
    "switch": {"optimizer": {"name": "adam_lbfgs", "at_step": 5}},
    "mini": {"optimizer": {"name": "momentum"}, "schedule": {"name": "cosine"}},
}


def config(method: str) -> RunConfig:
    return resolve(
        {
            "task": {"name": "tiny", "samples": 24},
            "budget": {"steps": 9},
            "device": "cpu",
            "threads": 1,
            "checkpoint_every": 1e-6,
            "plugins": [str(Path(tiny.__file__).resolve())],
            **METHODS[method],
        }
    )


def attempt(directory: Path, run: RunConfig, calls: int | None, within: str = "") -> int:
    """Does a run in a forked process, killed at its `calls`-th call of a function in a file whose path ends so."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            count = 0
            os.fsync = lambda descriptor: None  # only a power cut asks for it, and it takes most of the time

            def hook(frame: Any, event: str, argument: Any) -> None:
                nonlocal count
                if event in ("call", "c_call") and frame.f_code.co_filename.endswith(within):
                    count += 1
                    if count == calls:
                        os.kill(os.getpid(), signal.SIGKILL)

            if calls is not None:
                sys.setprofile(hook)
            run_job(directory, run)
            sys.setprofile(None)
            (directory / "calls").write_text(str(count))
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(directory: Path) -> dict[str, Any]:
    """Everything of a run that is not time."""
    rows = read_rows(directory / "history.jsonl")
    status = read_json(directory / "status.json") or {}
    state = torch.load(directory / "checkpoint.pt", weights_only=True)["state"]
    return {
        "rows": [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
        "status": {key: status.get(key) for key in ("status", "steps", "gradient_equivalents", "summary")},
        "model": {key: value.tolist() for key, value in state["model"].items()},
        "ledger": state["ledger"],
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], int]]:
    """What the runs are, and how many calls they take."""
    found = {}
    for method in METHODS:
        directory = tmp_path_factory.mktemp(method)
        assert attempt(directory, config(method), -1) == 0
        found[method] = content(directory), int((directory / "calls").read_text())
    return found


def finish(directory: Path, run: RunConfig) -> dict[str, Any]:
    assert attempt(directory, run, None) == 0
    return content(directory)


def damage(directory: Path, chance: random.Random) -> None:
    """Tears the last line of the history, or flips bytes of the newest checkpoint, or cuts it short."""
    checkpoint, history = directory / "checkpoint.pt", directory / "history.jsonl"
    kind = chance.choice(["tear", "flip", "cut"])
    if kind == "tear" and history.exists():
        with open(history, "ab") as file:
            file.write(b'{"type":"step","step":99,"lo')
    elif checkpoint.exists():
        data = bytearray(checkpoint.read_bytes())
        if kind == "flip":
            for _ in range(40):
                data[chance.randrange(len(data))] ^= 0xFF
        else:
            del data[chance.randrange(len(data)) :]
        checkpoint.write_bytes(data)


def disturb(directory: Path, method: str, calls: int, seed: int, attempts: int) -> None:
    chance = random.Random(seed)
    for _ in range(attempts):
        if attempt(directory, config(method), chance.randrange(1, calls)) == 0:
            break
        damage(directory, chance)


@pytest.mark.parametrize(("method", "seed"), [("newton_cg", 1), ("newton_cg", 2), ("switch", 3), ("mini", 4)])
def test_random_kills_and_damage_change_no_number(method: str, seed: int, tmp_path: Path, undisturbed: Any) -> None:
    expected, calls = undisturbed[method]
    disturb(tmp_path, method, calls, seed, attempts=3)
    assert finish(tmp_path, config(method)) == expected


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", METHODS)
def test_many_random_kills(method: str, tmp_path: Path, undisturbed: Any) -> None:
    expected, calls = undisturbed[method]
    for seed in range(30):
        directory = tmp_path / str(seed)
        disturb(directory, method, calls, seed, attempts=5)
        assert finish(directory, config(method)) == expected, f"seed {seed}"


@pytest.mark.parametrize(
    ("method", "within", "calls"),
    [
        ("newton_cg", "linalg/cg.py", 40),
        ("newton_cg", "escape/perturbation.py", 3),
        ("switch", "hybrid/hand_over.py", 1),
        ("mini", "experiment/checkpoint.py", 9),
        *(("mini", "experiment/store.py", count) for count in (150, 155, 160, 165, 170, 175)),
    ],
)
def test_a_kill_in_the_middle_of(method: str, within: str, calls: int, tmp_path: Path, undisturbed: Any) -> None:
    assert attempt(tmp_path, config(method), calls, within) == -signal.SIGKILL, f"{within} has fewer calls"
    assert finish(tmp_path, config(method)) == undisturbed[method][0]


def test_a_run_without_a_usable_checkpoint_starts_again_and_says_so(tmp_path: Path, undisturbed: Any) -> None:
    attempt(tmp_path, config("mini"), 400, "experiment/store.py")
    had = read_rows(tmp_path / "history.jsonl")
    for path in tmp_path.glob("checkpoint*.pt"):
        path.write_bytes(path.read_bytes()[:100])
    assert finish(tmp_path, config("mini")) == undisturbed["mini"][0]
    log = (tmp_path / "run.log").read_text()
    assert "The checkpoint checkpoint.pt cannot be used" in log
    assert "No usable checkpoint: the run starts again from zero" in log
    assert had
    assert read_rows(tmp_path / "history.abandoned.jsonl") == had
