"""SciPy's minimizers on an objective."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError, option, suggest
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer

_METHODS = {
    "Nelder-Mead": "value",
    "Powell": "value",
    "COBYLA": "value",
    "CG": "gradient",
    "BFGS": "gradient",
    "L-BFGS-B": "gradient",
    "TNC": "gradient",
    "SLSQP": "gradient",
    "Newton-CG": "product",
    "trust-ncg": "product",
    "trust-krylov": "product",
    "trust-constr": "product",
    "dogleg": "matrix",
    "trust-exact": "matrix",
}
# How each method calls its tolerance on the gradient.
_GTOL = {"CG": "gtol", "BFGS": "gtol", "L-BFGS-B": "gtol", "trust-ncg": "gtol", "trust-krylov": "gtol"} | {
    "trust-exact": "gtol",
    "dogleg": "gtol",
    "TNC": "gtol",
    "trust-constr": "gtol",
    "Newton-CG": "xtol",
    "SLSQP": "ftol",
}


_REMEMBERED = 32


@dataclass
class Outcome:
    """What SciPy returned.

    Attributes:
        x: The point, shape (n,), in the objective's dtype.
        value: The function there.
        message: SciPy's own words.
    """

    x: Tensor
    value: float
    message: str


class _Stop(Exception):
    """Ends a SciPy run from inside a callback, for every method alike."""


def run_scipy(
    objective: Objective,
    method: str,
    options: dict[str, Any],
    gtol: float,
    max_iter: int,
    callback: Callable[[Tensor, float, float], bool],
) -> Outcome:
    """Runs a method of `scipy.optimize.minimize` from where an objective stands.

    SciPy works in NumPy float64 on the host; values, gradients and Hessian products come from the objective, which
    pays for them. The graph of a point is kept for all products taken there. A dense method gets its Hessian from n
    products.

    Args:
        objective: Stands at the starting point and may be left anywhere.
        method: Name as SciPy spells it, in any case.
        options: SciPy's options for the method.
        gtol: Tolerance on the gradient, passed on under the method's own name for it.
        max_iter: Most iterations.
        callback: Called with (x, value, largest gradient entry) after each iteration; True ends the run.

    Returns:
        The best outcome SciPy reports.

    Raises:
        ConfigError: If SciPy has no such method, or the method no such option.
        ValueError: If SciPy refuses a value of an option.
    """
    import numpy as np
    import scipy.optimize

    name = _method(method)
    space = objective.space
    # Value and gradient of the last evaluations by point: an iterate need not be where SciPy looked last.
    seen: OrderedDict[int, tuple[float, float]] = OrderedDict()
    stop: dict[str, Any] = {"count": 0, "value": math.nan, "finite": True}
    graph: dict[str, Any] = {"x": None, "operator": None}

    def tensor(x: Any) -> Tensor:
        return torch.from_numpy(np.array(x, dtype=np.float64)).to(space.device, space.dtype)

    def array(x: Tensor) -> Any:
        return x.detach().cpu().double().numpy()

    def remember(x: Any, value: float, gradient: float | None = None) -> None:
        if not seen and not math.isfinite(value):
            stop["value"] = value
            raise _Stop("the function is not finite at the start")
        stop["finite"] = stop["finite"] and math.isfinite(value) and (gradient is None or math.isfinite(gradient))
        seen[hash(x.tobytes())] = value, math.nan if gradient is None else gradient
        if len(seen) > _REMEMBERED:
            seen.popitem(last=False)

    def value(x: Any) -> float:
        result = objective.value(tensor(x))
        remember(x, result)
        return result

    def value_and_grad(x: Any) -> tuple[float, Any]:
        result, gradient = objective.value_and_grad(tensor(x))
        remember(x, result, float(gradient.abs().max()))
        return result, array(gradient)

    def operator(x: Any) -> Any:
        if graph["x"] is None or not np.array_equal(graph["x"], x):
            objective.commit(tensor(x))
            graph.update(x=np.copy(x), operator=objective.at().hessian())
        return graph["operator"]

    def product(x: Any, vector: Any) -> Any:
        return array(operator(x) @ tensor(vector))

    def dense(x: Any) -> Any:
        return array(operator(x).dense())

    def after(x: Any, *_: Any) -> None:
        stop.update(x=np.copy(x), value=seen.get(hash(x.tobytes()), (math.nan, math.nan))[0])
        stop["count"] += 1
        if callback(x, *seen.get(hash(x.tobytes()), (math.nan, math.nan))):
            raise _Stop("stopped by the callback")
        if stop["count"] >= max_iter and name == "TNC":
            raise _Stop(f"{max_iter} iterations done")

    needs = _METHODS[name]
    arguments: dict[str, Any] = {"jac": needs != "value"}
    if needs == "product":
        arguments["hessp"] = product
    elif needs == "matrix":
        arguments["hess"] = dense
    # TNC counts evaluations only.
    defaults: dict[str, Any] = {"maxfun": 100 * max_iter} if name == "TNC" else {"maxiter": max_iter}
    if name in _GTOL:
        defaults[_GTOL[name]] = gtol
    if name == "L-BFGS-B":
        defaults["ftol"] = 0.0
    start = array(objective.position())
    stop["x"] = start
    function = value if needs == "value" else value_and_grad
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Unknown solver options", scipy.optimize.OptimizeWarning)
            result = scipy.optimize.minimize(
                function, start, method=name, callback=after, options=defaults | options, **arguments
            )
    except _Stop as end:
        return Outcome(tensor(stop["x"]), stop["value"], str(end))
    except ValueError as error:
        if stop["finite"]:
            raise
        # Some methods hand NaN on to LAPACK's wrappers, which refuse it.
        return Outcome(tensor(stop["x"]), stop["value"], f"the function is not finite: {error}")
    except scipy.optimize.OptimizeWarning as warning:
        raise ConfigError(
            f"scipy:{name} does not have an option given to it ({warning}). Its options are those of "
            f"scipy.optimize.show_options('minimize', '{name.lower()}')."
        ) from warning
    return Outcome(tensor(result.x), float(result.fun), str(result.message))


def scipy_name(method: str) -> str | None:
    """Returns the name of a method as SciPy writes it, or None where it has no such method.

    Args:
        method: The name in any case.
    """
    return next((name for name in _METHODS if name.lower() == method.lower()), None)


def _method(method: str) -> str:
    name = scipy_name(method)
    if name is None:
        raise ConfigError(
            f"SciPy has no method {method!r}.{suggest(method, _METHODS)} It has: {', '.join(_METHODS)}; write e.g. "
            "'scipy:trust-krylov'."
        )
    return name


@dataclass
class SciPyConfig:
    """Options of `SciPy`.

    Attributes:
        method: Name as SciPy spells it.
        max_iter: Iterations of SciPy in one step.
        options: SciPy's own options.
    """

    method: str = option("L-BFGS-B", help="name as SciPy spells it")
    max_iter: int = option(20, ge=1, help="SciPy's iterations in one step")
    options: dict[str, Any] = option({}, help="SciPy's own options for the method")


class SciPy(Optimizer):
    """A method of `scipy.optimize.minimize`, some iterations a step.

    SciPy's memory cannot be taken out and put back, so every step starts it afresh from where the last one ended;
    meant for full batches. In float32 SciPy sees values rounded to float32.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        ConfigError: If SciPy has no such method.
    """

    Config = SciPyConfig
    family = "quasi-newton"
    batch = "full"
    summary = "a method of scipy.optimize.minimize, by name"

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        super().__init__(params, config, escape=escape, **options)
        _method(self.config.method)

    def update(self, objective: Objective) -> None:
        """Runs SciPy for some iterations.

        Args:
            objective: Bound to the parameters.
        """
        from hybridopt.escape.base import default_gtol

        value, gradient = objective.value_and_grad()
        if not (math.isfinite(value) and bool(torch.isfinite(gradient).all())):
            self.note(accepted=False, status="non_finite", step_norm=0.0)
            return
        count = 0

        def callback(x: Tensor, value: float, gradient: float) -> bool:
            nonlocal count
            count += 1
            return False

        origin = objective.position()
        gtol = default_gtol(objective.space.dtype)
        outcome = run_scipy(
            objective, self.config.method, dict(self.config.options), gtol, self.config.max_iter, callback
        )
        objective.commit(outcome.x if torch.isfinite(outcome.x).all() else origin)
        self.note(
            inner_iterations=count,
            status=outcome.message,
            step_norm=float(torch.linalg.vector_norm(outcome.x - origin)),
        )
