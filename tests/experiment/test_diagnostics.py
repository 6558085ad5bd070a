"""Norms of the layers' gradients: right, flagged, and without a trace in the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.diagnostics import gradient_norms
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_rows
from tests.experiment import tiny

assert tiny.Tiny.name == "tiny"
BOUNDS = {"vanishing": 1e-7, "exploding": 1e3}


def test_norms_are_those_of_backward() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(3, 4, num_layers=2, batch_first=True)
            self.readout = nn.Linear(4, 1)
            self.offset = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.readout(self.recurrent(x)[0][:, -1]) + self.offset

    torch.manual_seed(0)
    model, x, y = Net(), torch.randn(6, 5, 3), torch.randn(6, 1)
    found = gradient_norms(model, nn.functional.mse_loss, x, y, **BOUNDS)
    nn.functional.mse_loss(model(x), y).backward()
    groups = {
        "recurrent.l0": [p for name, p in model.named_parameters() if name.endswith("_l0")],
        "recurrent.l1": [p for name, p in model.named_parameters() if name.endswith("_l1")],
        "readout": [model.readout.weight, model.readout.bias],
        "offset": [model.offset],
    }
    expected = {name: math.sqrt(sum(float(p.grad.square().sum()) for p in group)) for name, group in groups.items()}
    assert found["norms"] == pytest.approx(expected, rel=1e-5)
    assert found["ratio"] == pytest.approx(min(expected.values()) / max(expected.values()), rel=1e-5)
    assert found["vanishing"] == found["exploding"] == {}


@pytest.mark.parametrize(("weight", "flag"), [(0.01, "vanishing"), (100.0, "exploding"), (math.nan, "exploding")])
def test_deep_networks_are_flagged(weight: float, flag: str) -> None:
    layers = [nn.Linear(4, 4) for _ in range(10)]
    for layer in layers:
        nn.init.eye_(layer.weight)
        with torch.no_grad():
            layer.weight.mul_(weight)
    found = gradient_norms(
        nn.Sequential(*layers), nn.functional.mse_loss, torch.ones(3, 4), torch.zeros(3, 4), **BOUNDS
    )
    assert found[flag]
    assert "0" in found[flag]
    assert ("9" in found[flag]) == (flag == "exploding")


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    found = gradient_norms(model, nn.functional.mse_loss, torch.ones(3, 2), torch.ones(3, 1), **BOUNDS)
    assert list(found["norms"]) == ["1"]


def timeless(directory: Path) -> list[dict[str, Any]]:
    rows = read_rows(directory / "history.jsonl")
    return [{key: value for key, value in row.items() if key not in ("seconds", "gradients")} for row in rows]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_run_does_not_notice(tmp_path: Path, optimizer: str) -> None:
    values = {"task": "tiny", "optimizer": optimizer, "device": "cpu", "budget": {"epochs": 3}, "log_every": 1}
    configs = [resolve({**values, "diagnostics": {"gradients": on}}) for on in (False, True)]
    for name, config in zip("ab", configs, strict=True):
        run_job(tmp_path / name, config)
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    evaluations = [row for row in read_rows(tmp_path / "b" / "history.jsonl") if row["type"] == "evaluation"]
    assert all(set(row["gradients"]["norms"]) == {"0", "1", "4"} for row in evaluations)
    assert run_id(to_plain(configs[0])) == run_id(to_plain(configs[1]))
