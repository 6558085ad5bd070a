"""Recurrent layers in all their forms."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from tests.cases.base import Apply, Case


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


CASES: list[Case] = [
    *(Case(make.__name__, make) for make in (
        lstm_states,
    )),
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
]  # fmt: skip
