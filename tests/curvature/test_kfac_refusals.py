"""K-FAC says what it cannot approximate, instead of returning a matrix of zeros or torch's inner errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hybridopt as ho
from hybridopt.core import CombinationError


class Checkpointed(nn.Module):
    """A layer that is computed again in the backward pass, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.first, x, use_reentrant=False))


@pytest.mark.parametrize("kind", ["monte_carlo", "exact", "propagation", "auto"])
def test_loss_that_is_linear_in_the_outputs(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1))
    objective = ho.Objective(model, nn.KLDivLoss(reduction="batchmean"), torch.randn(6, 4), torch.rand(6, 3))
    with pytest.raises(CombinationError, match="linear in the model's outputs"):
        ho.curvature.KFAC(objective, kind=kind)


def test_checkpointed_layers() -> None:
    torch.manual_seed(0)
    objective = ho.Objective(Checkpointed(), nn.CrossEntropyLoss(), torch.randn(6, 4), torch.randint(0, 3, (6,)))
    with pytest.raises(CombinationError, match="checkpoint"):
        ho.curvature.KFAC(objective)
    # Products are not concerned.
    n = objective.space.n
    assert (ho.curvature.GaussNewton(objective) @ torch.ones(n)).isfinite().all()
