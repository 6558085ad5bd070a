"""K-BFGS: what it sees of a layer, its two updates against dense formulas, the paper's algorithm written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hybridopt as ho
from hybridopt.core import CombinationError, ObjectiveError
from hybridopt.optimizers.kbfgs_factors import LimitedMemory, bfgs, dot, double_damping
from hybridopt.optimizers.kbfgs_layers import layers_of, watching
from tests.optimizers.catalogue import run, training
from tests.optimizers.structured_cases import random_matrix

CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(4, 6, 3),
    "strided": lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), dilation=(2, 1)),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, padding="same", bias=False),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4, padding="valid"),
}


def seen_of(module: nn.Module, x: Tensor) -> Any:
    (layer,) = layers_of(module, list(module.parameters()), 1000)
    with watching([layer], inputs=True) as (seen,):
        output = module(x)
        weights = random_matrix(*output.shape, seed=7)
        torch.autograd.grad((weights * output).sum(), list(module.parameters()))
    assert seen.complete
    return layer, seen, output.detach(), weights


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_what_is_seen_of_a_convolution(name: str) -> None:
    torch.manual_seed(0)
    module = CONVOLUTIONS[name]().double()
    layer, seen, output, weights = seen_of(module, random_matrix(2, 4, 7, 6))
    groups = module.groups
    padding = (1, 1) if module.padding == "same" else (0, 0) if module.padding == "valid" else module.padding
    unfolded = nn.functional.unfold(
        random_matrix(2, 4, 7, 6), module.kernel_size, module.dilation, padding, module.stride
    )
    rows = unfolded.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    if module.bias is not None:
        rows = torch.cat([rows, torch.ones(*rows.shape[:2], 1, dtype=torch.float64)], dim=2)
    assert seen.rows == rows.shape[1]
    torch.testing.assert_close(seen.inputs, rows.sum(1))
    torch.testing.assert_close(seen.products, torch.einsum("grc,grd->gcd", rows, rows))
    torch.testing.assert_close(seen.outputs, output.sum((0, 2, 3)).reshape(groups, -1))
    torch.testing.assert_close(seen.gradients, weights.sum((0, 2, 3)).reshape(groups, -1))
    # The mean output is the layer's matrix times the mean input.
    matrix = layer.matrix(module.weight, module.bias)
    torch.testing.assert_close((matrix @ seen.inputs[..., None])[..., 0], seen.outputs)


@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 3), (3,)])
def test_what_is_seen_of_a_linear_layer(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(3, 2).double(), random_matrix(*shape)
    _, seen, output, weights = seen_of(module, x)
    rows = torch.cat([x.reshape(-1, 3), torch.ones(x.numel() // 3, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(seen.products, (rows.T @ rows)[None])
    torch.testing.assert_close(seen.outputs, output.reshape(-1, 2).sum(0)[None])
    torch.testing.assert_close(seen.gradients, weights.reshape(-1, 2).sum(0)[None])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_which_parameters_have_a_layer() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv1d(2, 4, 3, padding=1)
            self.circular = nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular")
            self.uneven = nn.Conv1d(4, 4, 2, padding="same")
            self.norm = nn.BatchNorm1d(4)
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight  # one weight, two biases
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.last = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.uneven(self.circular(self.convolution(x)))).mean(2)
            return self.last(self.normed(torch.tanh(self.second(torch.tanh(self.first(x))))))

    torch.manual_seed(0)
    model = Model()
    objective = ho.Objective(model, nn.functional.cross_entropy, torch.randn(6, 2, 5), torch.randint(3, (6,)))
    optimizer = ho.create("kbfgs", model.parameters())
    reasons = {row.name: row.reason for row in optimizer.split(objective)}
    inside = {name: reason for name, reason in reasons.items() if reason != "no layer"}
    assert inside == {
        "convolution.weight": "convolution",
        "convolution.bias": "convolution",
        "first.weight": "linear",
        "last.weight": "linear",
        "last.bias": "linear",
    }
    assert "first.weight" in optimizer.describe(objective)
    optimizer.step(objective)
    assert (optimizer.report.layers, optimizer.report.fallbacks) == (3, len(reasons) - 5)
    (event,) = optimizer.report.events
    assert event["matrices"].split(", ") == list(inside)
    small = ho.create("kbfgs", model.parameters(), max_dim=4)
    assert {row.name for row in small.split(objective) if row.matrix} == {"first.weight"}


def test_layers_that_the_model_goes_around_take_the_mean_gradient() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.by_hand, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.attention(x, x, x, need_weights=False)[0]
            return self.last(torch.tanh(nn.functional.linear(x, self.by_hand.weight))).mean(1)

    torch.manual_seed(0)
    model = Around().double()
    inputs, targets = torch.randn(6, 5, 4, dtype=torch.float64), torch.randint(3, (6,))
    objective = ho.Objective(model, nn.functional.cross_entropy, inputs, targets)
    optimizer = ho.create("kbfgs", model.parameters(), momentum=0.0, lr=0.1)
    assert not any(row.matrix for row in optimizer.split(objective) if row.name.startswith("attention"))
    before = model.by_hand.weight.detach().clone()
    optimizer.step(objective)
    assert optimizer.report.layers == 1
    assert optimizer.report.events[0]["matrices"] == "last.weight, last.bias"
    torch.testing.assert_close(model.by_hand.weight.detach(), before - 0.1 * model.by_hand.weight.grad)


def test_the_bfgs_update_is_the_product_form() -> None:
    h, s, y = random_matrix(2, 4, 4), random_matrix(2, 4, seed=1), random_matrix(2, 4, seed=2)
    h = h @ h.mT
    y = y * dot(s, y).sign()
    found = bfgs(h, s, y)
    for k in range(2):
        eye, rho = torch.eye(4, dtype=torch.float64), 1 / torch.dot(s[k], y[k])
        left = eye - rho * torch.outer(s[k], y[k])
        torch.testing.assert_close(found[k], left @ h[k] @ left.T + rho * torch.outer(s[k], s[k]))
    torch.testing.assert_close((found @ y[..., None])[..., 0], s)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_pair_that_is_no_good_changes_nothing_and_no_other_group(bad: float) -> None:
    h = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    s, y = torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    y *= torch.tensor([[bad], [2.0]], dtype=torch.float64)
    found = bfgs(h, s, y)
    assert torch.equal(found[0], h[0])
    assert not torch.equal(found[1], h[1])
    memory = LimitedMemory({}, 3)
    memory.push(s, y)
    assert torch.equal(memory.product(h), h)


def test_the_limited_memory_is_bfgs_from_the_identity_with_the_last_pairs() -> None:
    state: dict[str, Any] = {}
    memory, pairs = LimitedMemory(state, 3), []
    for seed in range(5):
        s, y = random_matrix(2, 4, seed=seed), random_matrix(2, 4, seed=10 + seed)
        y = y * dot(s, y).sign()
        memory.push(s, y)
        pairs.append((s, y))
    h = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    for s, y in pairs[-3:]:
        h = bfgs(h, s, y)
    v = random_matrix(2, 4, 3, seed=30)
    torch.testing.assert_close(memory.product(v), h @ v)


def test_damped_pairs_have_the_curvature_they_need_and_good_ones_stay() -> None:
    h = random_matrix(4, 4)
    h = h @ h.T
    h = h / torch.linalg.matrix_norm(h, 2)
    for seed in range(20):
        s, y = random_matrix(3, 4, seed=seed), random_matrix(3, 4, seed=50 + seed)
        s_new, y_new = double_damping(s, y, y @ h, 0.2, 0.3)
        assert (dot(s_new, y) >= 0.2 * dot(y, y @ h) - 1e-10).all()
        assert (dot(s_new, y_new) >= 0.3 * dot(s_new, s_new) - 1e-10).all()
        good = 2.0 * s @ torch.linalg.inv(h)  # s'y = y'Hy / 2, and H^-1 is at least I
        same = double_damping(s, good, good @ h, 0.2, 0.3)
        assert torch.equal(same[0], s)
        assert torch.equal(same[1], good)
    for one, other in ((torch.zeros(1, 4), torch.zeros(1, 4)), (torch.ones(1, 4), torch.zeros(1, 4))):
        assert all(torch.isfinite(part).all() for part in double_damping(one, other, other, 0.2, 0.3))


def papers_path(model: nn.Sequential, inputs: Tensor, targets: Tensor, steps: int, memory: int | None) -> None:
    """K-BFGS on a Linear-Tanh-Linear model, in place, by the paper's formulas and dense matrices."""
    lr, root, rho = 0.2, 0.1**0.5, 0.9
    layers = [model[0], model[2]]
    a_moment: list[Any] = [None, None]
    ha: list[Any] = [None, None]
    hg = [torch.eye(layer.weight.shape[0], dtype=torch.float64) for layer in layers]
    pairs: list[list[tuple[Tensor, Tensor]]] = [[], []]
    means = [torch.zeros(layer.weight.shape[0], layer.weight.shape[1] + 1, dtype=torch.float64) for layer in layers]
    s_mean = [torch.zeros(layer.weight.shape[0], dtype=torch.float64) for layer in layers]
    y_mean = [mean.clone() for mean in s_mean]

    def evaluate() -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        h0 = layers[0](inputs)
        a1 = torch.tanh(h0)
        h1 = layers[1](a1)
        loss = nn.functional.cross_entropy(h1, targets)
        found = torch.autograd.grad(loss, [layers[0].weight, layers[0].bias, *layers[1].parameters(), h0, h1])
        ones = torch.ones(len(inputs), 1, dtype=torch.float64)
        homogeneous = [torch.cat([part.detach(), ones], dim=1) for part in (inputs, a1)]
        slopes = [torch.cat([found[2 * k], found[2 * k + 1][:, None]], dim=1) for k in range(2)]
        return homogeneous, slopes, [h0.detach(), h1.detach()], [found[4] * len(inputs), found[5] * len(inputs)]

    def update(h: Tensor, s: Tensor, y: Tensor) -> Tensor:
        left = torch.eye(len(s), dtype=torch.float64) - torch.outer(s, y) / (s @ y)
        return left @ h @ left.T + torch.outer(s, s) / (s @ y)

    for step in range(steps):
        a, slopes, h_before, g_before = evaluate()
        for k, layer in enumerate(layers):
            means[k] = rho * means[k] + (1 - rho) * slopes[k]
            moment = a[k].T @ a[k] / len(inputs)
            if step == 0:
                a_moment[k] = moment
                ha[k] = torch.linalg.inv(moment + root * torch.eye(len(moment), dtype=torch.float64))
            else:
                a_moment[k] = 0.9 * a_moment[k] + 0.1 * moment
            direction = hg[k] @ means[k] @ ha[k]
            with torch.no_grad():
                layer.weight.sub_(lr * direction[:, :-1])
                layer.bias.sub_(lr * direction[:, -1])
        _, _, h_after, g_after = evaluate()
        for k in range(2):
            mean = a[k].mean(0)
            action = ha[k] @ mean
            ha[k] = update(ha[k], action, a_moment[k] @ action + root * action)
            s_mean[k] = 0.9 * s_mean[k] + 0.1 * (h_after[k].mean(0) - h_before[k].mean(0))
            y_mean[k] = 0.9 * y_mean[k] + 0.1 * (g_after[k].mean(0) - g_before[k].mean(0))
            s, y = s_mean[k], y_mean[k]
            hy = hg[k] @ y
            if s @ y < 0.2 * (y @ hy):
                theta = 0.8 * (y @ hy) / (y @ hy - s @ y)
                s = theta * s + (1 - theta) * hy
            if s @ y < root * (s @ s):
                theta = (1 - root) * (s @ s) / (s @ s - s @ y)
                y = theta * y + (1 - theta) * s
            pairs[k].append((s, y))
            hg[k] = torch.eye(len(s), dtype=torch.float64)
            for pair in pairs[k][-memory:] if memory else pairs[k]:
                hg[k] = update(hg[k], *pair)


@pytest.mark.parametrize(("output", "memory"), [("bfgs", None), ("lbfgs", 3)])
def test_the_papers_algorithm_written_out(output: str, memory: int | None) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    options = {"lr": 0.2, "damping": 0.1, "output": output, "history": memory or 100}
    optimizer = ho.create("kbfgs", problem.model.parameters(), **options)
    for _ in range(8):
        optimizer.step(problem.objective)
    papers_path(twin.model, twin.inputs, twin.targets, 8, memory)
    for mine, other in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)


def test_the_pair_of_a_linear_squared_error_has_the_losss_own_curvature() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    inputs, targets = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    for reduction in ("mean", "sum"):
        loss = nn.MSELoss(reduction=reduction)
        optimizer = ho.create("kbfgs", model.parameters(), momentum=0.0, pair_decay=0.0)
        optimizer.step(ho.Objective(model, loss, inputs, targets))
        state = optimizer.state[model.weight]
        # Shifting all outputs by s changes the gradient by sum_n H_n s: 2 s for the sum of squares, over their number.
        curvature = 2.0 * 7 if reduction == "sum" else 2.0 / 2
        torch.testing.assert_close(state["change"], curvature * state["step"])


def test_the_input_inverse_is_right_along_the_mean_input() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("kbfgs", problem.model.parameters(), damping=0.04)
    state = optimizer.state[problem.model[0].weight]
    for step in range(5):
        batch = problem.batch(step)
        mean = torch.cat([batch.inputs.mean(0), torch.ones(1, dtype=torch.float64)])
        before = state.get("input_inverse")
        optimizer.step(batch)
        wanted, inverse = state["inputs"][0] + 0.2 * torch.eye(5, dtype=torch.float64), state["input_inverse"][0]
        assert (torch.linalg.eigvalsh(inverse) > 0).all()
        if before is None:
            torch.testing.assert_close(inverse @ wanted, torch.eye(5, dtype=torch.float64))
        else:
            action = before[0] @ mean
            torch.testing.assert_close(inverse @ wanted @ action, action)


def test_parameters_outside_of_layers_take_the_mean_gradient() -> None:
    problem = training("batch_norm", dtype=torch.float64)
    norm = problem.model[1]
    optimizer = ho.create("kbfgs", problem.model.parameters(), lr=0.1, fallback_rate=0.5)
    mean = torch.zeros(5, dtype=torch.float64)
    for _ in range(4):
        before = norm.weight.detach().clone()
        optimizer.step(problem.objective)
        mean = 0.9 * mean + 0.1 * norm.weight.grad
        torch.testing.assert_close(norm.weight.detach(), before - 0.05 * mean, rtol=1e-10, atol=1e-12)


def test_a_step_into_nan_is_undone() -> None:
    problem = training(dtype=torch.float64)
    start = problem.objective.position()

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        moved = not torch.equal(problem.model[2].bias.detach(), start[-3:])
        return nn.functional.cross_entropy(outputs, targets) * (math.nan if moved else 1.0)

    objective = ho.Objective(problem.model, loss_fn, problem.inputs, problem.targets)
    optimizer = ho.create("kbfgs", problem.model.parameters())
    optimizer.step(objective)
    report = optimizer.report
    assert (report.accepted, report.status, report.step_norm) == (False, "non_finite", 0.0)
    assert torch.equal(problem.objective.position(), start)
    optimizer.step(problem.objective)
    assert optimizer.report.accepted
    assert problem.objective.value() < float(optimizer.report.loss)


def test_a_step_costs_two_gradients_on_one_batch() -> None:
    problem = training("both")
    optimizer = ho.create("kbfgs", problem.model.parameters())
    for step in range(3):
        optimizer.step(problem.batch(step))
    assert problem.objective.ledger.counts == {"forward": 0, "gradient": 6, "hvp": 0, "ggnvp": 0}


def test_no_hook_is_left_behind() -> None:
    problem = training()
    optimizer = ho.create("kbfgs", problem.model.parameters())
    optimizer.step(problem.objective)
    with pytest.raises(ObjectiveError):
        optimizer.step(ho.Objective(problem.model, lambda z, t: z, problem.inputs, problem.targets))
    assert not any(module._forward_hooks for module in problem.model.modules())


def test_a_layer_that_loses_its_bias_starts_anew() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("kbfgs", problem.model.parameters())
    for frozen in (False, True, True, False):
        problem.model[0].bias.requires_grad_(not frozen)
        optimizer.step(problem.objective)
        assert optimizer.state[problem.model[0].weight]["inputs"].shape == (1, 5 - frozen, 5 - frozen)
        assert optimizer.report.accepted


def test_micro_batches_are_refused() -> None:
    problem = training()
    optimizer = ho.create("kbfgs", problem.model.parameters())
    with pytest.raises(CombinationError, match=r"K-BFGS needs what its layers see of a whole batch"):
        optimizer.step(problem.objective.in_micro_batches(5))


def test_on_skewed_inputs_it_is_ahead_of_momentum_at_equal_cost() -> None:
    def skewed() -> tuple[nn.Module, ho.Objective]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        inputs = torch.randn(80, 8, dtype=torch.float64)
        targets = (inputs @ torch.randn(8, 3, dtype=torch.float64)).argmax(1)
        inputs = inputs * torch.logspace(0.5, -1.5, 8, dtype=torch.float64) + 2.0
        return model, ho.Objective(model, nn.functional.cross_entropy, inputs, targets)

    best = {}
    for name, rates, steps in (("kbfgs", (0.3, 1.0), 60), ("momentum", (0.03, 0.1, 0.3, 1.0), 120)):
        finals = []
        for lr in rates:
            model, objective = skewed()
            optimizer = ho.create(name, model.parameters(), lr=lr)
            for _ in range(steps):
                optimizer.step(objective)
            finals.append(objective.value())
        best[name] = min(finals)
    assert best["kbfgs"] < 0.6 * best["momentum"], best


@pytest.mark.parametrize("how", ["checkpointed", "without a graph too"])
def test_a_layer_that_runs_twice_counts_where_the_loss_depends_on_it(how: str) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.how = nn.Linear(4, 5), nn.Linear(5, 3), ""

        def forward(self, x: Tensor) -> Tensor:
            again = x.flip(1) ** 2
            if self.how == "checkpointed":
                hidden = checkpoint(lambda x: torch.tanh(self.first(x)), again, use_reentrant=False)
            else:
                hidden = torch.tanh(self.first(again))
            if self.how == "without a graph too":
                with torch.no_grad():
                    self.last(self.first(x))
            return self.last(torch.tanh(self.first(x)) + hidden)

    ends = []
    for way in ("", how):
        problem = training(Twice, dtype=torch.float64)
        problem.model.how = way
        optimizer = ho.create("kbfgs", problem.model.parameters())
        run(optimizer, problem, range(4), full=True)
        assert optimizer.report.layers == 2
        states = [optimizer.state[parameter] for parameter in problem.model.parameters()]
        ends.append([value for state in states for value in state.values() if isinstance(value, Tensor)])
    torch.testing.assert_close(*ends)
