"""Where to look next, from what was found so far: Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hybridopt.tuning.dimensions import Choices, Dimension
from hybridopt.tuning.score import Score

if TYPE_CHECKING:
    from hybridopt.tuning.space import Space

Told = tuple[Mapping[str, Any], Score | None]
"""A point and its score; None for a point that is running or was drawn a moment ago."""


def optuna_version() -> str:
    """Returns the version of Optuna, on which its proposals depend."""
    from importlib.metadata import version

    return version("optuna")


def propose(space: Space, told: Sequence[Told], seed: int) -> dict[str, Any]:
    """Returns one point, by the estimator of Bergstra et al. (NeurIPS 2011) as it is in Optuna.

    It keeps nothing between calls: the same points with the same scores and the same seed give the same answer, so a
    search that is started again goes on as it would have. Only the order of the scores matters. A point that has none
    yet counts as a bad one (Optuna's "constant liar"), so that points that are asked for together differ. Values that
    lie outside the space, as those of defaults may, say nothing about their dimension.

    Args:
        space: The space.
        told: Points so far.
        seed: Of the random numbers.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    distributions = {name: _distribution(one) for name, one in space.dimensions.items()}
    with _quiet():
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)
        study = optuna.create_study(sampler=sampler)
        for values, score in told:
            places = {name: _coordinate(space.dimensions[name], value) for name, value in values.items()}
            known = {name: place for name, place in places.items() if place is not None}
            study.add_trial(
                create_trial(
                    params=known,
                    distributions={name: distributions[name] for name in known},
                    state=TrialState.RUNNING if score is None else TrialState.COMPLETE,
                    value=None if score is None else _number(score, told),
                )
            )
        drawn = study.ask(distributions).params
    return {name: _value(one, drawn[name]) for name, one in space.dimensions.items()}


def _number(score: Score, told: Sequence[Told]) -> float:
    """The place of a score among all: the estimator looks at the order alone, and a rank is always finite."""
    return float(sum(other < score for _, other in told if other is not None))


def _ordered(dimension: Choices) -> list[Any]:
    """The values of a dimension, numbers by size."""
    values = list(dimension.values)
    return sorted(values) if _numeric(dimension) else values


def _numeric(dimension: Choices) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in dimension.values)


def _distribution(dimension: Dimension) -> Any:
    """Ranges become the unit interval, numbers to choose from their places by size."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(dimension, Choices):
        return FloatDistribution(0.0, 1.0)
    count = len(dimension.values)
    return IntDistribution(0, count - 1) if _numeric(dimension) else CategoricalDistribution(range(count))


def _coordinate(dimension: Dimension, value: Any) -> float | int | None:
    """The inverse of `_value`; None for what the dimension has not."""
    if isinstance(dimension, Choices):
        return _ordered(dimension).index(value) if value in dimension.values else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    place = dimension.place(value)
    # A value is rounded to a few digits and may lie a hair outside.
    return min(max(place, 0.0), 1.0) if -1e-6 <= place <= 1 + 1e-6 and math.isfinite(place) else None


def _value(dimension: Dimension, coordinate: float | int) -> Any:
    return _ordered(dimension)[int(coordinate)] if isinstance(dimension, Choices) else dimension.at(coordinate)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log and its warning that the constant liar is experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
