"""Which samples of a batch are this process's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from hybridopt.core import CombinationError


@dataclass(frozen=True)
class Share:
    """The part of a batch that one of several processes holds.

    Attributes:
        offset: Samples of the processes before this one.
        samples: Samples of this process.
        total: Samples of all.
    """

    offset: int
    samples: int
    total: int

    def rows(self, draw: Callable[[int], Tensor], shape: Sequence[int]) -> Tensor:
        """Draws random numbers for the samples of all processes and returns those of this one's.

        The generators of all processes, in the same state before, so are in the same state after, and the numbers are
        those that one process with the whole batch would draw, where samples come first.

        Args:
            draw: Returns so many numbers, shape (count,).
            shape: What is wanted: as many numbers for each sample.

        Raises:
            CombinationError: If samples have different numbers of elements, as in packed sequences.
        """
        count = math.prod(shape)
        if count % self.samples:
            raise CombinationError(
                f"Random numbers are drawn for the samples of all processes alike, and {count} outputs are not the "
                f"same number for each of {self.samples} samples. Pad sequences instead of packing them, or use one "
                "process."
            )
        each = count // self.samples
        return draw(each * self.total)[each * self.offset : each * self.offset + count].reshape(*shape)


def draw_rows(draw: Callable[[int], Tensor], shape: Sequence[int], share: Share | None) -> Tensor:
    """Returns random numbers for the samples of this process.

    Args:
        draw: Returns so many numbers, shape (count,).
        shape: What is wanted.
        share: This process's part of the batch; None if it has all of it.
    """
    return draw(math.prod(shape)).reshape(*shape) if share is None else share.rows(draw, shape)
