"""Wrong use is met with one paragraph that names what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.core import CombinationError, ConfigError, ObjectiveError, UnknownNameError
from tests.optimizers.catalogue import FIRST_ORDER, Method, each, names, training

# Every kind of step; the words of all the others are looked at by the conformance suite.
SOME = names("sgd", "lbfgs", "newton_cg", "switch", "torch:AdamW", "scipy:L-BFGS-B")


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(3))]


def assert_paragraph(error: pytest.ExceptionInfo[Any]) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert 20 < len(text) < 700


@each(SOME)
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (lambda: 1.0, r"takes an Objective, not a closure.*hybridopt\.Objective\("),
        (None, r"needs the objective.*no loss\.backward\(\) to call before"),
        (3.0, "not a float"),
        (torch.ones(()), "not a Tensor"),
    ],
)
def test_a_step_on_something_else(method: Method, argument: Any, message: str) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    with pytest.raises(ObjectiveError, match=message) as error:
        optimizer.step(argument)
    assert_paragraph(error)


@each(SOME)
@pytest.mark.parametrize("wrong", [[], [torch.ones(3, requires_grad=True) * 2]], ids=["none", "non-leaf"])
def test_parameters_that_torch_refuses(method: Method, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"empty parameter list|non-leaf"):
        method.create(wrong)


@each(SOME)
def test_a_step_on_nothing_as_in_bare_torch(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    problem.objective().backward()
    with pytest.raises(ObjectiveError, match="needs the objective"):
        optimizer.step()


@each(SOME)
def test_a_loss_function_that_calls_backward(method: Method) -> None:
    problem = training()

    def loss_fn(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(outputs, targets)
        loss.backward()
        return loss

    objective = ho.Objective(problem.model, loss_fn, problem.inputs, problem.targets)
    optimizer = method.create(problem.model.parameters())
    with pytest.raises(ObjectiveError, match=r"called backward\(\) itself.*Return the loss") as error:
        optimizer.step(objective)
    assert_paragraph(error)


@each(SOME)
@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda o, t: torch.nn.functional.cross_entropy(o, t, reduction="none"), r"shape \(24,\).*\.mean\(\)"),
        (lambda o, t: torch.nn.functional.cross_entropy(o, t).detach(), "has no graph"),
        (lambda o, t: torch.nn.functional.cross_entropy(o, t).item(), r"not float.*without \.item\(\)"),
    ],
    ids=["not a scalar", "detached", "a number"],
)
def test_a_loss_that_cannot_be_differentiated(method: Method, loss_fn: Any, message: str) -> None:
    problem = training()
    objective = ho.Objective(problem.model, loss_fn, problem.inputs, problem.targets)
    optimizer = method.create(problem.model.parameters())
    before = problem.parameters()
    with pytest.raises(ObjectiveError, match=message):
        optimizer.step(objective)
    for parameter, was in zip(problem.model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)


@each(SOME)
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_a_grad_scaler(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(problem.objective()).backward()
    with pytest.raises(ObjectiveError, match=r"GradScaler does not work.*bfloat16 autocast") as error:
        scaler.step(optimizer, problem.objective)
    assert_paragraph(error)


@pytest.mark.parametrize(
    ("name", "option", "meant"),
    [
        ("lbfgs", "histroy", "history"),
        ("newton_cg", "dampin", "damping"),
        ("adam", "beta", "betas"),
        ("switch", "first_option", "first_options"),
        ("torch:AdamW", "weightdecay", "weight_decay"),
    ],
)
def test_an_option_that_is_misspelt(name: str, option: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean '{meant}'"):
        ho.create(name, parameters(), **{option: 1})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgd", {"lr": -1.0}, r"SGD\.lr must be >= 0, not -1\.0"),
        ("momentum", {"momentum": 1.0}, r"momentum must be > 0 and < 1"),
        ("adam", {"lr": "fast"}, r"lr must be of type float, not str 'fast'"),
        ("adam", {"lr": True}, r"lr must be of type float, not bool"),
        ("adam", {"betas": [0.9, 1.5]}, r"betas must be two numbers >= 0 and < 1"),
        ("adam", {"foreach": True, "fused": True}, r"`fused` and `foreach` cannot be `True` together"),
        ("lbfgs", {"history": 0}, r"history must be >= 1"),
        (
            "lbfgs",
            {"line_search": "strong_wolf"},
            r"must be one of 'strong_wolfe', 'hager_zhang', 'nonmonotone', 'armijo', 'none'.*Did you mean",
        ),
        ("lbfgs", {"history": 2.5}, r"history must be of type int"),
        ("newton_cg", {"damping": -1e-3}, r"damping must be >= 0"),
        ("newton_cg", {"forcing": 1.0}, r"forcing must be > 0 and < 1"),
        ("newton_cg", {"curvature": "kfac"}, r"must be one of 'hessian', 'gauss_newton'"),
        ("trust_newton_cg", {"radius": 0.0}, r"radius must be > 0"),
        ("hessian_free", {"damping": 0.0}, r"damping must be > 0"),
        ("saddle_free_newton", {"subspace": 0}, r"subspace must be >= 1"),
        ("adam", {"betas": [0.9]}, r"betas must be two numbers"),
        ("nadam", {"betas": [0.9, 0.99, 0.999]}, r"betas must be two numbers"),
        ("lbfgs", {"c1": 0.5, "c2": 0.1}, r"LBFGS: c1 must be below c2, not 0\.5 and 0\.1"),
        ("bfgs", {"line_search": "nonmonotone", "c2": 1e-5}, r"c1 must be below c2"),
        ("ncg", {"c1": 0.6}, r"needs c1 below 0\.5"),
        ("ncg", {"line_search": "strong_wolfe", "c1": 0.2}, r"c1 must be below c2, not 0\.2 and 0\.1"),
        ("trust_newton_cg", {"radius": 2.0, "max_radius": 1.0}, r"first radius 2 is beyond max_radius=1"),
        ("trust_gltr", {"radius": 2.0, "max_radius": 1.0}, r"beyond max_radius"),
        ("lsr1", {"radius": 2.0, "max_radius": 1.0}, r"beyond max_radius"),
        ("switch", {"plateau_window": 0}, r"needs a rule"),
        ("switch", {"first": "admm"}, r"no optimizer 'admm'.*Did you mean 'adam'"),
        ("switch", {"second_options": {"histroy": 3}}, r"Did you mean 'history'"),
        ("switch", {"second": "switch"}, r"itself a hybrid"),
        ("torch:SGD", {"lr": -1.0}, r"Invalid learning rate"),
        ("torch:Adm", {}, r"torch\.optim has no optimizer 'Adm'.*Did you mean 'Adam'"),
        ("no_such_package:Adam", {}, r"needs the module 'no_such_package'.*Install it"),
        ("collections:OrderedDict", {}, r"collections has no optimizer 'OrderedDict'"),
        ("scipy:trust-krylow", {}, r"SciPy has no method 'trust-krylow'.*Did you mean 'trust-krylov'"),
        ("external", {}, r"needs optimizer\.cls=torch:AdamW"),
        ("external", {"cls": "torch:AdamW", "lr": 0.1}, r"external takes cls and options, not lr"),
        ("newton-cg", {}, r"no optimizer 'newton-cg'.*Did you mean 'newton_cg'"),
    ],
)
def test_values_and_names_that_do_not_exist(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        ho.create(name, parameters(), **options)
    assert_paragraph(error)


def test_an_unknown_name_is_a_lookup_error_and_lists_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match="saddle_free_newton") as error:
        ho.create("bogus", parameters())
    assert isinstance(error.value, LookupError)
    assert isinstance(error.value, ValueError)


def test_a_name_that_is_no_text() -> None:
    with pytest.raises(ConfigError, match="needs the name of an optimizer first, not a list"):
        ho.create(parameters(), "adam")  # type: ignore[arg-type]


def test_an_option_of_scipys_that_does_not_exist() -> None:
    problem = training()
    optimizer = ho.create("scipy:L-BFGS-B", problem.model.parameters(), maxcorr=3)
    with pytest.raises(ConfigError, match=r"does not have an option.*maxcorr.*show_options"):
        optimizer.step(problem.objective)


@each(names("sgd", "lbfgs", "newton_cg", "muon"))
def test_a_group_with_a_wrong_option(method: Method) -> None:
    with pytest.raises(ConfigError, match=r"'lrr'.*param group.*Did you mean 'lr'") as error:
        method.create([{"params": parameters(), "lrr": 0.1}])
    assert_paragraph(error)


@each(names("lbfgs", "newton_cg", "trust_newton_cg", "saddle_free_newton", "hessian_free"))
def test_a_group_with_an_option_that_is_one_for_all(method: Method) -> None:
    option = next(
        field for field in ("history", "damping", "radius") if hasattr(method.create(parameters()).config, field)
    )
    with pytest.raises(ConfigError, match=rf"cannot set '{option}' for one param group.*lr, weight_decay"):
        method.create([{"params": parameters(), option: 3}])


def test_another_group_for_a_switch_that_is_built() -> None:
    optimizer = ho.create("adam_lbfgs", parameters())
    with pytest.raises(ConfigError, match="give all groups at once"):
        optimizer.add_param_group({"params": parameters()})


def test_config_and_options_together_and_a_config_of_another_class() -> None:
    config = ho.optimizers.NewtonCG.Config(damping=0.5)
    assert ho.optimizers.NewtonCG(parameters(), config=config).config.damping == 0.5
    with pytest.raises(ConfigError, match=r"either config=\.\.\. or options"):
        ho.optimizers.NewtonCG(parameters(), config=config, damping=0.1)
    with pytest.raises(ConfigError, match="takes a LBFGSConfig, not a NewtonCGConfig"):
        ho.optimizers.LBFGS(parameters(), config=config)
    with pytest.raises(ConfigError, match="damping must be >= 0"):
        ho.optimizers.NewtonCG(parameters(), config=ho.optimizers.NewtonCG.Config(damping=-1.0))


@pytest.mark.parametrize(
    ("escape", "message"),
    [
        ("perturbaton", r"no escape 'perturbaton'.*Did you mean 'perturbation'"),
        ({"name": "perturbation", "radios": 1}, r"has no option 'radios'.*Did you mean 'radius'"),
        ({"name": "perturbation", "radius": 0}, r"radius must be > 0"),
        ({"radius": 1.0}, r"An escape needs a name: one of none, perturbation, negative_curvature"),
        (3, r"escape must be a name .*not a int"),
    ],
)
def test_a_wrong_escape(escape: Any, message: str) -> None:
    with pytest.raises((UnknownNameError, CombinationError, ConfigError), match=message) as error:
        ho.create("sgd", parameters(), escape=escape)
    assert_paragraph(error)


def test_a_gauss_newton_matrix_without_model_outputs() -> None:
    objective = ho.Objective.from_function(lambda x: (x**2).sum(), torch.ones(2))
    optimizer = ho.create("hessian_free", objective.model.parameters())
    with pytest.raises(CombinationError, match=r"Gauss-Newton matrix needs a model.*Use the Hessian instead"):
        optimizer.step(objective)


def test_a_plugin_without_config_or_update_or_evaluation() -> None:
    class NoConfig(ho.Optimizer):
        def update(self, objective: ho.Objective) -> None:
            objective.value_and_grad()

    with pytest.raises(ConfigError, match="NoConfig needs a dataclass named Config inside it"):
        NoConfig(parameters())

    class NoUpdate(ho.Optimizer):
        @dataclass
        class Config:
            lr: float = 0.1

    problem = training()
    with pytest.raises(TypeError, match=r"does not say how it moves: define update"):
        NoUpdate(problem.model.parameters()).step(problem.objective)

    class NoEvaluation(NoUpdate):
        def update(self, objective: ho.Objective) -> None:
            objective.commit(objective.position())

    with pytest.raises(ObjectiveError, match="did not evaluate the objective at the starting point"):
        NoEvaluation(problem.model.parameters()).step(problem.objective)


def test_a_torch_optimizer_that_never_calls_its_closure() -> None:
    class Idle(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        def step(self, closure: Any = None) -> None:
            return None

    import sys

    module = type(sys)("idle_optimizers")
    module.Idle = Idle  # type: ignore[attr-defined]
    sys.modules["idle_optimizers"] = module
    try:
        problem = training()
        optimizer = ho.create("idle_optimizers:Idle", problem.model.parameters())
        with pytest.raises(ConfigError, match="did not call its closure"):
            optimizer.step(problem.objective)
    finally:
        del sys.modules["idle_optimizers"]


def test_every_first_order_method_says_when_its_parameters_are_frozen_half_way() -> None:
    for method in FIRST_ORDER:
        problem = training()
        optimizer = method.create(problem.model.parameters())
        optimizer.step(problem.objective)
        problem.model.requires_grad_(False)
        with pytest.raises(ObjectiveError, match="no parameter to optimize"):
            optimizer.step(problem.objective)
