"""The training data in batches, as a function of seed and step number."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError, DataError

LARGE = 8
"""Size of a ``large`` batch in mini-batches of the task."""


def stream(seed: int, purpose: str, number: int, samples: int) -> Tensor:
    """Returns a random order of samples, int64, of its own for every purpose and number.

    Args:
        seed: Of the run.
        purpose: What the order is for.
        number: Which one of that purpose.
        samples: How many there are.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}:{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randperm(samples, generator=generator, device="cpu")


class Batches:
    """The batches of a run as a function of the step number, so a resumed run needs no position to be restored.

    Each epoch is a fresh random order, drawn from the seed and the epoch's number; a last part that would be
    smaller than the others is left out.

    Args:
        data: The training split, with ``inputs``, ``targets`` and ``len``.
        size: Samples in a batch, ``"large"`` (8 mini-batches, at most all of the data) or ``"full"``.
        mini: The task's own mini-batch.
        seed: Of the order.

    Attributes:
        size: Samples in a batch.
        samples: Samples in the data.
        seed: Of the order.
        steps_per_epoch: Batches in a pass over the data.
        full: Whether every batch is the whole training set.

    Raises:
        ConfigError: If a batch would be larger than the data.
        DataError: If there is no data.
    """

    def __init__(self, data: Any, size: int | str, mini: int, seed: int) -> None:
        n = len(data)
        if n == 0:
            raise DataError("The training set is empty. Check the task's options and its data files.")
        if size == "large":
            size = min(n, LARGE * mini)
        elif size == "full":
            size = n
        if size > n:
            raise ConfigError(
                f"task.batch_size={size} is larger than the training set of {n} samples. Use a number up to {n}, or "
                "task.batch_size=full."
            )
        self.size = int(size)
        self.samples = n
        self.seed = seed
        self.full = self.size == n
        self.steps_per_epoch = n // self.size
        self._data = data
        self._order: tuple[int, Tensor] | None = None

    def replace(self, data: Any) -> None:
        """Goes on with other data of the same number of samples, moved to where the old ones are.

        Args:
            data: A split.

        Raises:
            DataError: If it has another number of samples.
        """
        if len(data) != self.samples:
            raise DataError(f"The new data have {len(data)} samples; those that they replace have {self.samples}.")
        self._data = data.to(self._data.inputs.device, self._data.inputs.dtype)

    def order(self, epoch: int) -> Tensor:
        """Returns the order of the samples in an epoch, int64, on the device of the data.

        Args:
            epoch: Its number.
        """
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**62)
            order = torch.randperm(self.samples, generator=generator, device="cpu")
            self._order = epoch, order.to(self._data.inputs.device)
        return self._order[1]

    def index(self, step: int) -> Tensor:
        """Returns the places of the samples of a step's batch, int64.

        Args:
            step: Number of steps done before this one.
        """
        if self.full:
            return torch.arange(self.samples, device=self._data.inputs.device)
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.order(epoch)[position * self.size : (position + 1) * self.size]

    def take(self, index: Tensor) -> tuple[Any, Any]:
        """Returns inputs and targets of some samples.

        Args:
            index: Their places, int64.
        """
        inputs, targets = self._data.inputs, self._data.targets
        index = index.to(inputs.device)
        taken = inputs.index_select(0, index)
        return taken, taken if targets is inputs else targets.index_select(0, index)

    def batch(self, step: int) -> tuple[Any, Any, str]:
        """Returns inputs, targets and a key of the batch of a step; equal keys are equal data.

        Args:
            step: Number of steps done before this one.
        """
        if self.full:
            return self._data.inputs, self._data.targets, "full"
        epoch, position = divmod(step, self.steps_per_epoch)
        return *self.take(self.index(step)), f"{epoch}-{position}"
