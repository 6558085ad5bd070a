"""L-BFGS for mini-batches: steps of a fixed rate, pairs that noise does not spoil."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import CombinationError, option
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.lbfgs_memory import PairMemory
from hybridopt.optimizers.line_search_step import scaled

PAIRS = ("hessian", "overlap", "same_batch")


@dataclass
class StochasticLBFGSConfig:
    """Options of `StochasticLBFGS`.

    Attributes:
        lr: Length of a step; torch's schedulers change it.
        weight_decay: w adds w/2 ||p||^2 to the function.
        history: Pairs kept, m.
        pairs: Where the change y of the gradient along a step s comes from: ``hessian``, ``overlap`` or
            ``same_batch``.
        every: Steps from one pair to the next; None: 10 for ``hessian``, 1 for the others.
        damp: Whether a pair without enough curvature is mended after Powell 1978 instead of refused.
        max_step: Longest step, or None.
    """

    lr: float = option(0.1, ge=0, search=("log", 1e-3, 1.0), help="length of a step")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    history: int = option(10, ge=1, search=[5, 10, 20], help="pairs kept")
    pairs: str = option("hessian", choices=PAIRS, help="where the gradient's change along a step comes from")
    every: int | None = option(None, ge=1, help="steps between pairs; null: 10 for hessian, 1 for the others")
    damp: bool = option(False, help="mend pairs without enough curvature (Powell) instead of refusing them")
    max_step: float | None = option(None, gt=0, help="longest step")


class StochasticLBFGS(Optimizer):
    """Quasi-Newton steps on mini-batches without a line search.

    A difference of two mini-batch gradients is mostly noise; the pairs are taken otherwise:

    - ``hessian``: s is the change of the mean parameters of `every` steps, y a Hessian product H s at the new mean
      (SQN, Byrd, Hansen, Nocedal and Singer 2016, Algorithm 1), on the objective's curvature batch, if it has one
      (``data=curvature``), else on the batch of the step.
    - ``overlap``: y is the change of the gradient on the samples that this batch and the next share
      (``data=overlap``; multi-batch L-BFGS, Berahas, Nocedal and Takac 2016). Costs two gradients of the overlap.
    - ``same_batch``: the same on the whole batch (Schraudolph, Yu and Guenter 2007), for one gradient more a step.

    Until the first pair is there, steps go along the negative gradient. There is no acceptance test; a gradient that is
    not finite ends the step unmoved.

    Report: ``pairs`` (kept), ``skipped_pairs``, ``damped_pairs``, ``step_norm``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = StochasticLBFGSConfig
    family = "quasi-newton"
    batch = "mini"
    summary = "L-BFGS on mini-batches: pairs by Hessian products, overlap or the same batch"

    def update(self, objective: Objective) -> None:
        """Steps along the quasi-Newton direction, and takes a pair where it is time.

        Args:
            objective: Bound to the parameters.

        Raises:
            CombinationError: If pairs are to come from an overlap and the objective has none.
        """
        config, memory = self.config, self.memory
        if config.pairs == "overlap" and objective.overlap is None:
            raise CombinationError(
                "pairs=overlap needs batches that share samples with the next one: run with data=overlap, use "
                "objective.with_overlap(...), or choose pairs=hessian or pairs=same_batch."
            )
        value, gradient = objective.value_and_grad()
        length = float(torch.linalg.vector_norm(gradient))
        pairs = self._pairs(objective)
        self.note(grad_norm=length, pairs=len(pairs))
        if not self.can_descend(value, length):
            return
        memory["step"] = memory.get("step", 0) + 1
        origin = objective.position()
        rate, direction = scaled(self, objective, -pairs.inverse_product(gradient))
        step = direction.mul_(rate)
        norm = float(torch.linalg.vector_norm(step))
        if config.max_step is not None and norm > config.max_step:
            step.mul_(config.max_step / norm)
            norm = config.max_step
        objective.commit(origin + step)
        self.note(accepted=norm > 0, step_norm=norm)
        if config.pairs == "hessian":
            self._learn_by_product(objective, pairs)
        elif memory["step"] % self._every == 0:
            self._learn_by_gradients(objective, pairs, origin, step, gradient)
        self.note(pairs=len(pairs), skipped_pairs=pairs.skipped, damped_pairs=pairs.damped)

    @property
    def _every(self) -> int:
        return self.config.every or (10 if self.config.pairs == "hessian" else 1)

    def _pairs(self, objective: Objective) -> PairMemory:
        space = objective.space
        state = self.memory.setdefault("memory", {})
        return PairMemory(state, self.config.history, space.n, dtype=space.dtype, device=space.device)

    def _learn_by_product(self, objective: Objective, pairs: PairMemory) -> None:
        """Averages the parameters, and after `every` steps multiplies the change of their mean."""
        memory, every = self.memory, self._every
        here = objective.position()
        if "sum" not in memory or memory["sum"].numel() != here.numel():
            memory.update(sum=torch.zeros_like(here), count=0, mean=None)
        memory["sum"].add_(here)
        memory["count"] += 1
        if memory["count"] < every:
            return
        mean = memory["sum"] / every
        before = memory["mean"]
        memory.update(sum=torch.zeros_like(here), count=0, mean=mean)
        if before is None:
            return
        step = mean - before
        source = objective if objective.curvature_batch is None else objective.curvature_batch
        objective.commit(mean)
        try:
            with source.at() as point:
                change = point.hessian() @ step
        finally:
            objective.commit(here)
        pairs.push(step, change, damping=self.config.damp)

    def _learn_by_gradients(
        self, objective: Objective, pairs: PairMemory, origin: Tensor, step: Tensor, gradient: Tensor
    ) -> None:
        """Compares the gradients at both ends of the step on the same samples."""
        if self.config.pairs == "overlap":
            assert objective.overlap is not None
            objective = objective.overlap
            gradient = objective.value_and_grad(origin)[1]
        pairs.push(step, objective.value_and_grad(origin + step)[1] - gradient, damping=self.config.damp)

    def precondition(self, objective: Objective, vector: Tensor) -> Tensor:
        """Returns the inverse quasi-Newton matrix times a vector; a growing batch is judged by it.

        Args:
            objective: Bound to the parameters.
            vector: Shape (n,).
        """
        return self._pairs(objective).inverse_product(vector)

    def moved(self, objective: Objective, reason: str) -> None:
        """Begins the mean of the parameters anew: it belongs to the path that was left.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        for name in ("sum", "count", "mean"):
            self.memory.pop(name, None)
