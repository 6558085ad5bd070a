"""What one optimizer leaves to the next: the mean gradient and the mean square, where both mean the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Offer = dict[Tensor, dict[str, Any]]
"""For each parameter: ``mean`` and ``square`` (unbiased running means of the gradient and of its square, either may
be missing) and ``steps``."""


def offered(groups: list[dict[str, Any]], state: Any) -> Offer:
    """Reads the running means of gradients from the state of one of torch's methods.

    Args:
        groups: The optimizer's groups.
        state: Its state. Of Adam and its relatives both means are taken, of SGD with momentum the mean, of RMSprop the
            square; of any other method nothing.
    """
    found: Offer = {}
    for group in groups:
        for parameter in group["params"]:
            held = state.get(parameter)
            if not isinstance(held, dict):
                continue
            steps = float(held["step"]) if "step" in held else 0.0
            entry: dict[str, Any] = {}
            if "exp_avg" in held and "exp_avg_sq" in held and steps > 0 and "betas" in group:
                decay, decay_square = (float(beta) for beta in group["betas"])
                entry["mean"] = held["exp_avg"] / (1 - decay**steps)
                entry["square"] = held["exp_avg_sq"] / (1 - decay_square**steps)
            elif "square_avg" in held and "alpha" in group and steps > 0:
                entry["square"] = held["square_avg"] / (1 - float(group["alpha"]) ** steps)
            elif isinstance(held.get("momentum_buffer"), Tensor) and 0 < group.get("momentum", 0) < 1:
                share = (1 - group["momentum"]) / (1 - group.get("dampening", 0.0))
                entry["mean"] = held["momentum_buffer"] * share
            if entry:
                found[parameter] = {**entry, "steps": max(1.0, steps)}
    return found


def take(member: Any, groups: list[dict[str, Any]], state: Any, offer: Offer) -> list[str]:
    """Writes what a member can use of an offer into its state.

    Args:
        member: The next optimizer. Adam, AMSGrad and AdamW take both means, if the square is there (a step over an
            unknown square would be any length); SGD with momentum the mean; RMSprop the square; others nothing.
        groups: Its groups, with its own options.
        state: Its state.
        offer: From `offered`.

    Returns:
        What was taken: ``mean``, ``square`` or both.
    """
    kind = getattr(member, "torch_class", None)
    taken: set[str] = set()
    for group in groups:
        for parameter in group["params"]:
            entry = offer.get(parameter)
            if entry is None or not parameter.requires_grad:
                continue
            if kind in (torch.optim.Adam, torch.optim.AdamW) and "square" in entry:
                state[parameter] = _adam(group, parameter, entry)
                taken |= {"mean", "square"} & entry.keys()
            elif kind is torch.optim.SGD and "mean" in entry and group["momentum"] > 0:
                share = (1 - group["dampening"]) / (1 - group["momentum"])
                state[parameter] = {"momentum_buffer": entry["mean"] * share}
                taken.add("mean")
            elif kind is torch.optim.RMSprop and "square" in entry:
                state[parameter] = _rmsprop(group, parameter, entry)
                taken.add("square")
    return sorted(taken)


def _adam(group: dict[str, Any], parameter: Tensor, entry: dict[str, Any]) -> dict[str, Any]:
    decay, decay_square = (float(beta) for beta in group["betas"])
    square = entry["square"] * (1 - decay_square ** entry["steps"])
    mean = entry["mean"] * (1 - decay ** entry["steps"]) if "mean" in entry else torch.zeros_like(square)
    state = {"step": _count(group, parameter, entry["steps"]), "exp_avg": mean, "exp_avg_sq": square}
    if group.get("amsgrad"):
        state["max_exp_avg_sq"] = square.clone()
    return state


def _rmsprop(group: dict[str, Any], parameter: Tensor, entry: dict[str, Any]) -> dict[str, Any]:
    square = entry["square"] * (1 - float(group["alpha"]) ** entry["steps"])
    state = {"step": _count(group, parameter, entry["steps"]), "square_avg": square}
    if group["momentum"] > 0:
        state["momentum_buffer"] = torch.zeros_like(square)
    if group["centered"]:
        state["grad_avg"] = torch.zeros_like(square)
    return state


def _count(group: dict[str, Any], parameter: Tensor, steps: float) -> Tensor:
    """The number of steps as torch keeps it: on the device only where its kernels want that."""
    on_device = group.get("fused") or group.get("capturable")
    return torch.tensor(steps, dtype=torch.float32, device=parameter.device if on_device else "cpu")
