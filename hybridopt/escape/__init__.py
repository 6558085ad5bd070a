"""Strategies that lead an optimizer away from saddle points."""

from hybridopt.core import Registry
from hybridopt.escape.base import Escape, EscapeConfig, Proposal

registry = Registry(
    "escape",
    {
        "none": "hybridopt.escape.none:NoEscape",
        "perturbation": "hybridopt.escape.perturbation:Perturbation",
        "negative_curvature": "hybridopt.escape.negative_curvature:NegativeCurvature",
        "neon": "hybridopt.escape.neon:Neon",
        "noisy_gradient": "hybridopt.escape.noisy_gradient:NoisyGradient",
        "chain": "hybridopt.escape.chain:Chain",
    },
    entry_points="hybridopt.escapes",
)
register = registry.register

__all__ = ["Escape", "EscapeConfig", "Proposal", "register", "registry"]
