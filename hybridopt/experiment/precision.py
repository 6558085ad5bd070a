"""In which floating-point type the forward pass computes; parameters stay in the run's dtype."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hybridopt.core import CombinationError, Registry

registry = Registry(
    "precision",
    {
        "full": "hybridopt.experiment.precision:Precision",
        "bf16_autocast": "hybridopt.experiment.precision:BF16Autocast",
    },
    entry_points="hybridopt.precisions",
)
"""Names of the config group ``precision``."""


class Precision:
    """Everything in the run's dtype; base class of the others.

    Args:
        config: An instance of `Config`.
        dtype: Of the run.
    """

    @dataclasses.dataclass
    class Config:
        """No options."""

    summary: ClassVar[str] = "everything in the run's dtype"

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        self.config = config

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Makes a model compute in this precision, in place.

        Args:
            model: The module.
            device: Where it computes.
        """


class BF16Autocast(Precision):
    """The model's forward pass under ``torch.autocast`` to bfloat16; parameters, outputs and the loss are float32.

    What autocast holds for safe (matrix products, convolutions, recurrent layers) is computed with the 8 bits of
    bfloat16, in training and in evaluation; gradients and curvature products go back through the same operations. The
    outputs return to float32 before the loss. The names in the model's ``state_dict`` stay what they were.

    Every optimizer runs so; curvature products agree with those in float32 to a few parts in a thousand. Acceptance
    tests keep the noise floors of float32: close to a minimum, where values differ by less than bfloat16 resolves,
    methods with such a test begin to reject steps.

    Args:
        config: An instance of `Config`.
        dtype: Of the run.

    Raises:
        CombinationError: If the run is in float64, which autocast leaves alone.
    """

    summary = "forward pass under bfloat16 autocast, parameters in float32"

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        if dtype != torch.float32:
            raise CombinationError(
                "precision=bf16_autocast needs dtype=float32: autocast leaves float64 as it is. Use dtype=float32 or "
                "precision=full."
            )

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Puts autocast around the model's forward pass by hooks."""
        region = _Region(device.type)
        model.register_forward_pre_hook(region.enter)
        model.register_forward_hook(region.leave, always_call=True)


class _Region:
    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self._open: list[torch.autocast] = []

    def enter(self, module: nn.Module, inputs: Any) -> None:
        context = torch.autocast(self.device_type, dtype=torch.bfloat16)
        context.__enter__()
        self._open.append(context)

    def leave(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        self._open.pop().__exit__(None, None, None)
        return tree_map(_widened, outputs)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
