"""A small, smooth convolutional network on the bundled 8 x 8 digits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from hybridopt.core import option
from hybridopt.tasks.base import Splits, Target, TaskConfig
from hybridopt.tasks.classification import Classification
from hybridopt.tasks.digits import digits_splits


class DigitsCNN(Classification):
    """Classifies real 8 x 8 digits with two convolutions and one dense layer, 3,818 parameters by default.

    The network is twice differentiable everywhere (SiLU, and a stride instead of max-pooling), so that curvature
    means what it says. Inputs have shape (samples, 1, 8, 8); the trivial loss is about ln 10 = 2.303.
    """

    name = "digits_cnn"
    images = True
    summary = "CNN on scikit-learn's 8x8 digits (bundled): 1,797 images, 10 classes, smooth"
    # Measured with torch's own optimizers on seeds 0 to 9 (split and initialization). 94 % was reached on every seed:
    # by Adam (1e-2) in 1 or 2 epochs, SGD (0.1) in 3 to 7, full-batch L-BFGS in 7 to 12 iterations. 95 % took them up
    # to 6, 17 and 32 on the hardest split, and 96 % was missed there. The training loss: 2 to 4, 8 to 15, 13 to 21.
    # No target on the validation loss: it rises again once a full-batch method fits the training set exactly.
    targets = (
        Target("validation_accuracy", 0.94, "max"),
        Target("train_loss", 0.05, "min"),
    )

    @dataclass
    class Config(TaskConfig):
        """Options of `DigitsCNN`.

        Args:
            batch_size: Mini-batch of optimizers that step on few samples.
            epochs: Default budget, in epochs; a full-batch step is one epoch.
            channels: Channels of the first convolution; the second has twice as many.
        """

        batch_size: int = option(32, ge=1, help="mini-batch of optimizers that step on few samples")
        epochs: float = option(25.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")
        channels: int = option(8, ge=1, help="channels of the first convolution; the second has twice as many")

    config: Config

    def build_splits(self, seed: int) -> Splits:
        """Returns the digits with a channel dimension.

        Args:
            seed: Decides which image goes where.
        """
        return Splits(*(replace(split, inputs=split.inputs.unsqueeze(1)) for split in digits_splits(seed)))

    def build_model(self) -> nn.Module:
        """Returns conv 3x3, SiLU, conv 3x3 with stride 2, SiLU, dense."""
        channels = self.config.channels
        return nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * 4 * 4, 10),
        )
