"""A character language model: two LSTM layers of 128 units on tiny Shakespeare."""

from __future__ import annotations

from torch import Tensor, nn

from hybridopt.tasks.base import Target
from hybridopt.tasks.language import SYMBOLS, CharacterModel


class ShakespeareLSTM(CharacterModel):
    """Embedding, two LSTM layers of 128 units, a linear read-out: 243,969 parameters.

    In the manner of Karpathy, Johnson and Fei-Fei, "Visualizing and Understanding Recurrent Networks" (ICLR workshop
    2016). Every window starts from a zero state.
    """

    name = "shakespeare_lstm"
    summary = "character language model: 2-layer LSTM 128 on tiny Shakespeare (fetched, 1 MB)"
    targets = (
        Target("validation_loss", 2.0, "min"),
        Target("train_loss", 1.9, "min"),
    )

    def build_model(self) -> nn.Module:
        """Returns the network from symbols to logits at every place."""
        return _CharacterLSTM(self.config.hidden, self.config.layers)


class _CharacterLSTM(nn.Module):
    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, hidden // 2 if hidden > 1 else 1)
        self.recurrent = nn.LSTM(self.embedding.embedding_dim, hidden, num_layers=layers, batch_first=True)
        self.readout = nn.Linear(hidden, SYMBOLS)

    def forward(self, symbols: Tensor) -> Tensor:
        return self.readout(self.recurrent(self.embedding(symbols))[0])
