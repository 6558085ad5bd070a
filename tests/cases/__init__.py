"""A catalogue of small problems: every kind of layer, input, output and loss that an objective must cope with.

Each case builds a fresh model, its loss and a batch from a fixed seed, in float32 or float64 with the same values,
and has fewer than 200 parameters, so that dense float64 references are cheap. Nothing here uses hybridopt: the same
builders serve the references.
"""

from __future__ import annotations

import pytest
import torch

from tests.cases import attention, autograd_inside, feed_forward, forms, parameters, recurrent, statistics
from tests.cases.base import SEED, Apply, Case, CubeOnce, Problem

__all__ = ["BY_NAME", "CASES", "DTYPES", "SEED", "Apply", "Case", "CubeOnce", "Problem", "cases"]

CASES: list[Case] = [
    case
    for kind in (feed_forward, statistics, recurrent, attention, parameters, forms, autograd_inside)
    for case in kind.CASES
]

BY_NAME = {case.name: case for case in CASES}


def cases(*names: str, **flags: bool) -> pytest.MarkDecorator:
    """Parametrizes a test with `case`: the named ones, or those whose flags are as given, or all.

    Args:
        *names: Names of cases.
        **flags: Values of `random`, `buffers`, `mixed`, `loss_fn`.
    """
    chosen = [BY_NAME[name] for name in names] if names else CASES
    chosen = [case for case in chosen if all(getattr(case, flag) == value for flag, value in flags.items())]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
