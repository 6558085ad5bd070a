"""The SciPy-style front door: a function, a starting point, and an honest answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hybridopt.certificate import Certificate, certify
from hybridopt.core import ConfigError, Keyed, make_config, option
from hybridopt.escape.base import default_gtol, resolve_escape
from hybridopt.factory import create
from hybridopt.globalization import noise_floor
from hybridopt.objective import Objective

_STALL_STEPS = 10
"""So many steps without progress beyond the noise floor end a run."""
_SLOW_STALL_STEPS = 200
"""The same for methods of mini-batches, whose steps need not descend."""


@dataclass
class _Limits:
    """The numbers that end a run, and its seed."""

    gtol: float | None = option(None, gt=0, help="left out: 1e-8 in float64, 1e-4 in float32")
    max_iter: int = option(1000, ge=1)
    max_cost: float | None = option(None, gt=0, help="in gradient-equivalents; left out: no limit")
    seed: int = option(0)


@dataclass
class Result(Keyed):
    """The answer of `minimize`; its fields can be read as attributes or as keys, as SciPy's can.

    Attributes:
        x: The point, in the structure of the starting point.
        fun: The value there.
        grad_norm: Largest absolute entry of the gradient there.
        min_eigenvalue: Estimate of the Hessian's smallest eigenvalue there, or None when not certified.
        certificate: What that estimate is worth, or None.
        status: ``converged``; ``saddle_point`` (stationary, with a direction of negative curvature);
            ``uncertified`` (stationary, but the second-order test was off or could not decide); ``stalled``;
            ``budget_exhausted``; or ``diverged``.
        message: The status in a sentence.
        n_iter: Steps done.
        cost: ``forward``, ``gradient``, ``hvp``, ``ggnvp`` (calls), ``samples``, ``gradient_equivalents``,
            ``seconds``.
        history: One dict a step: ``step``, ``fun``, ``grad_norm``, ``gradient_equivalents``, and ``events``.
    """

    x: Any
    fun: float
    grad_norm: float
    min_eigenvalue: float | None
    certificate: Certificate | None
    status: str
    message: str
    n_iter: int
    cost: dict[str, float]
    history: list[dict[str, Any]] = field(repr=False)

    @property
    def success(self) -> bool:
        """Whether the run converged: to a stationary point where no negative curvature was found."""
        return self.status == "converged"

    def keys(self) -> list[str]:
        """Returns the names of the fields."""
        return [*super().keys(), "success"]


def minimize(
    fun: Callable[[Any], Tensor],
    x0: Any,
    method: str = "trust_newton_cg",
    *,
    escape: Any = None,
    gtol: float | None = None,
    max_iter: int = 1000,
    max_cost: float | None = None,
    certify: bool = True,
    options: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    seed: int = 0,
) -> Result:
    """Minimizes a function of tensors.

    Args:
        fun: Takes what `x0` is, a tensor, or a list or dict of tensors, and returns a scalar tensor made by torch.
        x0: Starting point; copied. Its dtype is the one that is computed in: pass float64 for accuracy. Python's
            numbers and integer arrays are taken in torch's default dtype, float32 unless you changed it.
        method: Any optimizer that `create` knows, ``scipy:trust-krylov`` and the like included.
        escape: What to do at a saddle: None, ``"perturbation"``, ``"negative_curvature"``, ``"neon"``,
            ``"noisy_gradient"``, a mapping with ``name`` and options, an `Escape`, or a list of these to try in turn.
        gtol: Stops when the largest gradient entry is at most this; default 1e-8 in float64, 1e-4 in float32.
        max_iter: Most steps.
        max_cost: Most gradient-equivalents (one is one gradient of `fun`).
        certify: Whether to test a stationary point for negative curvature, with Hessian products.
        options: Options of the method.
        callback: Called after each step with that step's history entry; a true return value ends the run, as does
            raising StopIteration. Of a method that averages, the history is that of the points at which it steps, and
            the result its average.
        seed: Of everything that is random here: the certificate, and an escape given by name.

    Returns:
        The result. ``result.success`` is True only for status ``converged``: a stationary point at which the
        Hessian's smallest eigenvalue was looked for and is not below ``-sqrt(gtol)``. The word minimum is not used:
        degenerate points (``result.certificate.degenerate``) may still not be one.

    Raises:
        ConfigError: If an argument is out of range or of the wrong kind.
        ObjectiveError: If the starting point is no floating-point tensor, array, number, or list or dict of tensors,
            or the function does not return a real scalar tensor with a graph.

    Example:
        >>> import torch
        >>> saddle = lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2
        >>> start = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> minimize(saddle, start).status
        'saddle_point'
        >>> result = minimize(saddle, start, escape="negative_curvature")
        >>> result.success, round(result.fun, 6)
        (True, -0.5)
    """
    given = {"gtol": gtol, "max_iter": max_iter, "max_cost": max_cost, "seed": seed}
    limits = make_config(_Limits, given, owner="minimize")
    gtol, max_iter, max_cost, seed = limits.gtol, limits.max_iter, limits.max_cost, limits.seed
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"options must map names of the method's options to values, not {type(options).__name__}.")
    if callback is not None and not callable(callback):
        raise ConfigError(f"callback must be a function of a step's history entry, not {type(callback).__name__}.")
    if isinstance(escape, str):
        escape = {"name": escape}
    if isinstance(escape, list | tuple):
        escape = {"name": "chain", "escapes": list(escape)}
    if isinstance(escape, Mapping):
        # An escape looks where this run would end: at a gradient of the same size.
        escape = {"seed": seed} | ({} if gtol is None else {"gtol": gtol}) | dict(escape)
    run = _Run(fun, x0, gtol, max_iter, max_cost, callback, certify, seed)
    if isinstance(method, str) and method.startswith("scipy:"):
        run.scipy(method.removeprefix("scipy:"), escape, options or {})
    else:
        run.steps(method, escape, options or {})
    return run.result()


class _Run:
    """One minimization: the objective, the clock, and how it ended."""

    def __init__(
        self,
        fun: Callable[[Any], Tensor],
        x0: Any,
        gtol: float | None,
        max_iter: int,
        max_cost: float | None,
        callback: Callable[[dict[str, Any]], Any] | None,
        certify: bool,
        seed: int,
    ) -> None:
        self.with_certificate = certify
        self.objective = Objective.from_function(fun, x0)
        self.gtol = default_gtol(self.objective.space.dtype) if gtol is None else gtol
        self.max_iter, self.max_cost, self.callback, self.seed = max_iter, max_cost, callback, seed
        self.history: list[dict[str, Any]] = []
        self.started = time.perf_counter()
        self.status = "budget_exhausted"
        self.reason = ""
        self.iterations = 0
        self.certified: tuple[Tensor, Certificate] | None = None
        self.average = math.inf

    @property
    def cost(self) -> float:
        return self.objective.ledger.gradient_equivalents(1)

    def record(self, value: float, gradient: float, **more: Any) -> bool:
        """Adds a step to the history; returns whether the callback asked to stop."""
        entry = {
            "step": self.iterations,
            "fun": value,
            "grad_norm": gradient,
            "gradient_equivalents": self.cost,
            "seconds": time.perf_counter() - self.started,
            **more,
        }
        self.history.append(entry)
        try:
            return self.callback is not None and bool(self.callback(entry))
        except StopIteration:  # SciPy's way to end a run
            return True

    def steps(self, method: str, escape: Any, options: Mapping[str, Any]) -> None:
        optimizer = create(method, self.objective.model.parameters(), escape=escape, **options)
        if optimizer.escape is None or not self.with_certificate:
            self.loop(optimizer)
        else:
            before, optimizer.escape.ask = optimizer.escape.ask, self.worth_leaving
            try:
                self.loop(optimizer)
            finally:
                optimizer.escape.ask = before
        self.objective.commit(self._answer(optimizer))

    def _answer(self, optimizer: Any) -> Tensor:
        """The point that is returned if the run ends now."""
        with optimizer.evaluation():
            answer = self.objective.position()
        if not _on_trial(optimizer):
            return answer
        # A portfolio shows the point from which its trials set out; what they have reached may be lower.
        return min([self.objective.position(), answer, *optimizer.trial_ends()], key=self._height)

    def _height(self, position: Tensor) -> float:
        value = self.objective.value(position)
        return math.inf if math.isnan(value) else value

    def worth_leaving(self, objective: Objective) -> str:
        """Answers an escape that wants to jump at a vanishing gradient; see `Escape`."""
        _, gradient = objective.value_and_grad()
        if float(gradient.abs().max()) > self.gtol:
            return "go on"
        certificate = self.certificate()
        known = certificate.verdict == "second_order_stationary" and not certificate.degenerate
        return "stay" if known else "leave"

    def certificate(self) -> Certificate:
        """Returns the certificate of the point where the run stands; the same one when asked twice."""
        position = self.objective.position()
        if self.certified is None or not torch.equal(self.certified[0], position):
            generator = torch.Generator().manual_seed(self.seed)
            found = certify(self.objective, eps_H=math.sqrt(self.gtol), generator=generator)
            self.certified = position, found
        return self.certified[1]

    def loop(self, optimizer: Any) -> None:
        """Steps until the run is at its end."""
        objective = self.objective
        best = math.inf
        without = 0
        for step in range(1, self.max_iter + 1):
            self.iterations = step
            loss = optimizer.step(objective)
            value = float(loss)
            gradient = _largest(optimizer._grads())
            report = optimizer.report
            if self.record(value, gradient, events=list(report.events)):
                self.status, self.reason = "budget_exhausted", "the callback ended the run"
                return
            if not math.isfinite(value):
                self.status, self.reason = "diverged", f"the function is {value}"
                return
            busy = optimizer.escape is not None and optimizer.escape.busy(optimizer)
            if gradient <= self.gtol and not busy:
                if optimizer.escape is not None and not optimizer.escape.settled(optimizer):
                    optimizer.escape.rearm(optimizer)
                # That was the gradient before the step; the one at the point that would be returned decides.
                elif not _on_trial(optimizer):
                    with optimizer.evaluation():
                        if self._stationary():
                            return
                elif torch.equal(self._answer(optimizer), objective.position()) and self._stationary():
                    return
            floor = noise_floor(value, objective.eps)
            moving = value < best - floor or busy or report.events or _on_trial(optimizer)
            without = 0 if moving else without + 1
            best = min(best, value)
            if without >= self._patience(optimizer) and self._average_descends(optimizer):
                without = 0
            if without >= self._patience(optimizer):
                self.status = "stalled"
                first = self.history[0]["fun"]
                self.reason = (
                    f"{without} steps without progress, and the function rose from {first:.6g} to {value:.6g}"
                    if value > first + floor
                    else f"{without} steps without progress beyond the rounding of the function's value"
                )
                return
            if self.max_cost is not None and self.cost >= self.max_cost:
                self.reason = f"{self.cost:.4g} of {self.max_cost:.4g} gradient-equivalents used"
                return
        self.reason = f"{self.max_iter} steps done"

    @staticmethod
    def _patience(optimizer: Any) -> int:
        """How many steps without progress are a stall."""
        member = getattr(optimizer, "active", optimizer)
        patience = _STALL_STEPS if getattr(member, "batch", "") == "full" else _SLOW_STALL_STEPS
        if optimizer.escape is not None:
            # The escape's own windows must have had their chance to see the stall.
            patience = max(patience, 3 * getattr(optimizer.escape.config, "stall_window", 0) + 1)
        return patience

    def _average_descends(self, optimizer: Any) -> bool:
        """Tells whether a method that averages has a lower average than when this was asked last."""
        running = self.objective.position()
        with optimizer.evaluation():
            if torch.equal(running, self.objective.position()):
                return False
            value = self.objective.value()
        before, self.average = self.average, value
        return value < before - noise_floor(before, self.objective.eps)

    def _stationary(self) -> bool:
        _, gradient = self.objective.value_and_grad()
        if float(gradient.abs().max()) > self.gtol:
            return False
        self.status = "converged"
        return True

    def scipy(self, method: str, escape: Any, options: Mapping[str, Any]) -> None:
        from hybridopt.optimizers.scipy_adapter import run_scipy

        if resolve_escape(escape) is not None:
            raise ConfigError("SciPy's methods run on their own and cannot be given an escape; use one of hybridopt's.")

        def callback(x: Tensor, value: float, gradient: float) -> bool:
            self.iterations += 1
            if self.record(value, gradient, events=[]):
                self.reason = "the callback ended the run"
                return True
            if self.max_cost is not None and self.cost >= self.max_cost:
                self.reason = f"{self.cost:.4g} of {self.max_cost:.4g} gradient-equivalents used"
                return True
            return False

        outcome = run_scipy(self.objective, method, dict(options), self.gtol, self.max_iter, callback)
        self.objective.commit(outcome.x)
        if not math.isfinite(outcome.value):
            self.status, self.reason = "diverged", outcome.message
        elif not self.reason and not self._stationary():
            # SciPy's codes for a spent budget differ from method to method; its words do not.
            spent = ("maximum number", "limit", "maxfun")
            exhausted = self.iterations >= self.max_iter or any(word in outcome.message.lower() for word in spent)
            self.status = "budget_exhausted" if exhausted else "stalled"
            self.reason = f"SciPy: {outcome.message}"

    def result(self) -> Result:
        objective = self.objective
        value, gradient = objective.value_and_grad()
        largest = float(gradient.abs().max())
        certificate = None
        if self.status != "diverged" and largest <= self.gtol:
            # Wherever the run stopped, a stationary point is judged as one.
            self.status = "converged"
        if self.status in ("converged", "stalled") and self.with_certificate:
            certificate = self.certificate()
        if self.status == "converged":
            verdict = certificate.verdict if certificate is not None else None
            self.status = {"second_order_stationary": "converged", "saddle": "saddle_point"}.get(
                verdict or "", "uncertified"
            )
        if self.status == "stalled" and "rounding" in self.reason:
            self.reason += self._why_stalled(largest, certificate)
        seconds = time.perf_counter() - self.started
        ledger = objective.ledger
        cost = {
            **ledger.counts,
            "samples": sum(ledger.samples.values()),
            "gradient_equivalents": self.cost,
            "seconds": seconds,
        }
        return Result(
            x=objective.model.result(),  # type: ignore[operator]
            fun=value,
            grad_norm=largest,
            min_eigenvalue=None if certificate is None else certificate.lambda_min_est,
            certificate=certificate,
            status=self.status,
            message=self._message(largest, certificate),
            n_iter=self.iterations,
            cost=cost,
            history=self.history,
        )

    def _why_stalled(self, gradient: float, certificate: Certificate | None) -> str:
        if not gradient < math.sqrt(torch.finfo(self.objective.space.dtype).max):
            return ", where the gradient is not finite or its square overflows: scale or transform the function"
        if certificate is not None and certificate.verdict == "inconclusive":
            return f"; methods for smooth functions may stall where one is not smooth: {certificate.reason}"
        return " (precision_limit)"

    def _message(self, gradient: float, certificate: Certificate | None) -> str:
        why = f" ({certificate.reason})" if certificate is not None else ""
        return {
            "converged": f"Stationary: largest gradient entry {gradient:.3g} <= {self.gtol:.3g}{why}.",
            "saddle_point": f"A saddle point: the gradient vanishes, but the curvature is negative{why}. Give escape="
            "'negative_curvature' or 'perturbation' to leave it.",
            "uncertified": "Stationary, but not known to be more: "
            + (why.strip(" ()") if why else "the second-order test is off (certify=False)")
            + ".",
            "stalled": f"No further progress: {self.reason}; largest gradient entry {gradient:.3g}.",
            "budget_exhausted": f"Stopped before convergence: {self.reason}; largest gradient entry {gradient:.3g}.",
            "diverged": f"Diverged: {self.reason}.",
        }[self.status]


def _on_trial(optimizer: Any) -> bool:
    """Whether the steps are those of a portfolio's trial, after which all may be put back."""
    return bool(getattr(optimizer, "on_trial", False))


def _largest(gradients: list[Tensor]) -> float:
    return float(torch.stack(torch._foreach_norm(gradients, math.inf)).max()) if gradients else 0.0
