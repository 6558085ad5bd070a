"""Second-order and hybrid optimizers for PyTorch behind one interface, and fair comparisons of them.

Names are imported when they are first used (PEP 562), so ``import hybridopt`` is quick and loads neither Hydra nor
wandb.
"""

from __future__ import annotations

import importlib
from typing import Any

from hybridopt._version import __version__

_ATTRIBUTES = {
    "Objective": "hybridopt.objective",
    "Ledger": "hybridopt.objective",
    "Optimizer": "hybridopt.optimizers.base",
    "Report": "hybridopt.optimizers.report",
    "create": "hybridopt.factory",
    "minimize": "hybridopt.minimizer",
    "register": "hybridopt.optimizers",
    "option": "hybridopt.core",
    "HybridoptError": "hybridopt.core",
}
_ROOMS = (
    "core",
    "curvature",
    "escape",
    "globalization",
    "linalg",
    "objective",
    "optimizers",
    "results",
    "tasks",
    "testing",
    "tuning",
)

__all__ = ["__version__", *_ATTRIBUTES, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ATTRIBUTES:
        value = getattr(importlib.import_module(_ATTRIBUTES[name]), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return importlib.import_module(f"hybridopt.{name}")
    raise AttributeError(f"module 'hybridopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
