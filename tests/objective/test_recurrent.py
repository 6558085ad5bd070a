"""Twice-differentiable recurrent layers against torch's own functions, differences and dense references."""

from __future__ import annotations

import itertools
import weakref

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hybridopt.objective import recurrent, recurrent_layer, recurrent_lstm, recurrent_sweeps
from hybridopt.objective.guard import twice_differentiable

NAMES = ("lstm", "gru", "rnn_tanh", "rnn_relu")
OURS = {name: lambda *args, name=name: recurrent.recurrent(name, args) for name in NAMES}
THEIRS = {name: getattr(torch, name) for name in NAMES}
LAYOUTS = list(itertools.product((1, 2), (False, True), (True, False), (False, True)))
LAYOUT_IDS = [
    f"{layers}layer{'-bi' * bidirectional}{'' if bias else '-nobias'}{'-batchfirst' * batch_first}"
    for layers, bidirectional, bias, batch_first in LAYOUTS
]


class Ours(TorchFunctionMode):
    """Replaces torch's functions by ours, as the guard does."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        ours = OURS.get(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {})) if ours is None else ours(*args)


class Call:
    """Random arguments of one call; tensors that require a gradient are in `tensors`."""

    def __init__(
        self, name, layout=(1, False, True, False), sizes=(4, 3, 2, 3), dtype=torch.float64, seed=0, device="cpu"
    ):
        layers, bidirectional, bias, batch_first = layout
        steps, batch, inputs, hidden = sizes
        generator = torch.Generator().manual_seed(seed)
        gates, directions = {"lstm": 4, "gru": 3}.get(name, 1), 2 if bidirectional else 1

        def draw(*shape, scale=1.0):
            values = scale * torch.randn(*shape, dtype=torch.float64, generator=generator)
            return values.to(device, dtype).requires_grad_()

        self.name, self.layout = name, layout
        self.x = draw(*((batch, steps) if batch_first else (steps, batch)), inputs)
        self.states = [draw(layers * directions, batch, hidden) for _ in range(2 if name == "lstm" else 1)]
        self.weights = []
        for layer in range(layers):
            width = inputs if layer == 0 else hidden * directions
            for _ in range(directions):
                self.weights += [draw(gates * hidden, width, scale=0.6), draw(gates * hidden, hidden, scale=0.6)]
                if bias:
                    self.weights += [draw(gates * hidden), draw(gates * hidden)]

    @property
    def tensors(self):
        return [self.x, *self.states, *self.weights]

    def args(self, tensors=None, dropout=0.0):
        x, *rest = self.tensors if tensors is None else tensors
        states, weights = rest[: len(self.states)], rest[len(self.states) :]
        layers, bidirectional, bias, batch_first = self.layout
        hx = tuple(states) if self.name == "lstm" else states[0]
        return x, hx, list(weights), bias, layers, dropout, True, bidirectional, batch_first

    def run(self, functions, *tensors):
        return functions[self.name](*self.args(tensors or None))


def second_order(call, functions, select=lambda outputs: outputs):
    """Outputs, gradients, and the derivative of the gradients along a direction, also for the outputs' "
    "gradients."""
    outputs = select(call.run(functions))
    generator = torch.Generator().manual_seed(7)

    def draw(tensors):
        return [torch.randn(t.shape, dtype=torch.float64, generator=generator).to(t) for t in tensors]

    cotangents = [cotangent.requires_grad_() for cotangent in draw(outputs)]
    inputs = [tensor for tensor in call.tensors if tensor.requires_grad]
    gradients = torch.autograd.grad(outputs, inputs, cotangents, create_graph=True, allow_unused=True)
    live = [gradient for gradient in gradients if gradient is not None and gradient.requires_grad]
    products = torch.autograd.grad(live, [*inputs, *cotangents], draw(live), allow_unused=True)
    return outputs, gradients, products


def assert_same(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        # Where torch's graph says nothing depends on it, zero is as right as None, and the other way round.
        if a is None or b is None:
            assert all(t is None or not t.any() for t in (a, b))
        else:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUT_IDS)
def test_all_derivatives_are_those_of_torch(name, layout):
    call = Call(name, layout)
    ours, theirs = second_order(call, OURS), second_order(call, THEIRS)
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b, 1e-12)
    assert [output.stride() for output in ours[0]] == [output.stride() for output in theirs[0]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", [(1, False, True, True), (2, True, True, False)], ids=["plain", "deep"])
def test_float32_values_and_gradients(name, layout):
    call = Call(name, layout, sizes=(12, 5, 3, 8), dtype=torch.float32)
    for a, b in zip(second_order(call, OURS)[:2], second_order(call, THEIRS)[:2], strict=True):
        for ours, theirs in zip(a, b, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", [(1, False, True, False), (2, True, False, True)], ids=["plain", "deep"])
def test_gradcheck_and_gradgradcheck(name, layout):
    call = Call(name, layout, sizes=(3, 2, 2, 2))

    def function(*tensors):
        return call.run(OURS, *tensors)

    assert gradcheck(function, call.tensors)
    # The fast mode checks a random projection, all inputs and outputs at once.
    assert gradgradcheck(function, call.tensors, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_gradgradcheck_entry_by_entry(name):
    call = Call(name, sizes=(2, 2, 1, 2))
    assert gradgradcheck(lambda *tensors: call.run(OURS, *tensors), call.tensors)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 3, 2, 4), (5, 1, 2, 3), (4, 3, 1, 1), (2, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_smallest_sizes(name, sizes):
    for layout in ((1, False, True, True), (2, True, False, False)):
        call = Call(name, layout, sizes)
        for a, b in zip(second_order(call, OURS), second_order(call, THEIRS), strict=True):
            assert_same(a, b, 1e-12)


SELECTIONS = {
    "output": lambda outputs: outputs[:1],
    "last step": lambda outputs: (outputs[0][-1],),
    "first step": lambda outputs: (outputs[0][0],),
    "final hidden": lambda outputs: outputs[1:2],
    "final cell": lambda outputs: outputs[2:3],
}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_that_are_not_used(name, selection):
    if selection == "final cell" and name != "lstm":
        return
    call = Call(name, (2, False, True, False))
    ours, theirs = (second_order(call, functions, SELECTIONS[selection]) for functions in (OURS, THEIRS))
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b, 1e-12)


@pytest.mark.parametrize(
    "subset", ["x", "h0", "c0", "weights", "w_ih", "w_hh", "biases", "x+h0", "second layer"], ids=lambda s: s
)
@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_need_no_gradient(name, subset):
    if subset == "c0" and name != "lstm":
        return
    call = Call(name, (2, False, True, False))
    weights = call.weights
    chosen = {
        "x": [call.x],
        "h0": call.states[:1],
        "c0": call.states[1:],
        "weights": weights,
        "w_ih": weights[0::4],
        "w_hh": weights[1::4],
        "biases": weights[2::4] + weights[3::4],
        "x+h0": [call.x, call.states[0]],
        "second layer": weights[4:],
    }[subset]
    for tensor in call.tensors:
        tensor.requires_grad_(any(tensor is other for other in chosen))
    ours, theirs = second_order(call, OURS), second_order(call, THEIRS)
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b, 1e-12)


class Classifier(nn.Module):
    """A recurrent layer whose last output goes through a linear layer, as a function of one vector of "
    "parameters."""

    def __init__(self, name, dtype=torch.float64, **options):
        super().__init__()
        torch.manual_seed(1)
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}.get(name, nn.RNN)
        if kind is nn.RNN:
            options["nonlinearity"] = name.split("_")[1]
        self.layer = kind(2, 4, batch_first=True, **options)
        self.head = nn.Linear(4 * (2 if options.get("bidirectional") else 1), 3)
        self.to(dtype)
        self.inputs, self.targets = torch.randn(6, 5, 2).to(dtype), torch.randint(3, (6,))
        self.names, self.leaves = zip(*self.named_parameters(), strict=True)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])

    def outputs_at(self, vector):
        parts = vector.split([leaf.numel() for leaf in self.leaves])
        values = {name: part.view_as(leaf) for name, part, leaf in zip(self.names, parts, self.leaves, strict=True)}
        return torch.func.functional_call(self, values, (self.inputs,))

    def vector(self):
        return torch.cat([leaf.detach().flatten() for leaf in self.leaves])

    def graph(self, mode=None):
        """Parameters' gradient, outputs' gradient and outputs, with the graph, as a step takes them."""
        with mode or Ours():
            outputs = self(self.inputs)
        loss = F.cross_entropy(outputs, self.targets)
        *gradient, output_gradient = torch.autograd.grad(loss, [*self.leaves, outputs], create_graph=True)
        return gradient, output_gradient, outputs

    def split(self, vector):
        parts = vector.split([leaf.numel() for leaf in self.leaves])
        return [part.view_as(leaf) for part, leaf in zip(parts, self.leaves, strict=True)]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def hessian_product(model, graph, vector):
    return flat(torch.autograd.grad(graph[0], model.leaves, model.split(vector), retain_graph=True))


def gauss_newton_product(model, graph, vector):
    gradient, output_gradient, outputs = graph
    (tangent,) = torch.autograd.grad(gradient, output_gradient, model.split(vector), retain_graph=True)
    (curved,) = torch.autograd.grad(output_gradient, outputs, tangent, retain_graph=True)
    return flat(torch.autograd.grad(outputs, model.leaves, curved, retain_graph=True))


MODELS = [
    pytest.param(name, options, id=f"{name}{suffix}")
    for name in NAMES
    for suffix, options in {"": {}, "-2layer-bi": {"num_layers": 2, "bidirectional": True}}.items()
]


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_hessian_product_against_dense_reference_and_differences(name, options):
    model = Classifier(name, **options)
    vector = torch.randn(model.vector().numel(), dtype=torch.float64)
    ours = hessian_product(model, model.graph(), vector)

    def gradient(at):
        return torch.func.grad(lambda x: F.cross_entropy(model.outputs_at(x), model.targets))(at)

    step = 1e-5
    differences = (gradient(model.vector() + step * vector) - gradient(model.vector() - step * vector)) / (2 * step)
    torch.testing.assert_close(ours, differences, rtol=1e-6, atol=1e-8)
    dense = torch.func.jacrev(gradient)(model.vector())
    torch.testing.assert_close(ours, dense @ vector, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_gauss_newton_product_against_dense_reference(name, options):
    model = Classifier(name, **options)
    vector = torch.randn(model.vector().numel(), dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda at: model.outputs_at(at).flatten())(model.vector())
    outputs = model.outputs_at(model.vector()).detach()
    curvature = torch.func.hessian(lambda z: F.cross_entropy(z.view_as(outputs), model.targets))(outputs.flatten())
    expected = jacobian.T @ (curvature @ (jacobian @ vector))
    torch.testing.assert_close(
        gauss_newton_product(model, model.graph(), vector), expected.detach(), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(("name", "options"), MODELS)
@pytest.mark.parametrize("product", [hessian_product, gauss_newton_product])
def test_products_repeat_exactly(name, options, product):
    model = Classifier(name, torch.float32, **options)
    graph = model.graph()
    vector, other = torch.randn(2, model.vector().numel())
    first = product(model, graph, vector)
    hessian_product(model, graph, other)
    gauss_newton_product(model, graph, other)
    assert torch.equal(product(model, graph, vector), first)
    assert torch.equal(product(model, graph, 2.0 * vector), 2.0 * first)


@pytest.mark.parametrize("name", NAMES)
def test_under_the_guard_in_float32(name):
    model, reference = Classifier(name, torch.float32), Classifier(name)
    graph, exact = model.graph(twice_differentiable()), reference.graph()
    vector = torch.randn(model.vector().numel())
    for product in (hessian_product, gauss_newton_product):
        expected = product(reference, exact, vector.double())
        torch.testing.assert_close(product(model, graph, vector).double(), expected, rtol=1e-4, atol=1e-6)


def test_jacobian_product_is_one_forward_sweep(monkeypatch):
    model = Classifier("lstm", num_layers=2)
    gradient, output_gradient, _ = model.graph()

    def fail(*args, **kwargs):
        raise AssertionError("a Jacobian product ran a second-order pass")

    for method in ("products", "curvature", "reverse"):
        monkeypatch.setattr(recurrent_lstm.LSTMSweeps, method, fail)
    vector = torch.randn(model.vector().numel(), dtype=torch.float64)
    torch.autograd.grad(gradient, output_gradient, model.split(vector))


def test_learned_initial_state_is_left_out_of_a_jacobian_product(monkeypatch):
    call = Call("lstm")
    outputs = call.run(OURS)
    cotangent = torch.randn_like(outputs[0]).requires_grad_()
    gradient = torch.autograd.grad(outputs[0], call.tensors, cotangent, create_graph=True)
    monkeypatch.setattr(recurrent_lstm.LSTMSweeps, "products", None)
    torch.autograd.grad(gradient, cotangent, [torch.ones_like(part) for part in gradient])


@pytest.mark.parametrize("name", NAMES)
def test_pieces_of_time_do_not_matter(name, monkeypatch):
    call = Call(name, (2, True, True, False), sizes=(7, 3, 2, 3))
    whole = second_order(call, OURS)
    monkeypatch.setattr(recurrent_sweeps, "_CHUNK", 60)
    for a, b in zip(second_order(call, OURS), whole, strict=True):
        assert_same(a, b, 1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_freed_without_the_garbage_collector(name, monkeypatch):
    made = []
    run = recurrent_sweeps.Sweeps.__init__

    def record(self, *args):
        run(self, *args)
        made.append(weakref.ref(self.z))

    monkeypatch.setattr(recurrent_sweeps.Sweeps, "__init__", record)
    model = Classifier(name, num_layers=2)
    graph = model.graph()
    vector = torch.randn(model.vector().numel(), dtype=torch.float64)
    hessian_product(model, graph, vector)
    gauss_newton_product(model, graph, vector)
    assert len(made) == 2
    assert all(reference() is not None for reference in made)
    del graph
    assert [reference() for reference in made] == [None, None]


def test_third_derivative_is_refused():
    model = Classifier("lstm")
    gradient, _, _ = model.graph()
    vector = model.split(torch.ones_like(model.vector()))
    with pytest.raises(RuntimeError, match="graph for a third one"):
        torch.autograd.grad(gradient, model.leaves, vector, create_graph=True)


def test_third_derivative_through_a_jacobian_product_is_refused():
    model = Classifier("gru")
    gradient, output_gradient, _ = model.graph()
    vector = model.split(torch.ones_like(model.vector()))
    with pytest.raises(RuntimeError, match="graph for a third one"):
        torch.autograd.grad(gradient, output_gradient, vector, create_graph=True)


def test_a_freed_graph_cannot_be_used_again():
    call = Call("lstm")
    total = sum(output.sum() for output in call.run(OURS))
    torch.autograd.grad(total, call.tensors)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, call.tensors)


@pytest.mark.parametrize("name", NAMES)
def test_results_may_be_written_to(name):
    call = Call(name)
    results = []
    for functions in (OURS, THEIRS):
        outputs = [output * 1.0 if functions is THEIRS else output for output in call.run(functions)]
        expected = [output.detach().clone() for output in outputs]
        for output, value in zip(outputs, expected, strict=True):
            output.mul_(2.0)
            assert torch.equal(output.detach(), 2.0 * value)
        results.append(torch.autograd.grad(sum(output.square().sum() for output in outputs), call.tensors))
    assert_same(*results, 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_nan_goes_where_time_takes_it(name):
    call = Call(name)
    x = call.x.detach().clone()
    x[2, 0, 0] = float("nan")
    ours, theirs = (call.run(functions, x, *call.tensors[1:])[0] for functions in (OURS, THEIRS))
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert not ours[:2].isnan().any()
    assert not ours[:, 1:].isnan().any()
    (gradient,) = torch.autograd.grad(ours.sum(), call.weights[1])
    assert gradient.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dropout_draws_the_masks_of_torch(name, dtype):
    for layout in ((2, False, True, False), (3, True, True, True)):
        call = Call(name, layout, sizes=(6, 5, 3, 4), dtype=dtype)
        results, states = [], []
        for functions in (OURS, THEIRS):
            torch.manual_seed(5)
            results.append(functions[name](*call.args(dropout=0.4)))
            states.append(torch.get_rng_state())
        assert_same(*results, 1e-5)
        assert torch.equal(*states)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUT_IDS)
def test_supports_what_modules_pass(name, layout):
    assert recurrent.supports(name, Call(name, layout).args())


def intercepted(module, *inputs):
    """The name and arguments of the recurrent function that a module calls."""
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") in NAMES:
                seen.append((func.__name__, args))
            return func(*args, **(kwargs or {}))

    with Watch():
        module(*inputs)
    return seen[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_supports_knows_its_limits(kind):
    x = torch.randn(5, 3, 2)
    assert recurrent.supports(*intercepted(kind(2, 4), x))
    assert recurrent.supports(*intercepted(kind(2, 4, 2, bidirectional=True, bias=False), x))
    assert recurrent.supports(*intercepted(kind(2, 4), x[:, 0]))  # unbatched: the module adds the dimension
    assert not recurrent.supports(*intercepted(kind(2, 4), nn.utils.rnn.pack_padded_sequence(x, [5, 4, 2])))
    assert not recurrent.supports(*intercepted(kind(2, 4).bfloat16(), x.bfloat16()))
    name, args = intercepted(kind(2, 4), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not recurrent.supports(name, args)
    assert not torch.func.vmap(lambda _: torch.tensor(recurrent.supports(name, args)))(x).any()
    assert not recurrent.supports("relu", args)


def test_supports_no_projections():
    assert not recurrent.supports(*intercepted(nn.LSTM(2, 4, proj_size=3), torch.randn(5, 3, 2)))


def test_nodes_are_ours():
    output = Call("lstm").run(OURS)[0]
    assert output.grad_fn.name() == recurrent_layer.LayerForward.__name__ + "Backward"


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_as_on_the_cpu(name):
    for layout in ((1, False, True, False), (2, True, False, True)):
        there, here = second_order(Call(name, layout, device="cuda"), OURS), second_order(Call(name, layout), OURS)
        for a, b in zip(there, here, strict=True):
            assert_same([None if part is None else part.cpu() for part in a], b, 1e-11)
