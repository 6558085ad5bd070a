"""The names that users rely on, and that importing them is cheap."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import is_dataclass

import pytest
import torch

import hybridopt as ho

HEAVY = ("torch", "hydra", "omegaconf", "wandb", "matplotlib", "scipy", "sklearn", "pandas", "pooch", "rich", "numpy")


def imported_by(statement: str) -> set[str]:
    code = f"import sys, json\n{statement}\nprint(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported_by("import hybridopt") == set()
    assert imported_by("import hybridopt; hybridopt.__version__; dir(hybridopt)") == set()


def test_using_the_library_imports_neither_hydra_nor_wandb_nor_plots() -> None:
    found = imported_by(
        "import hybridopt as ho, torch; ho.Objective; ho.create; ho.Optimizer; ho.optimizers.NewtonCG; ho.minimize; "
        "ho.escape.registry.get('perturbation'); ho.curvature.Hessian; "
        "ho.minimize(lambda x: (x**2).sum(), torch.ones(2), escape='perturbation')"
    )
    assert "torch" in found
    assert not found & {"hydra", "omegaconf", "wandb", "matplotlib", "sklearn", "pandas", "pooch", "rich"}


@pytest.mark.parametrize("name", ho.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(ho, name) is not None
    assert name in dir(ho)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="'hybridopt' has no attribute 'minimise'"):
        _ = ho.minimise
    with pytest.raises(AttributeError, match=r"'hybridopt\.optimizers' has no attribute 'Newton_CG'"):
        _ = ho.optimizers.Newton_CG


@pytest.mark.parametrize(
    "name",
    [
        "sgd",
        "momentum",
        "nesterov",
        "adagrad",
        "rmsprop",
        "adam",
        "adamw",
        "lbfgs",
        "newton_cg",
        "hessian_free",
        "trust_newton_cg",
        "saddle_free_newton",
        "muon",
        "shampoo",
        "soap",
        "adahessian",
        "sophia",
        "kbfgs",
        "switch",
        "adam_lbfgs",
    ],
)
def test_the_promised_optimizers_exist_and_declare_themselves(name: str) -> None:
    cls = ho.optimizers.registry.get(name)
    assert issubclass(cls, torch.optim.Optimizer)
    assert is_dataclass(cls.Config)
    assert cls.family in ("first-order", "quasi-newton", "newton", "structured", "hybrid")
    assert cls.batch in ("mini", "large", "full")
    assert cls.summary
    assert "\n" not in cls.summary
    assert cls.__doc__
    assert getattr(ho.optimizers, cls.__name__) is cls


@pytest.mark.parametrize("name", ["none", "perturbation", "negative_curvature"])
def test_the_promised_escapes_exist(name: str) -> None:
    cls = ho.escape.registry.get(name)
    assert issubclass(cls, ho.escape.Escape)
    assert is_dataclass(cls.Config)
    assert cls.summary


def test_the_design_in_ten_lines() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    inputs, targets = torch.randn(30, 4), torch.randint(0, 3, (30,))
    objective = ho.Objective(model, torch.nn.functional.cross_entropy, inputs, targets)
    optimizer = ho.create("newton_cg", model.parameters(), damping=1e-2)
    losses = [float(optimizer.step(objective.with_batch(inputs[:20], targets[:20]))) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert objective.ledger.counts["gradient"] == 5
    with optimizer.evaluation():
        assert objective.value() > 0
    assert "loss" in optimizer.report.as_dict()
    hessian = ho.curvature.Hessian(objective)
    assert (hessian @ torch.ones(hessian.shape[0])).shape == (hessian.shape[0],)
