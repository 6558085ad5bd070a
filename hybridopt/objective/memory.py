"""How many samples fit into a memory budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridopt.core import ObjectiveError
from hybridopt.objective.randomness import RandomState

if TYPE_CHECKING:
    from hybridopt.objective.objective import Objective

_WORKING = 2.5
"""Memory at a product's peak over that of the kept graph: intermediate cotangents live beside it."""
_TRIALS = (2, 6)
"""Samples in the two trial points; the graph grows linearly from one to the other."""


def graph_bytes(objective: Objective) -> int:
    """Returns how many bytes the graph of a point keeps beside the parameters, the batch and the buffers.

    Costs one gradient on the objective's batch; leaves random generators and the objective as they were.

    Args:
        objective: Where.
    """
    space = objective.space
    module = objective.model
    known = {tensor.untyped_storage().data_ptr() for tensor in [*space.parameters, *module.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    state = RandomState(space.device)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            objective.at().release()
    finally:
        state.restore()
        objective.renew()
    return sum(kept.values())


def samples_within(objective: Objective, budget: float) -> int:
    """Returns how many samples a micro-batch may have for a point and its products to stay within a budget.

    Args:
        objective: On the whole batch.
        budget: Bytes, beside the parameters and a few vectors of their length.

    Raises:
        ObjectiveError: If the budget is too small for one sample, or the batch cannot be divided.
    """
    from hybridopt.objective.micro_batch import MicroBatched

    few, many = (_measure(MicroBatched.of(objective, size, "mean")) for size in _TRIALS)
    if few[0] == many[0]:
        return many[0]  # the whole batch is no larger than a trial
    per_sample = max(0.0, (many[1] - few[1]) / (many[0] - few[0]))
    fixed = max(0.0, few[1] - few[0] * per_sample)
    size = int((budget / _WORKING - fixed) / per_sample) if per_sample else objective.samples
    if size < 1:
        least = _WORKING * (fixed + per_sample)
        raise ObjectiveError(
            f"A memory budget of {budget:.3g} bytes is too small: one sample takes about {least:.3g}. Raise it, or "
            "make the model smaller."
        )
    return size


def _measure(pieces: Objective) -> tuple[int, int]:
    piece = pieces.pieces[0][1]  # type: ignore[attr-defined]
    return piece.samples, graph_bytes(piece)
