"""Batches that share samples with the next one."""

from __future__ import annotations

from dataclasses import dataclass

from hybridopt.core import ConfigError, option
from hybridopt.data.batches import Batches
from hybridopt.data.policy import DataPolicy
from hybridopt.objective import Objective


@dataclass
class OverlapConfig:
    """Options of `Overlap`.

    Attributes:
        share: Samples of a batch that the next one has too.
    """

    share: float = option(0.25, gt=0, lt=1, search=[0.1, 0.25, 0.5], help="samples that the next batch has too")


class Overlap(DataPolicy):
    """Successive batches overlap; on the overlap, gradients at both ends of a step are comparable.

    The multi-batch scheme of Berahas, Nocedal and Takac (NeurIPS 2016): the batch of step k ends with the samples with
    which that of step k+1 begins, within each epoch's random order. The objective says them as `Objective.overlap`.

    Args:
        batches: The training data and the batches that the run's config asks for.
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.

    Raises:
        ConfigError: If a batch is too small to share samples and have others, or is the whole data.
    """

    Config = OverlapConfig
    summary = "each batch shares samples with the next one, for pairs of quasi-Newton methods"

    def __init__(self, batches: Batches, config: OverlapConfig | None = None, **options: object) -> None:
        super().__init__(batches, config, **options)
        self.shared = round(self.config.share * batches.size)
        if batches.full or not 1 <= self.shared < batches.size:
            raise ConfigError(
                f"data=overlap with share={self.config.share:g} of a batch of {batches.size} samples shares "
                f"{self.shared}; it needs at least one shared and one other sample, and a batch smaller than the "
                "data. Choose another task.batch_size or data.share."
            )
        self._stride = batches.size - self.shared
        self._per_epoch = (batches.samples - self.shared) // self._stride

    @property
    def steps_per_epoch(self) -> int:
        """Steps in a pass over the data."""
        return self._per_epoch

    def epochs(self, step: int) -> float:
        """Returns how many passes over the data the steps so far have been.

        Args:
            step: Number of steps done.
        """
        return step / self._per_epoch

    def draw(self, objective: Objective, step: int) -> Objective:
        """Returns the objective on the batch of a step, which knows its overlap with the next.

        Args:
            objective: On any batch of the same model.
            step: Number of steps done before this one.
        """
        epoch, position = divmod(step, self._per_epoch)
        order = self.batches.order(epoch)
        window = order[position * self._stride : position * self._stride + self.batches.size]
        drawn = objective.with_batch(*self.batches.take(window), key=f"{epoch}-{position}")
        return drawn.with_overlap(*self.batches.take(window[-self.shared :]), key=f"{epoch}-{position}-shared")
