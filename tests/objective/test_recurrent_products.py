"""Curvature products of models with recurrent layers against dense references; the graphs that they leave."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybridopt.objective import recurrent_lstm, recurrent_sweeps
from hybridopt.objective.guard import twice_differentiable
from tests.objective.recurrent_calls import NAMES, Ours


class Classifier(nn.Module):
    """A recurrent layer whose last output goes through a linear layer, as a function of one vector of parameters."""

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
