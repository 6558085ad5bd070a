"""Recognised losses: samples have the Hessian of the loss as covariance, square roots are exact, others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridopt.core import CombinationError, ConfigError
from hybridopt.curvature.likelihood import likelihood_at, output_hessian_root
from hybridopt.objective import Objective
from tests.cases import BY_NAME
from tests.curvature.reference import objective_of

FLOAT = torch.float64
WEIGHT = torch.tensor([1.0, 2.0, 0.5], dtype=FLOAT)
CLASSES = torch.tensor([0, 1, 2, 0, -100])
REAL = torch.linspace(-1, 1, 15, dtype=FLOAT).reshape(5, 3)
SHARES = torch.linspace(0, 1, 15, dtype=FLOAT).reshape(5, 3)
STEPS = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0], [2, 1]])

# Name, distribution, loss, targets; outputs are (5, 3), or (5, 2, 3) where the targets are STEPS.
LOSSES: list[tuple[str, str, Callable[..., Tensor], Any]] = [
    ("cross_entropy", "categorical", F.cross_entropy, CLASSES.clamp(min=0)),
    ("sum", "categorical", nn.CrossEntropyLoss(reduction="sum"), CLASSES.clamp(min=0)),
    ("weighted", "categorical", nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), CLASSES),
    ("probabilities", "categorical", nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2), SHARES),
    ("flattened", "categorical", lambda z, t: F.cross_entropy(z.flatten(0, 1), t.flatten()), STEPS),
    ("transposed", "categorical", lambda z, t: F.cross_entropy(z.transpose(1, 2), t), STEPS),
    ("masked", "categorical",
     lambda z, t: (F.cross_entropy(2 * z.flatten(0, 1), t.flatten(), reduction="none") * torch.arange(10)).sum() / 7,
     STEPS),
    ("nll", "categorical", lambda z, t: F.nll_loss(z.log_softmax(1), t, weight=WEIGHT.to(z)), CLASSES),
    ("nll_by_position", "categorical",
     lambda z, t: nn.NLLLoss(reduction="sum")(z.log_softmax(2).transpose(1, 2), t) / 3, STEPS),
    ("gaussian_nll", "gaussian", lambda z, t: F.gaussian_nll_loss(z, t, SHARES.to(z), eps=0.1, full=True), REAL),
    ("gaussian_nll_of_rows", "gaussian",
     lambda z, t: nn.GaussianNLLLoss(reduction="sum")(z, t, SHARES[:, 1].to(z) + 0.2), REAL),
    ("mse", "gaussian", F.mse_loss, REAL),
    ("mse_sum", "gaussian", nn.MSELoss(reduction="sum"), REAL),
    ("mse_swapped", "gaussian", lambda z, t: F.mse_loss(t, z), REAL),
    ("mse_broadcast", "gaussian", lambda z, t: 0.5 * F.mse_loss(z, t[:1].expand(5, 3), reduction="none").sum(1).mean(),
     REAL),
    ("bce", "bernoulli", F.binary_cross_entropy_with_logits, SHARES),
    ("bce_weighted", "bernoulli", nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=WEIGHT.flip(0)), SHARES),
    ("bce_sum_over_pixels", "bernoulli", lambda z, t: F.binary_cross_entropy_with_logits(z, t) * t[0].numel(), SHARES),
]  # fmt: skip


def outputs_of(targets: Tensor) -> tuple[int, ...]:
    return (5, 2, 3) if targets is STEPS else (5, 3)


def point_of(loss: Callable[..., Tensor], targets: Any, dtype: torch.dtype = FLOAT, scale: float = 1.0) -> Any:
    """A model whose parameters are its outputs, so that J is the identity."""
    torch.manual_seed(0)
    shape = outputs_of(targets)
    model = nn.Linear(5, targets[0].numel() * 3 if targets is STEPS else 3, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.copy_(scale * torch.randn_like(model.weight))
    module = nn.Sequential(model, nn.Unflatten(1, shape[1:])) if len(shape) > 2 else model
    targets = targets.to(dtype) if targets.is_floating_point() else targets
    return Objective(module, loss, torch.eye(5, dtype=dtype), targets).at()


def output_hessian(loss: Callable[..., Tensor], point: Any, targets: Any) -> Tensor:
    (z,) = point.outputs
    flat = torch.autograd.functional.hessian(lambda v: loss(v.reshape(z.shape), targets), z.flatten())
    return flat.reshape(5, z[0].numel(), 5, z[0].numel())


def blocks(columns: Any) -> Tensor:
    """Sum of the outer products of every datum."""
    flat = torch.stack([column[0].flatten(1) for column in columns])
    return torch.einsum("kni,knj->nij", flat, flat)


@pytest.mark.parametrize(("name", "family", "loss", "targets"), LOSSES, ids=[entry[0] for entry in LOSSES])
def test_square_root_and_samples(name: str, family: str, loss: Callable[..., Tensor], targets: Tensor):
    point = point_of(loss, targets)
    wanted = output_hessian(loss, point, targets)
    diagonal = torch.stack([wanted[n, :, n] for n in range(5)])
    likelihood = likelihood_at(point)
    assert likelihood.families == [family]
    root = list(likelihood.square_root())
    assert len(root) == {"categorical": 3, "gaussian": 3, "bernoulli": 3}[family] * (2 if targets is STEPS else 1)
    torch.testing.assert_close(blocks(root), diagonal, rtol=1e-10, atol=1e-12)
    generator = torch.Generator().manual_seed(1)
    count = 1500
    draws = [likelihood.sample(generator) for _ in range(count)]
    mean = torch.stack([draw[0] for draw in draws]).mean(0)
    assert mean.norm() < 4 * (diagonal.diagonal(dim1=1, dim2=2).sum() / count).sqrt()
    error = (blocks(draws) / count - diagonal).norm() / diagonal.norm()
    assert error < 0.12
    tangent = torch.randn(point.outputs[0].shape, dtype=FLOAT)
    product = torch.einsum("nimj,mj->ni", wanted, tangent.flatten(1)).reshape(tangent.shape)
    torch.testing.assert_close(likelihood.hessian_product([tangent])[0], product, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["flattened", "masked", "transposed"])
def test_by_position_there_are_as_many_columns_as_classes(name: str):
    _, _, loss, targets = next(entry for entry in LOSSES if entry[0] == name)
    point = point_of(loss, targets)
    root = list(likelihood_at(point).square_root(per="position"))
    assert len(root) == 3
    flat = torch.stack([column[0] for column in root])
    found = torch.einsum("knti,kntj->ntij", flat, flat)
    wanted = output_hessian(loss, point, targets).reshape(5, 2, 3, 5, 2, 3)
    for n in range(5):
        for t in range(2):
            torch.testing.assert_close(found[n, t], wanted[n, t, :, n, t], rtol=1e-10, atol=1e-12)


def test_two_heads():
    objective = objective_of(BY_NAME["dict_outputs"], FLOAT)
    point = objective.at()
    likelihood = likelihood_at(point)
    assert likelihood.families == ["gaussian", "categorical"]  # in the order of the calls
    wanted = point.gauss_newton().dense()
    rows = []
    for column in likelihood.square_root():
        for n in range(6):
            kept = [torch.zeros_like(part) for part in column]
            for whole, part in zip(column, kept, strict=True):
                part[n] = whole[n]
            rows.append(point.pull_back(kept))
    rows = torch.stack(rows)
    torch.testing.assert_close(rows.T @ rows, wanted, rtol=1e-10, atol=1e-12)


def test_draws_repeat_and_leave_the_global_generator_alone():
    point = point_of(F.cross_entropy, CLASSES.clamp(min=0))
    likelihood = likelihood_at(point)
    state = torch.get_rng_state()
    first, second = (likelihood.sample(torch.Generator().manual_seed(5))[0] for _ in range(2))
    assert torch.equal(first, second)
    likelihood_at(point)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("name", ["cross_entropy", "mse", "bce"])
def test_float32_and_saturated_outputs_are_recognised(name: str, scale: float):
    _, family, loss, targets = next(entry for entry in LOSSES if entry[0] == name)
    assert likelihood_at(point_of(loss, targets, torch.float32, scale)).families == [family]


def test_a_perfect_fit_is_recognised():
    point = point_of(F.mse_loss, torch.zeros(5, 3, dtype=FLOAT), torch.float32, 0.0)
    root = list(likelihood_at(point).square_root())
    torch.testing.assert_close(blocks(root), (2 / 15) * torch.eye(3).expand(5, 3, 3))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        pytest.param(lambda z, t: (z - t).square().mean(), "No likelihood is known", id="written-out"),
        pytest.param(F.smooth_l1_loss, "Found: smooth_l1_loss", id="other"),
        pytest.param(lambda z, t: F.nll_loss(z, t.argmax(1)), "return logits and use cross", id="nll_of_scores"),
        pytest.param(
            lambda z, t: F.gaussian_nll_loss(z, t, z.exp()), "variances .* depend on parameters", id="variance"
        ),
        pytest.param(lambda z, t: F.binary_cross_entropy(z.sigmoid(), t.sigmoid()), "with_logits", id="bce"),
        pytest.param(lambda z, t: F.mse_loss(z, t) + z.square().mean(), "stand for no likelihood", id="penalty"),
        pytest.param(lambda z, t: F.mse_loss(z.tanh(), t), "nonlinear way", id="nonlinear"),
        pytest.param(lambda z, t: F.mse_loss(z, t).sqrt(), "not linear in what", id="root"),
        pytest.param(lambda z, t: F.mse_loss(z, z.detach() + t) - 2 * F.mse_loss(z, t), "negatively", id="negative"),
    ],
)
def test_what_is_no_likelihood_is_refused(loss: Callable[..., Tensor], message: str):
    with pytest.raises(CombinationError, match=message) as caught:
        likelihood_at(point_of(loss, REAL))
    assert "Gauss-Newton" in str(caught.value)


def test_unknown_columns_are_refused():
    likelihood = likelihood_at(point_of(F.mse_loss, REAL))
    with pytest.raises(ConfigError, match="per must be"):
        next(likelihood.square_root(per="batch"))


def test_mixed_data_have_no_root_per_datum():
    # Rows of logits go along the batch: a unit is made from all data.
    point = point_of(lambda z, t: F.cross_entropy(z.T, t[0, :3].abs().long()), REAL)
    with pytest.raises(CombinationError, match="mixes the outputs"):
        list(likelihood_at(point).square_root())


@pytest.mark.parametrize("loss", [lambda z, t: (z - t).exp().mean() + (z**4).sum(), F.cross_entropy])
def test_root_of_any_convex_loss(loss: Callable[..., Tensor]):
    targets = SHARES if loss is F.cross_entropy else REAL
    point = point_of(loss, targets)
    wanted = output_hessian(loss, point, targets)
    found = blocks(list(output_hessian_root(point)))
    torch.testing.assert_close(found, torch.stack([wanted[n, :, n] for n in range(5)]), rtol=1e-10, atol=1e-12)


def test_root_of_what_is_not_convex_or_coupled_is_refused():
    with pytest.raises(CombinationError, match="not convex"):
        list(output_hessian_root(point_of(lambda z, t: (z - t).cos().sum(), REAL)))
    with pytest.raises(CombinationError, match="couples"):
        list(output_hessian_root(point_of(lambda z, t: (z - z.mean(0) - t).square().sum(), REAL)))
