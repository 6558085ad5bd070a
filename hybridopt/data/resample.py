"""Training points that are drawn anew during the run, for physics-informed networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError, option
from hybridopt.data.batches import Batches
from hybridopt.data.policy import One
from hybridopt.objective import Objective


@dataclass
class ResampleConfig:
    """Options of `Resample`.

    Attributes:
        every: Steps between two draws.
        rule: ``uniform``, or ``residual``: the larger the residual, the likelier a point.
        power: Exponent of the residual, k of Wu et al.
        floor: Added to the scaled residuals, c of Wu et al.: 0 draws by residual alone, large values uniformly.
    """

    every: int = option(500, ge=1, help="steps between two draws of the points")
    rule: str = option("residual", choices=["uniform", "residual"], help="how the points are drawn")
    power: float = option(1.0, gt=0, help="exponent of the residual")
    floor: float = option(1.0, ge=0, help="added to the scaled residuals; large values draw uniformly")


class Resample(One):
    """New residual points every so many steps, where the task can draw them.

    ``residual`` is the residual-based adaptive distribution, RAD, of Wu, Zhu, Tan, Kartha and Lu (2023): points are
    drawn without replacement with probability in proportion to ``|r|^power / mean(|r|^power) + floor``, r being the
    equation's residual at the model of that step. Between two draws every step sees the same function, as
    quasi-Newton methods need it. The residuals of all candidates cost a forward pass, which the ledger shows.

    Args:
        batches: The training data and the batches that the run's config asks for.
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.
    """

    Config = ResampleConfig
    summary = "residual points drawn anew every so many steps, by residual or uniformly (PINNs)"

    def __init__(self, batches: Batches, config: ResampleConfig | None = None, **options: object) -> None:
        super().__init__(batches, config, **options)
        self._task: Any = None
        self._round = 0
        self._chosen: Tensor | None = None

    def attach(self, task: Any) -> None:
        """Takes the task whose points are drawn.

        Args:
            task: With ``candidates``, ``candidate_residuals`` and ``with_points``, as the ``pinn_*`` tasks have them.

        Raises:
            ConfigError: If the task has no points to draw.
        """
        if not hasattr(task, "with_points"):
            raise ConfigError(
                "data=resample needs a task whose points can be drawn anew (pinn_convection, pinn_reaction, pinn_wave, "
                f"pinn_burgers), not {task.name}. Use data=one."
            )
        self._task = task

    def draw(self, objective: Objective, step: int) -> Objective:
        """Returns the objective on the batch of a step, after a new draw of the points where it is time.

        Args:
            objective: On any batch of the same model.
            step: Number of steps done before this one.
        """
        number = step // self.config.every
        if number != self._round:
            self._round = number
            self._chosen = self._choose(objective, number)
            self._adopt()
        inputs, targets, key = self.batches.batch(step)
        return objective.with_batch(inputs, targets, key=f"{number}:{key}")

    def _choose(self, objective: Objective, number: int) -> Tensor:
        count, points = self._task.candidates, self._task.config.points
        generator = torch.Generator().manual_seed((self.batches.seed * 1_000_003 + number) % 2**62)
        weights = torch.ones(count, dtype=torch.float64, device="cpu")
        if self.config.rule == "residual":
            residuals = self._task.candidate_residuals(objective.model).abs().double().cpu() ** self.config.power
            objective.ledger.pay("forward", count)
            mean = float(residuals.mean())
            if residuals.isfinite().all() and mean > 0:
                weights = residuals / mean + self.config.floor
        # The largest of u^(1/w) are a weighted draw without replacement (Efraimidis and Spirakis 2006).
        uniform = torch.rand(count, dtype=torch.float64, generator=generator, device="cpu")
        keys = uniform.log() / weights.clamp_min(1e-300)
        return keys.topk(min(points, count)).indices

    def _adopt(self) -> None:
        assert self._chosen is not None
        self.batches.replace(self._task.with_points(self._chosen))

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of the draw and the points drawn."""
        return {"round": self._round, "chosen": self._chosen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned.

        Args:
            state: As saved.
        """
        if not state:
            return
        self._round, self._chosen = state["round"], state["chosen"]
        if self._chosen is not None:
            self._adopt()
