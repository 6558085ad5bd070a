"""The step of methods that divide by an estimate of the Hessian's diagonal, refreshed every few steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.objective import Objective
from hybridopt.objective.point import Point
from hybridopt.optimizers.direct_step import DirectConfig, DirectStep
from hybridopt.optimizers.randomness import remembered


@dataclass
class DiagonalConfig(DirectConfig):
    """Options of methods with a diagonal of the curvature.

    Attributes:
        every: Steps from one estimate to the next.
        samples: Random vectors, and Hessian products, for an estimate.
        probes: What they are drawn from: ``rademacher`` (signs) or ``gaussian``.
        seed: Of the random numbers.
    """

    every: int = option(1, ge=1, search=[1, 2, 5, 10], help="steps from one estimate to the next")
    samples: int = option(1, ge=1, search=[1, 2, 4], help="random vectors for an estimate")
    probes: str = option("rademacher", choices=["rademacher", "gaussian"], help="what the vectors are drawn from")
    seed: int = option(0, ge=0, help="seed of the random numbers")


class DiagonalStep(DirectStep):
    """Base of methods with a diagonal estimate of the curvature; a subclass writes `move`.

    A step that is due for an estimate takes its gradient from the objective's point, whose graph serves the products;
    the ledger counts both. All other steps are the model's own forward and backward pass. The random numbers come from
    a generator of the optimizer's own, on the CPU, so they are the same on every device.
    """

    Config = DiagonalConfig
    _estimates: dict[Tensor, Tensor] | None = None

    def _differentiate(self, objective: Objective, parameters: list[Tensor]) -> Tensor:
        self._estimates = None
        if self.memory.setdefault("steps", 0) % self.config.every:
            return super()._differentiate(objective, parameters)
        bound = objective.bind(self.param_groups)
        bound.renew()
        with bound.at() as point:
            generator = remembered(self.memory, self.config.seed)
            estimate = self.diagonal(point, generator) if math.isfinite(point.value) else None
        bound.adopt()
        for parameter, gradient in zip(bound.space.parameters, bound.start_gradients, strict=True):
            parameter.grad = gradient
        # A product may be undefined where the gradient is not; such an estimate is dropped, and due again.
        if estimate is not None and bool(torch.isfinite(estimate).all()):
            self._estimates = dict(zip(bound.space.parameters, bound.space.tensors(estimate), strict=True))
        self._clip(parameters)
        return bound.start_loss

    def diagonal(self, point: Point, generator: torch.Generator) -> Tensor:
        """Returns an estimate of the Hessian's diagonal: the mean of z * H z over random z (Hutchinson 1990).

        Exact for a diagonal Hessian with ``rademacher`` probes, whatever they are.

        Args:
            point: Where.
            generator: Where the probes come from; its state is kept.

        Returns:
            Shape (n,).
        """
        space, hessian, total = point.space, point.hessian(), 0.0
        for _ in range(self.config.samples):
            if self.config.probes == "rademacher":
                probe = 2 * torch.randint(0, 2, (space.n,), generator=generator, dtype=torch.int8, device="cpu") - 1
            else:
                probe = torch.randn(space.n, generator=generator, device="cpu")
            probe = probe.to(space.device, space.dtype)
            total = total + probe * (hessian @ probe)
        self.memory["random"] = generator.get_state()
        return total / self.config.samples

    def estimates(self, parameters: list[Tensor]) -> list[Tensor] | None:
        """Returns this step's estimates of the diagonal, in the parameters' shapes, or None if it has none.

        Args:
            parameters: Which take part in the step.
        """
        return None if self._estimates is None else [self._estimates[parameter] for parameter in parameters]

    def finish(self) -> None:
        """Counts the step; an estimate that was due and could not be had stays due."""
        missing = self._estimates is None and self.memory["steps"] % self.config.every == 0
        self.memory["steps"] += 0 if missing else 1
        self.note(refreshed=self._estimates is not None)
        self._estimates = None
