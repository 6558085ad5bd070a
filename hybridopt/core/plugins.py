"""Loading of a user's own parts: a file or a module that registers them when it is imported."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path

from hybridopt.core import ConfigError, HybridoptError


def load_plugin(name: str) -> str:
    """Imports a plugin and returns its name in a form that works from any directory.

    Args:
        name: A Python file (``my_method.py``, ``folder/my_method.py``) or an importable module (``my_package.method``).

    Returns:
        The absolute path of a file, or the module's name.

    Raises:
        ConfigError: If it is not there, or fails while it is imported.
        HybridoptError: What the plugin itself complains about, such as a name that is taken.
    """
    path = Path(name).expanduser()
    if name.endswith(".py") or os.sep in name:
        if not path.is_file():
            raise ConfigError(
                f"The plugin file {name} does not exist. Give the path of a Python file or a module name."
            )
        return _load_file(path.resolve())
    if os.getcwd() not in sys.path:  # a console script does not look there, `python -m` does
        sys.path.append(os.getcwd())
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise ConfigError(
            f"There is no module {name!r} to take as a plugin. Give the path of a Python file, or install the module."
        )
    try:
        importlib.import_module(name)
    except HybridoptError:
        raise
    except Exception as error:
        failed = _failed(name, error)
        raise failed from error
    return name


def _load_file(path: Path) -> str:
    # Two files of one name in different folders are two modules.
    name = f"hybridopt_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return str(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"The plugin {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, HybridoptError) or not isinstance(error, Exception):
            raise
        raise _failed(str(path), error) from error
    return str(path)


def _failed(name: str, error: Exception) -> ConfigError:
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith(Path(name).name):
            line = f" at line {trace.tb_lineno}"
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        line = f" at line {error.lineno}"
    return ConfigError(
        f"The plugin {name} failed while it was imported{line}: {type(error).__name__}: {error}. Repair it; --debug "
        "shows the whole trace."
    )
