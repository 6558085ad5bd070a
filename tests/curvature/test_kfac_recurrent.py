"""The factors of recurrent layers against sums over explicit steps, unrolled in plain torch, every gate in sight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hybridopt as ho
from hybridopt.curvature import KFAC
from hybridopt.curvature.kronecker import capture
from tests.curvature.kronecker_models import DOUBLE, Sequence, block, fisher, problem

SAMPLES, STEPS = 3, 4


class Unrolled:
    """One layer in one direction, step by step; keeps inputs, states and both pre-activations of every step."""

    def __init__(self, kind: type[nn.Module], weights: list[Tensor]) -> None:
        self.kind = kind
        self.w_ih, self.w_hh, *biases = weights
        self.b_ih, self.b_hh = biases if biases else (None, None)
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor) -> Tensor:
        size = self.w_hh.shape[1]
        h = c = x.new_zeros(x.shape[1], size)
        states = []
        for step in x:
            s, q = F.linear(step, self.w_ih, self.b_ih), F.linear(h, self.w_hh, self.b_hh)
            self.seen.append((step.detach(), h.detach()))
            self.before.append((s, q))
            if self.kind in (nn.RNN, nn.RNNCell):
                h = torch.tanh(s + q)
            elif self.kind in (nn.LSTM, nn.LSTMCell):
                i, f, g, o = (s + q).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            else:
                (r, z, n), (hr, hz, hn) = s.chunk(3, 1), q.chunk(3, 1)
                update = (z + hz).sigmoid()
                new = torch.tanh(n + (r + hr).sigmoid() * hn)  # b_hn stands inside of the reset gate's product
                h = (1 - update) * new + update * h
            states.append(h)
        return torch.stack(states)


def weights_of(cell: nn.RNNBase, layer: int, reverse: bool) -> list[Tensor]:
    suffix = f"l{layer}{'_reverse' if reverse else ''}"
    names = ["weight_ih", "weight_hh"] + (["bias_ih", "bias_hh"] if cell.bias else [])
    return [getattr(cell, f"{name}_{suffix}") for name in names]


def unrolled_outputs(model: Sequence, x: Tensor, kind: type[nn.RNNBase]) -> tuple[Tensor, list[Unrolled]]:
    cell, parts = model.cell, []
    x = x.transpose(0, 1) if cell.batch_first else x
    for layer in range(cell.num_layers):
        outputs = []
        for reverse in [False, True][: 2 if cell.bidirectional else 1]:
            part = Unrolled(kind, weights_of(cell, layer, reverse))
            states = part(x.flip(0) if reverse else x)
            outputs.append(states.flip(0) if reverse else states)
            parts.append(part)
        x = torch.cat(outputs, 2)
    return model.head(x[-1]), parts


def dense_factors(
    part: Unrolled, outputs: Tensor, setting: str, side: int, logits_root: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """A and G of the input (side 0) or hidden weights (side 1) by loops over data, steps and columns."""
    rows = [step[side] for step in part.seen]
    if part.b_ih is not None:
        rows = [torch.cat([row, torch.ones(row.shape[0], 1, dtype=DOUBLE)], 1) for row in rows]
    steps, samples = len(rows), rows[0].shape[0]
    a = torch.zeros(rows[0].shape[1], rows[0].shape[1], dtype=DOUBLE)
    g = torch.zeros(part.w_hh.shape[0], part.w_hh.shape[0], dtype=DOUBLE)
    for n in range(samples):
        if setting == "expand":
            for t in range(steps):
                a += torch.outer(rows[t][n], rows[t][n]) / (samples * steps)
        else:
            mean = sum(rows[t][n] for t in range(steps)) / steps
            a += torch.outer(mean, mean) / samples
    for column in logits_root:
        gradients = torch.autograd.grad(outputs, [before[side] for before in part.before], column, retain_graph=True)
        for n in range(samples):
            if setting == "expand":
                for t in range(steps):
                    g += torch.outer(gradients[t][n], gradients[t][n])
            else:
                total = sum(gradients[t][n] for t in range(steps))
                g += torch.outer(total, total)
    return a, g


def softmax_root(outputs: Tensor) -> list[Tensor]:
    """Columns of the root of the Hessian of the mean cross-entropy: sqrt(p_k / N) (p - e_k)."""
    p = outputs.detach().softmax(1)
    unit = torch.eye(p.shape[1], dtype=DOUBLE)
    return [(p[:, k : k + 1] / p.shape[0]).sqrt() * (p - unit[k]) for k in range(p.shape[1])]


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stacked": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "without bias": {"bias": False, "num_layers": 2},
}


@pytest.mark.parametrize("setting", ["expand", "reduce"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_factors_are_the_sums_over_steps(kind: type[nn.RNNBase], variant: str, setting: str) -> None:
    torch.manual_seed(0)
    options = VARIANTS[variant]
    model = Sequence(kind, **options).to(DOUBLE)
    shape = (SAMPLES, STEPS, 3) if options.get("batch_first") else (STEPS, SAMPLES, 3)
    x = torch.randn(shape, dtype=DOUBLE)
    objective = problem(model, F.cross_entropy, x, torch.randint(0, 2, (SAMPLES,)))
    made = KFAC(objective, kind="exact", setting=setting)
    outputs, parts = unrolled_outputs(model, x, kind)
    torch.testing.assert_close(outputs, model(x))
    assert made.fallback == []
    layers = iter(made.layers)
    for part in parts:
        for side in (0, 1):
            layer = next(layers)
            wanted = part.w_hh if side else part.w_ih
            assert objective.space.parameters[layer.weight] is wanted
            a, g = made.factors(layer)
            wanted_a, wanted_g = dense_factors(part, outputs, setting, side, softmax_root(outputs))
            torch.testing.assert_close(a[0], wanted_a, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(g[0], wanted_g, rtol=1e-9, atol=1e-12)


class Cells(nn.Module):
    """A loop over time of one cell, read out at the end."""

    def __init__(self, kind: type[nn.RNNCellBase], bias: bool = True) -> None:
        super().__init__()
        self.cell, self.head = kind(3, 4, bias=bias), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("cell", "layer"), [(nn.RNNCell, nn.RNN), (nn.GRUCell, nn.GRU), (nn.LSTMCell, nn.LSTM)], ids=lambda c: c.__name__
)
def test_a_loop_over_a_cell_is_the_layer(cell: type[nn.RNNCellBase], layer: type[nn.RNNBase], bias: bool) -> None:
    torch.manual_seed(0)
    loop, whole = Cells(cell, bias).to(DOUBLE), Sequence(layer, batch_first=True, bias=bias).to(DOUBLE)
    with torch.no_grad():
        for target, source in zip(whole.parameters(), loop.parameters(), strict=True):
            target.copy_(source)
    x, t = torch.randn(SAMPLES, STEPS, 3, dtype=DOUBLE), torch.randint(0, 2, (SAMPLES,))
    for operator in (KFAC, ho.curvature.EKFAC):
        found, wanted = (operator(problem(model, F.cross_entropy, x, t), kind="exact") for model in (loop, whole))
        assert found.fallback == []
        torch.testing.assert_close(found.dense(), wanted.dense(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_inputs_and_gradients_give_the_gradient_of_the_loss(kind: type[nn.RNNBase]) -> None:
    # sum_p g a' over everything is the gradient of each weight, with states given from outside too.
    torch.manual_seed(0)

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.cell = nn.Linear(3, 3), kind(3, 4, num_layers=2, dropout=0.4)
            self.start, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.start(x[0]).expand(2, -1, -1)
            states, last = self.cell(self.first(x), (h, h.cos()) if kind is nn.LSTM else h)
            last = last[1] if kind is nn.LSTM else last
            return self.head(states[-1] + last.sum(0))

    objective = problem(
        Given(), F.cross_entropy, torch.randn(STEPS, SAMPLES, 3, dtype=DOUBLE), torch.randint(0, 2, (SAMPLES,))
    )
    gradient = objective.space.tensors(objective.value_and_grad()[1])
    with capture(objective) as seen:
        seen.backward(seen.output_gradients)
        assert len(seen.calls) == 4 + 3
        for call in seen.calls:
            a, g = call.inputs()[0], call.gradients()[0]
            torch.testing.assert_close(torch.einsum("npo,npi->oi", g, a), gradient[call.weight])
            torch.testing.assert_close(g.sum((0, 1)), gradient[call.bias])


@pytest.mark.parametrize(
    "make", [lambda: nn.LSTM(3, 4, proj_size=2), lambda: nn.GRU(3, 4)], ids=["projection", "packed"]
)
def test_what_the_sweeps_do_not_serve_is_a_named_fallback(make: Callable[[], nn.RNNBase]) -> None:
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = make()
            self.head = nn.Linear(2 if self.cell.proj_size else 4, 2)

        def forward(self, x: Any) -> Tensor:
            state = self.cell(x)[1]
            return self.head((state[0] if isinstance(state, tuple) else state)[-1])

    x: Any = torch.randn(STEPS, SAMPLES, 3, dtype=DOUBLE)
    model = Model()
    if isinstance(model.cell, nn.GRU):
        x = nn.utils.rnn.pack_padded_sequence(x, [4, 2, 1])
    objective = problem(model, F.cross_entropy, x, torch.randint(0, 2, (SAMPLES,)))
    made = KFAC(objective, samples=200)
    assert [made.parameter_names(layer) for layer in made.layers] == [["head.weight", "head.bias"]]
    assert made.fallback == [name for name, _ in model.named_parameters() if name.startswith("cell")]
    place = slice(0, sum(p.numel() for p in model.cell.parameters()))
    truth = fisher(objective).diagonal()[place]
    assert float((made.diagonal()[place] - truth).norm() / truth.norm()) < 0.25


def test_the_error_of_the_independence_of_steps_is_less_where_steps_are_independent() -> None:
    # A loss on every step and a weak recurrence: nearly independent steps; a loss on the last one only: not at all.
    torch.manual_seed(0)
    found = []
    for every in (True, False):
        model = Sequence(nn.RNN, every=every, batch_first=True).to(DOUBLE)
        with torch.no_grad():
            model.cell.weight_hh_l0.mul_(0.1)
            model.cell.bias_ih_l0.zero_()
        x = torch.randn(12, STEPS, 3, dtype=DOUBLE)
        objective = problem(model, F.mse_loss, x, torch.randn_like(model(x)))
        made, truth = KFAC(objective, kind="exact"), fisher(objective)
        layer = made.layers[0]
        wanted = block(truth, made, layer)
        found.append(float((block(made.dense(), made, layer) - wanted).norm() / wanted.norm()))
    assert found[0] < 0.3
    assert found[1] > found[0]
