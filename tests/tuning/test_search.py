"""All optimizers get the same budget; trials are ordinary runs, so that a search goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hybridopt.cli.tune import compose
from hybridopt.core import ConfigError, HybridoptError, make_config
from hybridopt.experiment import sweep
from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.job import run_directory, run_job
from hybridopt.experiment.jsonio import read_json
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.slots import Job, Slot
from hybridopt.tuning import Chosen, Settings, Study, search, write_chosen
from tests.experiment import tiny  # noqa: F401 (registers the task)


class InProcess:
    """Stands in for the pool: does the jobs here; stops after some of them when told to."""

    started: list[str]
    stop_after: int

    def __init__(self, slots: Sequence[Slot], time_limit: float | None, monitor: Monitor) -> None:
        pass

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        outcomes = []
        for job in jobs:
            if len(InProcess.started) == InProcess.stop_after:
                raise KeyboardInterrupt
            InProcess.started.append(job.directory.name)
            try:
                status = run_job(job.directory)
            except Exception:
                status = read_json(job.directory / "status.json")
            outcomes.append(Outcome(job.directory, job.name, status["status"], status["reason"]))
        return outcomes


@pytest.fixture(autouse=True)
def pool(monkeypatch: pytest.MonkeyPatch) -> type[InProcess]:
    monkeypatch.setattr(sweep, "Pool", InProcess)
    InProcess.started, InProcess.stop_after = [], -1
    return InProcess


def study(out: Path, optimizer: Any = "sgd", *, settings: dict[str, Any] | None = None, **options: Any) -> Study:
    config = {"task": {"name": "tiny", **options.pop("task", {})}, "optimizer": optimizer, "seed": 50, "device": "cpu"}
    config |= {"out": str(out), "budget": {"gradient_equivalents": 2}, **options.pop("config", {})}
    return Study(resolve(config), make_config(Settings, {"trials": 3, **(settings or {})}), **options)


def test_everyone_may_spend_what_the_dearest_spends(tmp_path: Path) -> None:
    cheap = study(tmp_path, "sgd", only=["optimizer.lr"])
    dear = study(tmp_path, {"name": "newton_cg", "max_cg": 30}, only=["optimizer.damping"])
    budget = search([cheap, dear])
    assert len(dear.trials) == 3
    assert budget == dear.spent() > cheap.limit * 4
    assert 3 < len(cheap.trials) <= 12
    dearest = max(trial.read().end("gradient_equivalents") for trial in cheap.trials)
    full = len(cheap.trials) == 12
    assert full or budget - dearest < cheap.spent() <= budget + 1e-9


def test_a_stated_budget_holds_whoever_else_is_tuned(tmp_path: Path, pool: type[InProcess]) -> None:
    stated = {"settings": {"spend": 9.0}, "only": ["optimizer.lr", "optimizer.damping"]}
    dear = {"name": "newton_cg", "max_cg": 30}
    together = [study(tmp_path / "a", "sgd", **stated), study(tmp_path / "a", dear, **stated)]
    assert search(together) == 9.0
    cheap = together[0]
    assert len(cheap.trials) == 4
    assert cheap.spent() <= 9 < cheap.spent() + cheap.trials[0].read().end("gradient_equivalents")
    assert len(together[1].trials) < 3, "they are dear: fewer than trials=3"
    assert together[1].spent() <= 9
    pool.stop_after = len(pool.started) + 2
    with pytest.raises(KeyboardInterrupt):
        search([study(tmp_path / "b", "sgd", **stated)])
    pool.stop_after = -1
    alone = study(tmp_path / "b", "sgd", **stated)
    search([alone])
    assert [trial.key for trial in alone.trials] == [trial.key for trial in cheap.trials]


def test_what_a_trial_will_cost_is_taken_from_all_before_it(tmp_path: Path) -> None:
    """Otherwise a cheap first trial would promise more of them than the sum pays for."""
    cheap = {"name": "saddle_free_newton", "subspace": 2}
    changes = ["optimizer.subspace=6,9,12,15"]
    one = study(
        tmp_path,
        cheap,
        changes=changes,
        only=["optimizer.subspace"],
        settings={"spend": 60.0, "at_once": 1},
    )
    search([one])
    costs = [trial.read().end("gradient_equivalents") or 0.0 for trial in one.trials]
    assert max(costs) > 1.5 * costs[0]
    for number in range(1, len(costs)):
        assert sum(costs[:number]) + max(costs[:number]) <= 60
    assert sum(costs) + max(costs) > 60


def test_a_first_step_dearer_than_a_trial_leaves_nothing_to_choose_by(tmp_path: Path) -> None:
    config = {"budget": {"gradient_equivalents": 0.5}}
    one = study(tmp_path, "newton_cg", config=config, settings={"trials": 2})
    search([one])
    with pytest.raises(HybridoptError, match=r"No trial .* within its 0\.5 .* if a single step is dearer"):
        one.best()


@pytest.mark.parametrize("after", [0, 10000])
def test_under_a_stated_budget_the_first_trials_may_fail(tmp_path: Path, after: int) -> None:
    """The first trial alone is started blindly; where it fails, so many others are tried as a search begins with."""
    one = study(
        tmp_path,
        task={"poison": "error", "after": 0},
        changes=[f"task.after=0,{after}", "optimizer.lr=1e-3,1e-2,1e-1"],
        only=["optimizer.lr", "task.after"],
        settings={"spend": 6.0},
    )
    search([one])
    states = one.states()
    if after:
        assert states["failed"] >= 1
        assert states["done"] >= 2
    else:
        assert states == {"failed": 3}


def test_stopping_and_starting_again_changes_nothing(tmp_path: Path, pool: type[InProcess]) -> None:
    whole = study(tmp_path / "a", only=["optimizer.lr"])
    search([whole])
    pool.started.clear()
    pool.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        search([study(tmp_path / "b", only=["optimizer.lr"])])
    assert len(pool.started) == 2
    pool.stop_after = -1
    again = study(tmp_path / "b", only=["optimizer.lr"])
    search([again])
    assert len(pool.started) == 3
    assert [trial.key for trial in again.trials] == [trial.key for trial in whole.trials]
    assert again.best() == (again.trials[whole.trials.index(whole.best()[0])], whole.best()[1])
    search([study(tmp_path / "b", only=["optimizer.lr"])])
    assert len(pool.started) == 3, "all is there"


def test_trials_are_ordinary_runs_and_the_first_has_the_defaults(tmp_path: Path) -> None:
    one = study(tmp_path)
    search([one])
    assert one.trials[0].values == {}
    for trial in one.trials:
        status = read_json(run_directory(trial.config) / "status.json")
        assert status["status"] == "done"
        assert status["reason"] == "budget.gradient_equivalents=2 is used"
    assert {trial.config.seed for trial in one.trials} == {50}
    assert {name for trial in one.trials for name in trial.values} >= {"optimizer.lr", "task.batch_size"}


def test_all_but_full_batch_methods_are_searched_over_the_batch(tmp_path: Path) -> None:
    mini, large, full = (study(tmp_path, name).space.dimensions for name in ("sgd", "kfac", "newton_cg"))
    assert mini["task.batch_size"].values == (4, 8, 16, 32)
    assert large["task.batch_size"].values == (12, 24, 48)
    assert "task.batch_size" not in full
    asked = study(tmp_path, "newton_cg", changes=["task.batch_size=large,full"], only=["task.batch_size"])
    assert {trial.config.task["batch_size"] for trial in asked.more(9)} == {"large", "full"}


def test_the_best_is_best_and_its_edge_is_flagged(tmp_path: Path) -> None:
    one = study(
        tmp_path,
        changes=["optimizer.lr=1e-7,1e-6,0.1"],
        only=["optimizer.lr"],
        settings={"sampler": "grid", "defaults": False, "objective": "loss"},
    )
    search([one])
    trial, score = one.best()
    assert trial.values == {"optimizer.lr": 0.1}
    losses = [min(row["validation_loss"] for row in each.read().evaluations) for each in one.trials]
    assert score.value == min(losses)
    assert "upper edge" in one.edges(trial)["optimizer.lr"]
    chosen = Chosen.of(one, one.spent(), tmp_path)
    assert chosen.values == {"optimizer.lr": 0.1}
    assert chosen.facts["gradient_equivalents"] == pytest.approx(6.0)
    assert chosen.facts["run"] == str(run_directory(trial.config).relative_to(tmp_path))


def test_an_escape_is_searched_and_what_it_costs_counts(tmp_path: Path) -> None:
    restless = {"name": "noisy_gradient", "stall_tolerance": 0.9, "stall_window": 2, "window": 3}
    config = {"escape": restless, "budget": {"gradient_equivalents": 8}, "data": "overlap"}
    one = study(tmp_path, config=config, only=["escape.noise_steps", "escape.radius"], settings={"spend": 24.0})
    assert set(one.space.dimensions) == {"escape.noise_steps", "escape.radius"}
    search([one])
    assert one.label == "sgd+noisy_gradient+overlap"
    assert one.trials[0].values == {}
    assert one.trials[0].key == run_id(to_plain(one.base)), "the run of somebody who has not tuned"
    chosen = Chosen.of(one, 24.0, tmp_path)
    assert set(chosen.values) == {"escape.noise_steps", "escape.radius"}
    assert chosen.parts == "sgd+noisy_gradient+none+overlap"
    assert chosen.facts["escape_jumps"] >= len(one.trials)
    for trial in one.trials:
        assert (
            trial.config.escape.items()
            >= {key.removeprefix("escape."): value for key, value in trial.values.items()}.items()
        )
        run = trial.read()
        assert any(event["event"] == "escape_jump" for event in run.events)
        assert run.end("gradient_equivalents") > run.end("epochs") + 1, "its verdicts are paid for"
    assert one.spent() <= 24 + 1


def test_what_earlier_tuning_has_set_is_part_of_what_is_chosen(tmp_path: Path) -> None:
    config = {"escape": "perturbation", "tuning": {"values": {"optimizer.lr": 0.05}, "trials": 8}}
    one = study(tmp_path, {"name": "sgd", "lr": 0.05}, config=config, only=["escape.radius"], settings={"trials": 2})
    search([one])
    chosen = Chosen.of(one, 4.0, tmp_path)
    assert list(chosen.values) == ["optimizer.lr", "escape.radius"]
    assert chosen.facts["escape_jumps"] == 0, "which the command says: it was chosen by nothing"
    assert chosen.values["optimizer.lr"] == 0.05


def test_what_was_tuned_with_a_schedule_is_replayed_with_it(tmp_path: Path) -> None:
    """A schedule over the run has to know how long that is, in the comparison as in the trials."""
    config = {"schedule": "cosine"}
    one = study(tmp_path, config=config, settings={"defaults": False, "trials": 1}, only=["schedule.warmup"])
    search([one])
    write_chosen(tmp_path, [Chosen.of(one, 2.0, tmp_path)], ["schedule=cosine"], 1)
    final = ["experiment=final", "task=tiny", "optimizer=sgd", "schedule=cosine"]
    replayed = resolve(compose(final, str(tmp_path / "conf")) | {"device": "cpu"})
    assert replayed.schedule == one.trials[0].config.schedule
    assert replayed.budget == one.trials[0].config.budget


def test_points_whose_options_do_not_go_together_are_passed_over(tmp_path: Path) -> None:
    one = study(
        tmp_path,
        "bfgs",
        changes=["optimizer.line_search=strong_wolfe,armijo", "optimizer.pairs=skip,keep"],
        only=["optimizer.line_search", "optimizer.pairs"],
    )
    found = one.more(10)
    assert one.refused > 0
    assert len(found) < 4
    assert all((t.config.optimizer["line_search"], t.config.optimizer["pairs"]) != ("armijo", "keep") for t in found)


def test_a_trial_that_diverges_loses(tmp_path: Path) -> None:
    one = study(
        tmp_path,
        changes=["optimizer.lr=0.01,1e30"],
        only=["optimizer.lr"],
        settings={"sampler": "grid", "defaults": False, "trials": 2},
    )
    search([one])
    assert one.states() == {"done": 1, "diverged": 1}
    assert one.best()[0].values == {"optimizer.lr": 0.01}


@pytest.mark.parametrize("damping", ["0.0,0.1", "0.03,0.1"])
def test_points_that_the_model_refuses_are_passed_over(tmp_path: Path, damping: str) -> None:
    changes = [f"optimizer.structural_damping={damping}"]  # of hidden states, which the model has not
    one = study(tmp_path, "hessian_free", changes=changes, settings={"defaults": False, "most_trials": 3})
    search([one])
    assert one.refused > 0
    if damping == "0.0,0.1":
        assert one.states() == {"done": 3}
        assert {trial.values["optimizer.structural_damping"] for trial in one.trials} == {0.0}
    else:
        with pytest.raises(HybridoptError, match=r"points that were drawn .* last because: .*Structural damping"):
            one.best()


@pytest.mark.parametrize("after", ["0,10000", "0,1"])
def test_a_trial_that_fails_is_replaced_unless_all_do(tmp_path: Path, after: str) -> None:
    one = study(
        tmp_path,
        task={"poison": "error"},
        changes=[f"task.after={after}"],
        only=["optimizer.lr", "task.after"],
        settings={"defaults": False, "most_trials": 9, "trials": 4},
    )
    search([one])
    states = one.states()
    if after == "0,1":
        assert states == {"failed": 4}
    else:
        assert states["done"] >= 4
        assert states["failed"] >= 1


def test_nothing_finite_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    one = study(
        tmp_path,
        task={"poison": "nan", "after": 0},
        only=["optimizer.lr"],
        settings={"trials": 1},
    )
    search([one])
    with pytest.raises(HybridoptError, match="--space"):
        one.best()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"seed": 3}}, "seed=3 belongs to the final comparison"),
        ({"config": {"budget": {"steps": 5}}}, r"budget\.gradient_equivalents=N"),
        ({"settings": {"spend": 1.5}}, "does not pay for one trial of 2"),
        ({"settings": {"spend": 9, "sampler": "halving"}}, "does not go with sampler=halving"),
        ({"fixed": ["optimizer.lr", "optimizer.weight_decay", "task.batch_size"]}, "--space"),
    ],
)
def test_one_sentence_for_what_is_wrong(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(tmp_path, **options)
