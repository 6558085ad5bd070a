"""Optimizers of every family behind one `step(objective)`."""

from __future__ import annotations

from typing import Any

from hybridopt.core import Registry

_FIRST_ORDER = "hybridopt.optimizers.first_order:"

registry = Registry(
    "optimizer",
    {
        "sgd": _FIRST_ORDER + "SGD",
        "momentum": _FIRST_ORDER + "Momentum",
        "nesterov": _FIRST_ORDER + "Nesterov",
        "adagrad": _FIRST_ORDER + "Adagrad",
        "rmsprop": _FIRST_ORDER + "RMSprop",
        "adam": _FIRST_ORDER + "Adam",
        "amsgrad": _FIRST_ORDER + "AMSGrad",
        "adamw": _FIRST_ORDER + "AdamW",
        "lbfgs": "hybridopt.optimizers.lbfgs:LBFGS",
        "newton_cg": "hybridopt.optimizers.newton_cg:NewtonCG",
        "hessian_free": "hybridopt.optimizers.hessian_free:HessianFree",
        "trust_newton_cg": "hybridopt.optimizers.trust_newton_cg:TrustNewtonCG",
        "saddle_free_newton": "hybridopt.optimizers.saddle_free_newton:SaddleFreeNewton",
        "muon": "hybridopt.optimizers.muon:Muon",
        "shampoo": "hybridopt.optimizers.shampoo:Shampoo",
        "soap": "hybridopt.optimizers.soap:SOAP",
        "adahessian": "hybridopt.optimizers.adahessian:AdaHessian",
        "sophia": "hybridopt.optimizers.sophia:Sophia",
        "switch": "hybridopt.hybrid.switch:Switch",
        "adam_lbfgs": "hybridopt.hybrid.adam_lbfgs:AdamLBFGS",
    },
    entry_points="hybridopt.optimizers",
)
register = registry.register

_CLASSES = {path.rpartition(":")[2]: name for name, path in registry._builtins.items()} | {"Optimizer": ""}


def __getattr__(attribute: str) -> Any:
    """Imports a class of this room when it is asked for, e.g. ``hybridopt.optimizers.NewtonCG``."""
    if attribute == "Optimizer":
        from hybridopt.optimizers.base import Optimizer

        return Optimizer
    if attribute in _CLASSES:
        return registry.get(_CLASSES[attribute])
    raise AttributeError(f"module 'hybridopt.optimizers' has no attribute {attribute!r}")


def __dir__() -> list[str]:
    return sorted([*_CLASSES, "register", "registry"])
