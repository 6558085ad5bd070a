"""No escape: the optimizer is left to itself."""

from __future__ import annotations

from dataclasses import dataclass

from hybridopt.escape.base import Escape
from hybridopt.objective import Objective


@dataclass
class NoEscapeConfig:
    """No options."""


class NoEscape(Escape):
    """Leaves the optimizer to itself; naming it is the same as giving no escape.

    Args:
        config: An instance of `Config`.
    """

    Config = NoEscapeConfig
    summary = "nothing is done at a saddle"

    def settled(self, optimizer: object) -> bool:
        """Returns True: there is nothing to wait for.

        Args:
            optimizer: The optimizer.
        """
        return True

    def after_step(self, optimizer: object, objective: Objective) -> None:
        """Does nothing.

        Args:
            optimizer: The optimizer.
            objective: The objective.
        """
