"""Between what a weight that adapts may move: a trust radius, a damping, the weight of a cubic term."""

from __future__ import annotations

import sys


def limits(first: float, least: float, most: float) -> tuple[float, float]:
    """Returns the limits of a weight that may begin far from 1, in the units of a function or its parameters.

    Limits only keep a weight from vanishing or overflowing. As absolute numbers they would be in the way where the
    units make the weight itself small or large, so then they move with it.

    Args:
        first: Where the weight begins, over what is usual; > 0.
        least: Lower limit of a weight that begins as usual.
        most: Upper one.

    Example:
        >>> limits(1.0, 1e-12, 1e12), limits(1e-8, 1e-12, 1e12), limits(100.0, 1e-12, 1e12)
        ((1e-12, 1000000000000.0), (1e-20, 1000000000000.0), (1e-12, 100000000000000.0))
    """
    return max(least * min(1.0, first), sys.float_info.min), most * max(1.0, first)
