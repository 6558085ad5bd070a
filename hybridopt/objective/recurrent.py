"""Twice-differentiable stand-ins for torch's recurrent functions, fast in the second derivative.

`lstm`, `gru`, `rnn_tanh` and `rnn_relu` take the positional arguments of the functions of the same name in torch (those
of `nn.LSTM`, `nn.GRU`, `nn.RNN` on padded batches) and give the same values and first derivatives. `supports` says
which calls they can serve.

They are for curvature: on one CPU thread scripts/bench_recurrent.py finds Hessian and Gauss-Newton products 1.7 to 3.5
times as fast as with torch's fused layers or with a loop of autograd operations. A gradient alone is faster with
torch's own LSTM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridopt.objective import recurrent_gru, recurrent_lstm, recurrent_rnn
from hybridopt.objective.recurrent_layer import run_layer
from hybridopt.objective.recurrent_sweeps import Sweeps


def supports(name: str, args: Sequence[Any]) -> bool:
    """Whether the function of this name here can stand in for torch's in a call with these arguments.

    Packed sequences, projections (`proj_size`), half precision, autocast, empty batches and torch.func
    transforms are not served. Dropout between layers is, on the CPU, where it draws the same masks as torch's
    own functions.

    Args:
        name: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        args: The positional arguments.
    """
    if name not in ("lstm", "gru", "rnn_tanh", "rnn_relu") or len(args) != 9:
        return False
    x, hx, weights, has_biases, num_layers, dropout, train, bidirectional, _ = args
    states = list(hx) if isinstance(hx, tuple | list) else [hx]
    if len(states) != (2 if name == "lstm" else 1) or not isinstance(weights, tuple | list):
        return False  # a packed sequence: hx stands one place later there
    tensors = [x, *states, *weights]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        return False
    if len(weights) != num_layers * (2 if bidirectional else 1) * (4 if has_biases else 2):
        return False
    if x.dim() != 3 or x.numel() == 0 or x.dtype not in (torch.float32, torch.float64):
        return False
    if any(tensor.dtype != x.dtype or tensor.device != x.device for tensor in tensors):
        return False
    if any(state.shape[-1] != weights[1].shape[-1] for state in states):
        return False  # projections: the hidden state is smaller than the cell
    if train and dropout > 0 and num_layers > 1 and x.device.type != "cpu":
        return False
    return not (torch.is_autocast_enabled(x.device.type) or torch._C._are_functorch_transforms_active())


def lstm(
    input: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    watch: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Stands in for `torch.lstm`.

    Args:
        input: (T, B, I), or (B, T, I) with `batch_first`.
        hx: Initial hidden state and cell, each (D L, B, H), D = 2 if bidirectional, else 1.
        params: w_ih, w_hh and, with biases, b_ih, b_hh, for each layer and direction.
        has_biases: Whether there are biases.
        num_layers: L.
        dropout: Probability of zeroing what one layer hands to the next.
        train: Whether dropout acts.
        bidirectional: Whether each layer also runs back in time.
        batch_first: Layout of the input and the output.
        watch: Sees the hidden states of every layer and direction, (T, B, H), and returns what to go on with.

    Returns:
        Output, (T, B, D H) or (B, T, D H), final hidden states and final cells, (D L, B, H).
    """
    layers = _Layers(
        input, params, has_biases, num_layers, dropout if train else 0.0, bidirectional, batch_first, watch
    )
    output, hidden, cells = layers.run(recurrent_lstm.LSTMSweeps, recurrent_lstm.pack, hx[0], hx[1])
    return output, hidden, torch.stack(cells)


def gru(
    input: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    watch: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Stands in for `torch.gru`; arguments and results as for `lstm`, without cells."""
    layers = _Layers(
        input, params, has_biases, num_layers, dropout if train else 0.0, bidirectional, batch_first, watch
    )
    return layers.run(recurrent_gru.GRUSweeps, recurrent_gru.pack, hx)[:2]


def rnn_tanh(
    input: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    watch: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Stands in for `torch.rnn_tanh`; arguments and results as for `lstm`, without cells."""
    layers = _Layers(
        input, params, has_biases, num_layers, dropout if train else 0.0, bidirectional, batch_first, watch
    )
    return layers.run(recurrent_rnn.TanhSweeps, recurrent_rnn.pack, hx)[:2]


def rnn_relu(
    input: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    watch: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Stands in for `torch.rnn_relu`; arguments and results as for `lstm`, without cells."""
    layers = _Layers(
        input, params, has_biases, num_layers, dropout if train else 0.0, bidirectional, batch_first, watch
    )
    return layers.run(recurrent_rnn.ReLUSweeps, recurrent_rnn.pack, hx)[:2]


@dataclass(frozen=True)
class _Layers:
    """The stack of layers; what all cells share. See `lstm` for the fields."""

    input: Tensor
    params: Sequence[Tensor]
    has_biases: bool
    num_layers: int
    dropout: float
    bidirectional: bool
    batch_first: bool
    watch: Callable[[Tensor], Tensor] | None = None

    def run(
        self, cell: type[Sweeps], pack: Callable[..., list[Tensor]], h0: Tensor, c0: Tensor | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Returns the output, the final hidden states, stacked, and the final cells, if there are any."""
        directions, per_layer = (2 if self.bidirectional else 1), (4 if self.has_biases else 2)
        x = self.input.transpose(0, 1) if self.batch_first else self.input
        hidden, cells = [], []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                k = layer * directions + direction
                weights = pack(*self.params[k * per_layer : (k + 1) * per_layer])
                inputs = x.flip(0) if direction else x
                out, final_cell = run_layer(cell, inputs, h0[k], None if c0 is None else c0[k], weights)
                out = out if self.watch is None else self.watch(out)
                hidden.append(out[-1])
                if final_cell is not None:
                    cells.append(final_cell)
                outputs.append(out.flip(0) if direction else out)
            x = torch.cat(outputs, dim=2) if self.bidirectional else outputs[0]
            if self.dropout > 0 and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout)
        return (x.transpose(0, 1) if self.batch_first else x), torch.stack(hidden), cells
