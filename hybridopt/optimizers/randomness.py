"""Random numbers of a method's own, which go on after a resumed run where they stopped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hybridopt.escape.along import normal
from hybridopt.objective import ParameterSpace


def remembered(memory: dict[str, Any], seed: int) -> torch.Generator:
    """Returns a generator, on the CPU, in the state that ``memory["random"]`` has, or a newly seeded one.

    Whoever draws from it puts the new state back: ``memory["random"] = generator.get_state()``.

    Args:
        memory: Where the state is, if there is one.
        seed: For the first time.
    """
    generator = torch.Generator()
    if "random" in memory:
        generator.set_state(memory["random"].cpu())
    else:
        generator.manual_seed(seed)
    return generator


def random_vector(memory: dict[str, Any], seed: int, space: ParameterSpace) -> Tensor:
    """Returns the next normal vector, shape (n,), and remembers the generator's new state.

    Args:
        memory: As for `remembered`.
        seed: For the first time.
        space: For size, device and dtype.
    """
    generator = remembered(memory, seed)
    vector = normal(space.n, generator, space)
    memory["random"] = generator.get_state()
    return vector
