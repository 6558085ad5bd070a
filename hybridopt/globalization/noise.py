"""The rounding noise of a computed function value."""

from __future__ import annotations

import math


def noise_floor(value: float, eps: float, factor: float = 10.0) -> float:
    """Returns the change of a function value below which it says nothing: ``factor * eps * |value|``.

    Near a minimum the decrease that a step can bring falls below the rounding of the value itself. Every
    acceptance rule of this package takes such a floor and treats smaller differences as none, or it would
    reject good steps and shrink forever (Conn, Gould and Toint 2000, section 17.4.2; Hager and Zhang 2005,
    section 1).

    Args:
        value: The function value.
        eps: Unit of rounding of the arithmetic that it was computed in, e.g. ``torch.finfo(dtype).eps``.
        factor: How many units the value may be off.

    Returns:
        The floor, >= 0; zero for a value that is not finite.

    Example:
        >>> noise_floor(2.0, 1e-7)
        2e-06
    """
    return factor * eps * abs(value) if math.isfinite(value) else 0.0


def seen_length(curvature: float, noise: float) -> float:
    """Returns how far a step along negative curvature has to go from a stationary point to be seen in the values.

    There a quadratic model falls by twice the noise. Shorter steps say nothing, whatever the units of the parameters.

    Args:
        curvature: Along a unit vector, < 0.
        noise: Noise floor of the function, see `noise_floor`.

    Example:
        >>> seen_length(-1.0, 1e-12)
        2e-06
    """
    return math.sqrt(4.0 * noise / -curvature)
