"""Residuals of the test functions of More, Garbow and Hillstrom (ACM TOMS 7:17-41, 1981) with a fixed dimension.

Numbers in comments are those of the paper. Every function takes the parameters x, shape (n,), in any floating-point
dtype and on any device, and returns the residuals r, shape (m,); the test function is the sum of their squares.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def counter(x: Tensor, last: int, first: int = 1) -> Tensor:
    """Returns first, ..., last as a vector of the dtype and on the device of another.

    Args:
        x: The other.
        last: Last number.
        first: First number.
    """
    return torch.arange(first, last + 1, dtype=x.dtype, device=x.device)


def _like(x: Tensor, numbers: tuple[float, ...]) -> Tensor:
    return torch.tensor(numbers, dtype=x.dtype, device=x.device)


def rosenbrock(x: Tensor) -> Tensor:
    """Rosenbrock's valley, 1 and 21: pairs of parameters, n even."""
    a, b = x[0::2], x[1::2]
    return torch.stack([10 * (b - a * a), 1 - a], dim=1).reshape(-1)


def freudenstein_roth(x: Tensor) -> Tensor:
    """Freudenstein and Roth's, 2."""
    a, b = x
    return torch.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def powell_badly_scaled(x: Tensor) -> Tensor:
    """Powell's badly scaled one, 3."""
    a, b = x
    return torch.stack([1e4 * a * b - 1, torch.exp(-a) + torch.exp(-b) - 1.0001])


def brown_badly_scaled(x: Tensor) -> Tensor:
    """Brown's badly scaled one, 4."""
    a, b = x
    return torch.stack([a - 1e6, b - 2e-6, a * b - 2])


def beale(x: Tensor) -> Tensor:
    """Beale's, 5."""
    a, b = x
    return _like(x, (1.5, 2.25, 2.625)) - a * (1 - torch.stack([b, b * b, b * b * b]))


def jennrich_sampson(x: Tensor) -> Tensor:
    """Jennrich and Sampson's, 6, m = 10."""
    i = counter(x, 10)
    return 2 + 2 * i - (torch.exp(i * x[0]) + torch.exp(i * x[1]))


def helical_valley(x: Tensor) -> Tensor:
    """Fletcher and Powell's helical valley, 7."""
    a, b, c = x
    # The angle of (a, b) in turns, in (-1/4, 3/4]: the paper's two branches in one.
    theta = 0.25 + torch.atan2(-a, b) / (2 * math.pi)
    return torch.stack([10 * (c - 10 * theta), 10 * (torch.sqrt(a * a + b * b) - 1), c])


_BARD = (0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)


def bard(x: Tensor) -> Tensor:
    """Bard's, 8."""
    u = counter(x, 15)
    v = 16 - u
    return _like(x, _BARD) - (x[0] + u / (v * x[1] + torch.minimum(u, v) * x[2]))


_HALF_BELL = (0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521)
_BELL = (*_HALF_BELL, 0.3989, *reversed(_HALF_BELL))


def gaussian(x: Tensor) -> Tensor:
    """The fit of a Gaussian, 9."""
    t = (8 - counter(x, 15)) / 2
    return x[0] * torch.exp(-x[1] * (t - x[2]) ** 2 / 2) - _like(x, _BELL)


_MEYER = (
    *(34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744),
    *(8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872),
)


def meyer(x: Tensor) -> Tensor:
    """Meyer's thermistor, 10."""
    t = 45 + 5 * counter(x, 16)
    return x[0] * torch.exp(x[1] / (t + x[2])) - _like(x, _MEYER)


def gulf(x: Tensor) -> Tensor:
    """The Gulf research function, 11, m = 99; with |y_i - x_2|, as in the authors' code, the paper has a misprint."""
    t = counter(x, 99) / 100
    y = 25 + (-50 * torch.log(t)) ** (2 / 3)
    return torch.exp(-((y - x[1]).abs() ** x[2]) / x[0]) - t


def box(x: Tensor) -> Tensor:
    """Box's in three dimensions, 12, m = 10."""
    t = counter(x, 10) / 10
    return torch.exp(-t * x[0]) - torch.exp(-t * x[1]) - x[2] * (torch.exp(-t) - torch.exp(-10 * t))


def powell_singular(x: Tensor) -> Tensor:
    """Powell's singular one, 13 and 22: blocks of four parameters."""
    a, b, c, d = x[0::4], x[1::4], x[2::4], x[3::4]
    rows = [a + 10 * b, math.sqrt(5) * (c - d), (b - 2 * c) ** 2, math.sqrt(10) * (a - d) ** 2]
    return torch.stack(rows, dim=1).reshape(-1)


def wood(x: Tensor) -> Tensor:
    """Wood's, 14."""
    a, b, c, d = x
    return torch.stack(
        [
            10 * (b - a * a),
            1 - a,
            math.sqrt(90) * (d - c * c),
            1 - c,
            math.sqrt(10) * (b + d - 2),
            (b - d) / math.sqrt(10),
        ]
    )


_KOWALIK_Y = (0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
_KOWALIK_U = (4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)


def kowalik_osborne(x: Tensor) -> Tensor:
    """Kowalik and Osborne's, 15."""
    u = _like(x, _KOWALIK_U)
    return _like(x, _KOWALIK_Y) - x[0] * (u * u + u * x[1]) / (u * u + u * x[2] + x[3])


def brown_dennis(x: Tensor) -> Tensor:
    """Brown and Dennis's, 16, m = 20."""
    t = counter(x, 20) / 5
    return (x[0] + t * x[1] - torch.exp(t)) ** 2 + (x[2] + x[3] * torch.sin(t) - torch.cos(t)) ** 2


_OSBORNE_1 = (
    *(0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751),
    *(0.718, 0.685, 0.658, 0.628, 0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490),
    *(0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411, 0.406),
)


def osborne_1(x: Tensor) -> Tensor:
    """Osborne's first, 17: two exponentials."""
    t = 10 * (counter(x, 33) - 1)
    return _like(x, _OSBORNE_1) - (x[0] + x[1] * torch.exp(-t * x[3]) + x[2] * torch.exp(-t * x[4]))


def biggs_exp6(x: Tensor) -> Tensor:
    """Biggs's EXP6, 18, m = 13."""
    t = counter(x, 13) / 10
    y = torch.exp(-t) - 5 * torch.exp(-10 * t) + 3 * torch.exp(-4 * t)
    return x[2] * torch.exp(-t * x[0]) - x[3] * torch.exp(-t * x[1]) + x[5] * torch.exp(-t * x[4]) - y


_OSBORNE_2 = (
    *(1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608),
    *(0.655, 0.616, 0.606, 0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661),
    *(0.612, 0.558, 0.533, 0.495, 0.500, 0.423, 0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428),
    *(0.429, 0.523, 0.562, 0.607, 0.653, 0.672, 0.708, 0.633, 0.668, 0.645, 0.632, 0.591, 0.559),
    *(0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581, 0.428, 0.292, 0.162, 0.098, 0.054),
)


def osborne_2(x: Tensor) -> Tensor:
    """Osborne's second, 19: an exponential and three bells."""
    t = (counter(x, 65) - 1) / 10
    bells = x[1:4, None] * torch.exp(-((t - x[8:, None]) ** 2) * x[5:8, None])
    return _like(x, _OSBORNE_2) - (x[0] * torch.exp(-t * x[4]) + bells.sum(dim=0))
