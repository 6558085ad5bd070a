"""The cost of an optimization, counted where it is caused.

Every autograd call that an objective makes is entered here by the objective itself, so no optimizer can forget or
beautify its own bill. Raw counts are always kept; gradient-equivalents are derived from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WEIGHTS_VERSION = 1
"""Version of `WEIGHTS`; a change of a weight raises it, so that stored figures can be told apart."""

WEIGHTS: Mapping[str, float] = {"forward": 1 / 3, "gradient": 1.0, "hvp": 2.0, "ggnvp": 4 / 3}
"""Nominal price of each call in gradients of the same samples, the same on every machine.

A dense layer costs one matrix product forward and two backward, hence 1/3 for a forward. A Hessian product on a kept
graph redoes forward and backward tangents (6 products), a Gauss-Newton product the forward tangent and one backward
(4 products). A graph costs the gradient that it returns. What linear algebra the optimizer does beside is not
counted: figures in gradient-equivalents always stand beside seconds.
"""


class Ledger:
    """Counts of calls and of the samples that they ran on.

    Attributes:
        calls: Number of calls of each kind: ``forward`` (value only), ``gradient`` (value and gradient), ``hvp``
            (Hessian-vector product, per column) and ``ggnvp`` (Gauss-Newton-vector product, per column).
        samples: The same, each call weighted by its number of samples, or by what the objective's ``work`` counts
            instead, such as valid time steps.

    Example:
        >>> ledger = Ledger()
        >>> ledger.pay("gradient", 64)
        >>> ledger.pay("hvp", 32, columns=2)
        >>> ledger.gradient_equivalents(reference_samples=64)
        3.0
    """

    __slots__ = ("calls", "samples")

    def __init__(self) -> None:
        self.calls: dict[str, int] = dict.fromkeys(WEIGHTS, 0)
        self.samples: dict[str, int] = dict.fromkeys(WEIGHTS, 0)

    def pay(self, kind: str, samples: int, columns: int = 1) -> None:
        """Enters one call.

        Args:
            kind: ``"forward"``, ``"gradient"``, ``"hvp"`` or ``"ggnvp"``.
            samples: How many samples the call ran on, or its work in another unit.
            columns: How many vectors were multiplied, for the two products.
        """
        self.calls[kind] += columns
        self.samples[kind] += samples * columns

    def gradient_equivalents(self, reference_samples: int) -> float:
        """Returns the cost in gradients on `reference_samples` samples, by the nominal `WEIGHTS`.

        Args:
            reference_samples: Size, in the same unit, of the set on which one gradient is the unit; the training set
                of a task, so that one epoch of SGD costs 1.
        """
        total = sum(weight * self.samples[kind] for kind, weight in WEIGHTS.items())
        return total / max(1, reference_samples)

    @property
    def counts(self) -> dict[str, int]:
        """The number of calls of each kind."""
        return dict(self.calls)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain numbers from which `load_state_dict` goes on."""
        return {"calls": dict(self.calls), "samples": dict(self.samples), "weights_version": WEIGHTS_VERSION}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the counts of a saved ledger.

        Args:
            state: What `state_dict` returned.
        """
        self.calls = dict.fromkeys(WEIGHTS, 0) | {kind: int(count) for kind, count in state["calls"].items()}
        self.samples = dict.fromkeys(WEIGHTS, 0) | {kind: int(n) for kind, n in state["samples"].items()}

    def __repr__(self) -> str:
        return f"Ledger({', '.join(f'{kind}={count}' for kind, count in self.calls.items())})"
