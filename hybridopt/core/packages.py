"""Packages that only some features need: what to install, said before anything starts."""

from __future__ import annotations

import importlib.util

from hybridopt.core.errors import HybridoptError


def need(package: str, *, extra: str, owner: str, otherwise: str, error: type[HybridoptError] = HybridoptError) -> None:
    """Refuses to go on without a package; it is looked for, not imported.

    Args:
        package: Its module, dots for one inside another.
        extra: The extra of this library that installs it.
        owner: What needs it, the subject of the sentence.
        otherwise: What works without it.
        error: Class of the error.

    Raises:
        HybridoptError: If it is not installed.

    Example:
        >>> need("nonesuch", extra="sweep", owner="launcher=nonesuch", otherwise="use launcher=local")
        Traceback (most recent call last):
        ...
        hybridopt.core.errors.HybridoptError: launcher=nonesuch needs the package nonesuch, which is not installed: \
run `pip install 'hybridopt[sweep]'`, or use launcher=local.
    """
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even the package around it
        found = False
    if not found:
        raise error(
            f"{owner} needs the package {package}, which is not installed: run `pip install 'hybridopt[{extra}]'`, "
            f"or {otherwise}."
        )
