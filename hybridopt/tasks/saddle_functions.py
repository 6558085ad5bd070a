"""Formulas with saddle points, as plain functions of torch tensors; smooth to the second derivative at least."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TAU = math.e
"""The length scale of the octopus function in the experiments of Du et al. 2017."""


def octopus(x: Tensor, L: float = 1.0, gamma: float = 1.0, tau: float = TAU) -> Tensor:
    """The function of Du, Jin, Lee, Jordan, Poczos and Singh 2017 on which gradient descent meets d saddles in a row.

    Twice continuously differentiable on ``|x_j| <= 6 tau``; the origin is the first saddle, with eigenvalue -2 gamma
    along x_1; the minimizers have all ``|x_j| = 4 tau`` and the value `octopus_minimum`.

    Args:
        x: Shape (d,).
        L: Half the curvature of the valleys.
        gamma: Half the negative curvature at the saddles.
        tau: Length scale.

    Returns:
        The value, a 0-dim tensor.
    """
    a = _even(x)
    d = a.numel()
    nu = octopus_drop(L, gamma, tau)
    places = a.detach().tolist()
    done = 0
    # The first coordinate that has not passed its saddle decides the piece.
    while done < d and places[done] >= 2 * tau:
        done += 1
    value = L * (a[:done] - 4 * tau).square().sum() - done * nu
    if done == d:
        return value
    turn = a[done]
    if places[done] <= tau:
        return value - gamma * turn**2 + L * a[done + 1 :].square().sum()
    value = value + _bend(turn, L, gamma, tau)
    if done + 1 < d:
        value = value + _fade(turn, L, gamma, tau) * a[done + 1] ** 2 + L * a[done + 2 :].square().sum()
    return value


def octopus_drop(L: float = 1.0, gamma: float = 1.0, tau: float = TAU) -> float:
    """Returns by how much the octopus function falls from one saddle to the next (nu of the paper).

    Args:
        L: As for `octopus`.
        gamma: As for `octopus`.
        tau: As for `octopus`.

    Example:
        >>> round(octopus_drop(1.5), 3)
        84.358
    """
    return -_bend(2 * tau, L, gamma, tau) + 4 * L * tau**2


def octopus_minimum(d: int, L: float = 1.0, gamma: float = 1.0, tau: float = TAU) -> float:
    """Returns the least value of the octopus function, ``-d nu``.

    Args:
        d: Number of variables.
        L: As for `octopus`.
        gamma: As for `octopus`.
        tau: As for `octopus`.
    """
    return -d * octopus_drop(L, gamma, tau)


def w_shape(x: Tensor, eps: float = 0.01, L: float = 5.0) -> Tensor:
    """The function of Tripuraneni, Stern, Jin, Regier and Jordan 2018: ``w(x_1) + 10 x_2^2``, w like the letter.

    A saddle with eigenvalue -2 sqrt(eps) at the origin; minimizers at ``x_1 = +-(L + 1) sqrt(eps)``, where the value
    is ``-(3 L + 1) eps^1.5 / 3``.

    Args:
        x: Shape (2,).
        eps: Scale.
        L: Length of the straight pieces of w in units of sqrt(eps).

    Returns:
        The value, a 0-dim tensor.
    """
    s = math.sqrt(eps)
    a = _even(x[0])
    place = float(a.detach())
    if place <= s:
        w = -s * a**2 + a**3 / 3
    elif place <= L * s:
        w = -eps * a + eps**1.5 / 3
    else:
        b = a - (L + 1) * s
        w = s * b**2 + b**3 / 3 - (3 * L + 1) * eps**1.5 / 3
    return w + 10 * x[1] ** 2


def single_descent(x: Tensor) -> Tensor:
    """``-x_1^2 / 2 + x_1^4 / 4`` and a bowl in all other variables: one direction leads down, among any number.

    For the claim of Jin et al. 2017 that the time to leave grows with the logarithm of the dimension. The minimizers
    are +-e_1, with value -1/4.

    Args:
        x: Shape (d,).
    """
    return -(x[0] ** 2) / 2 + x[0] ** 4 / 4 + x[1:].square().sum() / 2


def monkey(x: Tensor) -> Tensor:
    """A monkey saddle in a bowl, ``r^3 cos(3 phi) + r^4 / 4``: no curvature at all at the origin.

    The minimizers lie at r = 3 in three directions, with value -6.75.

    Args:
        x: Shape (2,).
    """
    return x[0] ** 3 - 3 * x[0] * x[1] ** 2 + x.square().sum() ** 2 / 4


def _even(x: Tensor) -> Tensor:
    """The absolute value of an argument of even functions, for which it is no kink."""
    return torch.where(x < 0, -x, x)


def _bend(x: Tensor | float, L: float, gamma: float, tau: float) -> Tensor | float:
    """g1 of the paper: from the parabola that falls to the one that is to come."""
    u = x - tau
    return -gamma * x**2 + (-14 * L + 10 * gamma) * u**3 / (3 * tau) + (5 * L - 3 * gamma) * u**4 / (2 * tau**2)


def _fade(x: Tensor, L: float, gamma: float, tau: float) -> Tensor:
    """g2 of the paper: half the curvature of the next variable, from L to -gamma."""
    u = (x - 2 * tau) / tau
    return -gamma - (L + gamma) * (10 * u**3 + 15 * u**4 + 6 * u**5)
