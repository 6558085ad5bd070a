"""Where the files that are not Python modules lie."""

from __future__ import annotations

from pathlib import Path

__all__ = ["conf_dir"]

_PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """Return the absolute directory of the configuration groups (``conf/``).

    A wheel carries them inside the package; in a checkout, and so in an editable install, they stand
    beside it. The answer does not depend on the working directory. It is a directory rather than a
    ``pkg://`` name because the latter cannot be imported from a checkout.

    Returns:
        ``<package>/conf`` if that directory exists, else ``<package>/../conf``.
    """
    inside = _PACKAGE / "conf"
    return inside if inside.is_dir() else _PACKAGE.parent / "conf"
