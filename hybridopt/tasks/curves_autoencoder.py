"""A deep autoencoder on generated images of curves, after the CURVES set of Hinton and Salakhutdinov (2006)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybridopt.core import option
from hybridopt.tasks.autoencoder import DeepAutoencoder
from hybridopt.tasks.base import Split, Splits, Target, TaskConfig
from hybridopt.tasks.data.split import generator

_ENCODERS = {28: (784, 400, 200, 100, 50, 25, 6), 14: (196, 100, 50, 25, 6)}
_POINTS = 60
"""Places along a curve at which the pen is put down."""
_PEN = 0.035
"""Width of the pen, in widths of the image."""


class CurvesAutoencoder(DeepAutoencoder):
    """Squeezes generated curves through 6 numbers: 784-400-200-100-50-25-6 and back, or 196-100-50-25-6.

    An image shows a smooth curve through three random points, drawn with a soft pen: six degrees of freedom, as in
    the CURVES set of Hinton and Salakhutdinov (Science 313, 2006) on which Martens (ICML 2010) trains. That file is
    not published; these images are like it, not equal to it, so absolute errors do not compare with publications.
    """

    name = "curves_autoencoder"
    summary = "deep autoencoder on generated images of curves (CURVES-like), 14x14 or 28x28"
    # Measured on seed 0, 14 x 14: Adam (1e-2) ends its 60 epochs at 3.8 and 26.0, (3e-3) at 4.5 and 29.5.
    targets = (
        Target("validation_squared_error", 4.5, "min"),
        Target("train_loss", 30.0, "min"),
    )

    @dataclass
    class Config(TaskConfig):
        """Options of `CurvesAutoencoder`.

        Args:
            batch_size: Mini-batch of optimizers that step on few samples.
            epochs: Default budget, in epochs; a full-batch step is one epoch.
            side: Pixels on a side: 14 or 28.
            train_samples: Images to train on (published: 20,000).
            validation_samples: Images to validate on, and as many to test on.
        """

        batch_size: int = option(100, ge=1, help="mini-batch of optimizers that step on few samples")
        epochs: float = option(60.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")
        side: int = option(14, choices=[14, 28], help="pixels on a side")
        train_samples: int = option(2000, ge=1, help="images to train on (published: 20,000)")
        validation_samples: int = option(500, ge=1, help="images to validate on, and as many to test on")

    config: Config

    def build_splits(self, seed: int) -> Splits:
        """Returns images of shape (samples, pixels) in [0, 1]; the targets are the inputs.

        Args:
            seed: Decides every curve.
        """
        config = self.config
        sizes = {"train": config.train_samples, "validation": config.validation_samples}
        sizes["test"] = config.validation_samples
        parts = (curves(n, config.side, generator(seed, f"curves {part}")) for part, n in sizes.items())
        return Splits(*(Split(part, part) for part in parts))

    def build_model(self) -> nn.Module:
        """Returns the network up to the logits of the output pixels, sparsely initialized."""
        # The widths follow the option, so they are the instance's own.
        self.encoder = _ENCODERS[self.config.side]  # type: ignore[misc]
        return super().build_model()


def curves(samples: int, side: int, rng: torch.Generator) -> Tensor:
    """Draws smooth curves through three random points.

    Args:
        samples: How many.
        side: Pixels on a side.
        rng: Decides the points.

    Returns:
        Shape (samples, side * side), in [0, 1].
    """
    points = 0.1 + 0.8 * torch.rand(samples, 3, 2, generator=rng)
    t = torch.linspace(0, 1, _POINTS)
    # The parabola through the points at t = 0, 1/2 and 1, by Lagrange's formula.
    weights = torch.stack([2 * (t - 0.5) * (t - 1), -4 * t * (t - 1), 2 * t * (t - 0.5)])
    path = torch.einsum("spc,pt->stc", points, weights)
    centres = (torch.arange(side) + 0.5) / side
    # Separable: the pen's mark at a place is a product of a row's and a column's profile.
    rows, columns = (torch.exp(-(((path[:, :, c, None] - centres) / _PEN) ** 2) / 2) for c in (1, 0))
    images = torch.zeros(samples, side, side)
    for place in range(_POINTS):
        torch.maximum(images, rows[:, place, :, None] * columns[:, place, None, :], out=images)
    return images.flatten(1)
