"""What tuning leaves behind: ``tuned.yaml`` for people, and the same as config files that `hybridopt run` replays."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hybridopt.experiment import jsonio
from hybridopt.experiment.config import RunConfig
from hybridopt.experiment.job import run_directory
from hybridopt.experiment.layout import task_label
from hybridopt.tuning.space import BESIDE
from hybridopt.tuning.study import Study
from hybridopt.tuning.tpe import optuna_version

FORMAT = 1
"""Version of ``tuned.yaml``."""

FILE = "tuned.yaml"
CONF = "conf"
EXPERIMENT = "final"


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What was chosen for one optimizer on one task.

    Attributes:
        task: Name of the task.
        problem: What reports call it: ``name/problem`` for one of a collection, else its name.
        optimizer: Name of the optimizer.
        label: The same with its escape, schedule and data policy.
        values: Config names and chosen values; the defaults' own values where they were best. What the trials had
            from earlier tuning is among them.
        facts: Trials, cost, score and the like: plain data.
        parts: What it is made of, ``optimizer+escape+schedule+data``; empty where the optimizer is by itself.
    """

    task: str
    problem: str
    optimizer: str
    label: str
    values: dict[str, Any]
    facts: dict[str, Any]
    parts: str = ""

    @classmethod
    def of(cls, study: Study, budget: float, root: Path) -> Chosen:
        """Returns what a finished study chose.

        Args:
            study: All of whose trials have ended.
            budget: Gradient-equivalents that it could have spent.
            root: Directory that the paths of runs are given relative to.

        Raises:
            HybridoptError: If no trial came to a finite result.
        """
        trial, score = study.best()
        settings = study.settings
        values = {}
        for name in dict.fromkeys([*study.inherited, *study.space.dimensions]):
            with contextlib.suppress(KeyError):
                values[name] = study.value(trial, name)
        directory = run_directory(trial.config)
        facts = {
            "objective": study.objective,
            "score": score.describe(study.objective),
            "defaults_best": not trial.values,
            "trials": len(study.trials),
            "states": study.states(),
            "refused": study.refused,
            "budget_per_trial": study.limit,
            **({} if (epochs := study.base.budget.epochs) is None else {"epochs_per_trial": epochs}),
            "budget": budget,
            "gradient_equivalents": study.spent(),
            "seconds": study.spent("seconds"),
            "sampler": settings.sampler,
            "sampler_seed": settings.sampler_seed,
            **({"optuna": optuna_version()} if settings.sampler == "optuna" else {}),
            "seed": study.base.seed,
            "space": {name: str(dimension) for name, dimension in study.space.dimensions.items()},
            "edges": study.edges(trial),
            **_jumps(study),
            "run": str(directory.relative_to(root) if directory.is_relative_to(root) else directory),
        }
        task, name = study.base.task, study.base.optimizer["name"]
        usual = study.beside == {kind: getattr(RunConfig(), kind)["name"] for kind in study.beside}
        parts = "" if usual else "+".join([name, *study.beside.values()])
        return cls(task["name"], task_label(task), name, study.label, values, facts, parts)

    @property
    def provenance(self) -> dict[str, Any]:
        """What a run with these values records under "tuning"."""
        kept = ("trials", "gradient_equivalents", "seconds", "budget_per_trial", "objective", "sampler", "seed")
        return {"values": self.values, **{key: self.facts[key] for key in kept}}


def write_chosen(root: Path, chosen: Sequence[Chosen], overrides: Sequence[str], final_seeds: int) -> None:
    """Writes what was chosen; entries of earlier calls for other optimizers or tasks stay.

    ``tuned.yaml`` says all. ``conf/tuned/<task>/<optimizer>.yaml`` holds the values as `hybridopt run --config-dir`
    takes them, with the budget of a trial, and ``conf/experiment/final.yaml`` compares all optimizers of this call with
    fresh seeds. What was tuned with an escape, a schedule or a data policy is for runs with the very same,
    ``conf/tuned/with/<task>/<optimizer>+<escape>+<schedule>+<data>.yaml``; what such a file does not set, a run takes
    from the optimizer's own, but for that experiment, whose runs are those of the trials. The problems of a collection
    are kept apart, ``conf/tuned/<task>/<problem>/<optimizer>.yaml``, and only that experiment takes them: ``task=``
    alone does not tell which is meant.

    Args:
        root: Directory of the tuning.
        chosen: What this call chose.
        overrides: What else the user set for all trials, as Hydra overrides; the comparison gets them too.
        final_seeds: Number of seeds of the comparison.

    Raises:
        StoreError: If something cannot be written.
    """
    path = root / FILE
    known = _read(path)
    for one in chosen:
        entry = {"values": one.values, **one.facts}
        known.setdefault("tasks", {}).setdefault(one.problem, {})[one.label] = entry
    known = {"format": FORMAT, "updated": jsonio.utc_now(), "tasks": known.get("tasks", {})}
    _write(path, "# Written by hybridopt tune.\n", known)
    for one in chosen:
        content = nested(one.values)
        content["budget"] = {"gradient_equivalents": one.facts["budget_per_trial"]}
        if "epochs_per_trial" in one.facts:  # what a schedule takes its number of steps from
            content["budget"]["epochs"] = one.facts["epochs_per_trial"]
        content["tuning"] = one.provenance
        title = f"# @package _global_\n# {one.label} on {one.problem}: {summary(one.facts)}\n"
        group = root / CONF / "tuned" / ("with" if one.parts else "")
        _write(group / one.problem / f"{one.parts or one.optimizer}.yaml", title, content)
    params: dict[str, Any] = {
        "task": ",".join(dict.fromkeys(one.task for one in chosen)),
        "optimizer": ",".join(dict.fromkeys(one.optimizer for one in chosen)),
        "seed": f"range({final_seeds})",
    }
    params |= dict(override.partition("=")[::2] for override in overrides)
    title = "# @package _global_\n# Tuned options with seeds that tuning has not seen.\n"
    experiment: dict[str, Any] = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": params}}}
    problem = chosen[0].problem.removeprefix(chosen[0].task)  # that of all: one call tunes one problem of a collection
    own, together = f"${{task}}{problem}/${{optimizer}}", "+".join(f"${{{kind}}}" for kind in BESIDE)
    if chosen[0].parts:  # of all, too
        defaults = [{"override /tuned@_global_": None}]
        if problem:
            defaults.append({"override /tuned/with@_global_": f"{own}+{together}"})
        experiment = {"defaults": defaults, **experiment}
    elif problem:
        experiment = {"defaults": [{"override /tuned@_global_": own}], **experiment}
    _write(root / CONF / "experiment" / f"{EXPERIMENT}.yaml", title, experiment)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted names and values as the sections of a YAML file.

    Args:
        values: Such as ``{"optimizer.lr": 0.1}``.
    """
    content: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        section = content
        for key in path:
            section = section.setdefault(key, {})
        section[last] = value
    return content


def summary(facts: Mapping[str, Any]) -> str:
    """Returns trials and cost in a few words.

    Args:
        facts: Of a `Chosen`.
    """
    return (
        f"{facts['trials']} trials, cost {facts['gradient_equivalents']:.4g} gradient-equivalents, "
        f"{facts['seconds']:.3g} s; {facts['score']}"
    )


def _jumps(study: Study) -> dict[str, int]:
    """How often an escape whose options were searched has jumped in all trials; without, they made no difference."""
    if not any(name.startswith("escape.") for name in study.space.dimensions):
        return {}
    events = [event for trial in study.trials for event in trial.read().events]
    return {"escape_jumps": sum(event.get("event") == "escape_jump" for event in events)}


def _read(path: Path) -> dict[str, Any]:
    try:
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return known if isinstance(known, dict) and known.get("format") == FORMAT else {}


def _write(path: Path, title: str, content: Mapping[str, Any]) -> None:
    with jsonio.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(jsonio.to_plain(content), sort_keys=False, allow_unicode=True, width=110)
    jsonio.write_atomic(path, title + text)
