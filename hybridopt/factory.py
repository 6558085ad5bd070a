"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hybridopt.core import ConfigError, UnknownNameError
from hybridopt.optimizers import registry


def create(name: str, params: Iterable[Any], *, escape: Any = None, **options: Any) -> Any:
    """Makes an optimizer by name.

    Args:
        name: A registered name (``hybridopt list optimizers``); ``torch:AdamW`` for a class of `torch.optim`;
            ``package.module:Class`` for one of another package; ``scipy:trust-krylov`` for a method of SciPy.
        params: Parameters, named parameters or param groups, as torch's optimizers take them.
        escape: What to do at a saddle: a name, a mapping with ``name`` and options, an `Escape`, or None.
        **options: The optimizer's own options; unknown ones are errors.

    Returns:
        A `torch.optim.Optimizer` with ``step(objective)``.

    Raises:
        UnknownNameError: If there is no such optimizer.
        ConfigError: If an option is unknown, has a wrong type or is out of range.

    Example:
        >>> import torch
        >>> parameters = [torch.nn.Parameter(torch.ones(2))]
        >>> create("newton_cg", parameters, damping=1e-2).config.damping
        0.01
    """
    if not isinstance(name, str):
        raise ConfigError(f"create needs the name of an optimizer first, not a {type(name).__name__}.")
    if name == "external":
        cls = options.pop("cls", "")
        inner = dict(options.pop("options", None) or {})
        if options:
            raise ConfigError(f"external takes cls and options, not {', '.join(options)}.")
        if ":" not in cls:
            raise ConfigError("optimizer=external needs optimizer.cls=torch:AdamW or cls=package.module:Class.")
        return create(cls, params, escape=escape, **inner)
    if name.startswith("scipy:"):
        from hybridopt.optimizers.scipy_adapter import SciPy

        return SciPy(params, method=name.removeprefix("scipy:"), escape=escape, options=options)
    if ":" in name:
        from hybridopt.optimizers.adapters import external

        return external(name, params, escape=escape, **options)
    try:
        cls = registry.get(name)
    except UnknownNameError as error:
        from hybridopt.optimizers.scipy_adapter import scipy_name

        theirs = scipy_name(name)
        if theirs is None:
            raise
        raise UnknownNameError(f"{error} SciPy's method of that name is 'scipy:{theirs}'.") from None
    return cls(params, escape=escape, **options)
