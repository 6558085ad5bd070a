"""Tuned options: those that are shipped, asked for by settings=tuned, and those that `hybridopt tune` writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridopt._paths import conf_dir
from hybridopt.cli.tune import compose
from hybridopt.core import UnknownNameError
from hybridopt.experiment.config import RunConfig, resolve
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.job import tuned_as_stated
from hybridopt.tuning import Chosen, write_chosen

SHIPPED = sorted((conf_dir() / "settings" / "tuned").glob("*/*.yaml"))
FACTS = {
    "trials": 8,
    "score": "validation loss 1",
    "gradient_equivalents": 20.0,
    "seconds": 1.0,
    "budget_per_trial": 2.5,
    "objective": "loss",
    "sampler": "sobol",
    "seed": 9,
}


@pytest.fixture(autouse=True)
def _forget_hydra() -> Iterator[None]:
    from hydra.core.global_hydra import GlobalHydra

    yield
    GlobalHydra.instance().clear()


def composed(*overrides: str, config_dir: Path | None = None) -> RunConfig:
    return resolve({**compose(list(overrides), config_dir and str(config_dir)), "device": "cpu"})


def identity(config: RunConfig) -> str:
    return run_id(vars(config) | {"budget": vars(config.budget)})


def chosen(task: str, problem: str, **values: Any) -> Chosen:
    return Chosen(task, problem, "sgd", "sgd", {f"optimizer.{name}": value for name, value in values.items()}, FACTS)


def test_nobody_gets_tuned_options_without_asking() -> None:
    assert SHIPPED
    for path in SHIPPED[::12]:
        plain = composed(f"task={path.parent.name}", f"optimizer={path.stem}")
        bare = resolve({"task": path.parent.name, "optimizer": path.stem, "device": "cpu"})
        assert plain.tuning is None
        assert identity(plain) == identity(bare)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_is_shipped_is_complete_and_valid(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert set(content) <= {"optimizer", "task", "tuning"}, "budget and seed are the experiment's"
    names = {"task": path.parent.name, "optimizer": path.stem}
    parts = {key: {"name": name, **content.get(key, {})} for key, name in names.items()}
    assert tuned_as_stated(resolve({**content, **parts, "device": "cpu"}))
    assert content["tuning"]["trials"] >= 8
    assert content["tuning"]["seed"] >= 10, "not one of those that comparisons use"


def test_what_is_shipped_is_what_a_run_gets_that_asks() -> None:
    for path in SHIPPED[::12]:
        config = composed(f"task={path.parent.name}", f"optimizer={path.stem}", "settings=tuned")
        assert tuned_as_stated(config)
        assert config.tuning == yaml.safe_load(path.read_text())["tuning"]
        assert config.budget.unlimited


@pytest.mark.parametrize("task", sorted({path.parent.name for path in SHIPPED}))
def test_all_of_a_task_had_the_same_budget(task: str) -> None:
    stated = [yaml.safe_load(path.read_text())["tuning"] for path in SHIPPED if path.parent.name == task]
    assert len({(one["budget_per_trial"], one["budget"], one["objective"], one["sampler"]) for one in stated}) == 1
    for one in stated:
        # The last step of a trial may overdraw; what is left is less than the dearest trial costs.
        assert one["budget"] - 3 * one["budget_per_trial"] < one["gradient_equivalents"] <= 1.1 * one["budget"]


@pytest.mark.parametrize(("experiment", "task"), [("cnn_sweep", "digits_cnn"), ("rnn_sweep", "digits_rnn")])
def test_a_sweep_says_which_of_its_methods_are_not_tuned(experiment: str, task: str) -> None:
    text = (conf_dir() / "experiment" / f"{experiment}.yaml").read_text()
    comment = "\n".join(line for line in text.splitlines() if line.startswith("# "))
    swept = yaml.safe_load(text)["hydra"]["sweeper"]["params"]["optimizer"].split(",")
    without = {name.strip() for name in swept} - {path.stem for path in SHIPPED if path.parent.name == task}
    assert {name.strip() for name in swept if re.search(rf"\b{name.strip()}\b", comment)} == without


def test_the_command_line_wins_over_tuned_options_and_the_run_is_not_called_tuned() -> None:
    config = composed("task=digits_cnn", "optimizer=adam", "settings=tuned", "optimizer.lr=0.0123")
    assert config.optimizer["lr"] == 0.0123
    assert not tuned_as_stated(config)


def test_a_misspelt_choice() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tuned'"):
        compose(["settings=tunned"])


def test_an_optimizer_without_a_file_has_its_defaults() -> None:
    config = composed("task=logistic", "optimizer=adam", "settings=tuned")
    assert config.tuning is None
    assert identity(config) == identity(composed("task=logistic", "optimizer=adam"))


def test_what_the_user_has_tuned_wins_over_what_is_shipped(tmp_path: Path) -> None:
    write_chosen(tmp_path, [chosen("digits_cnn", "digits_cnn", lr=0.25)], [], 10)
    where = tmp_path / "conf"
    for settings in ("defaults", "tuned"):
        config = composed("task=digits_cnn", "optimizer=sgd", f"settings={settings}", config_dir=where)
        assert config.optimizer["lr"] == 0.25
        assert config.budget.gradient_equivalents == 2.5


@pytest.mark.parametrize("problem", ["", "/plane"])
def test_what_was_tuned_with_an_escape_is_for_runs_with_it(tmp_path: Path, problem: str) -> None:
    task, where = "saddle" if problem else "digits_cnn", tmp_path / "conf"
    values = {"optimizer.lr": 0.5, "escape.radius": 0.3}
    together = Chosen(task, task + problem, "sgd", "sgd+perturbation", values, FACTS, "sgd+perturbation+none+one")
    shared = ["escape=perturbation", *([f"task.problem={problem[1:]}"] if problem else [])]
    write_chosen(
        tmp_path,
        [Chosen(task, task + problem, "sgd", "sgd", {"optimizer.lr": 0.25, "optimizer.weight_decay": 0.125}, FACTS)],
        [],
        10,
    )
    write_chosen(tmp_path, [together], shared, 10)
    assert set(yaml.safe_load((tmp_path / "tuned.yaml").read_text())["tasks"][task + problem]) == {
        "sgd",
        "sgd+perturbation",
    }
    names = [f"task={task}", "optimizer=sgd"]
    final = composed(*names, *shared, "experiment=final", config_dir=where)
    assert (final.optimizer["lr"], final.escape["radius"]) == (0.5, 0.3)
    assert final.optimizer["weight_decay"] == 0.0, "the trials had the default"
    assert tuned_as_stated(final)
    if not problem:
        alone = composed(*names, config_dir=where)
        assert (alone.optimizer["lr"], alone.escape) == (0.25, {"name": "none"})
        other = composed(*names, "escape=noisy_gradient", config_dir=where)
        assert (other.optimizer["lr"], other.escape["radius"]) == (0.25, 5e-3)
        same = composed(*names, "escape=perturbation", config_dir=where)
        assert (same.optimizer["lr"], same.escape["radius"]) == (0.5, 0.3)
        changed = composed(*names, "escape=perturbation", "escape.radius=0.2", config_dir=where)
        assert not tuned_as_stated(changed)


def test_settings_of_ones_own_may_hold_escapes(tmp_path: Path) -> None:
    (tmp_path / "settings" / "with" / "mine" / "digits_cnn").mkdir(parents=True)
    (tmp_path / "settings" / "mine.yaml").write_text("# @package _global_\n")
    page = "# @package _global_\nescape: {radius: 0.7}\ntuning: {values: {escape.radius: 0.7}}\n"
    (tmp_path / "settings" / "with" / "mine" / "digits_cnn" / "sgd+perturbation+none+one.yaml").write_text(page)
    names = ["task=digits_cnn", "optimizer=sgd", "settings=mine"]
    found = composed(*names, "escape=perturbation", config_dir=tmp_path)
    assert found.escape["radius"] == 0.7
    assert tuned_as_stated(found)
    assert composed(*names, config_dir=tmp_path).tuning is None


def test_problems_of_a_collection_are_kept_apart(tmp_path: Path) -> None:
    rates = {"plane": 0.25, "octopus_5": 0.5}
    for problem, rate in rates.items():
        write_chosen(tmp_path, [chosen("saddle", f"saddle/{problem}", lr=rate)], [f"task.problem={problem}"], 10)
        final = ["experiment=final", "task=saddle", "optimizer=sgd", f"task.problem={problem}"]
        assert composed(*final, config_dir=tmp_path / "conf").optimizer["lr"] == rate
        swept = yaml.safe_load((tmp_path / "conf" / "experiment" / "final.yaml").read_text())["hydra"]["sweeper"]
        assert swept["params"]["task.problem"] == problem
    known = yaml.safe_load((tmp_path / "tuned.yaml").read_text())["tasks"]
    assert {name: entry["sgd"]["values"]["optimizer.lr"] for name, entry in known.items()} == {
        f"saddle/{problem}": rate for problem, rate in rates.items()
    }
    config = composed("task=saddle", "optimizer=sgd", "task.problem=plane", config_dir=tmp_path / "conf")
    assert config.tuning is None, "task= alone does not tell which problem is meant"
