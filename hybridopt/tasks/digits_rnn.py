"""The bundled 8 x 8 digits as sequences: eight rows of eight pixels through a recurrent network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hybridopt.core import option
from hybridopt.tasks.base import Splits, Target, TaskConfig
from hybridopt.tasks.classification import Classification
from hybridopt.tasks.digits import digits_splits
from hybridopt.tasks.recurrent import CELLS, INITIALIZATIONS, LastStepRNN


class DigitsRNN(Classification):
    """Classifies real 8 x 8 digits read row by row: inputs (samples, 8 steps, 8 features).

    The trivial loss is about ln 10 = 2.303.
    """

    name = "digits_rnn"
    summary = "LSTM on scikit-learn's 8x8 digits read row by row: 8 steps of 8 features, 10 classes"
    targets = ()

    @dataclass
    class Config(TaskConfig):
        """Options of `DigitsRNN`.

        Args:
            batch_size: Mini-batch of optimizers that step on few samples.
            epochs: Default budget in gradient-equivalents.
            cell: ``"lstm"``, ``"gru"`` or ``"rnn"`` (tanh).
            hidden: Units of the recurrent layer.
            initialization: ``"default"`` (torch's) or ``"orthogonal"``.
        """

        batch_size: int = option(32, ge=1, help="mini-batch of optimizers that step on few samples")
        epochs: float = option(20.0, gt=0, help="default budget in gradient-equivalents")
        cell: str = option("lstm", choices=tuple(CELLS), help="recurrent cell; rnn is the plain tanh one")
        hidden: int = option(32, ge=1, help="units of the recurrent layer")
        initialization: str = option("default", choices=INITIALIZATIONS, help="of the recurrent weights")

    config: Config

    def build_splits(self, seed: int) -> Splits:
        """Returns the digits, each row one time step.

        Args:
            seed: Decides which image goes where.
        """
        return digits_splits(seed)

    def build_model(self) -> nn.Module:
        """Returns the recurrent network with a read-out at the last row."""
        config = self.config
        return LastStepRNN(config.cell, 8, config.hidden, 10, initialization=config.initialization)
