"""The documented example of a user's own task runs as a plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridopt.core.plugins import load_plugin
from hybridopt.experiment.config import resolve
from hybridopt.experiment.job import run_job
from hybridopt.tasks import create, registry
from tests.plugins import forgotten

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "my_task.py"


@pytest.fixture(scope="module")
def plugin() -> Iterator[str]:
    with forgotten(registry):
        yield load_plugin(str(EXAMPLE))


def test_it_is_under_40_lines_and_its_document_names_it() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 40
    assert "examples/my_task.py" in (ROOT / "docs" / "own_task.md").read_text()


def test_it_reaches_its_targets(plugin: str, tmp_path: Path) -> None:
    assert "spirals" in registry.names()
    values = {"task": "spirals", "optimizer": "trust_newton_cg", "budget": {"epochs": 100}, "device": "cpu"}
    status = run_job(tmp_path, resolve({**values, "plugins": [plugin]}))
    assert status["status"] == "done"
    assert all(target["reached"] for target in status["targets"])
    assert status["summary"]["test_f1"] > 0.95


def test_the_default_trivial_loss_is_that_of_the_prior(plugin: str) -> None:
    task = create("spirals")
    labels = task.splits(0).train.targets.double().mean()
    entropy = -(labels * labels.log() + (1 - labels) * (1 - labels).log())
    assert task.trivial_loss(task.splits(0)) == pytest.approx(float(entropy), abs=1e-4)
