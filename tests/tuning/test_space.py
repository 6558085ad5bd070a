"""Spaces come from the options' declarations; samplers stay within them, cover them evenly and repeat themselves."""

from __future__ import annotations

import math

import pytest
import torch

from hybridopt.core import ConfigError
from hybridopt.experiment import parts
from hybridopt.optimizers import registry
from hybridopt.tuning import Choices, Range, Space
from hybridopt.tuning.space import BESIDE

MIXED = Space(
    {
        "optimizer.lr": Range(1e-5, 1e-1),
        "optimizer.momentum": Range(0.5, 0.99, log=False),
        "optimizer.max_cg": Range(5, 250, integer=True),
        "optimizer.nesterov": Choices((False, True)),
        "optimizer.root": Choices((None, 2.0, 4.0)),
    }
)


@pytest.mark.parametrize("name", sorted(registry.names()))
def test_every_optimizer_declares_a_space_that_its_own_checks_accept(name: str) -> None:
    space = Space.of(name)
    assert len(space) > 0
    for point in ([0.0] * len(space), [1.0] * len(space)):
        for dotted, value in space.at(point).items():
            option, _, nested = dotted.removeprefix("optimizer.").partition(".")
            own = {option: {nested: value} if nested else value}
            parts.part_class("optimizer", name)([torch.zeros(3, requires_grad=True)], **own)


@pytest.mark.parametrize("kind", BESIDE)
def test_every_part_beside_the_optimizer_declares_a_space_that_its_own_checks_accept(kind: str) -> None:
    for name in parts.names(kind):
        space = Space.of("sgd", beside={kind: name}).without(["optimizer"])
        for point in ([0.0] * len(space), [1.0] * len(space)):
            values = {dotted.removeprefix(f"{kind}."): value for dotted, value in space.at(point).items()}
            assert parts.check_part(kind, {"name": name, **values}).items() >= values.items()


def test_an_escape_and_a_data_policy_bring_their_options() -> None:
    own = Space.of("sgd").dimensions
    space = Space.of("sgd", beside={"escape": "negative_curvature", "schedule": "none", "data": "overlap"})
    products = Range(5, 100, integer=True, least=2)
    assert space.dimensions["escape.products"] == products
    assert set(space.dimensions) == {*own, "escape.products", "escape.first_step", "data.share"}
    assert list(space.without(["escape", "data"]).dimensions) == list(own)
    assert "schedule.warmup" in Space.of("sgd", beside={"schedule": "cosine"}).dimensions
    assert Space.of("sgd", beside={"escape": "none", "data": "one"}).dimensions == own
    assert Space.of("sgd", beside={"escape": "chain"}).dimensions == own, "a list says all itself"


def test_options_whose_default_is_off_are_no_part_of_a_default_space() -> None:
    for name in ("sgd", "momentum", "nesterov", "adam"):
        assert "optimizer.hypergradient" not in Space.of(name).dimensions, name


def test_members_that_are_named_bring_their_own_options() -> None:
    inner = Space.of("lookahead").dimensions
    assert inner["optimizer.inner_options.lr"] == Space.of("adam").dimensions["optimizer.lr"]
    assert "optimizer.period" in inner
    other = Space.of("lookahead", options={"inner": "muon"})
    assert "optimizer.inner_options.momentum" in other.dimensions
    assert {"optimizer.first_options.lr", "optimizer.second_options.history"} <= set(Space.of("switch").dimensions)
    assert not len(Space.of("switch", options={"stages": ["adam", "lbfgs"]}))
    assert list(other.without(["optimizer.inner_options", "optimizer.alpha"]).dimensions) == ["optimizer.period"]
    (found,) = Space({}).changed(["optimizer.inner_options.lr=log:1e-3:1"], "lookahead").dimensions.values()
    assert found == Range(1e-3, 1.0)


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_points_lie_in_the_space_and_repeat_themselves(sampler: str) -> None:
    points = MIXED.sample(64, sampler=sampler, seed=3)
    assert points == MIXED.sample(64, sampler=sampler, seed=3)
    assert points[:10] == MIXED.sample(10, sampler=sampler, seed=3), "more trials must begin with fewer"
    assert points != MIXED.sample(64, sampler=sampler, seed=4)
    for point in points:
        assert 1e-5 <= point["optimizer.lr"] <= 1e-1
        assert 0.5 <= point["optimizer.momentum"] <= 0.99
        assert isinstance(point["optimizer.max_cg"], int)
        assert 5 <= point["optimizer.max_cg"] <= 250
    assert {point["optimizer.nesterov"] for point in points} == {False, True}
    assert {point["optimizer.root"] for point in points} == {None, 2.0, 4.0}


@pytest.mark.parametrize(("sampler", "deviation"), [("random", 75), ("sobol", 4)])
def test_logarithms_are_uniform(sampler: str, deviation: int) -> None:
    space = Space({"optimizer.lr": Range(1e-5, 1e-1), "optimizer.eps": Range(1e-8, 1e-4)})
    rates = [point["optimizer.lr"] for point in space.sample(1024, sampler=sampler, seed=0)]
    decades = [sum(10.0**k <= rate < 10.0 ** (k + 1) for rate in rates) for k in range(-5, -1)]
    assert all(abs(count - 256) <= deviation for count in decades), decades


def test_uniform_is_not_logarithmic() -> None:
    space = Space({"optimizer.momentum": Range(0.1, 0.9, log=False)})
    values = [point["optimizer.momentum"] for point in space.sample(256)]
    assert abs(sum(values) / 256 - 0.5) < 0.01


def test_rounded_values_stay_inside() -> None:
    narrow = Range(1.00004, 1.00006)
    assert all(1.00004 <= narrow.at(u) <= 1.00006 for u in (0.0, 0.3, 1.0))


def test_place_is_the_inverse_of_at() -> None:
    for dimension in (Range(1e-5, 1e-1), Range(-2.0, 3.0, log=False)):
        for u in (0.0, 0.2, 0.5, 1.0):
            assert dimension.place(dimension.at(u)) == pytest.approx(u, abs=1e-4)


class TestGrid:
    def test_the_finest_that_fits(self) -> None:
        space = Space({"optimizer.lr": Range(1e-4, 1.0), "optimizer.nesterov": Choices((False, True))})
        points = space.sample(11, sampler="grid")
        assert len(points) == 10
        rates = sorted({point["optimizer.lr"] for point in points})
        assert rates == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])

    def test_too_large_a_grid_is_refused_with_its_size(self) -> None:
        with pytest.raises(ConfigError, match=r"at least 48 points, more than trials=16.*--only"):
            MIXED.sample(16, sampler="grid")


class TestChanges:
    def test_replace_add_and_leave_out(self) -> None:
        space = Space.of("momentum").changed(
            ["optimizer.lr=log:1e-3:1", "optimizer.momentum=off", "optimizer.nesterov=true,false"]
        )
        assert space.dimensions["optimizer.lr"] == Range(1e-3, 1.0)
        assert "optimizer.momentum" not in space.dimensions
        assert space.dimensions["optimizer.nesterov"].values == (True, False)

    def test_whole_numbers_stay_whole(self) -> None:
        space = Space.of("newton_cg").changed(["optimizer.max_cg=log:2:64"], "newton_cg")
        values = [point["optimizer.max_cg"] for point in space.sample(16)]
        assert all(isinstance(value, int) and 2 <= value <= 64 for value in values)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("lr=log:1:2", "NAME such as optimizer.lr"),
            ("optimizer.lr", "cannot be read"),
            ("optimizer.lr=log:1e-3", "Write log:LOW:HIGH"),
            ("optimizer.lr=lgo:1e-3:1", "Write log:LOW:HIGH"),
            ("optimizer.lr=log:0:1", "0 < LOW < HIGH"),
            ("optimizer.lr=log:1:0.1", "0 < LOW < HIGH"),
            ("optimizer.lr=uniform:-1:1", "own limits"),
            ("optimizer.momentun=0.5,0.9", "Did you mean 'momentum'"),
            ("optimizer.momentum=0.5,1.5", "1.5"),
            ("task.batch_size=0,16", "0"),
        ],
    )
    def test_one_sentence_for_what_is_wrong(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Space.of("momentum").changed([text], "momentum")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("escape.radios=log:0.1:1", r"escape=perturbation has no option 'radios'\. Did you mean 'radius'"),
            ("escape.radius=-1,0.1", "leaves its limits"),
            ("escape.tries=log:1.5:3", "whole ends"),
            ("data.share=0.1,0.2", r"data=one has no option 'share'.* Its options are: none\."),
        ],
    )
    def test_one_sentence_for_what_is_wrong_beside_the_optimizer(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Space.of("sgd").changed([text], "sgd", {"escape": "perturbation", "data": "one"})

    def test_only(self) -> None:
        assert list(Space.of("momentum").only(["optimizer.lr"]).dimensions) == ["optimizer.lr"]
        with pytest.raises(ConfigError, match=r"Did you mean 'optimizer\.lr'"):
            Space.of("momentum").only(["optimizer.rl"])


class TestBatchSize:
    def test_around_the_tasks_own(self) -> None:
        assert Space.of("sgd", batch_size=64).dimensions["task.batch_size"].values == (16, 32, 64, 128, 256)

    def test_no_larger_than_the_data(self) -> None:
        sizes = Space.of("sgd", batch_size=64, train_size=100).dimensions["task.batch_size"]
        assert sizes.values == (16, 32, 64)
        assert sizes.edge(16) == "lower"


class TestEdges:
    @pytest.mark.parametrize(
        ("value", "edge"),
        [(1e-5, "lower"), (2e-5, "lower"), (1e-3, None), (0.05, "upper"), (0.1, "upper"), (0.0, None)],
    )
    def test_of_a_range(self, value: float, edge: str | None) -> None:
        assert Range(1e-5, 1e-1).edge(value) == edge

    def test_none_where_the_option_itself_ends(self) -> None:
        assert Range(1e-5, 1.0, most=1.0).edge(0.99) is None
        assert Choices((1, 2, 4), least=1).edge(1) is None

    def test_of_choices(self) -> None:
        numbers = Choices((5, 10, 20, 50))
        assert [numbers.edge(value) for value in (5, 10, 50)] == ["lower", None, "upper"]
        assert Choices((None, 2.0, 4.0)).edge(4.0) is None
        assert Choices((False, True)).edge(True) is None

    def test_advice_can_be_given_back_and_takes_the_value_off_the_edge(self) -> None:
        for dimension, value in ((Range(1e-5, 1e-1), 0.08), (Range(1e-5, 1e-1), 1.2e-5)):
            (again,) = Space({}).changed([f"optimizer.lr={dimension.around(value)}"]).dimensions.values()
            assert again.edge(value) is None
            assert math.isclose(again.high / again.low, 1e4, rel_tol=0.02)
        (more,) = Space({}).changed([f"optimizer.history={Choices((5, 10, 20)).around(20)}"]).dimensions.values()
        assert more.values == (5, 10, 20, 40)
        (less,) = Space({}).changed([f"optimizer.history={Choices((5, 10, 20)).around(5)}"]).dimensions.values()
        assert less.edge(5) is None


def test_a_declaration_outside_the_options_limits_is_an_error() -> None:

    from hybridopt.tuning.dimensions import declared

    with pytest.raises(ConfigError, match="own limits"):
        declared(("log", 1e-3, 10.0), integer=False, bounds={"gt": 0, "le": 1}, options=None, label="optimizer.lr")
