"""The contexts of an evaluation: they switch back what they switch, and users' settings are no trouble to them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hybridopt.objective.guard import full_precision, twice_differentiable, weight_norm
from tests.cases import BY_NAME
from tests.curvature.reference import objective_of, reference, relative_error

CUDA = torch.device("cuda")  # the switches are there without a device
SWITCHES = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)


def precisions() -> list[str]:
    return [switch.fp32_precision for switch in SWITCHES]


@pytest.fixture(params=[None, ("tf32", "ieee", "tf32"), ("tf32", "tf32", "tf32")], ids=["default", "mixed", "tf32"])
def settings(request) -> Iterator[None]:
    """What users set by torch's newer interface; where it is mixed, reading `allow_tf32` raises."""
    before = precisions()
    for switch, value in zip(SWITCHES, request.param or before, strict=True):
        switch.fp32_precision = value
    yield
    for switch, value in zip(SWITCHES, before, strict=True):
        switch.fp32_precision = value


@pytest.mark.usefixtures("settings")
def test_full_precision_and_back():
    before = precisions()
    with full_precision(CUDA):
        assert precisions() == ["ieee"] * 3
    assert precisions() == before
    with pytest.raises(KeyError), full_precision(CUDA):
        raise KeyError
    assert precisions() == before


@pytest.mark.usefixtures("settings")
def test_full_precision_is_for_cuda_only():
    before = precisions()
    with full_precision(torch.device("cpu")):
        assert precisions() == before


@pytest.mark.usefixtures("settings")
def test_recurrent_layers_without_a_replacement():
    case = BY_NAME["lstm_packed"]
    hessian = objective_of(case, torch.float64).at().hessian()
    vector = torch.ones(hessian.n, dtype=torch.float64)
    assert relative_error(hessian @ vector, reference(case).hessian @ vector) < 1e-12
    assert torch.backends.cudnn.enabled


def test_attention_backends_are_restored():
    assert torch.backends.cuda.flash_sdp_enabled()
    with twice_differentiable():
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    with pytest.raises(KeyError), twice_differentiable():
        raise KeyError
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_weight_norm_is_torchs_with_a_right_second_derivative(dim):
    v = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    g = torch.rand_like(torch.norm_except_dim(v.detach(), 2, dim)).requires_grad_()
    torch.testing.assert_close(weight_norm(v, g, dim), torch._weight_norm(v, g, dim))
    assert torch.autograd.gradgradcheck(lambda v, g: weight_norm(v, g, dim), (v, g))
