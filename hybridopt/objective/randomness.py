"""The random state that an evaluation starts from, so that it can be started from it again."""

from __future__ import annotations

import torch
from torch import Tensor


class RandomState:
    """State of the generators that layers such as dropout draw from: the CPU's, and one GPU's if that is used.

    Only the device of the objective is asked, because touching all of them would initialize every GPU of a machine.

    Args:
        device: Where the objective is evaluated.
    """

    __slots__ = ("_cpu", "_cuda", "_device")

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu: Tensor = torch.get_rng_state()
        self._cuda: Tensor | None = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Sets the generators to the state that was captured."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)

    def is_current(self) -> bool:
        """Whether the generators still stand in the state that was captured: nothing has drawn from them."""
        if not torch.equal(self._cpu, torch.get_rng_state()):
            return False
        return self._cuda is None or torch.equal(self._cuda, torch.cuda.get_rng_state(self._device))
