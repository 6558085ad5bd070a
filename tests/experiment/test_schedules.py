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


def test_constant_rises_then_stays() -> None:
    assert set(rates(*make("constant", total=None), 20)) == {1.0}
    seen = rates(*make("constant", total=None, warmup=1.0), 20)
    assert seen == pytest.approx([(step + 1) / 6 for step in range(5)] + [1.0] * 15)


@pytest.mark.parametrize(("decay", "mode"), [(1.0, "triangular"), (0.5, "triangular2")])
def test_cyclical_is_torchs_cycle(decay: float, mode: str) -> None:
    seen = rates(*make("cyclical", total=20, period=2.0, low=0.1, decay=decay), 35)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    cycle = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.1, 1.0, 5, mode=mode, cycle_momentum=False)
    expected = []
    for _ in range(35):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    assert seen == pytest.approx(expected)


def test_a_cycle_of_one_step_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.period=0\.4 or more"):
        make("cyclical", period=0.2)


def test_two_way_goes_up_and_down() -> None:
    schedule, optimizer = make("two_way", total=None, up=1.25, down=0.5, tolerance=0.1, highest=1.5)
    seen = []
    for train in (4.0, 3.0, 3.1, 3.1, 3.6, float("nan"), 3.0, 2.0, 1.5, 1.2, 1.0, 0.9, 0.8, 0.7, 0.6):
        schedule.see(train, 7.0)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen[:7] == [1.0, 1.25, 1.25, 1.25, 0.625, 0.3125, 0.3125]
    assert seen[7] == 0.390625
    assert seen[-1] == 1.5


def test_two_way_by_validation_loss_resumes() -> None:
    first, optimizer = make("two_way", total=None, metric="validation_loss")
    first.see(1.0, 5.0)
    first.see(2.0, 4.0)
    second, other = make("two_way", total=None, metric="validation_loss")
    other.load_state_dict(optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    for schedule in (first, second):
        schedule.see(0.5, 4.5)
    assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"] == pytest.approx(1.05 * 0.5)


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
