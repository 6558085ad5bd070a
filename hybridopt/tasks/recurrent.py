"""The recurrent networks of the sequence tasks: one recurrent stack with a linear read-out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
"""Cells by name; ``rnn`` is the plain one with tanh."""

INITIALIZATIONS = ("default", "orthogonal")
"""``default`` is torch's; ``orthogonal`` makes every recurrent block orthogonal and an LSTM's forget bias 1."""


class LastStepRNN(nn.Module):
    """Maps a sequence to one output, by a linear read-out of the hidden state after its last step.

    Args:
        cell: A name out of `CELLS`.
        features: Size of each step's input.
        hidden: Units per layer.
        outputs: Size of the output.
        layers: Recurrent layers.
        initialization: A name out of `INITIALIZATIONS`.
    """

    def __init__(
        self,
        cell: str,
        features: int,
        hidden: int,
        outputs: int,
        *,
        layers: int = 1,
        initialization: str = "default",
    ) -> None:
        super().__init__()
        self.recurrent = CELLS[cell](features, hidden, num_layers=layers, batch_first=True)
        self.readout = nn.Linear(hidden, outputs)
        if initialization == "orthogonal":
            _orthogonalize(self.recurrent)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns shape (samples, outputs).

        Args:
            inputs: Shape (samples, steps, features).
        """
        return self.readout(self.recurrent(inputs)[0][:, -1])


class EveryStepRNN(LastStepRNN):
    """Maps a sequence to an output at each of its last steps, by the same linear read-out of the hidden state.

    Args:
        cell: A name out of `CELLS`.
        features: Size of each step's input.
        hidden: Units per layer.
        outputs: Size of each output.
        last: How many steps, from the end, are answered; None for all.
        layers: Recurrent layers.
        initialization: A name out of `INITIALIZATIONS`.
    """

    def __init__(
        self,
        cell: str,
        features: int,
        hidden: int,
        outputs: int,
        *,
        last: int | None = None,
        layers: int = 1,
        initialization: str = "default",
    ) -> None:
        super().__init__(cell, features, hidden, outputs, layers=layers, initialization=initialization)
        self.last = last

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns shape (samples, last, outputs).

        Args:
            inputs: Shape (samples, steps, features).
        """
        hidden = self.recurrent(inputs)[0]
        return self.readout(hidden if self.last is None else hidden[:, -self.last :])


@torch.no_grad()
def _orthogonalize(recurrent: nn.RNNBase) -> None:
    hidden = recurrent.hidden_size
    for name, parameter in recurrent.named_parameters():
        if name.startswith("weight_hh"):
            for block in parameter.split(hidden):
                nn.init.orthogonal_(block)
        elif name.startswith("bias") and isinstance(recurrent, nn.LSTM):
            # Gates are stacked input, forget, cell, output, and the two biases are added.
            parameter[hidden : 2 * hidden] = 0.5
