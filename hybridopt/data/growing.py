"""Batches that grow when the gradient on them is too noisy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.data.batches import Batches
from hybridopt.data.policy import DataPolicy
from hybridopt.objective import Objective

RULES = ("geometric", "norm_test", "inner_product", "step_norm")


@dataclass
class GrowingConfig:
    """Options of `Growing`.

    Attributes:
        rule: ``geometric``, ``norm_test``, ``inner_product`` or ``step_norm``.
        theta: Largest relative noise that the two tests accept.
        factor: Growth in a pass over the data (``geometric``), and the most by which a test grows the batch at once.
        every: Steps from one test to the next.
        pieces: Parts of the batch whose gradients' spread estimates the noise.
        most: Largest batch, as a share of the data.
    """

    rule: str = option("norm_test", choices=RULES, help="when to grow")
    theta: float = option(0.9, gt=0, search=[0.5, 0.9], help="largest relative noise that a test accepts")
    factor: float = option(2.0, gt=1, help="growth in an epoch (geometric); the most by which a test grows at once")
    every: int = option(10, ge=1, help="steps from one test to the next")
    pieces: int = option(8, ge=2, help="parts of the batch whose gradients tell the noise")
    most: float = option(1.0, gt=0, le=1, help="largest batch, as a share of the data")


class Growing(DataPolicy):
    """A batch that starts at the task's size and grows, never shrinks.

    - ``geometric``: by `factor` with every pass over the data (Byrd, Chin, Nocedal and Wu 2012 say which
      growth keeps linear convergence).
    - ``norm_test``: when the variance of the batch gradient exceeds theta^2 ||g||^2 (the same), to the size at which
      it would not.
    - ``inner_product``: when the variance of <H g_i, H g> over the batch exceeds theta^2 ||H g||^4 (Bollapragada,
      Nocedal, Mudigere, Shi and Tang 2018), H being the inverse matrix of a quasi-Newton optimizer, and the
      identity where the optimizer has none.
    - ``step_norm``: in proportion to 1 / ||s||^4 for the last step s (Kohler and Lucchi 2017), scaled so that
      the first step keeps the first size. A curvature batch of its own is the business of ``data=curvature``.

    The variance of single samples is estimated from the gradients of `pieces` equal parts of the batch: unbiased, at
    the price of one more gradient of the batch a test, which the ledger shows. Samples come from a stream of random
    orders, one after the other.

    Args:
        batches: The training data and the batches that the run's config asks for.
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.
    """

    Config = GrowingConfig
    summary = "batches that grow: geometric, norm test, inner-product test, step norm"

    def __init__(self, batches: Batches, config: GrowingConfig | None = None, **options: object) -> None:
        super().__init__(batches, config, **options)
        self.size = batches.size
        self.drawn = 0
        self._first_step: float | None = None
        self._steps = 0
        self._limit = max(batches.size, int(self.config.most * batches.samples))

    def epochs(self, step: int) -> float:
        """Returns how many passes over the data the samples so far have been.

        Args:
            step: Number of steps done; the samples of a step that is only drawn do not count.
        """
        return self.drawn / self.batches.samples

    def draw(self, objective: Objective, step: int) -> Objective:
        """Returns the objective on the next samples of the stream.

        Args:
            objective: On any batch of the same model.
            step: Number of steps done before this one.
        """
        samples = self.batches.samples
        if self.size >= samples:
            whole = torch.arange(samples, device="cpu")
            return objective.with_batch(*self.batches.take(whole), key="full")
        epoch, start = divmod(self.drawn, samples)
        index = self.batches.order(epoch)[start : start + self.size]
        if len(index) < self.size:
            index = torch.cat([index, self.batches.order(epoch + 1)[: self.size - len(index)]])
        return objective.with_batch(*self.batches.take(index), key=f"{self.drawn}+{self.size}")

    def after_step(self, optimizer: Any, objective: Objective) -> dict[str, Any] | None:
        """Counts the samples, and grows the batch where the rule says so.

        Args:
            optimizer: Just did the step.
            objective: What it was given.
        """
        self.drawn += self.size
        self._steps += 1
        if self.size >= self._limit:
            return None
        wanted = self._wanted(optimizer, objective)
        if not wanted > self.size:
            return None
        before, most = self.size, self.config.factor * self.size
        self.size = min(self._limit, max(self.size + 1, math.ceil(min(wanted, most))))
        return {"event": "batch_grown", "rule": self.config.rule, "size": self.size, "before": before}

    def _wanted(self, optimizer: Any, objective: Objective) -> float:
        config = self.config
        if config.rule == "geometric":
            return self.batches.size * config.factor ** (self.drawn / self.batches.samples)
        if config.rule == "step_norm":
            return self._by_step(optimizer)
        if self._steps % config.every or self.size < 2 * config.pieces:
            # Too few samples for a spread: the batch doubles until there are.
            return 0.0 if self._steps % config.every else 2.0 * self.size
        gradients, mean = self._gradients(optimizer, objective)
        share = self.size // config.pieces
        if config.rule == "norm_test":
            variance = share * float((gradients - mean).square().sum()) / (config.pieces - 1)
            allowed = config.theta**2 * float(mean.square().sum())
        else:
            scale = getattr(optimizer, "precondition", lambda objective, vector: vector)
            bound = objective.bind(optimizer.param_groups)
            scaled, *rows = (scale(bound, g.to(bound.space.dtype)).double() for g in (mean, *gradients))
            products = torch.stack(rows) @ scaled
            variance = share * float((products - products.mean()).square().sum()) / (config.pieces - 1)
            allowed = config.theta**2 * float(scaled.square().sum()) ** 2
        if not math.isfinite(variance) or allowed <= 0:
            return self.size
        return variance / allowed

    def _gradients(self, optimizer: Any, objective: Objective) -> tuple[Tensor, Tensor]:
        """Returns the gradients of equal parts of the batch, shape (pieces, n), and their mean."""
        bound = objective.bind(optimizer.param_groups)
        share = objective.inputs.shape[0] // self.config.pieces
        rows = [
            bound.with_batch(objective.inputs[part], objective.targets[part]).value_and_grad()[1]
            for part in (slice(k * share, (k + 1) * share) for k in range(self.config.pieces))
        ]
        gradients = torch.stack(rows).double()
        return gradients, gradients.mean(0)

    def _by_step(self, optimizer: Any) -> float:
        norm = float(optimizer.report.step_norm) if "step_norm" in optimizer.report else 0.0
        if not (norm > 0 and math.isfinite(norm)):
            return self.config.factor * self.size  # a rejected step: see more samples (Kohler and Lucchi, section 4)
        if self._first_step is None:
            self._first_step = norm
        return self.batches.size * (self._first_step / norm) ** 4

    def state_dict(self) -> dict[str, Any]:
        """Returns size, place in the stream and the first step's length."""
        return {"size": self.size, "drawn": self.drawn, "steps": self._steps, "first_step": self._first_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned.

        Args:
            state: As saved.
        """
        if not state:
            return
        self.size, self.drawn, self._steps = state["size"], state["drawn"], state["steps"]
        self._first_step = state["first_step"]
