"""A separate batch for curvature."""

from __future__ import annotations

from dataclasses import dataclass

from hybridopt.core import ConfigError, option
from hybridopt.data.batches import Batches, stream
from hybridopt.data.policy import One
from hybridopt.objective import Objective


@dataclass
class CurvatureConfig:
    """Options of `CurvatureBatch`.

    Attributes:
        share: Samples for curvature, as a share of the batch; more than 1 for more.
        inside: Whether they are drawn from the batch itself, instead of independently of it.
    """

    share: float = option(0.25, gt=0, search=("log", 0.05, 1.0), help="samples for curvature, as a share of the batch")
    inside: bool = option(False, help="draw them from the batch itself")


class CurvatureBatch(One):
    """Gradient and acceptance on the batch, curvature on other samples, usually fewer.

    Products are most of the cost of a Newton-CG step and need fewer samples than the gradient (Byrd, Chin, Neveitt and
    Nocedal, SIAM J. Optim. 21, 2011; Martens 2010 takes a part of the data that changes from step to step). By default
    they are drawn independently of the batch, without replacement and anew for every step, by the run's seed;
    ``inside`` draws them from the batch.

    Args:
        batches: The training data and the batches that the run's config asks for.
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.

    Raises:
        ConfigError: If more samples are asked for than there are.
    """

    Config = CurvatureConfig
    summary = "gradient on the batch, curvature on a separate one"

    def __init__(self, batches: Batches, config: CurvatureConfig | None = None, **options: object) -> None:
        super().__init__(batches, config, **options)
        self.size = max(1, round(self.config.share * batches.size))
        limit = batches.size if self.config.inside else batches.samples
        if self.size > limit:
            raise ConfigError(
                f"data.share={self.config.share:g} asks for {self.size} samples for curvature, but there are {limit}"
                f"{' in the batch' if self.config.inside else ''}. Use a share up to {limit / batches.size:g}."
            )

    def draw(self, objective: Objective, step: int) -> Objective:
        """Returns the objective on the batch of a step, with another for curvature.

        Args:
            objective: On any batch of the same model.
            step: Number of steps done before this one.
        """
        drawn = super().draw(objective, step)
        index = stream(self.batches.seed, "curvature", step, self.batches.samples)
        if self.config.inside:
            own = self.batches.index(step)
            order = index.argsort()[own]  # a random rank for each of the batch's samples
            index = own[order.argsort()]
        inputs, targets = self.batches.take(index[: self.size])
        return drawn.with_curvature_batch(inputs, targets)
