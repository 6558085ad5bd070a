"""The config of the runs in the tests of run directories."""

from __future__ import annotations

CONFIG = {
    "task": {"name": "digits_cnn", "batch_size": 64},
    "optimizer": {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.999]},
    "escape": {"name": "none"},
    "schedule": {"name": "none"},
    "budget": {"epochs": 5.0, "steps": None, "gradient_equivalents": None, "seconds": None},
    "tracker": {"name": "wandb"},
    "seed": 0,
    "device": "cpu",
    "dtype": "float32",
    "threads": 1,
}
