"""Random directions, and how far to jump along one of negative curvature."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridopt.globalization import noise_floor
from hybridopt.objective import Objective, ParameterSpace


def search_along(
    objective: Objective, direction: Tensor, value: float, *, first_step: float, doublings: int
) -> tuple[Tensor | None, float]:
    """Tries both signs, lengthens the jump while the function falls, or shortens it until it does.

    The function is even to second order along a direction at a stationary point, so the sign has to be tried.

    Args:
        objective: Stands where the jump starts.
        direction: Shape (n,), of unit length or nearly.
        value: The function there.
        first_step: First trial length.
        doublings: How often it may be doubled, or halved.

    Returns:
        The jump, shape (n,), and by how much the function is lower there; None and 0 if it falls nowhere tried.
    """
    origin = objective.position()
    floor = noise_floor(value, objective.eps)

    def trial(step: float) -> float:
        found = objective.value(origin.add(direction, alpha=step))
        return found if found == found else float("inf")

    pair = {sign * first_step: trial(sign * first_step) for sign in (1.0, -1.0)}
    best = min(pair, key=lambda step: pair[step])
    lowest = pair[best]
    if lowest < value - floor:
        for _ in range(doublings):
            further = trial(2 * best)
            if not further < lowest:
                break
            best, lowest = 2 * best, further
        return best * direction, value - lowest
    for _ in range(doublings):
        best /= 2
        for sign in (1.0, -1.0):
            lowest = trial(sign * best)
            if lowest < value - floor:
                return sign * best * direction, value - lowest
    return None, 0.0


def with_noise(direction: Tensor, share: float, random: torch.Generator, space: ParameterSpace) -> Tensor:
    """Returns a direction at unit length with noise of a share of that length added.

    Args:
        direction: Shape (n,).
        share: Length of the noise.
        random: On the CPU.
        space: For device and dtype.
    """
    noise = normal(space.n, random, space)
    return direction / torch.linalg.vector_norm(direction) + noise * (share / torch.linalg.vector_norm(noise))


def normal(n: int, random: torch.Generator, space: ParameterSpace) -> Tensor:
    """Returns a normal vector, drawn in float64 on the CPU so that it is the same everywhere.

    Args:
        n: Its length.
        random: On the CPU.
        space: For device and dtype.
    """
    return torch.randn(n, generator=random, dtype=torch.float64, device="cpu").to(space.device, space.dtype)


def on_sphere(space: ParameterSpace, radius: float, random: torch.Generator) -> Tensor:
    """Returns a uniformly random point of the sphere of a radius around zero.

    Args:
        space: For size, device and dtype.
        radius: Of the sphere.
        random: On the CPU.
    """
    direction = torch.randn(space.n, generator=random, dtype=torch.float64, device="cpu")
    return (direction * (radius / torch.linalg.vector_norm(direction))).to(space.device, space.dtype)
