"""What the deep autoencoders share: logistic units around a linear code, sparse initialization, cross-entropy."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridopt.tasks.base import Splits, Task

INCOMING = 15
"""Non-zero incoming weights of a unit in Martens' sparse initialization."""


class DeepAutoencoder(Task):
    """Squeezes pixels in [0, 1] through a short code; the model returns logits.

    Logistic units, a linear code layer, logistic outputs with cross-entropy (Hinton and Salakhutdinov, Science 313,
    2006), and sparse random initialization in place of pre-training (Martens, ICML 2010). The loss is summed over the
    pixels and averaged over the images, as published; so is the squared error, the number that publications report.

    Attributes:
        encoder: Widths from the pixels to the code; the decoder mirrors them.
    """

    encoder: ClassVar[tuple[int, ...]] = ()

    def build_model(self) -> nn.Module:
        """Returns the network up to the logits of the output pixels, sparsely initialized."""
        encoder = self.encoder
        widths = (*encoder, *encoder[-2::-1])
        layers: list[nn.Module] = []
        for position, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
            linear = nn.Linear(fan_in, fan_out)
            sparse_(linear)
            layers.append(linear)
            if position not in (len(encoder) - 1, len(widths) - 1):
                layers.append(nn.Sigmoid())
        return nn.Sequential(*layers)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the cross-entropy in nats, summed over pixels, mean over images.

        Args:
            outputs: Logits, shape (samples, pixels).
            targets: Pixels in [0, 1], shape (samples, pixels).
        """
        return functional.binary_cross_entropy_with_logits(outputs, targets) * targets[0].numel()

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Returns ``squared_error``, summed over pixels, mean over images.

        Args:
            outputs: Logits, shape (samples, pixels).
            targets: Pixels in [0, 1], shape (samples, pixels).
        """
        return {"squared_error": float((outputs.sigmoid() - targets).square().sum(dim=1).double().mean())}

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the loss of always answering the mean training image: the summed entropy of its pixels.

        Args:
            splits: What `splits` returned.
        """
        mean = splits.train.targets.double().mean(dim=0)
        return float(-(torch.xlogy(mean, mean) + torch.special.xlog1py(1 - mean, -mean)).sum())


@torch.no_grad()
def sparse_(linear: nn.Linear, incoming: int = INCOMING) -> None:
    """Gives each unit a few incoming weights out of N(0, 1), sets all others and the biases to 0 (Martens, 2010).

    Args:
        linear: The layer, changed in place.
        incoming: Non-zero weights per unit, at most the layer's inputs.
    """
    fan_out, fan_in = linear.weight.shape
    count = min(incoming, fan_in)
    chosen = torch.rand(fan_out, fan_in).topk(count, dim=1).indices
    linear.weight.zero_().scatter_(1, chosen, torch.randn(fan_out, count))
    linear.bias.zero_()
