"""What makes two runs the same run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from hybridopt.core.errors import ConfigError
from hybridopt.experiment.jsonio import to_plain
from hybridopt.experiment.parts import KINDS, UNSEEN

FORMAT = 1
"""Version of the run directory's layout and of what enters `run_id`; another one is another run."""

IDENTITY = (
    *(kind for kind in KINDS if kind not in UNSEEN),
    "budget",
    "seed",
    "dtype",
    "device",
    "threads",
    "eval_every",
)
"""The config keys that a run's numbers depend on; paths, tracker, launcher and the like are left out."""

PLAIN = {"data": "one", "initialization": "default", "augmentation": "none", "precision": "full", "stopping": "none"}
"""Parts that do what runs did before there was a choice: they do not enter the identity, so that it stays."""


def run_id(config: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> str:
    """Returns the identity of a run: 16 hexadecimal digits.

    Two configs get the same id exactly if they agree in format version, resolved task, optimizer, escape,
    schedule, data policy, initialization, augmentation, precision, stopping, budget, seed, dtype, kind of device,
    threads and interval of evaluations. How a number is written (1 or 1.0, 1e-3 or 0.001), the order of keys, which GPU
    of several, and options that are None make no difference; neither do the parts in `PLAIN`.

    Args:
        config: The resolved config; keys that are not part of the identity are ignored.
        without: Identity keys to leave out, e.g. ``("seed",)`` for what the seeds of one setting share.

    Raises:
        ConfigError: If the device is still "auto", or a value is not plain data.
    """
    kept: dict[str, Any] = {"format": FORMAT, **determining(config, without=without)}
    device = str(kept.get("device") or "cpu")
    if device == "auto":
        raise ConfigError("A run's identity needs a real device: resolve device=auto to cpu or cuda first.")
    if "device" in kept:
        kept["device"] = device.partition(":")[0]
    try:
        text = json.dumps(_canonical(to_plain(kept)), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ConfigError(f"The config holds something that is not plain data: {error}.") from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def determining(config: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the part of a config that a run's numbers depend on, without the parts in `PLAIN`.

    Args:
        config: The resolved config.
        without: Identity keys to leave out.
    """
    kept = {key: config.get(key) for key in IDENTITY if key not in without}
    return {key: None if value == {"name": PLAIN.get(key)} else value for key, value in kept.items()}


def _canonical(value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            return f"float:{value}"
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return value
