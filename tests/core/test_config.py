"""Config dataclasses: names, types, ranges, choices, and messages that name the fix."""

from __future__ import annotations

import copy
import dataclasses
import enum
import math
from typing import Any, Optional

import numpy as np
import pytest

from hybridopt.core import ConfigError, check, make_config, option, to_dict


class Rule(enum.Enum):
    ARMIJO = "armijo"
    STRONG_WOLFE = "strong_wolfe"


@dataclasses.dataclass
class Search:
    rule: Rule = option(Rule.ARMIJO)
    shrink: float = option(0.5, gt=0, lt=1)


@dataclasses.dataclass
class Config:
    lr: float = option(0.1, gt=0, help="step size")
    damping: float | None = option(None, ge=0)
    old_style: Optional[int] = option(None, ge=1)  # noqa: UP045 (plugins may write it)
    memory: int = option(10, ge=1, le=100)
    nesterov: bool = option(False)
    mode: str = option("full", choices=["full", "diagonal"])
    betas: list[float] = option([0.9, 0.999], ge=0, lt=1)
    extra: dict[str, float] = option({})
    bare: list = option([])
    either: int | str = option("auto")
    anything: Any = option(None)
    search: Search = dataclasses.field(default_factory=Search)


@dataclasses.dataclass
class Required:
    lr: float
    momentum: float = 0.9


def refused(values: dict, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        make_config(Config, values, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults():
    assert make_config(Config) == make_config(Config, {}) == make_config(Config, None) == Config()


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        pytest.param("lr", 1, 1.0, id="int-for-float"),
        pytest.param("lr", "1e-3", 1e-3, id="yaml-exponent"),
        pytest.param("lr", "0.5", 0.5, id="text-number"),
        pytest.param("lr", float("inf"), math.inf, id="infinity"),
        pytest.param("lr", np.float64(0.25), 0.25, id="numpy"),
        pytest.param("damping", None, None, id="optional-none"),
        pytest.param("damping", 0, 0.0, id="optional-int"),
        pytest.param("damping", "1e-2", 1e-2, id="optional-text"),
        pytest.param("old_style", 2, 2, id="typing-optional"),
        pytest.param("memory", 5.0, 5, id="whole-float-for-int"),
        pytest.param("memory", np.int64(7), 7, id="numpy-int"),
        pytest.param("memory", np.float32(7.0), 7, id="whole-numpy-float-for-int"),
        pytest.param("lr", np.float32(0.5), 0.5, id="numpy-float"),
        pytest.param("lr", np.int32(2), 2.0, id="numpy-int-for-float"),
        pytest.param("nesterov", True, True, id="bool"),
        pytest.param("mode", "diagonal", "diagonal", id="choice"),
        pytest.param("betas", [0, "1e-1"], [0.0, 0.1], id="list-entries"),
        pytest.param("betas", (0.5, 0.6), [0.5, 0.6], id="tuple-for-list"),
        pytest.param("extra", {"a": 1}, {"a": 1.0}, id="dict-entries"),
        pytest.param("bare", [1, "x"], [1, "x"], id="bare-list"),
        pytest.param("either", 3, 3, id="union-first"),
        pytest.param("either", "3", "3", id="union-second"),
        pytest.param("anything", object, object, id="any"),
        pytest.param("search", {"shrink": "1e-1"}, Search(shrink=0.1), id="nested"),
        pytest.param("search", {"rule": "strong_wolfe"}, Search(rule=Rule.STRONG_WOLFE), id="enum-by-value"),
        pytest.param("search", {"rule": Rule.STRONG_WOLFE}, Search(rule=Rule.STRONG_WOLFE), id="enum-member"),
        pytest.param("search", Search(shrink=0.3), Search(shrink=0.3), id="nested-instance"),
    ],
)
def test_accepted_values(name, given, wanted):
    found = getattr(make_config(Config, {name: given}), name)
    assert found == wanted
    assert type(found) is type(wanted) or isinstance(wanted, float)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        pytest.param("lr", "fast", "Config.lr must be of type float, not str 'fast'", id="text"),
        pytest.param("lr", True, "must be of type float, not bool", id="bool-for-float"),
        pytest.param("lr", None, "must be of type float, not NoneType", id="none"),
        pytest.param("lr", float("nan"), "must be a number, not nan", id="nan"),
        pytest.param("lr", "nan", "must be of type float, not str 'nan'", id="text-nan"),
        pytest.param("lr", [0.1], "must be of type float, not list", id="list-for-float"),
        pytest.param("damping", "much", "must be of type float", id="optional-text"),
        pytest.param("memory", 2.5, "must be of type int, not float 2.5", id="fraction-for-int"),
        pytest.param("memory", True, "must be of type int, not bool", id="bool-for-int"),
        pytest.param("memory", np.bool_(True), "must be of type int, not bool", id="numpy-bool-for-int"),
        pytest.param("memory", np.float32(2.5), "must be of type int, not float", id="numpy-fraction-for-int"),
        pytest.param("lr", np.float32("nan"), "must be a number, not nan", id="numpy-nan"),
        pytest.param("memory", "3", "must be of type int, not str", id="text-for-int"),
        pytest.param("memory", float("inf"), "must be of type int", id="infinity-for-int"),
        pytest.param("nesterov", 1, "must be of type bool, not int 1", id="int-for-bool"),
        pytest.param("nesterov", "true", "must be of type bool", id="text-for-bool"),
        pytest.param("mode", 3, "must be of type str", id="int-for-text"),
        pytest.param("betas", 0.9, r"must be of type list[float], not float", id="number-for-list"),
        pytest.param("betas", "ab", r"must be of type list[float], not str", id="text-for-list"),
        pytest.param("betas", [0.9, "x"], "Config.betas[1] must be of type float, not str 'x'", id="list-entry"),
        pytest.param("extra", [1], "must be of type dict[str, float]", id="list-for-dict"),
        pytest.param("extra", {"a": "x"}, "Config.extra['a'] must be of type float", id="dict-entry"),
        pytest.param("extra", {1: 1.0}, "a key of Config.extra must be of type str", id="dict-key"),
        pytest.param("search", 3, "Config.search must be of type Search, not int 3", id="number-for-config"),
        pytest.param("search", Required(1.0), "Config.search must be of type Search", id="other-config"),
    ],
)
def test_wrong_types(name, given, message):
    assert message in refused({name: given})


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        pytest.param("lr", 0, "Config.lr must be > 0, not 0.0", id="excluded-bound"),
        pytest.param("lr", -1, "must be > 0", id="below"),
        pytest.param("damping", -1e-9, "must be >= 0", id="optional"),
        pytest.param("memory", 0, "must be >= 1 and <= 100, not 0", id="two-bounds"),
        pytest.param("memory", 101, "must be >= 1 and <= 100, not 101", id="above"),
        pytest.param("mode", "ful", "must be one of 'full', 'diagonal', not 'ful'. Did you mean 'full'?", id="choice"),
        pytest.param("betas", [0.9, 1.0], "Config.betas[1] must be >= 0 and < 1, not 1.0", id="list-entry"),
        pytest.param("search", {"shrink": 1}, "Config.search.shrink must be > 0 and < 1", id="nested"),
        pytest.param("search", {"rule": "armijo2"}, "one of armijo, strong_wolfe, not 'armijo2'. Did you", id="enum"),
    ],
)
def test_out_of_range(name, given, message):
    assert message in refused({name: given})


@pytest.mark.parametrize("inside", [{"lr": 1e-300}, {"memory": 1}, {"memory": 100}, {"damping": 0}, {"betas": [0.0]}])
def test_bounds_that_belong_to_the_range(inside):
    make_config(Config, inside)


def test_unknown_names():
    message = refused({"dampin": 1.0}, owner="newton_cg")
    assert message.startswith("newton_cg has no option 'dampin'. Did you mean 'damping'? Its options are: lr, damping,")
    assert "Did you mean" not in refused({"zzz": 1})
    assert "Config.search has no option 'shrnk'. Did you mean 'shrink'?" in refused({"search": {"shrnk": 1}})
    assert "has no option 3" in refused({3: 1})


def test_a_config_without_options():
    @dataclasses.dataclass
    class Empty:
        pass

    assert make_config(Empty) == Empty()
    with pytest.raises(ConfigError, match="Its options are: none"):
        make_config(Empty, {"lr": 1})


def test_required_options():
    with pytest.raises(ConfigError, match="Required needs a value for its option 'lr'"):
        make_config(Required, {"momentum": 0.5})
    assert make_config(Required, {"lr": 1}) == Required(1.0)


def test_help_is_in_the_message():
    assert refused({"lr": "x"}).endswith("(step size)")


def test_owner_names_the_part():
    assert refused({"lr": -1}, owner="sgd").startswith("sgd.lr")


def test_defaults_are_not_shared():
    first, second = Config(), Config()
    first.betas.append(0.5)
    first.extra["a"] = 1.0
    first.search.shrink = 0.9
    assert second.betas == [0.9, 0.999]
    assert second.extra == {}
    assert second.search.shrink == 0.5


def test_values_are_not_changed():
    values = {"search": {"shrink": "0.5"}, "betas": ("0.5",)}
    kept = copy.deepcopy(values)
    make_config(Config, values)
    assert values == kept


def test_check_converts_in_place():
    config = Config(lr=1, memory=5.0)
    assert check(config) is config
    assert isinstance(config.lr, float)
    assert isinstance(config.memory, int)


def test_check_finds_what_the_constructor_let_through():
    with pytest.raises(ConfigError, match=r"sgd\.lr must be > 0"):
        check(Config(lr=-1), owner="sgd")
    with pytest.raises(ConfigError, match=r"search\.shrink"):
        check(Config(search=Search(shrink=2.0)))


def test_values_that_do_not_go_together():
    @dataclasses.dataclass
    class Range:
        low: float = option(0.0)
        high: float = option(1.0)

        def validate(self, owner):
            if self.low >= self.high:
                raise ConfigError(f"{owner}: low must be below high.")

    assert make_config(Range, {"low": "5e-1"}).low == 0.5
    with pytest.raises(ConfigError, match="Range: low must be below high"):
        make_config(Range, {"low": 1})
    with pytest.raises(ConfigError, match="part: low"):
        check(Range(high=-1.0), owner="part")
    with pytest.raises(ConfigError, match=r"Range\.low must be of type float"):
        make_config(Range, {"low": "wide"})


def test_frozen_configs():
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        lr: float = option(0.1, gt=0)

    config = make_config(Frozen, {"lr": 1})
    assert isinstance(config.lr, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 2.0


def test_fields_that_are_not_options():
    @dataclasses.dataclass
    class Derived:
        lr: float = option(0.1)
        twice: float = dataclasses.field(init=False, default=0.0)

        def __post_init__(self):
            self.twice = 2 * self.lr

    assert make_config(Derived, {"lr": 0.5}).twice == 1.0
    with pytest.raises(ConfigError, match="no option 'twice'"):
        make_config(Derived, {"twice": 1.0})


def test_inherited_options():
    @dataclasses.dataclass
    class More(Config):
        window: int = option(5, ge=1)

    assert make_config(More, {"lr": 1, "window": 2}).lr == 1.0
    with pytest.raises(ConfigError, match=r"More.memory"):
        make_config(More, {"memory": 0})


def test_to_dict_is_plain_and_comes_back():
    config = make_config(Config, {"search": {"rule": "strong_wolfe"}, "extra": {"a": 2}, "betas": (0.1, 0.2)})
    plain = to_dict(config)
    assert plain["search"] == {"rule": "strong_wolfe", "shrink": 0.5}
    assert plain["betas"] == [0.1, 0.2]
    assert make_config(Config, plain) == config
    import json

    json.dumps({key: value for key, value in plain.items() if key != "anything"})


def test_to_dict_is_a_copy():
    config = Config()
    to_dict(config)["betas"].append(1)
    assert config.betas == [0.9, 0.999]


def test_metadata_for_help_and_tuning():
    @dataclasses.dataclass
    class Tuned:
        lr: float = option(0.1, gt=0, search=("log", 1e-4, 1.0), help="step size")

    metadata = dataclasses.fields(Tuned)[0].metadata
    assert metadata["search"] == ("log", 1e-4, 1.0)
    assert metadata["help"] == "step size"
    assert metadata["bounds"] == {"gt": 0}
