"""Plugins that are loaded in a test are forgotten after it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hybridopt.core.registry import Registry


@contextmanager
def forgotten(*registries: Registry) -> Iterator[None]:
    """Context after which neither the parts of plugins loaded inside are known nor their modules.

    A module that stayed would not run again, so the next test that loads it would find nothing registered.

    Args:
        registries: Where plugins may add parts.
    """
    before, modules = [(registry, dict(registry._registered)) for registry in registries], set(sys.modules)
    try:
        yield
    finally:
        for registry, known in before:
            registry._registered.clear()
            registry._registered.update(known)
        for name in set(sys.modules) - modules:
            if name.startswith("hybridopt_plugin_"):
                del sys.modules[name]
