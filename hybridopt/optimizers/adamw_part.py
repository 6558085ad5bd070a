"""AdamW for those parameters that a structured method has nothing better for."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw as _torch_adamw

from hybridopt.core import ConfigError


def adamw(
    parameters: Sequence[Tensor],
    state: MutableMapping[Any, Any],
    *,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
) -> None:
    """Does one step of AdamW (Loshchilov and Hutter 2019) by torch's own kernels, in place.

    Args:
        parameters: With a gradient each.
        state: The optimizer's state, in which torch's names are used: ``step``, ``exp_avg``, ``exp_avg_sq``.
        lr: Learning rate.
        betas: Decays of the mean gradient and of the mean square.
        eps: Added to the denominator.
        weight_decay: Decoupled.
    """
    for parameter in parameters:
        own = state[parameter]
        if "exp_avg" not in own:
            own["step"] = torch.zeros((), device="cpu")
            own["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            own["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    _torch_adamw(
        list(parameters),
        [parameter.grad for parameter in parameters],
        [state[parameter]["exp_avg"] for parameter in parameters],
        [state[parameter]["exp_avg_sq"] for parameter in parameters],
        [],
        [state[parameter]["step"] for parameter in parameters],
        amsgrad=False,
        beta1=betas[0],
        beta2=betas[1],
        lr=lr,
        weight_decay=weight_decay,
        eps=eps,
        maximize=False,
    )


def check_betas(betas: Sequence[float], *, owner: str) -> None:
    """Checks a pair of decays.

    Args:
        betas: Decays of the mean gradient and of the mean square.
        owner: The option's name, for the error message.

    Raises:
        ConfigError: If they are not two numbers in [0, 1).
    """
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ConfigError(
            f"{owner} must be two numbers, each at least 0 and below 1, such as [0.9, 0.999]; not {betas}."
        )
