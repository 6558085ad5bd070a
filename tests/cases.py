"""A catalogue of small problems: every kind of layer, input, output and loss that an objective must cope with.

Each case builds a fresh model, its loss and a batch from a fixed seed, in float32 or float64 with the same values,
and has fewer than 200 parameters, so that dense float64 references are cheap. Nothing here uses hybridopt: the same
builders serve the references.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._pytree import tree_map

SEED = 3


@dataclass
class Problem:
    """A model, its loss and a batch; `loss_fn` is None when the model returns the loss."""

    model: nn.Module
    loss_fn: Callable[..., Tensor] | None
    inputs: Any
    targets: Any

    def outputs(self) -> Any:
        """Runs the model on the batch, in plain torch."""
        if self.inputs is None:
            return self.model()
        if isinstance(self.inputs, dict):
            return self.model(**self.inputs)
        if isinstance(self.inputs, tuple | list) and not isinstance(self.inputs, PackedSequence):
            return self.model(*self.inputs)
        return self.model(self.inputs)

    def loss_of(self, outputs: Any) -> Tensor:
        """Returns the loss of the model's outputs, in plain torch."""
        if self.loss_fn is None:
            return outputs
        return self.loss_fn(outputs) if self.targets is None else self.loss_fn(outputs, self.targets)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, of the model and then of the loss, each once."""
        modules = [self.model, self.loss_fn] if isinstance(self.loss_fn, nn.Module) else [self.model]
        found = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        return list(found.values())


@dataclass(frozen=True)
class Case:
    """One entry of the catalogue.

    Attributes:
        name: Its id in parametrized tests.
        make: Builds model, loss, inputs and targets in float32.
        random: Whether the forward pass draws random numbers.
        buffers: Whether the forward pass changes buffers.
        written_out: The same model with the same parameters in the same order, in operations whose second derivative
            torch gets right, where the model itself uses one that it gets wrong (weight normalization).
        mixed: Whether the dtypes of the parameters differ and are left alone.
        loss_fn: Whether the model's outputs go through a loss function, so that a Gauss-Newton matrix exists.
    """

    name: str
    make: Callable[[], tuple[nn.Module, Any, Any, Any]]
    random: bool = False
    buffers: bool = False
    written_out: Callable[[], tuple[nn.Module, Any, Any, Any]] | None = None
    mixed: bool = False
    loss_fn: bool = True

    def build(self, dtype: torch.dtype = torch.float32, *, written_out: bool = False) -> Problem:
        """Builds the problem; the values are the same for every dtype.

        Args:
            dtype: Of the parameters and the data.
            written_out: Whether to build the form for references.
        """
        make = self.written_out if written_out and self.written_out is not None else self.make
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old weight_norm is one of the cases
            torch.manual_seed(SEED)
            model, loss_fn, inputs, targets = make()
        if dtype == torch.float64 or not self.mixed:
            model = model.to(dtype)
            loss_fn = loss_fn.to(dtype) if isinstance(loss_fn, nn.Module) else loss_fn
        return Problem(model, loss_fn, _cast(inputs, dtype), _cast(targets, dtype))


def _cast(data: Any, dtype: torch.dtype) -> Any:
    if isinstance(data, PackedSequence):
        return data.to(dtype)
    return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, data)


class Apply(nn.Module):
    """A module from named submodules and a forward function."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._forward = forward

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self._forward(self, *inputs, **named)


def _features(rows: int = 6, columns: int = 3, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, columns), torch.randint(0, classes, (rows,))


def _mlp(*middle: nn.Module, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), *middle, activation(), nn.Linear(4, 3))


# -- feed-forward ------------------------------------------------------------------------------------------------------


def mlp_tanh():
    return _mlp(), F.cross_entropy, *_features()


def mlp_relu_mse():
    return _mlp(activation=nn.ReLU), F.mse_loss, torch.randn(6, 3), torch.randn(6, 3)


def bce():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Flatten(0))
    return model, F.binary_cross_entropy_with_logits, torch.randn(6, 3), torch.rand(6)


def nll_sum():
    model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 3), nn.LogSoftmax(1))
    return model, nn.NLLLoss(reduction="sum"), *_features()


def linear_loss():
    return _mlp(), lambda outputs: outputs.sum(), torch.randn(4, 3), None


def cnn_max_pool():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    return model, F.cross_entropy, torch.randn(4, 1, 6, 6), torch.randint(0, 3, (4,))


def _convolution(layer: nn.Module, *shape: int, frozen: bool = False):
    # Two in a row, so that a derivative in the input is needed as well.
    first = nn.Conv1d(1, 2, 1) if len(shape) == 1 else nn.Conv2d(1, 2, 1) if len(shape) == 2 else nn.Conv3d(1, 2, 1)
    layer.weight.requires_grad_(not frozen)
    x = torch.randn(3, 1, *shape)
    model = nn.Sequential(first, nn.Tanh(), layer, nn.Sigmoid())
    return model, F.mse_loss, x, torch.randn_like(model(x))


def convolution_called_by_name():
    model = Apply(lambda m, x: F.conv2d(input=torch.tanh(m.a(x)), weight=m.b.weight, stride=2),
                  a=nn.Conv2d(1, 2, 2), b=nn.Conv2d(2, 3, 2, bias=False))  # fmt: skip
    return model, lambda z: z.square().exp().mean(), torch.randn(3, 1, 5, 5), None


def convolution_of_one_image():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 2, 2))
    return model, lambda z: z.square().exp().mean(), torch.randn(1, 4, 4), None


def layer_norm():
    return _mlp(nn.LayerNorm(4)), F.cross_entropy, *_features()


def rms_norm():
    return _mlp(nn.RMSNorm(4)), F.cross_entropy, *_features()


def group_norm():
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))
    return model, F.cross_entropy, torch.randn(4, 1, 3, 3), torch.randint(0, 3, (4,))


def embedding():
    model = nn.Sequential(nn.Embedding(7, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 4))
    return model, F.cross_entropy, torch.randint(0, 7, (5, 2)), torch.randint(0, 4, (5,))


# -- statistics and randomness -----------------------------------------------------------------------------------------


def batch_norm_train():
    return _mlp(nn.BatchNorm1d(4)), F.cross_entropy, *_features()


def batch_norm_eval():
    model = _mlp(nn.BatchNorm1d(4))
    model(torch.randn(20, 3) * 2 + 1)
    return model.eval(), F.cross_entropy, *_features()


def batch_norm_conv():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    return model, F.cross_entropy, torch.randn(4, 1, 3, 3), torch.randint(0, 3, (4,))


class Counting(nn.Module):
    """Keeps statistics by assigning new buffers instead of writing to the old ones."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.linear(x))
        self.calls = self.calls + 1
        self.mean = 0.9 * self.mean + y.mean(0)
        return y


def assigned_buffers():
    return Counting(), F.cross_entropy, *_features()


def dropout_train():
    return _mlp(nn.Dropout(0.4)), F.cross_entropy, *_features()


def functional_dropout():
    model = Apply(lambda m, x: m.b(F.dropout(torch.tanh(m.a(x)), 0.5)), a=nn.Linear(3, 4), b=nn.Linear(4, 3))
    return model, F.cross_entropy, *_features()


def random_noise():
    model = Apply(lambda m, x: m.a(x + 0.3 * torch.randn(x.shape, dtype=torch.float64).to(x)), a=_mlp())
    return model, F.cross_entropy, *_features()


# -- recurrent ---------------------------------------------------------------------------------------------------------


def _recurrent(kind: type[nn.RNNBase], **options: Any):
    batch_first = options.get("batch_first", False)
    directions = 2 if options.get("bidirectional") else 1
    size = options.get("proj_size") or 3

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        states, _ = m.cell(x)
        return m.head(states[:, -1] if batch_first else states[-1])

    model = Apply(forward, cell=kind(2, 3, **options), head=nn.Linear(size * directions, 2))
    steps, batch = 4, 3
    x = torch.randn(batch, steps, 2) if batch_first else torch.randn(steps, batch, 2)
    return model, F.cross_entropy, x, torch.randint(0, 2, (batch,))


def lstm_projection():
    model, loss_fn, x, t = _recurrent(nn.LSTM, proj_size=2)
    model(x)  # torch says once in a process that this one is not fused
    return model, loss_fn, x, t


def _packed(kind: type[nn.RNNBase], **options: Any):
    def forward(m: nn.Module, x: PackedSequence) -> Tensor:
        state = m.cell(x)[1]
        return m.head((state[0] if isinstance(state, tuple) else state)[-1])

    model = Apply(forward, cell=kind(2, 3, **options), head=nn.Linear(3, 2))
    return (
        model,
        F.cross_entropy,
        pack_padded_sequence(torch.randn(4, 3, 2), [4, 2, 1]),
        torch.tensor([0, 1, 1]),
    )


def lstm_states():
    # The state enters as an input too, and the model returns every step and the last state.
    model = Apply(lambda m, x, h, c: m.cell(x, (h, c)), cell=nn.LSTM(2, 3))

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        states, (h, c) = outputs
        return F.mse_loss(states, targets) + 0.3 * h.square().mean() + 0.1 * c.square().sum()

    return (
        model,
        loss,
        (torch.randn(4, 2, 2), torch.randn(1, 2, 3), torch.randn(1, 2, 3)),
        torch.randn(4, 2, 3),
    )


def lstm_weight_norm():
    model, *rest = _recurrent(nn.LSTM)
    model.cell = nn.utils.weight_norm(model.cell, "weight_hh_l0")
    return model, *rest


class NormedLSTM(nn.Module):
    """What `lstm_weight_norm` computes, with the normalization written out."""

    def __init__(self, cell: nn.LSTM) -> None:
        super().__init__()
        # In the order in which weight_norm leaves them.
        names = ["weight_ih_l0", "bias_ih_l0", "bias_hh_l0"]
        for name in names:
            self.register_parameter(name, nn.Parameter(getattr(cell, name).detach()))
        self.g = nn.Parameter(cell.weight_hh_l0_g.detach())
        self.v = nn.Parameter(cell.weight_hh_l0_v.detach())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.g * self.v / self.v.square().sum(1, keepdim=True).sqrt()
        h = c = x.new_zeros(x.shape[1], 3)
        states = []
        for step in x:
            gates = F.linear(step, self.weight_ih_l0, self.bias_ih_l0) + F.linear(h, weight, self.bias_hh_l0)
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states), h


def lstm_weight_norm_written_out():
    model, *rest = lstm_weight_norm()
    model.cell = NormedLSTM(model.cell)
    return model, *rest


# -- attention ---------------------------------------------------------------------------------------------------------


def _attention(**options: Any):
    model = Apply(lambda m, x: m.head(m.attention(x, x, x, **options)[0].mean(1)),
                  attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 2))  # fmt: skip
    return model, F.cross_entropy, torch.randn(3, 5, 4), torch.randint(0, 2, (3,))


def attention_causal():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return m.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    model = Apply(forward, qkv=nn.Linear(4, 12), out=nn.Linear(4, 2))
    return model, F.mse_loss, torch.randn(3, 5, 4), torch.randn(3, 5, 2)


def transformer_eval():
    model = nn.TransformerEncoderLayer(4, 2, dim_feedforward=4, batch_first=True, activation="gelu").eval()
    return model, F.mse_loss, torch.randn(3, 5, 4), torch.randn(3, 5, 4)


# -- parameters in unusual places --------------------------------------------------------------------------------------


def _weight_norm(wrap: Callable[..., nn.Module], **options: Any):
    first = wrap(nn.Linear(3, 4), **options)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(4, 3)), F.cross_entropy, *_features()


class NormedLinear(nn.Module):
    """A weight-normalized linear layer, written out."""

    def __init__(self, bias: Tensor, g: Tensor, v: Tensor, *, over_all: bool) -> None:
        super().__init__()
        self.bias, self.g, self.v = (nn.Parameter(tensor.detach()) for tensor in (bias, g, v))
        self.over_all = over_all

    def forward(self, x: Tensor) -> Tensor:
        square = self.v.square()
        norm = (square.sum() if self.over_all else square.sum(1, keepdim=True)).sqrt()
        return F.linear(x, self.g * self.v / norm, self.bias)


def _weight_norm_written_out(wrap: Callable[..., nn.Module], **options: Any):
    model, *rest = _weight_norm(wrap, **options)
    bias, g, v = model[0].parameters()
    model[0] = NormedLinear(bias, g, v, over_all=options.get("dim", 0) is None)
    return model, *rest


def tied():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 5, bias=False))
    model[3].weight = model[0].weight
    return model, F.cross_entropy, torch.randint(0, 5, (6,)), torch.randint(0, 5, (6,))


def shared_module():
    layer = nn.Linear(3, 3)
    model = Apply(lambda m, x: m.first(torch.tanh(m.second(x))), first=layer, second=layer)
    return model, F.cross_entropy, *_features()


class Listed(nn.Module):
    """Registers its weights and reads them through a list and a dict of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(4, 3))
        self.b = nn.Parameter(torch.randn(3, 4))
        self.in_list = [self.a]
        self.in_dict = {"b": self.b}

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.in_list[0])), self.in_dict["b"])


def listed():
    return Listed(), F.cross_entropy, *_features()


def frozen():
    model = _mlp()
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model, F.cross_entropy, *_features()


def unused():
    model = Apply(lambda m, x: m.used(x), used=_mlp(), spare=nn.Linear(2, 2))
    return model, F.cross_entropy, *_features()


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def parametrized():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    parametrizations.orthogonal(model[2])
    return model, F.cross_entropy, *_features()


def spectral_norm_eval():
    model = _mlp()
    parametrizations.spectral_norm(model[0])
    return model.eval(), F.cross_entropy, *_features()


class Mixed(nn.Module):
    """A float32 layer followed by a float64 one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)).double())


def mixed_dtypes():
    return Mixed(), F.cross_entropy, *_features()


class ScaledLoss(nn.Module):
    """A loss with a parameter of its own, a learned noise level (Kendall and Gal 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.tensor([0.3]))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets).square().mean() * (-self.log_variance).exp() + self.log_variance).sum()


def loss_with_parameter():
    return nn.Linear(3, 2), ScaledLoss(), torch.randn(6, 3), torch.randn(6, 2)


# -- forms of inputs and outputs ---------------------------------------------------------------------------------------


def several_inputs():
    model = Apply(lambda m, x, y: m.b(torch.tanh(m.a(x) * y)), a=nn.Linear(3, 4), b=nn.Linear(4, 3))
    x, t = _features()
    return model, F.cross_entropy, (x, torch.randn(6, 4)), t


def named_inputs():
    model = Apply(lambda m, *, x, scale: m.b(torch.tanh(m.a(x)) * scale), a=nn.Linear(3, 4), b=nn.Linear(4, 3))
    x, t = _features()
    return model, F.cross_entropy, {"x": x, "scale": torch.rand(6, 1)}, t


def dict_outputs():
    model = Apply(lambda m, x: {"class": m.a(x), "value": (torch.tanh(m.b(x)), 7)}, a=_mlp(), b=nn.Linear(3, 1))
    x, t = _features()

    def loss(outputs: Any, targets: Any) -> Tensor:
        value = F.mse_loss(outputs["value"][0][:, 0], targets["value"])
        return F.cross_entropy(outputs["class"], targets["class"]) + value

    return model, loss, x, {"class": t, "value": torch.randn(6)}


def dependent_outputs():
    # The logits are computed from the features, and both are returned; the loss sees both.
    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.tanh(m.a(x))
        return m.b(features), features

    model = Apply(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 3))
    return model, lambda z, t: F.cross_entropy(z[0], t) + 0.1 * z[1].square().sum(), *_features()


def unused_output():
    model, _, x, t = dependent_outputs()
    return model, lambda z, t: F.cross_entropy(z[0], t), x, t


def repeated_output():
    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        z = m.a(x)
        return z, z

    return (
        Apply(forward, a=_mlp()),
        lambda z, t: F.cross_entropy(z[0], t) + z[1].square().mean(),
        *_features(),
    )


def no_targets():
    return _mlp(), lambda outputs: outputs.square().mean() + outputs.exp().mean(), torch.randn(5, 3), None


def returns_loss():
    model = Apply(lambda m, x, t: F.cross_entropy(m.a(x), t), a=_mlp())
    return model, None, _features(), None


def partial(function: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[], Any]:
    return lambda: function(*arguments, **options)


CASES: list[Case] = [
    *(Case(make.__name__, make) for make in (
        mlp_tanh, mlp_relu_mse, bce, nll_sum, linear_loss, cnn_max_pool, convolution_called_by_name,
        convolution_of_one_image, layer_norm, rms_norm, group_norm, embedding, batch_norm_eval,
        lstm_states, attention_causal, transformer_eval, tied, shared_module, listed, frozen, unused, parametrized,
        spectral_norm_eval, loss_with_parameter, several_inputs, named_inputs, dict_outputs,
        dependent_outputs, unused_output, repeated_output, no_targets,
    )),
    Case("conv1d", lambda: _convolution(nn.Conv1d(2, 4, 3, 2, 2, 2, groups=2, bias=False), 6)),
    Case("conv1d_same", lambda: _convolution(nn.Conv1d(2, 2, 3, padding="same"), 5)),
    Case("conv2d_strided", lambda: _convolution(nn.Conv2d(2, 3, (3, 2), (2, 1), (1, 0)), 4, 3)),
    Case("conv2d_circular", lambda: _convolution(nn.Conv2d(2, 1, 3, padding=1, padding_mode="circular"), 3, 3)),
    Case("conv2d_frozen", lambda: _convolution(nn.Conv2d(2, 3, 2), 3, 3, frozen=True)),
    Case("conv2d_transposed", lambda: _convolution(nn.ConvTranspose2d(2, 2, 2, stride=2), 2, 3)),
    Case("conv3d", lambda: _convolution(nn.Conv3d(2, 2, 2, padding=1), 2, 2, 2)),
    Case("returns_loss", returns_loss, loss_fn=False),
    Case("batch_norm_train", batch_norm_train, buffers=True),
    Case("batch_norm_conv", batch_norm_conv, buffers=True),
    Case("assigned_buffers", assigned_buffers, buffers=True),
    Case("dropout_train", dropout_train, random=True),
    Case("functional_dropout", functional_dropout, random=True),
    Case("random_noise", random_noise, random=True),
    Case("mixed_dtypes", mixed_dtypes, mixed=True),
    Case("rnn_tanh", partial(_recurrent, nn.RNN)),
    Case("rnn_relu", partial(_recurrent, nn.RNN, nonlinearity="relu", num_layers=2)),
    Case("gru", partial(_recurrent, nn.GRU)),
    Case("gru_2_layers", partial(_recurrent, nn.GRU, num_layers=2, batch_first=True)),
    Case("lstm", partial(_recurrent, nn.LSTM)),
    Case("lstm_2_layers", partial(_recurrent, nn.LSTM, num_layers=2, bias=False)),
    Case("lstm_bidirectional", partial(_recurrent, nn.LSTM, bidirectional=True)),
    Case("lstm_batch_first", partial(_recurrent, nn.LSTM, batch_first=True)),
    Case("lstm_dropout", partial(_recurrent, nn.LSTM, num_layers=2, bias=False, dropout=0.4), random=True),
    Case("gru_dropout", partial(_recurrent, nn.GRU, num_layers=2, dropout=0.4), random=True),
    Case("lstm_projection", lstm_projection),
    Case("lstm_packed", partial(_packed, nn.LSTM)),
    Case("gru_packed", partial(_packed, nn.GRU)),
    Case("rnn_packed", partial(_packed, nn.RNN)),
    Case("lstm_weight_norm", lstm_weight_norm, written_out=lstm_weight_norm_written_out),
    Case("attention_weights", partial(_attention, need_weights=True)),
    Case("attention_fused", partial(_attention, need_weights=False)),
    Case("weight_norm_old", partial(_weight_norm, nn.utils.weight_norm),
         written_out=partial(_weight_norm_written_out, nn.utils.weight_norm)),
    Case("weight_norm", partial(_weight_norm, parametrizations.weight_norm),
         written_out=partial(_weight_norm_written_out, parametrizations.weight_norm)),
    Case("weight_norm_over_all", partial(_weight_norm, parametrizations.weight_norm, dim=None),
         written_out=partial(_weight_norm_written_out, parametrizations.weight_norm, dim=None)),
]  # fmt: skip

BY_NAME = {case.name: case for case in CASES}


def cases(*names: str, **flags: bool) -> pytest.MarkDecorator:
    """Parametrizes a test with `case`: the named ones, or those whose flags are as given, or all.

    Args:
        *names: Names of cases.
        **flags: Values of `random`, `buffers`, `mixed`, `loss_fn`.
    """
    chosen = [BY_NAME[name] for name in names] if names else CASES
    chosen = [case for case in chosen if all(getattr(case, flag) == value for flag, value in flags.items())]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
