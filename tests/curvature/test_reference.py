"""The references themselves: small, and right by finite differences of the first derivatives."""

from __future__ import annotations

import torch

from hybridopt.objective import Objective
from tests.cases import CASES, Case, cases
from tests.curvature.reference import derivative, plain_loss, reference, relative_error

STEP = 1e-5


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


def split(vector: torch.Tensor, parameters: list[torch.nn.Parameter]) -> tuple[torch.Tensor, ...]:
    return torch.split(vector, [p.numel() for p in parameters])


@cases()
def test_case_is_small_and_its_forms_agree(case: Case):
    problem, written_out = case.build(torch.float64), case.build(torch.float64, written_out=True)
    assert 0 < sum(p.numel() for p in problem.parameters()) < 200
    a, b = plain_loss(problem), plain_loss(written_out)
    torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
    for p, q in zip(problem.parameters(), written_out.parameters(), strict=True):
        assert torch.equal(p, q), "the written-out form must have the same parameters in the same order"


@cases()
def test_hessian_is_the_derivative_of_the_gradient(case: Case):
    problem = case.build(torch.float64, written_out=True)
    parameters = problem.parameters()
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        direction = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64, generator=generator)
        parts = [part.view(p.shape) for part, p in zip(split(direction, parameters), parameters, strict=True)]
        sides = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                torch._foreach_add_(parameters, parts, alpha=sign * STEP)
            sides.append(derivative(plain_loss(problem), parameters))
        difference = (sides[0] - sides[1]) / (2 * STEP)
        assert relative_error(reference(case).hessian @ direction, difference) < 1e-7


@cases()
def test_default_order_of_parameters(case: Case):
    problem = case.build()
    objective = Objective(problem.model, problem.loss_fn, problem.inputs, problem.targets)
    assert [id(p) for p in objective.space.parameters] == [id(p) for p in problem.parameters()]
