"""What the methods share that solve a damped Newton system by preconditioned conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hybridopt.core import CombinationError, option
from hybridopt.curvature.preconditioners import Preconditioner, registry
from hybridopt.linalg.operator import Identity, SymmetricOperator
from hybridopt.objective import Point
from hybridopt.optimizers.newton_options import NewtonConfig
from hybridopt.optimizers.randomness import remembered

if TYPE_CHECKING:
    from hybridopt.optimizers.base import Optimizer

_KEY = "preconditioner"


@dataclass
class PreconditionedConfig(NewtonConfig):
    """Options of the methods with a preconditioner.

    Attributes:
        preconditioner: ``none``, or a name out of `hybridopt.curvature.preconditioners`: ``diagonal``, ``martens``,
            ``lbfgs``, ``nystrom``, ``kfac``.
        preconditioner_size: Products for ``diagonal`` and ``nystrom``, pairs for ``lbfgs``.
        preconditioner_refresh: It is built again after that many steps.
        seed: Of the random numbers that it is made from.
    """

    preconditioner: str = option(
        "none", search=["none", "lbfgs", "kfac"], help="none, diagonal, martens, lbfgs, nystrom or kfac"
    )
    preconditioner_size: int = option(20, ge=1, help="products (diagonal, nystrom) or pairs (lbfgs) for it")
    preconditioner_refresh: int = option(1, ge=1, help="steps between two builds of it")
    seed: int = option(0, ge=0, help="of the random numbers that the preconditioner is made from")

    def __post_init__(self) -> None:
        """Refuses unknown names, and what cannot be kept for later steps."""
        if self.preconditioner == "none":
            return
        part = registry.get(self.preconditioner)
        if self.preconditioner_refresh != 1 and not part.lasting:
            raise CombinationError(
                f"The preconditioner {self.preconditioner!r} belongs to its step and cannot be kept for "
                f"{self.preconditioner_refresh}: use preconditioner_refresh=1, or martens, diagonal or nystrom."
            )


class Preconditioning:
    """One step's damped system: the operator for the solver, and the preconditioner that goes with it.

    Args:
        optimizer: Whose config has the options, and in whose memory lies what is kept.
        point: Where.
        curvature: The matrix without damping.
        damping: Multiple of the identity that is added.

    Attributes:
        operator: The damped matrix.
        inverse: r -> M^{-1} r, or None.
    """

    def __init__(self, optimizer: Optimizer, point: Point, curvature: SymmetricOperator, damping: float) -> None:
        config, self._memory = optimizer.config, optimizer.memory
        self._part: Preconditioner | None = None
        self.inverse: Callable[[Tensor], Tensor] | None = None
        if config.preconditioner != "none":
            self._part = registry.get(config.preconditioner)(config.preconditioner_size)
            kept = self._kept(config, curvature.n)
            if kept is None:
                kept = self._build(config, point, curvature)
            kept["age"] += 1
            self._memory[_KEY] = kept
            self.inverse = self._part.inverse(kept["state"], damping)
            curvature = self._part.watch(curvature)
        self.operator = curvature + damping * Identity() if damping else curvature

    def _kept(self, config: PreconditionedConfig, n: int) -> dict[str, Any] | None:
        """What an earlier step left and this one may use: learned in its solve, or built not too long ago."""
        assert self._part is not None
        kept = self._memory.get(_KEY) or {}
        # A parameter that was frozen or thawed since makes it one of another space.
        if kept.get("name") != config.preconditioner or kept.get("n") != n:
            return None
        fresh = self._part.lasting and kept["age"] < config.preconditioner_refresh
        return kept if fresh or kept["learned"] else None

    def _build(self, config: PreconditionedConfig, point: Point, curvature: SymmetricOperator) -> dict[str, Any]:
        assert self._part is not None
        generator = remembered(self._memory.get(_KEY, {}), config.seed)
        state = self._part.build(point, curvature, generator)
        own = {"name": config.preconditioner, "n": curvature.n, "age": 0, "learned": False}
        return own | {"state": state, "random": generator.get_state()}

    def close(self) -> None:
        """Keeps what the solve has taught."""
        learned = None if self._part is None else self._part.learn()
        if learned is not None:
            self._memory[_KEY] |= {"state": learned, "learned": True}


def forget(memory: dict[str, Any]) -> None:
    """Drops what belongs to the point that was left, but goes on with the random numbers.

    Args:
        memory: The optimizer's.
    """
    if _KEY in memory:
        memory[_KEY] = {"random": memory[_KEY]["random"]}
