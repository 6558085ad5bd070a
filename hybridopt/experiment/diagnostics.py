"""What a run looks at beside its losses: how large the gradient of each layer is."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from hybridopt.objective import Objective
from hybridopt.objective.randomness import RandomState

SAMPLES = 512
"""Most samples of a batch that a diagnostic gradient is taken on."""

_OF_LAYER = re.compile(r"^(?:weight|bias)_(?:ih|hh|hr)_(l\d+(?:_reverse)?)$")


def gradient_norms(
    model: nn.Module, loss: Any, inputs: Any, targets: Any, *, vanishing: float, exploding: float
) -> dict[str, Any]:
    """Returns the Euclidean norm of the gradient of every layer, and the layers where it vanishes or explodes.

    A layer is a module with parameters of its own; the layers of a recurrent module are told apart. The gradient is one
    more, on at most `SAMPLES` samples and in the model's present mode; neither the model, its buffers, the random
    numbers nor a ledger notice.

    Args:
        model: The module.
        loss: ``loss(outputs, targets)``.
        inputs: A batch, tensor.
        targets: What belongs to it, tensor.
        vanishing: A norm below this share of the largest one is flagged.
        exploding: A norm above this, or not finite, is flagged.

    Returns:
        ``norms`` (layer to norm), ``ratio`` (smallest over largest), ``vanishing`` and ``exploding`` (flagged layers
        with their norms).

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x, y = torch.ones(4, 2), torch.zeros(4, 1)
        >>> found = gradient_norms(model, nn.functional.mse_loss, x, y, vanishing=1e-7, exploding=1e3)
        >>> list(found["norms"]), found["exploding"]
        (['0', '2'], {})
    """
    objective = Objective(model, loss, inputs[:SAMPLES], targets[:SAMPLES])
    state = RandomState(objective.space.device)
    try:
        _, gradient = objective.value_and_grad()
    finally:
        state.restore()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    squares: dict[str, torch.Tensor] = {}
    parameters = objective.space.parameters
    for parameter, part in zip(parameters, objective.space.tensors(gradient), strict=True):
        layer = _layer(names.get(id(parameter), "loss"))
        squares[layer] = squares.get(layer, 0.0) + part.double().square().sum()
    values = torch.stack(list(squares.values())).sqrt().tolist()
    norms = dict(zip(squares, values, strict=True))
    finite = [norm for norm in values if math.isfinite(norm)]
    largest = max(finite, default=math.nan)
    return {
        "norms": norms,
        "ratio": min(finite) / largest if finite and largest > 0 else math.nan,
        "vanishing": {layer: norm for layer, norm in norms.items() if norm < vanishing * largest},
        "exploding": {layer: norm for layer, norm in norms.items() if not norm <= exploding},
    }


def _layer(name: str) -> str:
    """Returns the layer of a parameter: its module, and the number of the layer within a recurrent one."""
    module, _, own = name.rpartition(".")
    found = _OF_LAYER.match(own)
    if found is not None:
        return f"{module}.{found.group(1)}".lstrip(".")
    return module or own
