"""The recurrent network of the sequence tasks: one recurrent stack, read out at the last step."""

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
