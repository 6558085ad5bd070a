"""Several escapes, one after the other at the same stall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError, option
from hybridopt.escape.base import Escape, EscapeConfig, Proposal, resolve_escape
from hybridopt.objective import Objective

if TYPE_CHECKING:
    from hybridopt.optimizers.base import Stepping


@dataclass
class ChainConfig(EscapeConfig):
    """Options of `Chain`; those of the transaction hold for all its members.

    Attributes:
        escapes: The members in order: names, or mappings with ``name`` and options.
        tries: Attempts of a member that does not set its own.
    """

    escapes: list[Any] = option(["perturbation", "negative_curvature"], help="names, or mappings with name and options")
    tries: int = option(2, ge=1, help="attempts of each member that does not set its own")


class Chain(Escape):
    """Tries one escape, and the next one where that fails: a cheap one first, say, then one that costs products.

    All attempts at a stall start from the same snapshot. Each member makes as many as its own `tries` says, fewer if
    it finds no direction; then it is the next one's turn. A list given as ``escape`` is a chain:
    ``escape=["perturbation", {"name": "negative_curvature", "products": 50}]``.

    Args:
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`. Members may also be `Escape` instances.

    Raises:
        ConfigError: If there are no members.
        CombinationError: If a member is itself a chain, or sets an option of the transaction (how a stall is noticed,
            windows, seed), which the chain has for all.
    """

    Config = ChainConfig
    summary = "several escapes in turn at the same stall"

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        if not self.config.escapes:
            raise ConfigError("A chain needs members: escapes=['perturbation', 'negative_curvature'], for example.")
        self._members: list[tuple[Escape, int]] = []
        for entry in self.config.escapes:
            given = {"name": entry} if isinstance(entry, str) else entry
            shared = [name for name in _SHARED if isinstance(given, dict) and name in given]
            if shared:
                raise CombinationError(
                    f"The member {given['name']!r} of a chain sets {', '.join(shared)}; set that on the chain, as all "
                    "members share its transaction."
                )
            member = resolve_escape(given)
            if member is None or isinstance(member, Chain):
                raise CombinationError("A chain holds plain escapes, not 'none' or another chain; list its members.")
            own = isinstance(given, Escape) or "tries" in given
            self._members.append((member, member.tries if own else self.config.tries))

    @property
    def tries(self) -> int:
        """Attempts of all members together."""
        return sum(tries for _, tries in self._members)

    def _turn(self, attempt: int) -> tuple[Escape, int, int]:
        """Returns whose turn an attempt is, its number among that member's own, and the first one after them."""
        first = 0
        for member, tries in self._members:
            if attempt < first + tries:
                return member, attempt - first, first + tries
            first += tries
        raise IndexError(attempt)

    def propose(self, optimizer: Stepping, objective: Objective, attempt: int, random: torch.Generator) -> Proposal:
        """Returns where the member whose turn it is wants to jump.

        Args:
            optimizer: The optimizer at the stall.
            objective: Bound to its parameters.
            attempt: 0 for the first try at this stall.
            random: The escape's own generator.
        """
        member, own, _ = self._turn(attempt)
        proposal = member.propose(optimizer, objective, own, random)
        proposal.details["by"] = _name(member)
        return proposal

    def stir(
        self, optimizer: Stepping, objective: Objective, attempt: int, step: int, random: torch.Generator
    ) -> Tensor | None:
        """Returns what the member whose jump it was adds in its window.

        Args:
            optimizer: The optimizer.
            objective: Bound to its parameters.
            attempt: That of the jump.
            step: Steps since the jump, from 1.
            random: The escape's own generator.
        """
        member, own, _ = self._turn(attempt)
        return member.stir(optimizer, objective, own, step, random)

    def following(self, attempt: int) -> int:
        """Returns the first attempt of the next member.

        Args:
            attempt: The one in vain.
        """
        member, own, end = self._turn(attempt)
        return min(end, attempt - own + member.following(own))


_SHARED = ("stall_window", "stall_tolerance", "rejected_steps", "gtol", "window", "probes", "seed")
"""Options of the transaction, which belong to the chain."""


def _name(member: Escape) -> str:
    from hybridopt.escape import registry

    names = [name for name in registry.names() if registry.get(name) is type(member)]
    return names[0] if names else type(member).__name__
