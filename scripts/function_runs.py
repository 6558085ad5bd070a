"""One run of one method on one test function: ours, SciPy's, pytorch-minimize's and torch's, on the same meter.

Every method gets values, gradients and products from the same `Objective`, whose ledger stops it at the budget. What
concerns the algorithm is everybody's default; what ends a run, and absolute limits of length, are set so that nobody
stops before the budget unless it has converged or can go no further.
"""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo  # noqa: F401 - now, and not within the time of the first run
from torch import Tensor

import hybridopt as ho
from hybridopt.certificate import certify
from hybridopt.globalization import noise_floor
from hybridopt.tasks.functions import Problem, Residuals, sum_of_squares

GTOL = 1e-10
"""Largest gradient entry at which every method may stop; it is small so that none stops before it is at f*."""
PATIENCE = 10
"""Steps without progress beyond the noise floor after which ours stop, as in `hybridopt.minimize`."""
STEPS = 100_000

FAR = 1e10
"""Largest radius of the peers' trust regions: their own of 1000 is a length, and costs a function or two."""

SCIPY: dict[str, dict[str, Any]] = {
    "L-BFGS-B": {"gtol": GTOL, "ftol": 0.0, "maxiter": STEPS, "maxfun": STEPS, "maxls": 50},
    "Newton-CG": {"xtol": 1e-12, "maxiter": STEPS},
    **{f"trust-{how}": {"gtol": GTOL, "maxiter": STEPS, "max_trust_radius": FAR} for how in ("ncg", "krylov", "exact")},
}
"""Options of SciPy's methods that know no plain ``gtol``, or have more that ends a run."""
TORCHMIN: dict[str, dict[str, Any]] = {
    "bfgs": {"gtol": GTOL, "xtol": -1.0, "gtd_tol": 0.0},
    "l-bfgs": {"gtol": GTOL, "xtol": -1.0, "gtd_tol": 0.0},
    "newton-cg": {"xtol": 0.0},
    "newton-exact": {"xtol": 0.0},
    "trust-ncg": {"gtol": GTOL, "max_trust_radius": FAR},
    "trust-exact": {"gtol": GTOL, "max_trust_radius": FAR},
}
"""The same for pytorch-minimize; an ``xtol`` of -1 ends no run, 0 those that stand still."""


class Spent(Exception):
    """The budget, or the time, is used; the text says which."""


class Meter(ho.Ledger):
    """A ledger that remembers which values were seen at which cost, and ends the run at the budget."""

    def __init__(self, budget: float) -> None:
        super().__init__()
        self.budget = budget
        self.free = False
        self.latest = math.nan
        self.seen: list[tuple[float, float]] = []

    @property
    def cost(self) -> float:
        """Gradient-equivalents so far."""
        return self.gradient_equivalents(1)

    def pay(self, kind: str, samples: int, columns: int = 1) -> None:
        """Enters one call; raises `Spent` once the budget is exceeded.

        Args:
            kind: As for a ledger.
            samples: As for a ledger.
            columns: As for a ledger.
        """
        if self.free:
            return
        super().pay(kind, samples, columns)
        if self.cost > self.budget:
            raise Spent("budget")
        if kind in ("forward", "gradient") and math.isfinite(self.latest):
            self.seen.append((self.cost, self.latest))


@dataclass
class Run:
    """How a run ended.

    Attributes:
        value: The lowest value seen within the budget.
        cost: Gradient-equivalents until the first value at the minimum that the run ended at; inf if unsolved.
        total: All that were spent.
        end: Status or message.
        claimed: Whether the method says that it succeeded.
        false_claim: It does, at a point that is no second-order stationary point.
        seconds: Time taken.
    """

    value: float
    cost: float
    total: float
    end: str
    claimed: bool
    false_claim: str
    seconds: float


def run(
    method: str,
    problem: Problem,
    factor: float,
    budget: float,
    options: dict[str, Any] | None = None,
    cap: float = 120.0,
) -> Run:
    """Runs a method from a multiple of the standard start.

    Args:
        method: A name of ours, ``scipy:...``, ``torchmin:...`` or ``torch:LBFGS``.
        problem: The test function.
        factor: Multiple of the start.
        budget: Gradient-equivalents.
        options: Options of a method of ours.
        cap: Seconds of processor time after which the run is broken off.
    """
    meter = Meter(budget)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        value = sum_of_squares(outputs, targets)
        meter.latest = float(value.detach())
        return value

    model = Residuals(problem, problem.start(factor))
    zeros = torch.zeros(1, problem.residuals(problem.start()).numel(), dtype=torch.float64)
    objective = ho.Objective(model, loss, torch.zeros(1, 1, dtype=torch.float64), zeros, ledger=meter)
    began = time.perf_counter()
    claimed = False
    try:
        with warnings.catch_warnings(), _at_most(cap):
            warnings.simplefilter("ignore")
            if method.startswith("scipy:"):
                end, claimed = _scipy(method.removeprefix("scipy:"), objective)
            elif method.startswith("torchmin:"):
                end, claimed = _torchmin(method.removeprefix("torchmin:"), objective)
            elif method == "torch:LBFGS":
                end, claimed = _torch_lbfgs(objective), False
            else:
                end, claimed = _ours(method, objective, options or {})
    except Spent as spent:
        end = str(spent)
    except Exception as error:
        if ":" not in method:
            raise
        # A peer's breakdown is a result.
        end = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - began
    total = min(meter.cost, budget)
    meter.budget = math.inf
    value = min((value for _, value in meter.seen), default=math.inf)
    cost = math.inf
    if problem.solved(value):
        level = min((problem.level(m) for m in problem.minima if value <= problem.level(m)), default=math.inf)
        cost = next(cost for cost, value in meter.seen if value <= level)
    false = _refute(objective) if claimed else ""
    return Run(value, cost, total, end, claimed, false, seconds)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Breaks the body off after some processor time, which other load does not shorten."""

    def stop(*_: Any) -> None:
        raise Spent(f"time: {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    # Again every second: an exception raised inside a callback of compiled code may get lost.
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def _refute(objective: ho.Objective) -> str:
    """Why the point where a method claims success is not even stationary to second order, or an empty text."""
    with objective.at() as point:
        largest = float(point.gradient.abs().max())
        eigenvalues = torch.linalg.eigvalsh(point.hessian().dense())
    # Methods differ in what they test; ten thousand times the tolerance asked for is no success by any of them.
    if not largest <= 1e4 * GTOL:
        return f"|g| = {largest:.1e}"
    if float(eigenvalues[0]) < -math.sqrt(GTOL) * max(1.0, float(eigenvalues.abs().max())):
        return f"lambda_min = {float(eigenvalues[0]):.1e}"
    return ""


def _ours(method: str, objective: ho.Objective, options: dict[str, Any]) -> tuple[str, bool]:
    """Steps until stationary or stalled, with the rules of `hybridopt.minimize`."""
    optimizer = ho.create(method, objective.model.parameters(), **options)
    best, without = math.inf, 0
    for _ in range(STEPS):
        value = float(optimizer.step(objective))
        if not math.isfinite(value):
            return "diverged", False
        largest = max(float(g.abs().max()) for g in optimizer._grads())
        if largest <= GTOL and float(objective.value_and_grad()[1].abs().max()) <= GTOL:
            break
        without = 0 if value < best - noise_floor(value, objective.eps) else without + 1
        best = min(best, value)
        if without >= PATIENCE:
            why = optimizer.report.search if "search" in optimizer.report else optimizer.report.status
            return f"stalled ({why})", False
    objective.ledger.budget = math.inf
    verdict = certify(objective, eps_H=math.sqrt(GTOL), generator=torch.Generator().manual_seed(0)).verdict
    return verdict, verdict == "second_order_stationary"


class _Cached:
    """The objective for libraries that ask for value, gradient and curvature of one point in separate calls.

    The last two points are known: to come back from a rejected trial costs nothing, as with ours.
    """

    def __init__(self, objective: ho.Objective) -> None:
        self.objective = objective
        self.visits: list[_Visit] = []

    def at(self, x: Tensor) -> Any:
        return self._visit(x).point

    def dense(self, x: Tensor) -> Tensor:
        visit = self._visit(x)
        if visit.dense is None:
            visit.dense = visit.point.hessian().dense()
        return visit.dense

    def _visit(self, x: Tensor) -> _Visit:
        known = [visit for visit in self.visits if torch.equal(visit.x, x)]
        if known and known[0] is self.visits[-1]:
            return known[0]
        self.objective.commit(x)
        self.objective.renew()
        meter = self.objective.ledger
        meter.free = bool(known)
        try:
            visit = _Visit(x.clone(), self.objective.at(), known[0].dense if known else None)
        finally:
            meter.free = False
        self.visits = [*self.visits[-1:], visit]
        return visit


@dataclass
class _Visit:
    x: Tensor
    point: Any
    dense: Tensor | None


def _scipy(method: str, objective: ho.Objective) -> tuple[str, bool]:
    import numpy as np
    import scipy.optimize

    cached = _Cached(objective)

    def tensor(x: Any) -> Tensor:
        return torch.from_numpy(np.array(x, dtype=np.float64))

    curvature: dict[str, Any] = {}
    if method in ("Newton-CG", "trust-ncg", "trust-krylov"):
        curvature = {"hessp": lambda x, v: (cached.at(tensor(x)).hessian() @ tensor(v)).numpy()}
    elif method in ("trust-exact", "dogleg"):
        curvature = {"hess": lambda x: cached.dense(tensor(x)).numpy()}
    options = SCIPY.get(method, {"gtol": GTOL, "maxiter": STEPS})
    if curvature and method != "Newton-CG":
        # Trials of a trust region need the value only, an accepted one's gradient comes with its graph.
        function = lambda x: objective.value(tensor(x))  # noqa: E731
        gradient: Any = lambda x: cached.at(tensor(x)).gradient.numpy()  # noqa: E731
    else:

        def function(x: Any) -> Any:
            if curvature:
                point = cached.at(tensor(x))
                return point.value, point.gradient.numpy()
            value, slope = objective.value_and_grad(tensor(x))
            return value, slope.numpy()

        gradient = True
    start = objective.position().numpy()
    result = scipy.optimize.minimize(function, start, jac=gradient, method=method, options=options, **curvature)
    objective.commit(tensor(result.x))
    return str(result.message), bool(result.success)


def _torchmin(method: str, objective: ho.Objective) -> tuple[str, bool]:
    import torchmin
    from torchmin.function import de_value, sf_value
    from torchmin.optim.minimizer import LinearOperator, Minimizer

    cached = _Cached(objective)

    class Counted(Minimizer):
        """What pytorch-minimize takes in the place of a function: value, gradient and curvature in one call."""

        nfev = 0

        def closure(self, x: Tensor) -> Any:
            if not (self._hessp or self._hess):
                value, gradient = objective.value_and_grad(x)
                return sf_value(torch.tensor(value, dtype=x.dtype), gradient, None, None)
            point = cached.at(x)
            hessian = point.hessian()
            product = LinearOperator(hessian.__matmul__, hessian.shape, x.dtype) if self._hessp else None
            dense = cached.dense(x) if self._hess else None
            return sf_value(torch.tensor(point.value, dtype=x.dtype), point.gradient.clone(), product, dense)

        def dir_evaluate(self, x: Tensor, t: float, d: Tensor) -> Any:
            value, gradient = objective.value_and_grad(x + d.mul(t))
            return de_value(f=value, grad=gradient)

    counted = Counted(objective.model.parameters(), method=method)
    options = TORCHMIN.get(method, {"gtol": GTOL})
    result = torchmin.minimize(counted, objective.position(), method=method, max_iter=STEPS, options=options)
    objective.commit(result.x.detach())
    return str(result.message), bool(result.success)


def _torch_lbfgs(objective: ho.Objective) -> str:
    x = objective.model.x
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=STEPS,
        max_eval=STEPS,
        tolerance_grad=GTOL,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value, gradient = objective.value_and_grad(x.detach().clone())
        x.grad = gradient
        return torch.tensor(value, dtype=x.dtype)

    optimizer.step(closure)
    return "returned"
