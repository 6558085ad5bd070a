"""Limited-memory BFGS."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridopt.core import option
from hybridopt.globalization import LineSearchResult
from hybridopt.objective import Objective
from hybridopt.optimizers.lbfgs_memory import PairMemory
from hybridopt.optimizers.searching import SEARCHES, Searching, SearchingConfig


@dataclass
class LBFGSConfig(SearchingConfig):
    """Options of `LBFGS`.

    Attributes:
        history: Pairs kept, m.
        line_search: As in `SearchingConfig`, or ``none`` for steps of length lr.
        pairs: What happens to a pair without positive curvature: ``skip``, counted, or ``damp`` after Powell 1978.
    """

    history: int = option(10, ge=1, search=[5, 10, 20, 50], help="pairs kept")
    line_search: str = option("strong_wolfe", choices=[*SEARCHES, "none"], help="globalization")
    pairs: str = option("skip", choices=["skip", "damp"], help="pairs without positive curvature: skip or Powell damp")


class LBFGS(Searching):
    """L-BFGS (Liu and Nocedal 1989), one iteration a step.

    Both gradients of a pair come from the same batch, under the same random numbers. A step that goes on where the
    last one ended, on the same data, takes over the gradient from its line search, so a full-batch iteration costs
    as many gradients as the search has trials, usually one. Any number of param groups; ``lr`` of a group scales its
    part of the direction.

    A resumed run equals an undisturbed one to the last bit if its batches have names, ``Objective(..., key=...)``.
    Without them no batch is known to be that of another process, and the first gradient is taken anew, with rounding
    of its own.

    Report: ``evaluations``, ``step_size``, ``search`` (how the line search ended), ``skipped_pairs``,
    ``damped_pairs``, ``pairs``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = LBFGSConfig
    summary = "limited-memory BFGS, strong Wolfe search"

    def update(self, objective: Objective) -> None:
        """Does one quasi-Newton iteration.

        Args:
            objective: Bound to the parameters.
        """
        self.note(pairs=len(self._pairs(objective)))
        super().update(objective)

    def _pairs(self, objective: Objective) -> PairMemory:
        space = objective.space
        state = self.memory.setdefault("pairs", {})
        self._current = PairMemory(state, self.config.history, space.n, dtype=space.dtype, device=space.device)
        return self._current

    def _propose(self, objective: Objective, gradient: Tensor, out: Tensor) -> Tensor:
        known = {"follows": self._resumed, "length": self._length}
        return self._current.inverse_product(gradient, out=out, sign=-1.0, **known)

    def _scale_known(self) -> bool:
        return len(self._current) > 0

    def _learn(self, objective: Objective, step: Tensor, change: Tensor, result: LineSearchResult) -> float:
        pairs = self._current
        pairs.push(step, change, damping=self.config.pairs == "damp")
        self.note(skipped_pairs=pairs.skipped, damped_pairs=pairs.damped)
        return pairs.last_step

    def _forget(self) -> bool:
        known = len(self._current) > 0
        self._current.clear()
        return known

    def precondition(self, objective: Objective, vector: Tensor) -> Tensor:
        """Returns the inverse quasi-Newton matrix times a vector; a growing batch is judged by it.

        Args:
            objective: Bound to the parameters.
            vector: Shape (n,).
        """
        pairs = self._pairs(objective)
        product = pairs.inverse_product(vector)
        # The next gradient is not this vector plus a change.
        self.memory["pairs"]["follows"] = False
        return product
