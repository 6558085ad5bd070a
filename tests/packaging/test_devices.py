"""Tensors are made where the parameters are, or on the CPU, whatever torch.set_default_device says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho

PACKAGE = Path(ho.__file__).parent
ROOMS = ("curvature", "data", "escape", "globalization", "hybrid", "linalg", "objective", "optimizers")
MAKERS = {
    *("randn", "rand", "randint", "randperm", "normal", "tensor", "as_tensor", "zeros", "ones", "eye"),
    *("empty", "full", "arange", "linspace", "logspace"),
}
THE_USERS_OWN = {("objective/function.py", "torch.as_tensor(value)")}  # x0 as a number or an array


def _calls_without_device(path: Path) -> list[str]:
    source = path.read_text()
    found = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func.value) == "torch"
            and node.func.attr in MAKERS
            and not any(keyword.arg in ("device", None) for keyword in node.keywords)
        ):
            found.append(ast.get_source_segment(source, node) or "")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_new_tensor_names_its_device(room: str) -> None:
    for path in sorted((PACKAGE / room).rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        assert [call for call in _calls_without_device(path) if (place, call) not in THE_USERS_OWN] == [], place


def _losses(name: str, device: str | None) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    inputs, targets = torch.randn(9, 4), torch.randint(0, 2, (9,))
    torch.set_default_device(device)
    try:
        optimizer = ho.create(name, model.parameters())
        objective = ho.Objective(model, nn.functional.cross_entropy, inputs, targets)
        return [float(optimizer.step(objective)) for _ in range(3)]
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    "name", ["adam", "muon", "lbfgs", "lsr1", "trust_newton_cg", "curvilinear_newton", "nystrom_newton_cg", "kfac"]
)
def test_steps_do_not_depend_on_the_default_device(name: str) -> None:
    # "meta" stands for a GPU: a tensor made there by mistake cannot be used.
    assert _losses(name, "meta") == _losses(name, None)


def test_minimize_and_operators_do_not_depend_on_the_default_device() -> None:
    def saddle(x: Tensor) -> Tensor:
        return x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2

    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    with torch.device("meta"):
        for escape in ("perturbation", "negative_curvature", "neon", "noisy_gradient"):
            assert ho.minimize(saddle, start, escape=escape).success
        matrix = ho.curvature.Dense(torch.diag(torch.arange(1.0, 7.0, device="cpu", dtype=torch.float64)))
        assert matrix.eigsh(k=2, which="LA")[0].tolist() == pytest.approx([5.0, 6.0])
        assert matrix.diagonal().tolist() == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        points, density = matrix.spectral_density(64, probes=2, steps=6)
        assert (points.device.type, density.device.type) == ("cpu", "cpu")
