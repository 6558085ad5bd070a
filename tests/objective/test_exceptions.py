"""An exception inside the model or the loss leaves parameters and buffers in their places."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridopt.objective import Objective


class Broken(nn.Module):
    """Fails after its layers have run, when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 1)
        self.error: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.norm(self.cell(x)[0][-1]))
        if self.error is not None:
            raise self.error
        return y


@pytest.fixture
def objective():
    return Objective(Broken(), F.mse_loss, torch.randn(2, 4, 3), torch.randn(4, 1))


EVALUATIONS = pytest.mark.parametrize(
    "evaluate",
    [
        pytest.param(lambda o: o.value(2 * o.position()), id="value-trial"),
        pytest.param(lambda o: o.value_and_grad(2 * o.position()), id="gradient-trial"),
        pytest.param(lambda o: o.value(), id="value"),
        pytest.param(lambda o: o.value_and_grad(), id="gradient"),
        pytest.param(lambda o: o.at(), id="point"),
    ],
)


@EVALUATIONS
@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), torch.OutOfMemoryError("memory")])
def test_the_model_is_whole_afterwards(objective, evaluate, error):
    model = objective.model
    value = objective.value()
    parameters = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}
    buffers = {name: (id(b), b.clone()) for name, b in model.named_buffers()}
    weights = [id(w) for w in model.cell._flat_weights]
    state = torch.get_rng_state()
    model.error = error
    with pytest.raises(type(error)):
        evaluate(objective)
    model.error = None
    for name, p in model.named_parameters():
        assert id(p) == parameters[name][0], name
        assert torch.equal(p, parameters[name][1]), name
    for name, b in model.named_buffers():
        assert id(b) == buffers[name][0], name
        assert torch.equal(b, buffers[name][1]), name
    assert [id(w) for w in model.cell._flat_weights] == weights
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert objective.value() == value


@EVALUATIONS
def test_a_failed_evaluation_is_not_counted(objective, evaluate):
    objective.model.error = ValueError("bad")
    with pytest.raises(ValueError, match="bad"):
        evaluate(objective)
    assert sum(objective.ledger.counts.values()) == 0


@EVALUATIONS
def test_an_error_in_the_loss(evaluate):
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise ZeroDivisionError

    model = nn.Linear(2, 1)
    objective = Objective(model, loss, torch.randn(3, 2), torch.randn(3, 1))
    weight = model.weight
    with pytest.raises(ZeroDivisionError):
        evaluate(objective)
    assert model.weight is weight
