"""The deep autoencoder of Hinton and Salakhutdinov (2006) on MNIST, the classic test of Hessian-free optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybridopt.core import option
from hybridopt.tasks.autoencoder import DeepAutoencoder
from hybridopt.tasks.base import Split, Splits, Target, TaskConfig
from hybridopt.tasks.data.images import MNIST, ImageSource, load_images

SHARES = (5 / 6, 1 / 6)
"""Training and validation share of the published training set: 50,000 and 10,000 images."""

ENCODER = (784, 1000, 500, 250, 30)
"""Widths from the pixels to the code; the decoder mirrors them."""


class MNISTAutoencoder(DeepAutoencoder):
    """Squeezes digits through 30 numbers: 784-1000-500-250-30-250-500-1000-784, 2,837,314 parameters.

    Logistic units, a linear code layer, logistic outputs with cross-entropy (Hinton and Salakhutdinov, Science 313,
    2006), and sparse random initialization in place of pre-training (Martens, ICML 2010). The model returns logits.
    The loss is summed over the pixels and averaged over the images, as published; so is the squared error, the
    number that publications report. Pixels are in [0, 1], being probabilities, and are not standardized.

    Attributes:
        source: The files; a subclass may name others of the same format with images of 28 x 28.
    """

    name = "mnist_autoencoder"
    summary = "Hinton-Salakhutdinov deep autoencoder on MNIST (fetched, 12 MB), 2.8 million parameters"
    # Measured on seed 0: Adam (1e-3) reaches both in epoch 13, the second on 10,000 training images. Publications go on
    # for thousands of epochs, to a squared error of 0.7 to 2.1 in training (Sutskever et al., ICML 2013, table 1).
    targets = (
        Target("validation_squared_error", 6.0, "min"),
        Target("train_loss", 66.0, "min"),
    )
    encoder = ENCODER
    source: ClassVar[ImageSource] = MNIST

    @dataclass
    class Config(TaskConfig):
        """Options of `MNISTAutoencoder`.

        Args:
            batch_size: Mini-batch of optimizers that step on few samples.
            epochs: Default budget, in epochs; a full-batch step is one epoch.
        """

        batch_size: int = option(200, ge=1, help="mini-batch of optimizers that step on few samples")
        epochs: float = option(50.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")

    config: Config

    def build_splits(self, seed: int) -> Splits:
        """Returns images of shape (samples, 784) in [0, 1]; the targets are the inputs.

        Args:
            seed: Decides which training images are held out for validation.
        """
        pixels, _ = load_images(self.source).held_out(SHARES, seed)
        inputs = [part.flatten(1).float().div_(255) for part in pixels]
        return Splits(*(Split(part, part) for part in inputs))
