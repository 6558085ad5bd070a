"""What the model shows is known before the first job starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hybridopt.core import CombinationError, ConfigError
from hybridopt.experiment.build import build_task
from hybridopt.experiment.config import resolve
from hybridopt.experiment.monitor import Monitor
from hybridopt.experiment.rehearsal import rehearse
from hybridopt.experiment.sweep import run_sweep
from tests.experiment import tiny

assert tiny.Tiny.name == "tiny"  # imported for its registration


def rehearsed(**parts: Any) -> None:
    config = resolve({"task": "tiny", "device": "cpu", **parts})
    rehearse(config, build_task(config).splits(0).train)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"optimizer": "kfac", "task": "test_function"},
            r"^task=test_function optimizer=kfac: .* use lbfgs, newton_cg",
        ),
        ({"optimizer": {"name": "newton", "max_dimension": 9}}, "Use newton_cg"),
        ({"optimizer": {"name": "newton_cg", "curvature": "empirical_fisher"}}, "take the Gauss-Newton matrix"),
        ({"optimizer": {"name": "stochastic_lbfgs", "pairs": "overlap"}}, "run with data=overlap"),
        ({"optimizer": {"name": "external", "cls": "scipy:CG", "options": {"maxcorr": 3}}}, "show_options"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_first_step_would_refuse_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rehearsed(**parts)


def test_data_that_a_policy_has_to_draw_are_drawn() -> None:
    rehearsed(optimizer={"name": "stochastic_lbfgs", "pairs": "overlap"}, data="overlap")


@pytest.mark.parametrize("poison", ["error", "nan"])
def test_anything_else_is_left_to_the_job(poison: str) -> None:
    rehearsed(optimizer="kfac", task={"name": "tiny", "poison": poison, "after": 0})


def test_a_dear_step_is_not_done_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[int] = []
    whole = torch.autograd.grad

    def counted(*arguments: Any, **options: Any) -> Any:
        products.append(1)
        return whole(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    rehearsed(optimizer="newton")  # 57 products
    assert len(products) < 25


def test_random_numbers_are_left_as_they_were() -> None:
    before = torch.get_rng_state()
    rehearsed(optimizer="adam")
    assert torch.equal(torch.get_rng_state(), before)


def test_no_job_of_a_sweep_starts(tmp_path: Path) -> None:
    optimizers = ({"name": "adam"}, {"name": "newton", "max_dimension": 9})
    configs = [
        resolve({"task": "tiny", "device": "cpu", "out": str(tmp_path), "optimizer": optimizer})
        for optimizer in optimizers
    ]
    with pytest.raises(CombinationError, match=r"^task=tiny optimizer=newton: Newton forms a matrix"):
        run_sweep(configs, Monitor())
    assert not list(tmp_path.rglob("*"))
