"""Learning-rate schedules: torch's rates, at the right moments, and resumable."""

from __future__ import annotations

import pytest
import torch

from hybridopt.core import ConfigError
from hybridopt.experiment.schedules import registry


def make(name: str, total: int | None = 20, per_epoch: int = 5, **options: float):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    cls = registry.get(name)
    return cls(cls.Config(**options), optimizer, per_epoch, total), optimizer


def rates(schedule, optimizer, steps: int, start: int = 0) -> list[float]:
    seen = []
    for step in range(start, start + steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_step(step + 1)
    return seen


def test_none_leaves_the_rate() -> None:
    assert set(rates(*make("none"), 20)) == {1.0}


def test_step_counts_epochs() -> None:
    seen = rates(*make("step", step_size=2, gamma=0.1), 20)
    assert seen[:10] == [1.0] * 10
    assert seen[10:] == pytest.approx([0.1] * 10)


def test_exponential_counts_epochs() -> None:
    seen = rates(*make("exponential", gamma=0.5), 15)
    assert seen == pytest.approx([1.0] * 5 + [0.5] * 5 + [0.25] * 5)


def test_polynomial_ends_at_zero() -> None:
    seen = rates(*make("polynomial", power=1.0), 20)
    assert seen == pytest.approx([1 - step / 20 for step in range(20)])


def test_cosine_warms_up_and_falls() -> None:
    seen = rates(*make("cosine", warmup=0.25, final=0.1), 20)
    assert seen[0] < seen[4] < 1.0
    assert max(seen) == pytest.approx(1.0)
    assert seen[-1] == pytest.approx(0.1, abs=0.02)
    assert seen[5:] == sorted(seen[5:], reverse=True)


def test_one_cycle_peaks_at_lr_and_survives_more_steps() -> None:
    schedule, optimizer = make("one_cycle", rise=0.3)
    seen = rates(schedule, optimizer, 25)
    assert max(seen) == pytest.approx(1.0)
    assert seen[0] == pytest.approx(1 / 25)
    assert seen[19] < 1e-3


def test_plateau_listens_to_the_validation_loss_only() -> None:
    schedule, optimizer = make("plateau", total=None, factor=0.5, patience=1)
    assert set(rates(schedule, optimizer, 10)) == {1.0}
    for loss in (1.0, 1.0, 1.0):
        schedule.after_evaluation(loss)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("name", registry.names())
def test_resume_goes_on_with_the_same_rates(name: str) -> None:
    schedule, optimizer = make(name)
    undisturbed = rates(schedule, optimizer, 20)
    first, optimizer = make(name)
    before = rates(first, optimizer, 9)
    saved = first.state_dict(), optimizer.state_dict()
    second, optimizer = make(name)
    optimizer.load_state_dict(saved[1])
    second.load_state_dict(saved[0])
    assert before + rates(second, optimizer, 11, start=9) == undisturbed


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "polynomial"])
def test_open_end_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"budget\.epochs"):
        make(name, total=None)
