"""What every room may use: errors, named registries, typed configs."""

from hybridopt.core.config import check, make_config, option, to_dict
from hybridopt.core.errors import (
    CombinationError,
    ConfigError,
    DataError,
    DeviceError,
    HybridoptError,
    NonFiniteError,
    ObjectiveError,
    StaleOperatorError,
    StoreError,
    UnknownNameError,
    suggest,
)
from hybridopt.core.keyed import Keyed
from hybridopt.core.packages import need
from hybridopt.core.registry import Registry

__all__ = [
    "CombinationError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "HybridoptError",
    "Keyed",
    "NonFiniteError",
    "ObjectiveError",
    "Registry",
    "StaleOperatorError",
    "StoreError",
    "UnknownNameError",
    "check",
    "make_config",
    "need",
    "option",
    "suggest",
    "to_dict",
]
