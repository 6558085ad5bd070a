"""Parameters in another dtype than before, in 16 bits, and steps under an outer autocast: it works, or one sentence."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import hybridopt as ho
from hybridopt.core import ConfigError
from hybridopt.optimizers.conversion import follow, kinds
from tests.optimizers.catalogue import (
    METHODS,
    Method,
    Training,
    assert_same_state,
    each,
    flat_state,
    names,
    run,
    training,
)

# Whose linear algebra has no bfloat16, or too few digits in it.
FLOAT32 = (
    *("newton_cg", "trust_newton_cg", "hessian_free", "newton_mr", "capped_newton_cg", "nystrom_newton_cg"),
    *("trust_gltr", "cubic_newton", "curvilinear_newton", "saddle_free_newton", "sr1", "kfac", "ekfac", "kbfgs"),
    "adam_lbfgs_nncg",
)


def converted(problem: Training, dtype: torch.dtype) -> ho.Objective:
    problem.model.to(dtype)
    return ho.Objective(
        problem.model, nn.functional.cross_entropy, problem.inputs.to(dtype), problem.targets, key="all"
    )


def steps_or_sentence(optimizer: Any, objective: ho.Objective, words: str) -> bool:
    """Whether it steps; if not, the sentence must have these words, and nothing may have changed."""
    before, state = objective.position(), copy.deepcopy(optimizer.state_dict())
    refusal = ""
    try:
        for _ in range(2):
            optimizer.step(objective)
    except ConfigError as error:
        refusal = str(error)
    if not refusal:
        assert torch.isfinite(objective.position()).all()
        return True
    assert words in refusal
    assert "\n" not in refusal
    assert torch.equal(objective.position(), before)
    assert_same_state(optimizer.state_dict(), state)
    return False


@each(METHODS)
def test_to_float64_after_some_steps(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    run(optimizer, problem, range(3), full=True)
    if steps_or_sentence(
        optimizer, converted(problem, torch.float64), "parameters were converted from float32 to float64 after"
    ):
        problem.model.float()
        problem.model.double()  # the present dtype is what counts
        optimizer.step(converted(problem, torch.float64))


def test_which_states_follow() -> None:
    follow = {"sgd", "momentum", "adam", "adafactor", "soap", "kbfgs", "newton_cg", "torch:AdamW", "torch:LBFGS"}
    for method in names(*follow, "lbfgs", "hessian_free", "adam_lbfgs"):
        problem = training()
        optimizer = method.create(problem.model.parameters())
        run(optimizer, problem, range(4), full=True)
        done = steps_or_sentence(optimizer, converted(problem, torch.float64), "what it remembers")
        assert done == (method.name in follow), method


def test_a_state_that_follows_is_the_same_to_the_last_bit() -> None:
    problem = training()
    optimizer = ho.create("adam", problem.model.parameters())
    run(optimizer, problem, range(3), full=True)
    first = problem.model[0].weight
    before = optimizer.state[first]["exp_avg"].clone()
    objective = converted(problem, torch.float64)
    gradient = torch.autograd.grad(objective(), first)[0]
    optimizer.step(objective)
    assert optimizer.state[first]["exp_avg"].dtype == torch.float64
    assert torch.equal(optimizer.state[first]["exp_avg"], before.double().lerp(gradient, 1 - 0.9))
    assert optimizer.state[first]["step"].dtype == torch.float32


@each(METHODS)
def test_to_bfloat16_after_some_steps(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    run(optimizer, problem, range(3), full=True)
    words = "needs parameters in float32 or float64" if method.name in FLOAT32[:-1] else "from float32 to bfloat16"
    steps_or_sentence(optimizer, converted(problem, torch.bfloat16), words)


class Halves(nn.Module):
    """Two layers that work in whatever dtype each of them is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x.to(self.first.weight.dtype)))
        outputs = self.last(hidden.to(self.last.weight.dtype))
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


@each(METHODS)
def test_one_layer_is_converted(method: Method) -> None:
    for dtype, words in ((torch.float64, "Some of the parameters"), (torch.bfloat16, "")):
        for part in ("first", "last"):
            problem = training(Halves)
            optimizer = method.create(problem.model.parameters())
            run(optimizer, problem, range(3), full=True)
            getattr(problem.model, part).to(dtype)
            steps_or_sentence(optimizer, problem.objective, words)


def test_which_states_follow_one_layer() -> None:
    follow = {"sgd", "adam", "adafactor", "soap", "kbfgs", "newton_cg", "swats", "torch:AdamW"}
    for method in names(*follow, "lbfgs", "kfac", "torch:LBFGS"):
        problem = training(Halves)
        optimizer = method.create(problem.model.parameters())
        run(optimizer, problem, range(3), full=True)
        problem.model.last.double()
        assert steps_or_sentence(optimizer, problem.objective, "what it remembers") == (method.name in follow), method
    assert optimizer.param_groups[0]["params"][-1].dtype == torch.float64


def test_a_group_that_was_added_follows_too() -> None:
    problem = training()
    optimizer = ho.create("adam", problem.model[0].parameters())
    optimizer.add_param_group({"params": problem.model[2].parameters()})
    optimizer.step(problem.objective)
    optimizer.step(converted(problem, torch.float64))
    assert optimizer.state[problem.model[2].weight]["exp_avg"].dtype == torch.float64


def test_converted_before_the_first_step() -> None:
    for name in ("adam", "lbfgs", "newton_cg", "kfac"):
        problem = training()
        optimizer = ho.create(name, problem.model.parameters())
        objective = converted(problem, torch.float64)
        before = objective.value()
        optimizer.step(objective)
        assert objective.value() < before


def test_an_objective_notices_that_its_parameters_were_converted() -> None:
    problem = training()
    objective = problem.objective
    assert objective.position().dtype == torch.float32
    problem.model.double()
    objective.inputs = objective.inputs.double()
    assert objective.position().dtype == torch.float64
    assert objective.value_and_grad()[1].dtype == torch.float64
    assert objective.bind([{"params": list(problem.model.parameters())}]).position().dtype == torch.float64


@each(METHODS)
def test_parameters_in_bfloat16(method: Method) -> None:
    """A method works in bfloat16, or refuses it when it is made."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).bfloat16()
    torch.manual_seed(0)
    inputs, targets = torch.randn(24, 4).bfloat16(), torch.randint(0, 3, (24,))
    objective = ho.Objective(model, nn.functional.cross_entropy, inputs, targets)
    if method.name in FLOAT32:
        with pytest.raises(ConfigError, match="needs parameters in float32 or float64"):
            method.create(model.parameters())
        return
    optimizer = method.create(model.parameters())
    for _ in range(2):
        assert torch.isfinite(optimizer.step(objective))
    with optimizer.evaluation():
        assert all(torch.isfinite(p).all() and p.dtype == torch.bfloat16 for p in model.parameters())


class Watched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.seen: set[torch.dtype] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        self.seen.add(hidden.dtype)
        return self.last(torch.tanh(hidden))


@each(METHODS)
def test_an_autocast_around_steps_is_one_around_forward_passes(method: Method) -> None:
    """The same steps, to the last bit, as with autocast inside a model that ends it after its loss."""
    problem, twin = training(Watched), training(Watched)
    optimizer, other = method.create(problem.model.parameters()), method.create(twin.model.parameters())
    inside = AutocastInside(twin)
    for step in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = optimizer.step(problem.objective if step % 2 else problem.batch(step))
        wanted = other.step(inside.objective(None if step % 2 else step))
        assert torch.equal(loss, wanted)
        assert not torch.is_autocast_enabled("cpu")
    assert problem.model.seen == {torch.bfloat16}
    assert all(torch.equal(p, q) for p, q in zip(problem.model.parameters(), twin.model.parameters(), strict=True))
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in problem.model.parameters())


class AutocastInside:
    """The same problem with autocast in the model and in the loss function."""

    def __init__(self, problem: Training) -> None:
        self.problem = problem
        forward = problem.model.forward

        def under(x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
                return forward(x)

        problem.model.forward = under
        self.whole = ho.Objective(problem.model, self.loss, problem.inputs, problem.targets, key="all")

    @staticmethod
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            return nn.functional.cross_entropy(outputs, targets)

    def objective(self, step: int | None) -> ho.Objective:
        if step is None:
            return self.whole
        batch = self.problem.batch(step)
        return self.whole.with_batch(batch.inputs, batch.targets, key=batch.key)


def test_weights_cast_for_one_forward_are_not_those_of_the_next() -> None:
    problem = training()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = problem.objective.value()
        problem.objective.commit(3 * problem.objective.position())
        assert problem.objective.value() != before


def test_autocast_is_as_it_was_after_a_step_that_failed() -> None:
    problem = training()
    optimizer = ho.create("newton_cg", problem.model.parameters())
    wrong = ho.Objective(problem.model, nn.functional.cross_entropy, problem.inputs[:, :2], problem.targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RuntimeError):
            optimizer.step(wrong)
        assert torch.is_autocast_enabled("cpu")
    assert wrong._problem.autocast == ()


@each(names("adam", "kbfgs", "lbfgs", "adam_lbfgs", "torch:LBFGS"))
def test_a_state_moves_with_its_parameters(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    run(optimizer, problem, range(4), full=True)
    # As after a move to a device that every machine has; torch itself makes new parameters for this one.
    for group in optimizer.param_groups:
        for place, parameter in enumerate(group["params"]):
            group["params"][place] = nn.Parameter(parameter.to("meta"))
            if parameter in optimizer.state:
                optimizer.state[group["params"][place]] = optimizer.state.pop(parameter)
    follow(optimizer, {key: (dtype, torch.device("cpu")) for key, (dtype, _) in kinds(optimizer).items()})
    for path, leaf in flat_state(optimizer.state_dict()["state"]).items():
        if isinstance(leaf, torch.Tensor):
            on_host = (path.endswith("/step") and leaf.dim() == 0) or leaf.dtype == torch.uint8
            assert leaf.device.type == ("cpu" if on_host else "meta"), path
