"""Options with which the optimizers of this library are tried: few and small, so that a few steps say something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    # A switch that is due in the third step, so that short runs meet both of its members.
    "switch": {"at_step": 2, "first_options": {"lr": 1e-2}},
    "adam_lbfgs": {"at_step": 2},
    "adam_lbfgs_nncg": {"at_step": 2, "lbfgs_steps": 2, "rank": 5, "max_cg": 10},
    # Trials of four steps or so: nothing is undone in the first three.
    "auto": {"portfolio": [{"name": "momentum", "options": {"lr": 0.02}}, "lbfgs"], "trial_cost": 3.5, "run_cost": 3.0},
    "saddle_free_newton": {"subspace": 10},
    "curvilinear_newton": {"subspace": 10},
    "hessian_free": {"max_cg": 20},
    "nystrom_newton_cg": {"rank": 5, "refresh": 3},
    # Refreshes that a resume falls between.
    "shampoo": {"frequency": 3},
    "soap": {"frequency": 3},
    # One random vector may find an entry of the diagonal to be almost zero, and then a step is of any length.
    "adahessian": {"every": 2, "samples": 4},
    "sophia": {"every": 3},
    # First estimates from which a few steps get somewhere.
    "prodigy": {"d0": 1e-3},
    "dog": {"first_distance": 1e-2, "averaging": 8.0},
    "schedule_free": {"lr": 1e-2},
    "lookahead": {"period": 2, "inner_options": {"lr": 0.1}},
    # A rate that has settled at once: the switch comes after the second step.
    "swats": {"lr": 0.2, "threshold": 100.0},
    "torch:LBFGS": {"max_iter": 3, "line_search_fn": "strong_wolfe", "history_size": 4},
    # A few iterations a step: several steps do not end in the same minimum.
    "scipy:L-BFGS-B": {"maxiter": 4},
    "scipy:trust-ncg": {"maxiter": 4},
}
"""By name; an optimizer that is not here is tried with its defaults."""
