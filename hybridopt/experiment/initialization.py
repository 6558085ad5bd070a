"""Where a run starts: initial parameters by rule instead of the task's own, or from a checkpoint.

A rule sets what it knows: the weights of linear layers, convolutions, recurrent layers (gate by gate) and attention
projections; their biases become zero. Normalization layers, embeddings, frozen parameters and parameters of modules of
one's own stay as the task made them, and the run's provenance names them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hybridopt.core import ConfigError, Registry, option

registry = Registry(
    "initialization",
    {
        "default": "hybridopt.experiment.initialization:Initialization",
        "xavier": "hybridopt.experiment.initialization:Xavier",
        "he": "hybridopt.experiment.initialization:He",
        "orthogonal": "hybridopt.experiment.initialization:Orthogonal",
        "sparse": "hybridopt.experiment.initialization:Sparse",
        "zero": "hybridopt.experiment.initialization:Zero",
        "checkpoint": "hybridopt.experiment.initial_checkpoint:Checkpoint",
    },
    entry_points="hybridopt.initializations",
)
"""Names of the config group ``initialization``."""

_RECURRENT = {nn.RNN: 1, nn.RNNCell: 1, nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
"""Recurrent layers, and how many gates lie on top of one another in their weights."""
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LAYERS = (*_PLAIN, *_TRANSPOSED, *_RECURRENT, nn.MultiheadAttention)


class Initialization:
    """Leaves the parameters as the task made them; base class of the others.

    Args:
        config: An instance of `Config`.
        seed: Of the run; every rule draws from a generator of its own.
    """

    @dataclasses.dataclass
    class Config:
        """No options."""

    summary: ClassVar[str] = "as the task has it"

    def __init__(self, config: Any, seed: int) -> None:
        self.config = config
        digest = hashlib.sha256(f"initialization:{seed}".encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def apply(self, model: nn.Module) -> dict[str, Any]:
        """Sets the parameters of a model in place.

        Args:
            model: Fresh, on the CPU.

        Returns:
            Facts for the run's provenance, plain data.

        Raises:
            ConfigError: If there is nothing in the model that the rule could set.
        """
        return {}


class Rule(Initialization):
    """Base of the rules: `fill` sets one weight, seen as (units, inputs, kernel...)."""

    embeddings: ClassVar[bool] = False
    """Whether the rule sets embeddings, too."""

    def fill(self, weight: Tensor) -> None:
        """Sets a weight in place.

        Args:
            weight: Shape (units, inputs to each unit, kernel...), contiguous; one gate of a recurrent layer.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say how it fills: define fill(self, weight).")

    @torch.no_grad()
    def apply(self, model: nn.Module) -> dict[str, Any]:
        """Fills every weight that the rule knows and sets the biases beside them to zero."""
        done: set[int] = set()
        for module in model.modules():
            for parameter, blocks in _blocks(module, embeddings=self.embeddings):
                if id(parameter) in done or not parameter.requires_grad:  # tied, or frozen
                    continue
                done.add(id(parameter))
                for block in blocks:
                    fresh = torch.zeros(block.shape, dtype=block.dtype)
                    self.fill(fresh)
                    block.copy_(fresh)
                if not blocks:
                    parameter.zero_()
        names = dict(model.named_parameters())
        if not done:
            raise ConfigError(
                f"initialization={type(self).__name__.lower()} finds no layer that it knows (linear, convolution, "
                "recurrent, attention) in this task's model. Use initialization=default or checkpoint."
            )
        return {
            "set": [name for name, parameter in names.items() if id(parameter) in done],
            "left": [name for name, parameter in names.items() if id(parameter) not in done],
        }


class Xavier(Rule):
    """Variance 2 gain^2 / (fan_in + fan_out) (Glorot and Bengio 2010), by torch's ``xavier_...``."""

    @dataclasses.dataclass
    class Config:
        """Options of `Xavier`.

        Attributes:
            distribution: ``uniform`` or ``normal``.
            gain: Factor on the deviation.
        """

        distribution: str = option("uniform", choices=["uniform", "normal"])
        gain: float = option(1.0, gt=0, search=("log", 0.1, 10.0), help="factor on the deviation")

    summary = "variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010)"

    def fill(self, weight: Tensor) -> None:
        """Draws a weight."""
        draw = nn.init.xavier_uniform_ if self.config.distribution == "uniform" else nn.init.xavier_normal_
        draw(weight, self.config.gain, generator=self.generator)


class He(Rule):
    """Variance gain^2 / fan (He, Zhang, Ren and Sun 2015), by torch's ``kaiming_normal_`` or ``_uniform_``."""

    @dataclasses.dataclass
    class Config:
        """Options of `He`.

        Attributes:
            distribution: ``normal``, as published, or ``uniform``.
            fan: ``in`` keeps the size of activations, ``out`` that of gradients.
            gain: sqrt(2), rounded, for ReLU and its smooth relatives; 1 for none or tanh.
        """

        distribution: str = option("normal", choices=["normal", "uniform"])
        fan: str = option("in", choices=["in", "out"], help="in keeps the size of activations, out that of gradients")
        gain: float = option(
            2.0**0.5, gt=0, search=("log", 0.1, 10.0), help="factor on the deviation; sqrt(2) for ReLU"
        )

    summary = "variance 2 / fan_in (He et al. 2015)"

    def fill(self, weight: Tensor) -> None:
        """Draws a weight."""
        draw = nn.init.kaiming_uniform_ if self.config.distribution == "uniform" else nn.init.kaiming_normal_
        draw(weight, mode=f"fan_{self.config.fan}", nonlinearity="linear", generator=self.generator)
        weight.mul_(self.config.gain)


class Orthogonal(Rule):
    """Orthonormal rows or columns (Saxe, McClelland and Ganguli 2014), by torch's ``orthogonal_``."""

    @dataclasses.dataclass
    class Config:
        """Options of `Orthogonal`.

        Attributes:
            gain: All singular values.
        """

        gain: float = option(1.0, gt=0, search=("log", 0.1, 10.0), help="all singular values")

    summary = "orthonormal rows or columns (Saxe et al. 2014)"

    def fill(self, weight: Tensor) -> None:
        """Draws a weight; a kernel counts as one row of inputs."""
        nn.init.orthogonal_(weight, self.config.gain, generator=self.generator)


class Sparse(Rule):
    """A few normal weights into each unit, all others zero (Martens 2010, section 5, who has 15 of deviation 1)."""

    @dataclasses.dataclass
    class Config:
        """Options of `Sparse`.

        Attributes:
            nonzero: Weights into each unit that are not zero; all of them where there are fewer.
            deviation: Of those.
        """

        nonzero: int = option(15, ge=1, help="weights into each unit that are not zero")
        deviation: float = option(1.0, gt=0, search=("log", 0.1, 10.0), help="of those")

    summary = "15 weights of deviation 1 into each unit, the others zero (Martens 2010)"

    def fill(self, weight: Tensor) -> None:
        """Draws a weight."""
        rows = weight.view(len(weight), -1)
        count = min(self.config.nonzero, rows.shape[1])
        place = torch.rand(rows.shape, generator=self.generator).topk(count, dim=1).indices
        values = torch.randn(place.shape, generator=self.generator, dtype=weight.dtype) * self.config.deviation
        rows.scatter_(1, place, values)


class Zero(Rule):
    """All weights and biases zero, embeddings included: a saddle point of any network with a hidden layer."""

    summary = "weights, biases and embeddings zero"
    embeddings = True

    def fill(self, weight: Tensor) -> None:
        """Leaves the zeros."""


def _blocks(module: nn.Module, *, embeddings: bool) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Returns a module's own parameters with views (units, inputs, ...) of their weights; no views for a bias."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        if embeddings:
            yield module.weight, [module.weight]
        return
    kind = next((layer for layer in _LAYERS if isinstance(module, layer)), None)
    if kind is None:
        return
    for name, parameter in module.named_parameters(recurse=False):
        if name == "bias" or name.startswith("bias_ih") or name.startswith("bias_hh") or name == "in_proj_bias":
            yield parameter, []
        elif kind in _PLAIN and name == "weight":
            yield parameter, [parameter]
        elif kind in _TRANSPOSED and name == "weight":
            yield parameter, [group.transpose(0, 1) for group in parameter.chunk(module.groups)]
        elif kind in _RECURRENT and name.startswith(("weight_ih", "weight_hh")):
            yield parameter, list(parameter.chunk(_RECURRENT[kind]))
        elif kind in _RECURRENT and name.startswith("weight_hr"):
            yield parameter, [parameter]
        elif name == "in_proj_weight":
            yield parameter, list(parameter.chunk(3))
        elif name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            yield parameter, [parameter]
