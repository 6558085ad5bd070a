"""A twice-differentiable stand-in for torch's recurrent functions, fast in the second derivative.

`recurrent` takes the name and the positional arguments of `torch.lstm`, `gru`, `rnn_tanh` or `rnn_relu` (those of
`nn.LSTM`, `nn.GRU`, `nn.RNN` on padded batches) and gives the same values and first derivatives. `supports` says which
calls it can serve.

It is for curvature: on one CPU thread scripts/bench_recurrent.py finds Hessian and Gauss-Newton products 1.7 to 3.5
times as fast as with torch's fused layers or with a loop of autograd operations. A gradient alone is faster with
torch's own LSTM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridopt.objective import recurrent_gru, recurrent_lstm, recurrent_rnn
from hybridopt.objective.recurrent_layer import run_layer
from hybridopt.objective.recurrent_sweeps import Sweeps

_CELLS: dict[str, tuple[type[Sweeps], Callable[..., list[Tensor]]]] = {
    "lstm": (recurrent_lstm.LSTMSweeps, recurrent_lstm.pack),
    "gru": (recurrent_gru.GRUSweeps, recurrent_gru.pack),
    "rnn_tanh": (recurrent_rnn.TanhSweeps, recurrent_rnn.pack),
    "rnn_relu": (recurrent_rnn.ReLUSweeps, recurrent_rnn.pack),
}


def supports(name: str, args: Sequence[Any]) -> bool:
    """Whether `recurrent` can serve a call of torch's function of this name with these arguments.

    Packed sequences, projections (`proj_size`), half precision, autocast, empty batches and torch.func
    transforms are not served. Dropout between layers is, on the CPU, where it draws the same masks as torch's
    own functions.

    Args:
        name: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        args: The positional arguments.
    """
    if name not in _CELLS or len(args) != 9:
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


def recurrent(name: str, args: Sequence[Any], *, watch: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, ...]:
    """Returns what torch's function of that name returns, twice differentiable.

    Args:
        name: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        args: The positional arguments; see `through_layers`.
        watch: Sees the hidden states of every layer and direction, (T, B, H), and returns what to go on with.
    """
    cell, pack = _CELLS[name]

    def sweep(x: Tensor, h0: Tensor, c0: Tensor | None, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        out, final_cell = run_layer(cell, x, h0, c0, pack(*weights))
        return (out if watch is None else watch(out)), final_cell

    return through_layers(args, sweep)


def through_layers(
    args: Sequence[Any],
    sweep: Callable[[Tensor, Tensor, Tensor | None, Sequence[Tensor]], tuple[Tensor, Tensor | None]],
) -> tuple[Tensor, ...]:
    """Runs a stack of recurrent layers, each in its directions; what all cells share.

    Args:
        args: Those of torch's function: the input, (T, B, I), or (B, T, I) if the last one, `batch_first`, is set; the
            initial hidden states, or for an LSTM these and the cells, each (D L, B, H), D = 2 if bidirectional, else
            1; w_ih, w_hh and, with biases, b_ih, b_hh, for each layer and direction; whether there are biases; the
            number L of layers; the probability of zeroing what one layer hands to the next; whether that acts; whether
            each layer also runs back in time.
        sweep: Takes one layer's input in the order of its time, (T, B, .), its initial hidden state and cell, (B, H),
            and its weights, and returns its hidden states, (T, B, H), and its final cell. The cells are None but for
            an LSTM.

    Returns:
        Output, (T, B, D H) or (B, T, D H), final hidden states and, for an LSTM, final cells, (D L, B, H).
    """
    x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first = args
    h0, c0 = (hx, None) if isinstance(hx, Tensor) else hx
    directions, per_layer = (2 if bidirectional else 1), (4 if has_biases else 2)
    x = x.transpose(0, 1) if batch_first else x
    hidden, cells = [], []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            weights = params[k * per_layer : (k + 1) * per_layer]
            out, cell = sweep(x.flip(0) if direction else x, h0[k], None if c0 is None else c0[k], weights)
            hidden.append(out[-1])
            if cell is not None:
                cells.append(cell)
            outputs.append(out.flip(0) if direction else out)
        x = torch.cat(outputs, dim=2) if bidirectional else outputs[0]
        if train and dropout > 0 and layer < num_layers - 1:
            x = F.dropout(x, dropout)
    output = x.transpose(0, 1) if batch_first else x
    return (output, torch.stack(hidden), *([torch.stack(cells)] if cells else []))
