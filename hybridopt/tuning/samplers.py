"""Where to look next: random points, a scrambled Sobol sequence, a grid."""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING, Any

from hybridopt.core import ConfigError, suggest
from hybridopt.tuning.dimensions import Choices

if TYPE_CHECKING:
    from hybridopt.tuning.space import Space

SAMPLERS = ("sobol", "random", "grid")
"""Names of the samplers."""


def draw(space: Space, count: int, sampler: str, seed: int) -> list[dict[str, Any]]:
    """Returns points of a space; see `Space.sample`.

    Args:
        space: The space.
        count: How many.
        sampler: One of `SAMPLERS`.
        seed: Of the random numbers.

    Raises:
        ConfigError: If there is no such sampler, or a grid has more points than wanted.
    """
    if sampler == "grid":
        return _grid(space, count)
    if sampler == "random":
        generator = random.Random(seed)
        return [space.at([generator.random() for _ in range(len(space))]) for _ in range(count)]
    if sampler == "sobol":
        return _sobol(space, count, seed)
    raise ConfigError(f"There is no sampler {sampler!r}.{suggest(sampler, SAMPLERS)} Known: {', '.join(SAMPLERS)}.")


def _sobol(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Joe and Kuo's direction numbers with Owen's scrambling, as in torch."""
    import torch

    if not len(space):
        return [{} for _ in range(count)]
    engine = torch.quasirandom.SobolEngine(len(space), scramble=True, seed=seed)
    return [space.at(point) for point in engine.draw(count, dtype=torch.float64).tolist()]


def _grid(space: Space, count: int) -> list[dict[str, Any]]:
    """The finest grid with equally many points along all ranges that has at most `count` points."""
    fixed = math.prod(len(one.values) for one in space.dimensions.values() if isinstance(one, Choices))
    ranges = sum(not isinstance(one, Choices) for one in space.dimensions.values())
    points = 2
    if fixed * points**ranges > count:
        raise ConfigError(
            f"A grid over {space} has at least {fixed * points**ranges} points, more than trials={count}. Raise "
            "trials, leave options out (--only optimizer.lr, or --space NAME=off), or take sampler=sobol."
        )
    while ranges and fixed * (points + 1) ** ranges <= count:
        points += 1
    axes = [one.grid(points) for one in space.dimensions.values()]
    return [dict(zip(space.dimensions, values, strict=True)) for values in itertools.product(*axes)]
