"""MNIST with a small smooth convolutional network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from hybridopt.core import option
from hybridopt.tasks.base import Split, Splits, Target, TaskConfig
from hybridopt.tasks.classification import Classification
from hybridopt.tasks.data.images import MNIST, ImageSource, load_images
from hybridopt.tasks.data.split import standardize
from hybridopt.tasks.recurrent import CELLS, INITIALIZATIONS, LastStepRNN

SHARES = (5 / 6, 1 / 6)
"""Training and validation share of the published training set: 50,000 and 10,000 images."""


@dataclass
class MNISTConfig(TaskConfig):
    """Options of the MNIST classifications.

    Args:
        batch_size: Mini-batch of optimizers that step on few samples.
        epochs: Default budget, in epochs; a full-batch step is one epoch.
        train_samples: Use only this many training images (stratified, by the seed); None for all 50,000.
    """

    batch_size: int = option(128, ge=1, help="mini-batch of optimizers that step on few samples")
    epochs: float = option(10.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")
    train_samples: int | None = option(None, ge=10, help="use only so many training images; null: all 50,000")


class MNISTClassification(Classification):
    """MNIST's digits as standardized images of shape (28, 28), 10,000 of the training images held out.

    Attributes:
        source: The files; a subclass may name others of the same format.
    """

    Config = MNISTConfig
    config: MNISTConfig
    images = True
    source: ClassVar[ImageSource] = MNIST

    def build_splits(self, seed: int) -> Splits:
        """Returns images of shape (samples, 28, 28) and labels.

        Args:
            seed: Decides which training images are used and which are held out for validation.
        """
        pixels, labels = load_images(self.source).held_out(SHARES, seed, self.config.train_samples)
        inputs = standardize(*(part.float().div_(255) for part in pixels))
        return Splits(*(Split(*pair) for pair in zip(inputs, labels, strict=True)))


class MNISTCNN(MNISTClassification):
    """Two convolutions of stride 2 with SiLU and a linear layer: smooth, so second derivatives exist everywhere.

    The trivial loss is about ln 10 = 2.301.
    """

    name = "mnist_cnn"
    summary = "small smooth CNN on MNIST (fetched, 12 MB), 20,746 parameters"
    targets = (
        Target("validation_accuracy", 0.98, "max"),
        Target("train_loss", 0.05, "min"),
    )

    def build_model(self) -> nn.Module:
        """Returns conv 5x5x16 with stride 2, SiLU, conv 3x3x32 with stride 2, SiLU, dense."""
        return nn.Sequential(
            nn.Unflatten(1, (1, 28)),
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 10),
        )


@dataclass
class MNISTRNNConfig(MNISTConfig):
    """Options of `MNISTRNN`.

    Args:
        cell: ``"lstm"``, ``"gru"`` or ``"rnn"`` (tanh).
        hidden: Units of the recurrent layer.
        initialization: ``"default"`` (torch's) or ``"orthogonal"``.
    """

    cell: str = option("lstm", choices=tuple(CELLS), help="recurrent cell; rnn is the plain tanh one")
    hidden: int = option(64, ge=1, help="units of the recurrent layer")
    initialization: str = option("default", choices=INITIALIZATIONS, help="of the recurrent weights")


class MNISTRNN(MNISTClassification):
    """Reads a digit row by row: 28 steps of 28 pixels through a recurrent network, read out at the last row.

    The trivial loss is about ln 10 = 2.301.
    """

    name = "mnist_rnn"
    summary = "LSTM on MNIST read row by row (fetched, 12 MB): 28 steps of 28 features, 10 classes"
    targets = (
        Target("validation_accuracy", 0.97, "max"),
        Target("train_loss", 0.1, "min"),
    )
    Config = MNISTRNNConfig
    config: MNISTRNNConfig

    def build_model(self) -> nn.Module:
        """Returns the recurrent network with a read-out at the last row."""
        config = self.config
        return LastStepRNN(config.cell, 28, config.hidden, 10, initialization=config.initialization)
