"""A comparison of which only a part is tuned says which part is not."""

from __future__ import annotations

import json
from pathlib import Path

from hybridopt.report import standing
from hybridopt.results import load
from tests.synthetic_runs import Method, write_run

FAST, SLOW = (Method(name, "first-order", 0.02, 20, {"gradient": 1}) for name in ("fast", "slow"))


def test_the_untuned_settings_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, method=SLOW)
    path = write_run(tmp_path, method=FAST) / "provenance.json"
    tuning = {"trials": 8, "gradient_equivalents": 160.0}
    path.write_text(json.dumps({**json.loads(path.read_text()), "tuning": tuning}))
    found = standing(load(tmp_path))
    assert found.startswith("1 of 2 settings tuned (8 trials, cost 160 each), 1 seed; not ")
    assert found.endswith(f"not {SLOW.name}: what is tuned and what is not cannot be compared")
