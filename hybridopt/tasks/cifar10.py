"""CIFAR-10 with the network 3c3d of DeepOBS, and with a small residual network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hybridopt.core import option
from hybridopt.tasks.base import Split, Splits, Target, TaskConfig
from hybridopt.tasks.classification import Classification
from hybridopt.tasks.data.cifar import CIFAR10, load_cifar
from hybridopt.tasks.data.files import DataFile

SHARES = (0.9, 0.1)
"""Training and validation share of the published training set: 45,000 and 5,000 images."""


@dataclass
class CIFARConfig(TaskConfig):
    """Options of the CIFAR-10 classifications.

    Args:
        batch_size: Mini-batch of optimizers that step on few samples.
        epochs: Default budget, in epochs; a full-batch step is one epoch.
    """

    batch_size: int = option(128, ge=1, help="mini-batch of optimizers that step on few samples")
    epochs: float = option(100.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")


class CIFARClassification(Classification):
    """CIFAR-10's photographs, standardized per channel, 5,000 of the training images held out.

    The trivial loss is ln 10 = 2.303.

    Attributes:
        source: The archive; a subclass may name another of the same format.
    """

    Config = CIFARConfig
    config: CIFARConfig
    images = True
    source: ClassVar[DataFile] = CIFAR10

    def build_splits(self, seed: int) -> Splits:
        """Returns images of shape (samples, 3, 32, 32) and labels.

        Args:
            seed: Decides which training images are held out for validation.
        """
        pixels, labels = load_cifar(self.source).held_out(SHARES, seed)
        inputs = [part.float().div_(255) for part in pixels]
        deviation, mean = torch.std_mean(inputs[0], dim=(0, 2, 3), keepdim=True, correction=0)
        inputs = [(part - mean) / deviation for part in inputs]
        return Splits(*(Split(*pair) for pair in zip(inputs, labels, strict=True)))


class CIFAR3c3d(CIFARClassification):
    """Three convolutions and three dense layers, 895,210 parameters: `cifar10_3c3d` of DeepOBS.

    Schneider, Balles and Hennig (ICLR 2019), with its L2 regularization left to the optimizer's ``weight_decay``
    (0.002 there). ReLU and max-pooling make it piecewise smooth only.
    """

    name = "cifar10_3c3d"
    summary = "DeepOBS cifar10_3c3d: CNN on CIFAR-10 (fetched, 170 MB), 0.9 million parameters"
    targets = (
        Target("validation_accuracy", 0.80, "max"),
        Target("train_loss", 0.5, "min"),
    )

    def build_model(self) -> nn.Module:
        """Returns conv 5x5x64, 3x3x96, 3x3x128, each with ReLU and 3x3 max-pooling; dense 512, 256, 10."""
        layers: list[nn.Module] = []
        channels = 3
        for width, kernel, padding in ((64, 5, 0), (96, 3, 0), (128, 3, 1)):
            # ceil_mode pads on the right only, as TensorFlow's "same" does.
            layers += [nn.Conv2d(channels, width, kernel, padding=padding), nn.ReLU()]
            layers += [nn.MaxPool2d(3, stride=2, ceil_mode=True)]
            channels = width
        model = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(128 * 3 * 3, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(),
            nn.Linear(256, 10),
        )  # fmt: skip
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
        return model


@dataclass
class ResNetConfig(CIFARConfig):
    """Options of `CIFARResNet`.

    Args:
        blocks: Residual blocks in each of the three stages; the depth is 6 blocks + 2.
        norm: ``"batch"`` or ``"group"`` (8 channels a group), which is one function in training and evaluation.
    """

    blocks: int = option(1, ge=1, help="residual blocks per stage; 3 make ResNet-20")
    norm: str = option("batch", choices=["batch", "group"], help="normalization")


class CIFARResNet(CIFARClassification):
    """A residual network with BatchNorm for CIFAR-10 (He et al., CVPR 2016, section 4.2), 8 layers by default.

    Three stages of 16, 32 and 64 channels; shortcuts between stages subsample and pad with zeros (option A).
    """

    name = "cifar10_resnet"
    summary = "ResNet-8 (options: deeper, GroupNorm) on CIFAR-10 (fetched, 170 MB), 75,290 parameters"
    targets = (
        Target("validation_accuracy", 0.80, "max"),
        Target("train_loss", 0.5, "min"),
    )
    Config = ResNetConfig
    config: ResNetConfig

    def build_model(self) -> nn.Module:
        """Returns the network up to the logits."""
        config = self.config
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), _norm(config.norm, 16), nn.ReLU()]
        channels = 16
        for width in (16, 32, 64):
            for _ in range(config.blocks):
                layers.append(_Residual(channels, width, config.norm))
                channels = width
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        return model


class _Residual(nn.Module):
    def __init__(self, channels: int, width: int, norm: str) -> None:
        super().__init__()
        stride = 1 if channels == width else 2
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
            _norm(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            _norm(norm, width),
        )
        self.stride, self.added = stride, width - channels

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return torch.relu(self.body(x) + shortcut)


def _norm(name: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if name == "batch" else nn.GroupNorm(channels // 8, channels)
