"""Fisher matrices and estimators against curvlinops, where it is installed."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor, nn

from hybridopt.curvature import EmpiricalFisher, Fisher
from hybridopt.linalg.operator import Dense
from hybridopt.objective import Objective
from tests.curvature.reference import relative_error

curvlinops = pytest.importorskip("curvlinops")
FLOAT = torch.float64


def problem(loss: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 3)
    ).double()
    inputs = torch.randn(7, 1, 3, 3, dtype=FLOAT)
    targets = torch.randint(0, 3, (7,)) if isinstance(loss, nn.CrossEntropyLoss) else torch.randn(7, 3, dtype=FLOAT)
    return model, inputs, targets


LOSSES = pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), nn.MSELoss(), nn.MSELoss(reduction="sum")],
    ids=["cross_entropy", "cross_entropy_sum", "mse", "mse_sum"],
)


@LOSSES
def test_empirical_fisher(loss: nn.Module):
    model, inputs, targets = problem(loss)
    ours = EmpiricalFisher(Objective(model, loss, inputs, targets))
    theirs = curvlinops.EFLinearOperator(model, loss, list(model.parameters()), [(inputs, targets)])
    vector = torch.linspace(-1, 1, ours.n, dtype=FLOAT)
    if isinstance(loss, nn.MSELoss) and loss.reduction == "mean":
        # They take a datum's loss to be the sum over its 3 outputs, times a factor outside; here it is their mean.
        assert relative_error(ours @ vector, theirs @ vector / 3) < 1e-10
    else:
        assert relative_error(ours @ vector, theirs @ vector) < 1e-10


@LOSSES
def test_monte_carlo_fisher_tends_to_theirs(loss: nn.Module):
    model, inputs, targets = problem(loss)
    vector = torch.linspace(-1, 1, sum(p.numel() for p in model.parameters()), dtype=FLOAT)
    ours = Fisher(Objective(model, loss, inputs, targets), kind="monte_carlo", samples=2000) @ vector
    theirs = curvlinops.FisherMCLinearOperator(
        model, loss, list(model.parameters()), [(inputs, targets)], mc_samples=2000, check_deterministic=False
    )
    assert relative_error(ours, theirs @ vector) < 0.15


@pytest.mark.parametrize(("method", "peer"), [("xtrace", "xtrace"), ("xdiag", "xdiag"), ("hutch++", "hutchpp_trace")])
def test_estimators_are_as_good_as_theirs(method: str, peer: str):
    basis = torch.linalg.qr(torch.randn(60, 60, dtype=FLOAT, generator=torch.Generator().manual_seed(7))).Q
    matrix = basis * torch.arange(1, 61, dtype=FLOAT) ** -2.0 @ basis.T
    wanted = matrix.diagonal() if method == "xdiag" else matrix.trace()[None]
    mine, others = [], []
    for seed in range(15):
        generator = torch.Generator().manual_seed(seed)
        found = (
            Dense(matrix).diagonal(30, method=method, generator=generator)
            if method == "xdiag"
            else torch.tensor([Dense(matrix).trace(30, method=method, generator=generator)], dtype=FLOAT)
        )
        mine.append(float((found - wanted).norm()))
        torch.manual_seed(seed)
        others.append(float((getattr(curvlinops, peer)(matrix, 30) - wanted).norm()))
    assert statistics.median(mine) < 1.5 * statistics.median(others)
