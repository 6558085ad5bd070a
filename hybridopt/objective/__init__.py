"""The loss as a function of the parameters, what it costs, and its points."""

from hybridopt.objective.function import FunctionModule
from hybridopt.objective.ledger import WEIGHTS, WEIGHTS_VERSION, Ledger
from hybridopt.objective.objective import Objective
from hybridopt.objective.parameters import ParameterSpace, Slots
from hybridopt.objective.point import Point
from hybridopt.objective.randomness import RandomState

__all__ = [
    "WEIGHTS",
    "WEIGHTS_VERSION",
    "FunctionModule",
    "Ledger",
    "Objective",
    "ParameterSpace",
    "Point",
    "RandomState",
    "Slots",
]
