"""The documented example of a user's own optimizer is short, conforms, and does what its document says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.cli import main
from hybridopt.core.plugins import load_plugin
from hybridopt.optimizers import registry
from hybridopt.testing import CHECKS
from tests.optimizers.catalogue import quadratic
from tests.plugins import forgotten

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "my_optimizer.py"
DOCUMENT = (ROOT / "docs" / "own_optimizer.md").read_text()


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[str]:
    with forgotten(registry):
        yield load_plugin(str(EXAMPLE))


def test_it_has_40_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 40


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_it_conforms(check: Any) -> None:
    check(registry.get("barzilai_borwein"))


def test_the_first_command_of_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = re.search(r"^hybridopt (run .*)$", DOCUMENT, flags=re.MULTILINE)[1].split()
    monkeypatch.chdir(tmp_path)
    words = [word.replace("examples/", f"{EXAMPLE.parent}/") for word in command]
    assert main([*words[:-1], "budget.epochs=2"]) == 0


def test_its_steps_are_the_secants() -> None:
    matrix, vector = quadratic(6)
    x = torch.zeros(6, dtype=torch.float64)
    objective = ho.Objective.from_function(lambda x: x @ matrix @ x / 2 - vector @ x, x)
    optimizer = ho.create("barzilai_borwein", objective.model.parameters(), first=1e-3)
    optimizer.step(objective)
    s = objective.position() - x
    assert float(s.norm()) == pytest.approx(1e-3)
    gradient = matrix @ objective.position() - vector
    optimizer.step(objective)
    assert optimizer.report.step_norm == pytest.approx(float(gradient.norm() * (s @ s) / (s @ matrix @ s)))
    for _ in range(200):
        optimizer.step(objective)
    torch.testing.assert_close(objective.position(), torch.linalg.solve(matrix, vector))


def test_what_the_document_names_exists() -> None:
    objective = ho.Objective.from_function(lambda x: (x**2).sum(), torch.ones(2))
    optimizer = ho.create("barzilai_borwein", objective.model.parameters())
    for words in re.findall(r"^\| (`.*?`) \|", DOCUMENT, flags=re.MULTILINE):
        for name in re.findall(r"`(?:@ho\.|objective\.|self\.)?(\w+)", words):
            owner = next((part for part in (optimizer, objective, ho) if hasattr(part, name)), None)
            assert owner is not None, f"docs/own_optimizer.md names {name!r}"
