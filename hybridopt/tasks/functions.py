"""The test functions of More, Garbow and Hillstrom as a collection, and as a task.

from hybridopt.tasks.functions import problem, problems

rosenbrock = problem("rosenbrock")
result = hybridopt.minimize(rosenbrock, rosenbrock.start(10))
rosenbrock.solved(result.fun)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import ConfigError, UnknownNameError, option, suggest
from hybridopt.objective import Objective
from hybridopt.tasks import more_garbow_hillstrom as fixed
from hybridopt.tasks import more_garbow_hillstrom_variable as variable
from hybridopt.tasks.base import Split, Splits, Target, Task, TaskConfig

ACCURACY = 1e-5
"""A minimum counts as found when the value differs from it by at most this, relative to it."""

STARTS = (1, 10, 100)
"""Multiples of the standard start that the authors recommend."""


@dataclass(frozen=True)
class Problem:
    """A test function with its start and its minima; calling it gives its value.

    Attributes:
        name: Name, with the dimension where the collection has several.
        n: Number of parameters.
        x0: The standard start.
        residuals: x of shape (n,) to r of shape (m,); the function is r'r.
        minima: Values at the known local minimizers. The first is that to which descent from the standard start
            leads; empty if no value is listed for this dimension.

    Example:
        >>> function = problem("beale")
        >>> round(float(function(function.start())), 4)
        14.2031
        >>> function.minima
        (0.0,)
    """

    name: str
    n: int
    x0: tuple[float, ...]
    residuals: Callable[[Tensor], Tensor]
    minima: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the function's value, a 0-dim tensor.

        Args:
            x: Shape (n,), any floating-point dtype, any device.

        Raises:
            ConfigError: If x is not of that shape.
        """
        if x.shape != (self.n,):
            raise ConfigError(f"{self.name} takes a vector of shape ({self.n},), not {tuple(x.shape)}.")
        return self.residuals(x).square().sum()

    def start(self, factor: float = 1) -> Tensor:
        """Returns a starting point, shape (n,), float64.

        Args:
            factor: Multiple of the standard start. Where that is zero, every entry is the factor itself, as in the
                authors' code (ACM Algorithm 566), unless the factor is 1.
        """
        x0 = torch.tensor(self.x0, dtype=torch.float64)
        if factor != 1 and not x0.any():
            return torch.full_like(x0, factor)
        return factor * x0

    def level(self, minimum: float) -> float:
        """Returns the value at or below which a minimum counts as found.

        Args:
            minimum: One of `minima`. The scale of one that is zero is 1e-10 times the value at the standard start.
        """
        return minimum + ACCURACY * max(abs(minimum), 1e-10 * float(self(self.start())))

    def solved(self, value: float) -> bool:
        """Tells whether a final value is that of a listed minimum.

        Args:
            value: Where a run ended; NaN is not solved.
        """
        # Below a local minimum but not at the next one is on the way to that, not at either.
        at = any(abs(value - minimum) <= self.level(minimum) - minimum for minimum in self.minima)
        return at or value <= min(self.minima, default=-torch.inf)

    def objective(self, factor: float = 1, *, dtype: torch.dtype = torch.float64) -> Objective:
        """Returns the objective of the residuals under a sum of squares, so that a Gauss-Newton matrix exists.

        It is 2 J'J, with J the Jacobian of the residuals.

        Args:
            factor: Multiple of the standard start where the objective stands.
            dtype: Of the parameters.
        """
        model = Residuals(self, self.start(factor)).to(dtype)
        inputs, targets = _one_sample(self, model.x)
        return Objective(model, sum_of_squares, inputs, targets)


class Residuals(nn.Module):
    """A test function's residuals as a model: the parameters are x, the one input is not looked at.

    Args:
        problem: The test function.
        start: Where x begins, shape (n,).
    """

    def __init__(self, problem: Problem, start: Tensor) -> None:
        super().__init__()
        self.problem = problem
        self.x = nn.Parameter(start.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the residuals of the one sample, shape (1, m).

        Args:
            inputs: Anything of length 1.
        """
        return self.problem.residuals(self.x).unsqueeze(0)


def sum_of_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the sum of squared differences, a 0-dim tensor.

    Args:
        outputs: Residuals, shape (1, m).
        targets: Zeros, shape (1, m).
    """
    return (outputs - targets).square().sum()


def _one_sample(problem: Problem, like: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        count = problem.residuals(like).numel()
    return like.new_zeros(1, 1), like.new_zeros(1, count)


@dataclass(frozen=True)
class _Family:
    """One function of the paper in all its dimensions.

    Attributes:
        residuals: x to r.
        start: The standard start by dimension.
        minima: Listed minima by dimension.
        others: Minima in every other dimension, empty if they are not known; None if there is no other.
        multiple: Every dimension is a multiple of this.
        least: No dimension is smaller.
    """

    residuals: Callable[[Tensor], Tensor]
    start: Callable[[int], Iterable[float]]
    minima: dict[int, tuple[float, ...]]
    others: tuple[float, ...] | None = None
    multiple: int = 1
    least: int = 1


def _fixed(residuals: Callable[[Tensor], Tensor], start: tuple[float, ...], *minima: float) -> _Family:
    return _Family(residuals, lambda n: start, {len(start): minima})


def _grid_product(n: int) -> list[float]:
    """The start t (t - 1) of the two discretised problems."""
    return [i / (n + 1) * (i / (n + 1) - 1) for i in range(1, n + 1)]


# Values of the minima: recomputed from the residuals in float64, and rounded.
_FAMILIES: dict[str, _Family] = {
    "rosenbrock": _fixed(fixed.rosenbrock, (-1.2, 1), 0.0),
    "freudenstein_roth": _fixed(fixed.freudenstein_roth, (0.5, -2), 48.984253679, 0.0),
    "powell_badly_scaled": _fixed(fixed.powell_badly_scaled, (0, 1), 0.0),
    "brown_badly_scaled": _fixed(fixed.brown_badly_scaled, (1, 1), 0.0),
    "beale": _fixed(fixed.beale, (1, 1), 0.0),
    "jennrich_sampson": _fixed(fixed.jennrich_sampson, (0.3, 0.4), 124.36218236),
    "helical_valley": _fixed(fixed.helical_valley, (-1, 0, 0), 0.0),
    "bard": _fixed(fixed.bard, (1, 1, 1), 8.2148773066e-3),
    "gaussian": _fixed(fixed.gaussian, (0.4, 1, 0), 1.1279327696e-8),
    "meyer": _fixed(fixed.meyer, (0.02, 4000, 250), 87.945855171),
    "gulf": _fixed(fixed.gulf, (5, 2.5, 0.15), 0.0),
    "box": _fixed(fixed.box, (0, 10, 20), 0.0),
    "powell_singular": _fixed(fixed.powell_singular, (3, -1, 0, 1), 0.0),
    "wood": _fixed(fixed.wood, (-3, -1, -3, -1), 0.0),
    "kowalik_osborne": _fixed(fixed.kowalik_osborne, (0.25, 0.39, 0.415, 0.39), 3.0750560385e-4),
    "brown_dennis": _fixed(fixed.brown_dennis, (25, 5, -5, -1), 85822.201626),
    "osborne_1": _fixed(fixed.osborne_1, (0.5, 1.5, -1, 0.01, 0.02), 5.4648946975e-5),
    "biggs_exp6": _fixed(fixed.biggs_exp6, (1, 2, 1, 1, 1, 1), 5.6556499e-3, 0.0, 0.30636677),
    "osborne_2": _fixed(fixed.osborne_2, (1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5), 4.0137736294e-2),
    "watson": _Family(
        variable.watson,
        lambda n: [0.0] * n,
        {6: (2.2876700536e-3,), 9: (1.3997601381e-6,), 12: (4.7223811013e-10,)},
        (),
        least=2,
    ),
    "extended_rosenbrock": _Family(
        fixed.rosenbrock, lambda n: (-1.2, 1.0) * (n // 2), {10: (0.0,)}, (0.0,), multiple=2
    ),
    "extended_powell": _Family(
        fixed.powell_singular, lambda n: (3.0, -1.0, 0.0, 1.0) * (n // 4), {12: (0.0,)}, (0.0,), multiple=4
    ),
    "penalty_1": _Family(
        variable.penalty_1, lambda n: range(1, n + 1), {4: (2.2499775009e-5,), 10: (7.0876514671e-5,)}, ()
    ),
    "penalty_2": _Family(
        variable.penalty_2, lambda n: [0.5] * n, {4: (9.3762930074e-6,), 10: (2.9366053746e-4,)}, (), least=2
    ),
    "variably_dimensioned": _Family(
        variable.variably_dimensioned, lambda n: [(n - j) / n for j in range(1, n + 1)], {10: (0.0,)}, (0.0,)
    ),
    "trigonometric": _Family(
        variable.trigonometric, lambda n: [1 / n] * n, {10: (2.7950561219e-5, 0.0, 4.2186339e-5)}, (0.0,)
    ),
    "brown_almost_linear": _Family(
        variable.brown_almost_linear, lambda n: [0.5] * n, {10: (0.0, 1.0)}, (0.0, 1.0), least=2
    ),
    "discrete_boundary_value": _Family(variable.discrete_boundary_value, _grid_product, {10: (0.0,)}, (0.0,)),
    "discrete_integral_equation": _Family(variable.discrete_integral_equation, _grid_product, {10: (0.0,)}, (0.0,)),
    "broyden_tridiagonal": _Family(variable.broyden_tridiagonal, lambda n: [-1.0] * n, {10: (0.0,)}, (0.0,)),
    "broyden_banded": _Family(variable.broyden_banded, lambda n: [-1.0] * n, {10: (0.0,)}, (0.0,)),
    "chebyquad": _Family(
        variable.chebyquad,
        lambda n: [j / (n + 1) for j in range(1, n + 1)],
        {8: (3.5168737257e-3,), 10: (6.5039548009e-3, 4.7727137e-3)},
        (),
    ),
}


def problem(name: str, n: int | None = None) -> Problem:
    """Returns a test function by name.

    Args:
        name: Such as ``"rosenbrock"``; ``"watson_9"`` is the same as ``"watson"`` with n = 9.
        n: Number of parameters, for those that exist in several; default: the first that the collection has.

    Raises:
        UnknownNameError: If there is no such function.
        ConfigError: If it does not exist in that dimension.

    Example:
        >>> problem("watson", n=9).name, problem("broyden_banded", n=100).n
        ('watson_9', 100)
    """
    family = _FAMILIES.get(name)
    if family is None:
        stem, _, digits = name.rpartition("_")
        if n is None and stem in _FAMILIES and digits.isdecimal():
            return problem(stem, int(digits))
        raise UnknownNameError(
            f"There is no test function {name!r}.{suggest(name, _FAMILIES)} There are: {', '.join(_FAMILIES)}."
        )
    usual = next(iter(family.minima))
    n = usual if n is None else n
    if n != usual and family.others is None:
        raise ConfigError(f"{name} exists for n = {usual} only, not for n = {n}.")
    if n < family.least or n % family.multiple:
        rule = f"a multiple of {family.multiple}" if family.multiple > 1 else f"at least {family.least}"
        raise ConfigError(f"{name} needs a dimension that is {rule}, not n = {n}.")
    full = name if family.others is None or list(family.minima) == [n] else f"{name}_{n}"
    minima = family.minima.get(n, family.others or ())
    return Problem(full, n, tuple(float(value) for value in family.start(n)), family.residuals, minima)


def problems() -> list[Problem]:
    """Returns the whole collection: every function in each of its listed dimensions, in the paper's order."""
    return [problem(name, n) for name, family in _FAMILIES.items() for n in family.minima]


class FunctionTask(Task):
    """Minimizes a test function of More, Garbow and Hillstrom (1981); the one sample is a dummy.

    The model's outputs are the residuals, and the loss is the sum of their squares, so Gauss-Newton methods apply.
    Training, validation and test loss are all the function's value. The targets are the listed minima, to a relative
    1e-5, that which is usually reached from the standard start first; most need ``dtype=float64``.
    """

    name = "test_function"
    summary = "a test function of More, Garbow and Hillstrom (1981), run it with dtype=float64"

    @dataclass
    class Config(TaskConfig):
        """Options of `FunctionTask`.

        Args:
            batch_size: There is one sample.
            epochs: Default budget; one sample, so an epoch is one gradient.
            problem: The function's name.
            n: Number of parameters of those that exist in several; 0 for the usual one.
            start: Multiple of the standard start.
        """

        batch_size: int = option(1, ge=1, le=1, help="there is one sample")
        epochs: float = option(2000.0, gt=0, help="default budget; an epoch is one gradient")
        problem: str = option("rosenbrock", help="the function's name, e.g. watson or watson_9")
        n: int = option(0, ge=0, help="number of parameters of those that exist in several; 0 for the usual one")
        start: int = option(1, choices=STARTS, help="multiple of the standard start")

    config: Config

    def __init__(self, config: TaskConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.problem = problem(self.config.problem, self.config.n or None)
        if not self.problem.minima:
            stem = self.problem.name.rpartition("_")[0]
            listed = ", ".join(str(n) for n in _FAMILIES[stem].minima)
            raise ConfigError(
                f"No minimum of {stem} is known for n = {self.problem.n}, so a run could have no target. Listed: "
                f"n = {listed}."
            )
        levels = [self.problem.level(minimum) for minimum in self.problem.minima]
        metrics = ("validation_loss", "train_loss")
        # The other minima are targets for who finds them; higher ones are passed by everyone.
        lower = [level for level in levels[1:] if level < levels[0]]
        self.targets = tuple(
            [Target(metric, levels[0], "min") for metric in metrics]
            + [Target("train_loss", level, "min") for level in lower]
        )

    def build_splits(self, seed: int) -> Splits:
        """Returns the same dummy sample three times.

        Args:
            seed: Has no effect.
        """
        sample = Split(*_one_sample(self.problem, self.problem.start()))
        return Splits(sample, sample, sample)

    def build_model(self) -> nn.Module:
        """Returns the residuals as a function of the model's parameters, which are the start."""
        return Residuals(self.problem, self.problem.start(self.config.start))

    def model(self, seed: int = 0) -> nn.Module:
        """Returns the model at its start, float64: rounded to float32, the start would be another one.

        Args:
            seed: Has no effect.
        """
        return self.build_model()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the function's value, the sum of squared residuals.

        Args:
            outputs: Residuals, shape (1, m).
            targets: Zeros, shape (1, m).
        """
        return sum_of_squares(outputs, targets)

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the value at the start.

        Args:
            splits: What `splits` returned.
        """
        return float(self.problem(self.problem.start(self.config.start)))
