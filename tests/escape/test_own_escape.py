"""The documented example of a user's own escape runs as a plugin and leaves saddles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import hybridopt as ho
from hybridopt.cli import main
from hybridopt.core.plugins import load_plugin
from hybridopt.escape import registry
from hybridopt.experiment.jsonio import read_json, read_rows
from tests.plugins import forgotten

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "my_escape.py"
DOCUMENT = (ROOT / "docs" / "own_escape.md").read_text()


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[str]:
    with forgotten(registry):
        yield load_plugin(str(EXAMPLE))


def test_it_is_under_40_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 40


def test_the_first_command_of_the_document_leaves_the_saddle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = re.search(r"^hybridopt (run .*)$", DOCUMENT, flags=re.MULTILINE)[1].split()
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("examples/", f"{EXAMPLE.parent}/") for word in command]) == 0
    (directory,) = (path.parent for path in tmp_path.rglob("status.json"))
    assert all(target["reached"] for target in read_json(directory / "status.json")["targets"])
    events = [row["event"] for row in read_rows(directory / "history.jsonl") if row["type"] == "event"]
    assert events[:2] == ["stall", "escape_jump"]
    assert "power" in capsys.readouterr().out


def test_it_finds_the_one_way_down_and_stays_in_a_bowl() -> None:
    matrix = torch.diag(torch.tensor([4.0, 1.0, -2.0], dtype=torch.float64))
    random = torch.Generator().manual_seed(0)
    escape = ho.escape.registry.get("power")(products=60)
    saddle = ho.Objective.from_function(lambda x: x @ matrix @ x / 2, torch.zeros(3, dtype=torch.float64))
    proposal = escape.propose(None, saddle, 1, random)
    assert proposal.details["lambda_min"] == pytest.approx(-2.0, abs=1e-6)
    torch.testing.assert_close(proposal.jump.abs(), torch.tensor([0.0, 0.0, 0.2]).double(), atol=1e-3, rtol=0)
    for curvature in (matrix @ matrix, torch.eye(3).double(), 0 * matrix):
        bowl = ho.Objective.from_function(lambda x, h=curvature: x @ h @ x, torch.zeros(3, dtype=torch.float64))
        assert escape.propose(None, bowl, 0, random).jump is None


def test_the_library_calls_of_the_document_take_it() -> None:
    def saddle(x: torch.Tensor) -> torch.Tensor:
        return x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2

    result = ho.minimize(saddle, torch.tensor([1.0, 0.0], dtype=torch.float64), escape="power")
    assert result.success
    assert result.fun == pytest.approx(-0.5, abs=1e-6)
    chain = {"name": "chain", "escapes": ["power", "perturbation"]}
    assert ho.minimize(saddle, torch.zeros(2, dtype=torch.float64), escape=chain).fun == pytest.approx(-0.5, abs=1e-6)
