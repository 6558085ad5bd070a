"""A whole optimizer, as the README shows it, works through every door; so do entry points and third-party classes."""

from __future__ import annotations

import copy
import importlib.metadata
import io
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.core import ConfigError
from tests.optimizers.catalogue import assert_same_state, function, rosenbrock, run, training

SOURCE = '''
from dataclasses import dataclass
import torch
import hybridopt as ho

@ho.register("heavy_ball_plugin")
class HeavyBall(ho.Optimizer):
    """Gradient descent with momentum that halves its rate when the loss rises."""

    @dataclass
    class Config:
        lr: float = ho.option(0.1, gt=0)
        momentum: float = ho.option(0.5, ge=0, lt=1)
        weight_decay: float = 0.0

    def update(self, objective):
        value, gradient = objective.value_and_grad()
        velocity = self.memory.setdefault("velocity", torch.zeros_like(gradient))
        velocity.mul_(self.config.momentum).add_(gradient)
        x = objective.position() - self.rate(objective) * velocity
        self.note(rose=objective.value(x) > value, step_norm=lambda: float(velocity.norm()))
        objective.commit(x)
'''


@pytest.fixture(scope="module")
def _plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "heavy_ball_plugin.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    __import__("heavy_ball_plugin")
    yield
    sys.path.remove(str(folder))
    del sys.modules["heavy_ball_plugin"]
    ho.optimizers.registry._registered.pop("heavy_ball_plugin")


def test_it_is_as_short_as_promised() -> None:
    assert len(SOURCE.strip().splitlines()) < 25


@pytest.mark.usefixtures("_plugin")
class TestPlugin:
    def test_create(self) -> None:
        problem = training()
        assert "heavy_ball_plugin" in ho.optimizers.registry.names()
        optimizer = ho.create("heavy_ball_plugin", problem.model.parameters(), lr=0.05)
        losses = run(optimizer, problem, range(10), full=True)
        assert problem.objective.value() < losses[0]
        assert optimizer.report.rose in (True, False)
        assert optimizer.report.grad_norm > 0
        with pytest.raises(ConfigError, match="Did you mean 'momentum'"):
            ho.create("heavy_ball_plugin", problem.model.parameters(), momentun=0.3)
        with pytest.raises(ConfigError, match="momentum must be >= 0 and < 1"):
            ho.create("heavy_ball_plugin", problem.model.parameters(), momentum=1)

    def test_minimize(self) -> None:
        result = ho.minimize(lambda x: ((x - 3) ** 2).sum(), torch.zeros(2).double(), method="heavy_ball_plugin")
        assert result.success
        assert torch.allclose(result.x, torch.full((2,), 3.0).double())

    @pytest.mark.parametrize("escape", [None, {"name": "perturbation", "stall_window": 2, "window": 2}])
    def test_state(self, escape: Any) -> None:
        def start() -> tuple[Any, Any]:
            problem = training("both")
            return problem, ho.create("heavy_ball_plugin", problem.model.parameters(), escape=escape)

        whole_problem, whole = start()
        losses = run(whole, whole_problem, range(6))
        problem, optimizer = start()
        first = run(optimizer, problem, range(3))
        file = io.BytesIO()
        torch.save([problem.model.state_dict(), optimizer.state_dict(), torch.get_rng_state()], file)
        file.seek(0)
        model, state, random = torch.load(file, weights_only=True)
        problem, optimizer = start()
        problem.model.load_state_dict(model)
        optimizer.load_state_dict(state)
        torch.set_rng_state(random)
        assert first + run(optimizer, problem, range(3, 6)) == losses
        assert_same_state(optimizer.state_dict(), whole.state_dict())
        for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert_same_state(twin.state_dict(), optimizer.state_dict())

    def test_param_groups_schedulers_and_weight_decay(self) -> None:
        problem = training(dtype=torch.float64)
        groups = [{"params": problem.model[0].parameters(), "lr": 0.01}, {"params": problem.model[2].parameters()}]
        optimizer = ho.create("heavy_ball_plugin", groups, weight_decay=0.5, momentum=0.0)
        weight = problem.model[0].weight.detach().clone()
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        optimizer.step(problem.objective)
        moved = weight - problem.model[0].weight
        torch.testing.assert_close(moved, 0.01 * (problem.model[0].weight.grad + 0.5 * weight))
        schedule.step()
        assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.05]

    def test_a_switch_takes_it_as_a_member(self) -> None:
        objective = function(rosenbrock, [-1.2, 1.0])
        optimizer = ho.create(
            "switch",
            objective.model.parameters(),
            first="heavy_ball_plugin",
            first_options={"lr": 1e-4},
            second="newton_cg",
            at_step=3,
        )
        for _ in range(60):
            optimizer.step(objective)
        assert objective.value() < 1e-12


def test_the_name_of_a_built_in_is_refused_and_one_that_is_taken() -> None:
    with pytest.raises(ConfigError, match="'adam' is built in"):
        ho.register("adam")(ho.optimizers.Adam)
    try:
        ho.register("taken_name")(ho.optimizers.Adam)
        with pytest.raises(ConfigError, match="taken by Adam already"):
            ho.register("taken_name")(ho.optimizers.SGD)
    finally:
        ho.optimizers.registry._registered.pop("taken_name")


@pytest.mark.parametrize("cls", [torch.optim.Adam, dict, lambda params: None])
def test_what_is_no_optimizer_of_this_library_is_not_registered(cls: Any) -> None:
    with pytest.raises(ConfigError, match=r"subclass hybridopt.Optimizer.*package.module:Class"):
        ho.register("not_an_optimizer")(cls)
    assert "not_an_optimizer" not in ho.optimizers.registry


def test_an_entry_point_of_an_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_package.py").write_text(SOURCE.replace('@ho.register("heavy_ball_plugin")\n', ""))
    info = tmp_path / "some_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hybridopt.optimizers]\nfrom_elsewhere = some_package:HeavyBall\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    problem = training()
    assert "from_elsewhere" in ho.optimizers.registry.names()
    optimizer = ho.create("from_elsewhere", problem.model.parameters())
    optimizer.step(problem.objective)
    assert type(optimizer).__name__ == "HeavyBall"


def test_a_class_of_another_package_and_one_of_this(monkeypatch: pytest.MonkeyPatch) -> None:
    class Signs(torch.optim.Optimizer):
        """Follows torch's protocol, with methods for evaluation as schedule-free optimizers have."""

        def __init__(self, params: Any, lr: float = 1e-2) -> None:
            super().__init__(params, {"lr": lr})
            self.modes: list[str] = []

        def step(self, closure: Any = None) -> Any:
            loss = closure() if closure is not None else None
            with torch.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.add_(p.grad.sign(), alpha=-group["lr"])
            return loss

        def eval(self) -> None:
            self.modes.append("eval")

        def train(self) -> None:
            self.modes.append("train")

    module = type(sys)("signs_package")
    module.Signs = Signs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "signs_package", module)
    problem = training()
    optimizer = ho.create("signs_package:Signs", problem.model.parameters(), lr=0.01)
    losses = run(optimizer, problem, range(5), full=True)
    assert losses[-1] < losses[0]
    with optimizer.evaluation():
        assert optimizer.modes == ["eval"]
    assert optimizer.modes == ["eval", "train"]
    with pytest.raises(ConfigError, match=r"has no option 'rate'.*Its options are: lr"):
        ho.create("signs_package:Signs", problem.model.parameters(), rate=0.1)
    own = ho.create("hybridopt.optimizers.newton_cg:NewtonCG", problem.model.parameters(), damping=0.5)
    assert type(own) is ho.optimizers.NewtonCG
    assert own.config.damping == 0.5


def test_external_spells_the_same_for_the_command_line() -> None:
    problem = training()
    options = {"cls": "torch:AdamW", "options": {"lr": 0.5}}
    optimizer = ho.create("external", problem.model.parameters(), **options)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_pickle_of_an_adapter_is_read_by_a_fresh_process(tmp_path: Path) -> None:
    problem = training()
    optimizer = ho.create("torch:AdamW", problem.model.parameters(), lr=0.5)
    optimizer.step(problem.objective)
    file = tmp_path / "optimizer.pickle"
    file.write_bytes(pickle.dumps(optimizer))
    code = (
        f"import pickle, torch; o = pickle.load(open({str(file)!r}, 'rb')); "
        "print(isinstance(o, torch.optim.AdamW), o.param_groups[0]['lr'], len(o.state))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True", "0.5", "4"]
