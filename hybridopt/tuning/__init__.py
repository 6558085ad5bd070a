"""Search for hyper-parameters: spaces declared beside the options, samplers, equal budgets, trials as ordinary runs.

    >>> import hybridopt as ho
    >>> space = ho.tuning.Space.of("lbfgs").only(["optimizer.lr", "optimizer.history"])
    >>> print(space)
    optimizer.lr=log:0.1:1 optimizer.history=5,10,20,50
    >>> len(space.sample(4, sampler="sobol", seed=0))
    4

`hybridopt tune` does all of it from the command line.
"""

from __future__ import annotations

from hybridopt.tuning.chosen import Chosen, write_chosen
from hybridopt.tuning.dimensions import Choices, Range
from hybridopt.tuning.score import Score
from hybridopt.tuning.search import search
from hybridopt.tuning.settings import Settings
from hybridopt.tuning.space import Space
from hybridopt.tuning.study import Study, Trial

__all__ = ["Choices", "Chosen", "Range", "Score", "Settings", "Space", "Study", "Trial", "search", "write_chosen"]
