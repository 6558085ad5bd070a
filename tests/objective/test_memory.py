"""No graph survives its point: everything is freed by reference counting, without the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch

from hybridopt.objective import Objective
from tests.cases import Case, cases
from tests.curvature.reference import objective_of

# The old weight_norm keeps the weight that it last computed as an attribute of the module, graph and all: not ours.
MODELS = cases(
    "mlp_tanh", "cnn_max_pool", "batch_norm_train", "dropout_train", "rnn_tanh", "gru", "lstm", "lstm_packed",
    "lstm_states", "attention_fused", "weight_norm", "tied", "dict_outputs", "dependent_outputs", "returns_loss",
    "assigned_buffers", "conv1d",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Mark:
    """Something that takes weak references."""


class Watch:
    """Weak references to tensors of a graph: the model's outputs as they pass, and whatever is added."""

    def __init__(self, objective: Objective) -> None:
        self.seen: list[weakref.ref] = []
        for module in objective.model.modules():
            module.register_forward_hook(self._forward)

    def _forward(self, module, inputs, outputs) -> None:
        self.add(outputs)

    def add(self, value) -> None:
        for leaf in torch.utils._pytree.tree_leaves(value):
            if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None:
                # Nodes of a graph take no weak references, but what is noted on them lives as long as they do.
                mark = Mark()
                leaf.grad_fn.metadata[len(self.seen)] = mark
                self.seen += [weakref.ref(leaf), weakref.ref(mark)]

    def alive(self) -> int:
        return sum(reference() is not None for reference in self.seen)


def products(point) -> None:
    vector = torch.ones(point.space.n, dtype=point.space.dtype)
    for _ in range(2):
        point.hessian() @ vector
        if point.objective.loss_fn is not None:
            point.gauss_newton() @ vector


@MODELS
def test_release_frees_the_graph(case: Case):
    objective = objective_of(case)
    watch = Watch(objective)
    point = objective.at()
    watch.add([point._graph, [gradient for _, gradient in point._live], point._outputs, point._output_gradients])
    products(point)
    assert watch.alive() > 0
    point.release()
    assert watch.alive() == 0


@MODELS
def test_leaving_scope_frees_the_graph(case: Case):
    objective = objective_of(case)
    watch = Watch(objective)

    def step() -> None:
        point = objective.at()
        watch.add([point._graph, [gradient for _, gradient in point._live], point._outputs, point._output_gradients])
        hessian = point.hessian()
        hessian @ torch.ones(hessian.n, dtype=hessian.dtype)
        shifted = 2 * hessian
        del point
        assert watch.alive() > 0, "an operator keeps its point"
        shifted @ torch.ones(hessian.n, dtype=hessian.dtype)

    step()
    assert watch.alive() == 0


@MODELS
@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda o: o.value(), id="value"),
        pytest.param(lambda o: o.value(2 * o.position()), id="value-trial"),
        pytest.param(lambda o: o.value_and_grad(), id="gradient"),
        pytest.param(lambda o: o.value_and_grad(2 * o.position()), id="gradient-trial"),
    ],
)
def test_evaluations_leave_no_graph(case: Case, ask):
    objective = objective_of(case)
    watch = Watch(objective)
    ask(objective)
    assert watch.alive() == 0


@MODELS
def test_results_have_no_graph(case: Case):
    objective = objective_of(case)
    point = objective.at()
    found = [
        point.loss,
        point.gradient,
        objective.value_and_grad()[1],
        objective.start_loss,
        objective.position(),
    ]
    found += [gradient for gradient in objective.start_gradients if gradient is not None]
    found.append(point.hessian() @ torch.ones(objective.space.n))
    assert not any(tensor.requires_grad or tensor.grad_fn is not None for tensor in found)


@MODELS
def test_gradients_are_not_put_into_the_parameters(case: Case):
    objective = objective_of(case)
    products(objective.at())
    assert all(parameter.grad is None for parameter in objective.model.parameters())


@cases("mlp_tanh", "lstm", "batch_norm_train")
def test_model_and_point_are_freed_together(case: Case):
    objective = objective_of(case)
    point = objective.at()
    hessian = point.hessian()
    products(point)
    watched = [weakref.ref(x) for x in (objective.model, objective, point, hessian, objective.space.parameters[0])]
    del objective, point, hessian
    assert not any(reference() is not None for reference in watched)


def test_a_gradient_is_its_own_memory():
    # A view of a larger tensor, or of the optimizer's buffer, would keep that alive or change under the user.
    from tests.cases import BY_NAME

    objective = objective_of(BY_NAME["mlp_tanh"])
    point = objective.at()
    kept = point.gradient.clone()
    for gradient in objective.start_gradients:
        gradient.zero_()
    assert torch.equal(point.gradient, kept)
    _, first = objective.value_and_grad()
    _, second = objective.value_and_grad()
    first.zero_()
    assert torch.equal(second, objective.value_and_grad()[1])
