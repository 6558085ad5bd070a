"""Where a run's time goes: phases that add up, also through an interruption and in runs of older versions."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridopt.cli import main
from hybridopt.experiment import clock as clock_module
from hybridopt.experiment import evaluation, loop, startup
from hybridopt.experiment.clock import PHASES, Clock
from hybridopt.experiment.config import to_plain
from hybridopt.experiment.jsonio import read_json
from hybridopt.experiment.layout import write_config
from tests.experiment.test_loop import config, run_until


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by hand."""
    reading = [100.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: reading[0])
    return reading


def test_a_phase_stops_the_one_around_it(now: list[float]) -> None:
    clock = Clock(torch.device("cpu"))
    now[0] += 50  # outside of all phases
    clock.start()
    now[0] += 1
    assert clock.seconds == 1
    assert clock.phases["training"] == 1
    with clock.phase("recording"):
        now[0] += 2
        with clock.phase("evaluation"):
            now[0] += 4
            with clock.phase("recording"):
                now[0] += 8
        assert clock.phases == {"startup": 0, "training": 1, "evaluation": 4, "recording": 10, "checkpoints": 0}
        with contextlib.suppress(KeyError), clock.phase("checkpoints"):
            now[0] += 16
            raise KeyError
        assert clock.seconds == 1
    now[0] += 32
    clock.stop()
    now[0] += 64
    assert clock.seconds == 33
    assert clock.phases == {"startup": 0, "training": 33, "evaluation": 4, "recording": 10, "checkpoints": 16}
    clock.add({"training": 1.0, "startup": math.nan})
    assert clock.seconds == 34
    assert math.isnan(clock.phases["startup"])


def test_what_a_device_still_has_to_do_counts_where_it_was_asked_for(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    queued = [0.0]

    def wait(device: torch.device) -> None:
        assert device == torch.device("cuda", 1)
        now[0], queued[0] = now[0] + queued[0], 0.0

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    clock = Clock(torch.device("cuda", 1))
    clock.start()
    now[0] += 1
    queued[0] = 10.0  # kernels that run on after the calls that queued them
    with clock.phase("evaluation"):
        now[0] += 2
        queued[0] = 20.0
    now[0] += 4
    queued[0] = 40.0
    assert clock.seconds == 15  # a look in between does not wait
    clock.stop()
    assert clock.phases == {"startup": 0, "training": 55, "evaluation": 22, "recording": 0, "checkpoints": 0}


def test_the_phases_of_a_run_are_its_wall_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any) -> dict[str, float]:
        time.sleep(0.02)
        return evaluation.evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate", slow)
    seen: list[dict[str, Any]] = []
    before = time.perf_counter()
    status, _ = run_until(
        tmp_path, config(budget={"steps": 6}), None, observer=lambda row: (time.sleep(0.01), seen.append(row))
    )
    whole = time.perf_counter() - before
    phases = status["phases"]
    assert list(phases) == list(PHASES)
    assert phases["training"] == status["seconds"]
    assert phases["evaluation"] >= 3 * 2 * 0.02
    assert phases["recording"] >= len(seen) * 0.01 >= 0.09
    assert min(phases.values()) > 0, "each had something to do"
    assert sum(phases.values()) < whole, "no second is counted twice"


def test_an_interrupted_run_goes_on_counting(tmp_path: Path) -> None:
    run = config(budget={"steps": 9})
    run_until(tmp_path, run, 4)
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert min(content["state"]["phases"].values()) > 0
    content["state"]["phases"] = {name: 1000.0 * place for place, name in enumerate(PHASES, start=1)}
    torch.save(content, tmp_path / "checkpoint.pt")
    status, _ = run_until(tmp_path, run, None)
    for place, name in enumerate(PHASES, start=1):
        assert 0 < status["phases"][name] - 1000 * place < 500
    assert status["phases"]["training"] == status["seconds"]


def test_what_an_older_checkpoint_does_not_say_stays_unknown(tmp_path: Path) -> None:
    run = config(budget={"steps": 9})
    first, _ = run_until(tmp_path, run, 4)
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del content["state"]["phases"]
    torch.save(content, tmp_path / "checkpoint.pt")
    status, trainer = run_until(tmp_path, run, None)
    assert status["seconds"] == status["phases"]["training"] > first["seconds"]
    assert all(math.isnan(status["phases"][name]) for name in PHASES if name != "training")
    trainer.store.write_status(status)
    assert math.isnan(read_json(tmp_path / "status.json")["phases"]["evaluation"])


def test_the_start_of_a_process_lies_before_now_and_stays() -> None:
    # Medians: on a busy machine a single reading may be interrupted between the two clocks that it compares.
    began = statistics.median(startup.process_began() for _ in range(9))
    assert began <= time.perf_counter()
    time.sleep(0.2)
    later = statistics.median(startup.process_began() for _ in range(9))
    told = Path("/proc/self/stat").exists()  # elsewhere it is the moment of the call
    assert later == pytest.approx(began, abs=0.05 if told else 10)


def test_the_command_counts_from_the_start_of_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, to_plain(config(budget={"steps": 1})))
    monkeypatch.setattr(startup, "process_began", lambda: time.perf_counter() - 1000)
    assert main(["job", str(tmp_path)]) == 0
    phases = read_json(tmp_path / "status.json")["phases"]
    assert 1000 < phases["startup"] < 1100
    assert phases["training"] < 100
