"""Seeding, and the state of every generator that a run may draw from."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators, those of all GPUs included.

    Args:
        seed: At least 0 and below 2^31.
    """
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns the state of the generators as tensors, numbers and lists, fit for a checkpoint.

    Args:
        device: Where the run computes; its generator is included.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = numpy.random.get_state()
    state: dict[str, Any] = {
        "python": [version, torch.tensor(words), gauss],  # a list of 625 numbers takes longer to load than all else
        "numpy": [
            str(name),
            torch.from_numpy(keys.astype("int64")),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts the generators back where `random_state` found them.

    Args:
        state: What `random_state` returned; a GPU's entry is passed over on another kind of device.
        device: Where the run computes.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist() if isinstance(words, torch.Tensor) else words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, keys.cpu().numpy().astype("uint32"), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
