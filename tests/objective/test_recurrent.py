"""Twice-differentiable recurrent layers against torch's own functions and differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.overrides import TorchFunctionMode

from hybridopt.objective import recurrent, recurrent_layer, recurrent_lstm, recurrent_sweeps
from tests.objective.recurrent_calls import (
    LAYOUT_IDS,
    LAYOUTS,
    NAMES,
    OURS,
    THEIRS,
    Call,
    assert_same,
    second_order,
)


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
