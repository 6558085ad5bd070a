"""Whatever a config puts together runs, or is refused in a sentence that says why and what works instead."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from hybridopt._paths import conf_dir
from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.schema import register, to_values
from tests.experiment import combinations
from tests.experiment.combinations import BUILTINS, ESCAPES, data_policies, optimizers, others, outcome, values

ADVICE = re.compile(r"\b(Use|use|Choose|choose|Take|take|Give|give|Put|Set|set|Leave|raise|Move|Let|run with)\b")


def assert_runs_or_is_refused(config: dict[str, Any]) -> bool:
    """Returns whether it ran; anything but a refusal with advice fails the test."""
    refusal = outcome(config)
    told = {key: config[key] for key in ("optimizer", "escape", "schedule", "data", "task", "dtype")}
    assert not refusal or ADVICE.search(refusal), f"{told}: no advice in {refusal!r}"
    assert "\n" not in refusal
    assert len(refusal) < 800
    return not refusal


def pairs(seed: int) -> Iterator[dict[str, Any]]:
    """Every optimizer with every way of it once, each with other parts than the one before."""
    rest = list(others())
    random.Random(seed).shuffle(rest)
    for place, optimizer in enumerate(optimizers()):
        yield values(optimizer, rest[place])


def plain(**parts: Any) -> dict[str, Any]:
    """A combination that runs, but for what is given."""
    usual = values({"name": "adam"}, (ESCAPES[0], "none", {"name": "one"}, combinations.TASKS[0], "float32"))
    return {**usual, **parts}


def test_every_way_of_every_optimizer_with_some_other_parts() -> None:
    ran = [assert_runs_or_is_refused(config) for config in pairs(seed=0)]
    assert sum(ran) > len(ran) / 2


@pytest.mark.parametrize("name", BUILTINS["optimizer"])
def test_every_optimizer_runs_with_the_plainest_parts(name: str) -> None:
    optimizer = next(one for one in optimizers() if one["name"] == name)
    extra = {"data": {"name": "overlap"}} if name == "stochastic_lbfgs" else {}
    assert outcome(plain(optimizer=optimizer, **extra)) == ""


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "newton_cg", "kfac", "adam_lbfgs"])
def test_every_other_part_with_one_of_each_family(optimizer: str) -> None:
    base = next(one for one in optimizers() if one["name"] == optimizer)
    for escape in ESCAPES:
        assert outcome(plain(optimizer=base, escape=escape)) == "", escape
    for schedule in BUILTINS["schedule"]:
        assert outcome(plain(optimizer=base, schedule={"name": schedule})) == "", schedule
    for data in data_policies():
        if data["name"] != "resample":
            assert outcome(plain(optimizer=base, data=data)) == "", data


def override(value: Any) -> str:
    """A value as Hydra's command line takes it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{override(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(override, value)) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def overrides(config: dict[str, Any]) -> list[str]:
    """A combination as the command line says it."""
    found = []
    for key, value in config.items():
        if key == "budget":
            found += [f"{key}.{name}={override(item)}" for name, item in value.items()]
        elif not isinstance(value, dict):
            found.append(f"{key}={override(value)}")
        else:
            found.append(f"{key}={value['name']}")
            found += [f"{key}.{name}={override(item)}" for name, item in value.items() if name != "name"]
    return found


def composes_to_the_same(configs: list[dict[str, Any]]) -> None:
    register(conf_dir())
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            for config in configs:
                composed = to_values(compose("config", overrides(config)), None)
                assert to_plain(resolve(composed)) == to_plain(resolve(config)), overrides(config)
    finally:
        GlobalHydra.instance().clear()


def test_some_from_yaml_are_what_they_are_from_python() -> None:
    composes_to_the_same(list(pairs(seed=0))[::25])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_from_yaml_are_what_they_are_from_python() -> None:
    composes_to_the_same(list(pairs(seed=0)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 31))
def test_many_combinations(seed: int) -> None:
    for config in pairs(seed):
        assert_runs_or_is_refused(config)


REFUSED = [
    ({"schedule": {"name": "cosine"}, "optimizer": {"name": "external", "cls": "scipy:CG"}}, "Use schedule=none"),
    ({"data": {"name": "resample"}}, "Use data=one"),
    ({"data": {"name": "overlap"}, "task": {"name": "tiny", "batch_size": "full"}}, "a batch smaller than the data"),
    ({"optimizer": {"name": "stochastic_lbfgs", "pairs": "overlap"}}, "run with data=overlap"),
    ({"optimizer": {"name": "gauss_newton", "max_dimension": 3}}, "Use newton_cg"),
    ({"optimizer": {"name": "ncg", "line_search": "armijo", "beta": "hager_zhang"}}, "Use line_search="),
    ({"optimizer": {"name": "newton_cg", "curvature": "empirical_fisher"}}, "take the Gauss-Newton matrix"),
    ({"optimizer": {"name": "switch", "first": "lookahead"}}, "Give one of its members"),
    ({"schedule": {"name": "cosine"}, "budget": {"seconds": 1.0}}, "choose schedule=step"),
    ({"optimizer": {"name": "kfac"}, "task": {"name": "test_function"}}, "use lbfgs, newton_cg"),
]


@pytest.mark.parametrize(("parts", "advice"), REFUSED, ids=[advice for _, advice in REFUSED])
def test_the_refusal_names_what_works(parts: dict[str, Any], advice: str) -> None:
    assert advice in outcome(plain(**parts))
