"""The config of a run as Hydra sees it: every part's dataclass is the schema of its group's option.

Hydra composes and type-checks; `hybridopt.experiment.config.resolve` checks again, because Hydra lets a key that was
added with ``+`` pass, and knows no ranges.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hybridopt.core import HybridoptError
from hybridopt.experiment import parts
from hybridopt.experiment.composition import Composer, Unchecked
from hybridopt.experiment.config import RunConfig

_PLUGIN_MODULE = "hydra_plugins.hybridopt"
_REFUSED = (OmegaConfBaseException, ValueError, TypeError)


def register(conf_dir: Path) -> None:
    """Puts the schemas of all parts into Hydra's config store, and the launcher ``local`` among its plugins.

    Schemas stand under ``schema/<group>/<name>``, where the YAML files of ``conf/`` pull them in. A part without a
    YAML file, such as a user's own, is an option of its group all the same. Called again, it adds what is new.

    Args:
        conf_dir: The directory with the YAML files.
    """
    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=_structured("run", _run_fields()))
    for group in ("budget", "launcher"):
        cls = {field.name: field for field in dataclasses.fields(RunConfig)}[group].default_factory
        store.store(group="schema", name=group, node=_structured(group, _fields(cls)))  # type: ignore[arg-type]
    for kind in parts.KINDS:
        for name in parts.names(kind):
            try:
                cls = parts.config_class(kind, name)
            except HybridoptError:
                continue  # a broken package: the others work; naming this one gives its error
            fields = {"name": (str, name), **_fields(cls)}
            if kind == "task":
                fields["batch_size"] = (Any, "auto")
            node = _structured(f"{kind} {name}", fields)
            store.store(group=f"schema/{kind}", name=name, node=node)
            if not (conf_dir / kind / f"{name}.yaml").is_file():
                store.store(group=kind, name=name, node=node)
    store.store(group="hydra/launcher", name="local", node={"_target_": f"{_PLUGIN_MODULE}.LocalLauncher"})
    _register_launcher()


def to_values(cfg: DictConfig, experiment: str | None) -> dict[str, Any]:
    """Returns a composed config as plain values.

    Args:
        cfg: As Hydra hands it to its task function.
        experiment: Name of the experiment chosen, or None.
    """
    own = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True, enum_to_str=True)
    assert isinstance(values, dict)
    if values.get("experiment") is None:
        values["experiment"] = experiment
    return values  # type: ignore[return-value]


def chosen_experiment(hydra_config: Any) -> str | None:
    """Returns the option of the group ``experiment`` that a job was composed with.

    Args:
        hydra_config: Its node ``hydra``.
    """
    choice = hydra_config.runtime.choices.get("experiment")
    return None if choice in (None, "null") else str(choice)


class LocalLauncher(Launcher):
    """Hydra's view of `hybridopt.experiment.sweep`: composes every job, then hands all of them over at once.

    The task function must have a method ``sweep(list of plain configs)``; a method ``see(config)`` is shown the config
    of the whole sweep before any job is composed.
    """

    # Hydra takes plugins from the namespace package hydra_plugins only. A real one would be loaded by every Hydra
    # application in the environment; this one exists in this program alone.
    __module__ = _PLUGIN_MODULE

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self._loader, self._task, self._config = hydra_context.config_loader, task_function, config
        getattr(task_function, "see", lambda config: None)(config)
        hydra_context.config_loader = Unchecked(self._loader)  # type: ignore[assignment]

    def launch(self, job_overrides: typing.Sequence[typing.Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Composes and runs the jobs; called by Hydra's sweeper.

        Args:
            job_overrides: One list of overrides a job.
            initial_job_idx: Number of the first one.
        """
        composer, values = Composer(self._loader, self._config), []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            job = composer.compose(overrides, number)
            values.append(to_values(job, chosen_experiment(job.hydra)))
        self._task.sweep(values)  # type: ignore[attr-defined]
        done = []
        for overrides in job_overrides:
            result = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
            done.append(result)
        return done


def _register_launcher() -> None:
    if _PLUGIN_MODULE not in sys.modules:
        try:
            import hydra_plugins
        except ImportError:
            hydra_plugins = types.ModuleType("hydra_plugins")
            hydra_plugins.__path__ = []
            sys.modules["hydra_plugins"] = hydra_plugins
        module = types.ModuleType(_PLUGIN_MODULE)
        module.LocalLauncher = LocalLauncher  # type: ignore[attr-defined]
        sys.modules[_PLUGIN_MODULE] = hydra_plugins.hybridopt = module  # type: ignore[attr-defined]
    Plugins.instance().register(LocalLauncher)


def _run_fields() -> dict[str, tuple[Any, Any]]:
    """The top level: groups take anything here, their own schemas say what."""
    fields = _fields(RunConfig)
    for name in (*parts.KINDS, "budget", "launcher"):
        fields[name] = (Any, None)
    # The group of that name has no node of its own, and plugins come with --plugin.
    return {name: field for name, field in fields.items() if name not in ("experiment", "plugins")}


def _fields(cls: type) -> dict[str, tuple[Any, Any]]:
    """Returns a dataclass's fields as name -> (type that OmegaConf takes, default)."""
    hints = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        hint = hints[field.name]
        if isinstance(default, enum.Enum):  # OmegaConf knows members by name, this library by value
            default, hint = default.value, Any
        found[field.name] = (hint, "???" if default is dataclasses.MISSING else default)
    return found


def _structured(title: str, fields: Mapping[str, tuple[Any, Any]]) -> Any:
    """Returns a structured node; a field whose type OmegaConf does not take becomes untyped, and is checked later."""
    try:
        node = _node(title, fields)
    except _REFUSED:
        node = _node(
            title,
            {name: (hint if _taken(name, hint, default) else Any, default) for name, (hint, default) in fields.items()},
        )
    for name, (_, default) in fields.items():
        if isinstance(default, dict):  # free options, e.g. of an external optimizer: any key may be set
            OmegaConf.set_struct(node[name], False)
    return node


def _node(title: str, fields: Mapping[str, tuple[Any, Any]]) -> Any:
    entries = [(name, hint, _field(default)) for name, (hint, default) in fields.items()]
    return OmegaConf.structured(dataclasses.make_dataclass(title.replace(" ", "_"), entries))


def _taken(name: str, hint: Any, default: Any) -> bool:
    try:
        _node("probe", {name: (hint, default)})
    except _REFUSED:
        return False
    return True


def _field(default: Any) -> Any:
    if isinstance(default, list | dict) or dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=lambda: default)
    return dataclasses.field(default=default)
