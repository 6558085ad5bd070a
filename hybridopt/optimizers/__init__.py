"""Optimizers of every family behind one `step(objective)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hybridopt.core import ConfigError, Registry

_Class = TypeVar("_Class", bound=type)

_FIRST_ORDER = "hybridopt.optimizers.first_order:"
_ADAPTIVE = "hybridopt.optimizers.first_order_adaptive:"

registry = Registry(
    "optimizer",
    {
        "sgd": _FIRST_ORDER + "SGD",
        "momentum": _FIRST_ORDER + "Momentum",
        "nesterov": _FIRST_ORDER + "Nesterov",
        "adagrad": _ADAPTIVE + "Adagrad",
        "rmsprop": _ADAPTIVE + "RMSprop",
        "adadelta": _ADAPTIVE + "Adadelta",
        "adam": _FIRST_ORDER + "Adam",
        "amsgrad": _FIRST_ORDER + "AMSGrad",
        "adamw": _FIRST_ORDER + "AdamW",
        "adamax": _ADAPTIVE + "Adamax",
        "nadam": _ADAPTIVE + "NAdam",
        "radam": _ADAPTIVE + "RAdam",
        "adafactor": _ADAPTIVE + "Adafactor",
        "lion": "hybridopt.optimizers.lion:Lion",
        "schedule_free": "hybridopt.optimizers.schedule_free:ScheduleFree",
        "prodigy": "hybridopt.optimizers.prodigy:Prodigy",
        "dog": "hybridopt.optimizers.dog:DoG",
        "sls": "hybridopt.optimizers.sls:SLS",
        "sps": "hybridopt.optimizers.sps:SPS",
        "ncg": "hybridopt.optimizers.ncg:NCG",
        "bfgs": "hybridopt.optimizers.bfgs:BFGS",
        "ssbroyden": "hybridopt.optimizers.ssbroyden:SSBroyden",
        "lbfgs": "hybridopt.optimizers.lbfgs:LBFGS",
        "stochastic_lbfgs": "hybridopt.optimizers.stochastic_lbfgs:StochasticLBFGS",
        "sr1": "hybridopt.optimizers.sr1:SR1",
        "lsr1": "hybridopt.optimizers.lsr1:LSR1",
        "newton_cg": "hybridopt.optimizers.newton_cg:NewtonCG",
        "hessian_free": "hybridopt.optimizers.hessian_free:HessianFree",
        "trust_newton_cg": "hybridopt.optimizers.trust_newton_cg:TrustNewtonCG",
        "newton": "hybridopt.optimizers.newton:Newton",
        "gauss_newton": "hybridopt.optimizers.gauss_newton:GaussNewton",
        "levenberg_marquardt": "hybridopt.optimizers.levenberg_marquardt:LevenbergMarquardt",
        "trust_gltr": "hybridopt.optimizers.trust_gltr:TrustGLTR",
        "cubic_newton": "hybridopt.optimizers.cubic_newton:CubicNewton",
        "newton_mr": "hybridopt.optimizers.newton_mr:NewtonMR",
        "capped_newton_cg": "hybridopt.optimizers.capped_newton_cg:CappedNewtonCG",
        "nystrom_newton_cg": "hybridopt.optimizers.nystrom_newton_cg:NystromNewtonCG",
        "curvilinear_newton": "hybridopt.optimizers.curvilinear_newton:CurvilinearNewton",
        "saddle_free_newton": "hybridopt.optimizers.saddle_free_newton:SaddleFreeNewton",
        "muon": "hybridopt.optimizers.muon:Muon",
        "shampoo": "hybridopt.optimizers.shampoo:Shampoo",
        "soap": "hybridopt.optimizers.soap:SOAP",
        "adahessian": "hybridopt.optimizers.adahessian:AdaHessian",
        "sophia": "hybridopt.optimizers.sophia:Sophia",
        "kbfgs": "hybridopt.optimizers.kbfgs:KBFGS",
        "kfac": "hybridopt.optimizers.kfac:KFAC",
        "ekfac": "hybridopt.optimizers.ekfac:EKFAC",
        "switch": "hybridopt.hybrid.switch:Switch",
        "adam_lbfgs": "hybridopt.hybrid.adam_lbfgs:AdamLBFGS",
        "adam_lbfgs_nncg": "hybridopt.hybrid.adam_lbfgs_nncg:AdamLBFGSNNCG",
        "auto": "hybridopt.hybrid.auto:Auto",
        "swats": "hybridopt.hybrid.swats:SWATS",
        "lookahead": "hybridopt.hybrid.lookahead:Lookahead",
    },
    entry_points="hybridopt.optimizers",
)


def register(name: str) -> Callable[[_Class], _Class]:
    """Returns a class decorator that adds an optimizer under `name`, for `create`, YAML and the command line.

    Args:
        name: A name that no built-in optimizer has.

    Raises:
        ConfigError: If the name is taken, or the class is no optimizer of this library.
    """
    add = registry.register(name)

    def checked(cls: _Class) -> _Class:
        from hybridopt.optimizers.base import Stepping

        if not (isinstance(cls, type) and issubclass(cls, Stepping)):
            raise ConfigError(
                f"{getattr(cls, '__name__', cls)!s} cannot be registered: subclass hybridopt.Optimizer and write "
                "update(objective). A class that follows torch's protocol needs no registration, only its place: "
                "create('package.module:Class', params)."
            )
        return add(cls)

    return checked


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
