"""Every combination of optimizer and task composes and checks; so does every experiment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from hybridopt._paths import conf_dir
from hybridopt.experiment import parts
from hybridopt.experiment.config import resolve
from hybridopt.experiment.schema import register, to_values

EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
BUILTINS = {kind: list(parts.registry(kind)._builtins) for kind in parts.KINDS}


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register(conf_dir())
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        yield
    GlobalHydra.instance().clear()


def composed(*overrides: str) -> Any:
    return resolve({**to_values(compose("config", list(overrides)), None), "device": "cpu"})


def agree(task: str, optimizer: str) -> None:
    config = composed(f"task={task}", f"optimizer={optimizer}")
    assert (config.task["name"], config.optimizer["name"]) == (task, optimizer)


def test_every_optimizer_and_every_task_with_a_partner() -> None:
    tasks, optimizers = BUILTINS["task"], BUILTINS["optimizer"]
    for place in range(max(len(tasks), len(optimizers))):
        agree(tasks[place % len(tasks)], optimizers[place % len(optimizers)])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_optimizer_with_every_task() -> None:
    for task, optimizer in itertools.product(BUILTINS["task"], BUILTINS["optimizer"]):
        agree(task, optimizer)


@pytest.mark.parametrize("kind", [kind for kind in BUILTINS if kind not in ("task", "optimizer", "data")])
def test_every_other_part(kind: str) -> None:
    for name in BUILTINS[kind]:
        assert getattr(composed(f"{kind}={name}"), kind)["name"] == name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment(name: str) -> None:
    hydra = compose("config", [f"experiment={name}"], return_hydra_config=True).hydra
    params = dict(hydra.sweeper.get("params") or {})
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line]
        for override in overrides
    ]
    assert all(choices)
    # Every choice with a partner; the whole product is what a sweep composes before it starts.
    for place in range(max(map(len, choices))):
        composed(f"experiment={name}", *(options[place % len(options)] for options in choices))


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("cnn_sweep", 3), ("rnn_sweep", 3), ("gpu_cnn_sweep", 10), ("gpu_rnn_sweep", 10)],
)
def test_sweeps_have_every_family_and_enough_seeds(name: str, seeds: int) -> None:
    params = compose("config", [f"experiment={name}"], return_hydra_config=True).hydra.sweeper.params
    found = OverridesParser.create().parse_overrides([f"{key}={params[key]}" for key in ("optimizer", "seed")])
    optimizers, swept = (list(override.sweep_string_iterator()) for override in found)
    families = {parts.part_class("optimizer", optimizer).family for optimizer in optimizers}
    assert families == {parts.part_class("optimizer", optimizer).family for optimizer in BUILTINS["optimizer"]}
    assert len(swept) >= seeds


def test_the_quickstart_is_what_it_promises() -> None:
    hydra = compose("config", ["experiment=quickstart"], return_hydra_config=True).hydra
    assert hydra.mode.name == "MULTIRUN"
    assert set(hydra.sweeper.params.task.split(",")) == {"digits_cnn", "adding_rnn"}
    optimizers = hydra.sweeper.params.optimizer.split(",")
    families = {parts.part_class("optimizer", name).family for name in optimizers if name in BUILTINS["optimizer"]}
    assert len(optimizers) >= 8
    assert families == {"first-order", "quasi-newton", "newton", "hybrid"}


@pytest.mark.parametrize("kind", parts.KINDS)
def test_conf_shows_every_name_once_with_a_comment(kind: str) -> None:
    files = {path.stem: path for path in (conf_dir() / kind).glob("*.yaml")}
    missing = set(BUILTINS[kind]) - files.keys()
    assert not missing, f"conf/{kind} has no file for {sorted(missing)}: copy a neighbour"
    for name, path in files.items():
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# "), f"{path} does not say what it is in its first line"
        assert yaml.safe_load(text) is not None, name


def test_tuned_settings_apply_to_their_pair_and_yield_to_the_user(tmp_path, monkeypatch) -> None:
    for path in conf_dir().glob("tuned/*/*.yaml"):
        task, optimizer = path.parent.name, path.stem
        assert task in BUILTINS["task"]
        assert optimizer in parts.names("optimizer")
        assert path.read_text(encoding="utf-8").startswith("# @package _global_")
        composed(f"task={task}", f"optimizer={optimizer}")


def test_a_schema_for_types_that_hydra_does_not_know() -> None:
    import dataclasses
    import enum

    from hybridopt.core import option
    from hybridopt.optimizers import registry

    class Rule(enum.Enum):
        SLOW = "slow"
        FAST = "fast"

    @dataclasses.dataclass
    class Inner:
        depth: int = 2

    class Odd:
        batch = "full"

        @dataclasses.dataclass
        class Config:
            rule: Rule = Rule.SLOW
            rates: list[float] = option([0.1])
            extra: dict[str, Any] = option({})
            limit: int | None = option(None, ge=1)
            inner: Inner = dataclasses.field(default_factory=Inner)

    Odd.Config.__annotations__.update(rule=Rule, inner=Inner, rates=list[float], extra=dict[str, Any], limit=int | None)
    registry.register("odd")(Odd)
    try:
        register(conf_dir())
        config = composed("optimizer=odd", "optimizer.rule=fast", "optimizer.extra={a: 1}", "optimizer.inner.depth=5")
        assert config.optimizer["rule"] == "fast"
        assert config.optimizer["extra"] == {"a": 1}
        assert config.optimizer["inner"] == {"depth": 5}
        assert config.task["batch_size"] == "full"
    finally:
        del registry._registered["odd"]
