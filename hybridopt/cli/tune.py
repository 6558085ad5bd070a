"""``hybridopt tune``: searches hyper-parameters of several optimizers on the same budget."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridopt._paths import conf_dir
from hybridopt.cli import console
from hybridopt.cli.explain import explain
from hybridopt.cli.progress import make_monitor
from hybridopt.core import ConfigError, HybridoptError, make_config, suggest

TUNING_SEED = 1000
"""Seed of all trials unless the user sets one: none of those that comparisons use."""

_EXAMPLES = """\
examples:
  hybridopt tune task=digits_cnn optimizer=adam,lbfgs,newton_cg
  hybridopt tune task=digits_cnn optimizer=adam sampler=halving trials=16 budget.gradient_equivalents=20
  hybridopt tune task=digits_cnn optimizer=adam,momentum --space optimizer.lr=log:1e-4:1 --only optimizer.lr
  hybridopt tune task=nonconvex_logistic optimizer=sgd escape=perturbation --only optimizer.lr,escape.radius
  hybridopt run --config-dir outputs/tune/conf experiment=final

settings (KEY=VALUE), beside every config key of hybridopt run:
  sampler=sobol|random|grid|halving|optuna  trials=8  most_trials=32  spend=COST  objective=auto|target|loss
  sampler_seed=0  defaults=true  final_seeds=10  eta=3  rungs=2  at_once=2

Searched is what the options of the optimizer, the escape, the schedule and the data policy declare (search=...), and
the batch size; an option that is set (escape.radius=0.1) or left out (--space escape.radius=off) is not. Other parts
belong to the problem: name what you want searched (--space initialization.gain=log:0.1:10).
Every optimizer may spend what the dearest spends on its first TRIALS trials, escapes and all, or SPEND
gradient-equivalents where that is set, however few trials that pays for. Trials are ordinary runs below OUT/trials; the
same command goes on where it was stopped. What was found with an escape, a schedule or a data policy is for runs with
the very same.
"""


def start(arguments: Sequence[str], *, debug: bool) -> int:
    """Parses the command's arguments, in any order, and runs it; argparse's commands want all overrides in one row.

    Args:
        arguments: All after ``tune``.
        debug: Whether to show traces.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="hybridopt tune", description="Searches hyper-parameters, on the same budget for every optimizer."
    )
    add_arguments(parser)
    try:
        options = parser.parse_intermixed_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return main(options, debug=debug)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command.

    Args:
        parser: The command's parser.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, and overrides as of hybridopt run")
    parser.add_argument(
        "--space", action="append", default=[], metavar="NAME=SPACE", help="log:LOW:HIGH, uniform:LOW:HIGH, A,B or off"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME,NAME", help="search these alone, where there are such"
    )
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help="import it first")
    parser.add_argument("--config-dir", metavar="DIR", help="more YAML files")


def main(options: argparse.Namespace, *, debug: bool) -> int:
    """Tunes, and says what was chosen.

    Args:
        options: The parsed arguments.
        debug: Whether to show traces.

    Returns:
        The exit code.

    Raises:
        HybridoptError: If what was asked for is wrong, or trials were killed.
    """
    from hybridopt.core.plugins import load_plugin
    from hybridopt.tuning.chosen import CONF, EXPERIMENT, FILE, Chosen, write_chosen

    plugins = [load_plugin(name) for name in options.plugin]
    given, overrides = _sorted(options.overrides)
    settings, swept = _settings(given), _swept(overrides)
    root = Path(swept.pop("out") or "outputs/tune").resolve()
    tasks, optimizers = (_names(swept.pop(key), key) for key in ("task", "optimizer"))
    shared = [text for text in overrides if _key(text) not in ("task", "optimizer", "out")]
    changes, only = _changes(options.space, optimizers), [name for text in options.only for name in text.split(",")]
    chosen, failed = [], False
    for task in tasks:
        # All of them are built before the first trial starts, so that a wrong word costs no time.
        studies = _studies(task, optimizers, shared, settings, changes, only, root, plugins, options.config_dir)
        _check_only(only, studies)
        found = _run(studies)
        for study in studies:
            try:
                chosen.append(Chosen.of(study, found, root))
            except HybridoptError as error:  # of one optimizer; what the others found is kept
                console.error(str(error))
                failed = True
        if not any(one.task == task for one in chosen):
            continue
        _show(task, [one for one in chosen if one.task == task], found)
        kept = [text for text in shared if _key(text) not in ("seed", "budget.gradient_equivalents", "retry")]
        write_chosen(root, chosen, kept, settings.final_seeds)
    if not chosen:
        return 1
    extra = "".join(f" --plugin {name}" for name in options.plugin)
    console.line(f"tuned: {root / FILE}")
    console.line(f"compare with fresh seeds: hybridopt run{extra} --config-dir {root / CONF} experiment={EXPERIMENT}")
    return 1 if failed else 0


def _run(studies: Sequence[Any]) -> float:
    from hybridopt.tuning.search import search

    return search(studies, make_monitor)


def _studies(
    task: str,
    optimizers: Sequence[str],
    shared: Sequence[str],
    settings: Any,
    changes: Mapping[str, Sequence[str]],
    only: Sequence[str],
    root: Path,
    plugins: Sequence[str],
    config_dir: str | None,
) -> list[Any]:
    from hybridopt.experiment.config import resolve
    from hybridopt.tuning.study import Study

    studies = []
    fixed = [key for text in shared if "." in (key := _key(text)) or key == "seed"]  # escape=NAME fixes no option
    for optimizer in optimizers:
        values = compose([f"task={task}", f"optimizer={optimizer}", *shared], config_dir)
        if "seed" not in fixed:
            values["seed"] = TUNING_SEED
        values |= {"out": str(root / "trials"), "plugins": list(plugins)}
        study = Study(resolve(values), settings, changes=changes[optimizer], only=only, fixed=fixed)
        studies.append(study)
        console.line(f"{task}/{study.label}: {study.space}")
    first = studies[0]
    aim = "cost until the target" if first.objective == "target" else "validation loss"
    amount = f"{settings.trials} trials of the dearest, {first.limit:g} gradient-equivalents each"
    if settings.spend is not None:
        amount = f"{settings.spend:g} gradient-equivalents for every optimizer, {first.limit:g} a trial"
    console.line(f"{amount}; seed {first.base.seed}; best: {aim}")
    if settings.trials < 8:
        console.line("fewer than 8 trials: enough to see that it works, not to call an optimizer tuned")
    return studies


def compose(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """Returns the config that `hybridopt run` would compose, as plain values.

    Args:
        overrides: Hydra overrides.
        config_dir: A directory with more YAML files.

    Raises:
        ConfigError: If they do not compose, or the directory is not there.
        HybridoptError: What a part itself complains about.
        explain: What else Hydra says, as `hybridopt.cli.explain.explain` puts it.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from hybridopt.cli.experiment_file import quoted
    from hybridopt.experiment.schema import register, to_values

    conf = conf_dir()
    register(conf)
    more = [] if config_dir is None else [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]"]
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir {config_dir} is not a directory that exists.")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return to_values(hydra_compose("config", overrides=[*overrides, *more]), None)
    except HybridoptError:
        raise
    except Exception as error:
        raise explain(error) from error


def _sorted(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Parts the settings of tuning from the overrides of the config."""
    import dataclasses

    from hybridopt.tuning.settings import Settings

    names = {field.name for field in dataclasses.fields(Settings)}
    given: dict[str, str] = {}
    overrides = []
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} cannot be read. Write KEY=VALUE, e.g. trials=16 or optimizer=adam,lbfgs.")
        if key in names:
            given[key] = value
        elif key == "experiment" or key.startswith(("hydra.", "hydra/")):
            raise ConfigError(f"hybridopt tune takes no {key}=: name task=... and optimizer=... instead.")
        elif "." not in key and (near := suggest(key, names)) and key not in _known_keys():
            raise ConfigError(f"There is no key {key!r}.{near}")
        else:
            overrides.append(text)
    return given, overrides


def _known_keys() -> set[str]:
    import dataclasses

    from hybridopt.experiment.config import RunConfig

    return {field.name for field in dataclasses.fields(RunConfig)}


def _settings(given: Mapping[str, str]) -> Any:
    import yaml

    from hybridopt.tuning.settings import Settings

    try:
        return make_config(Settings, {key: yaml.safe_load(text) for key, text in given.items()}, owner="tune")
    except ConfigError as error:
        raise ConfigError(str(error).replace("tune.", "")) from error


def _swept(overrides: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {"task": None, "optimizer": None, "out": None}
    for text in overrides:
        key, _, value = text.partition("=")
        if key in found:
            found[key] = value
        elif "," in value and not any(mark in value for mark in "[{'\""):
            if "." in key:
                raise ConfigError(f"{text!r} names several values: search them with --space {key}={value}.")
            raise ConfigError(f"{text!r} names several values: tune each in a call of its own; out= may be the same.")
    return found


def _names(text: str | None, key: str) -> list[str]:
    if not text:
        raise ConfigError(f"Say what to tune: {key}=NAME, or {key}=NAME,NAME. Names: hybridopt list {key}s.")
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")


def _changes(texts: Sequence[str], optimizers: Sequence[str]) -> dict[str, list[str]]:
    """Gives each optimizer the changes of the space that concern it; one that concerns none is an error."""
    import dataclasses

    from hybridopt.experiment import parts
    from hybridopt.tuning.space import BATCH

    found: dict[str, list[str]] = {optimizer: [] for optimizer in optimizers}
    for text in texts:
        name, equals, _ = text.partition("=")
        if not equals:
            raise ConfigError(f"--space {text!r} cannot be read. Write NAME=log:LOW:HIGH, NAME=A,B or NAME=off.")
        section, _, option = name.partition(".")
        known: list[str] = []
        taken = False
        for optimizer in optimizers:
            own = {field.name for field in dataclasses.fields(parts.config_class("optimizer", optimizer))}
            known += own
            if section == "optimizer" and option.partition(".")[0] not in own:
                continue
            if name == BATCH and len(optimizers) > 1 and _batch(optimizer) == "full":
                continue  # a method of full batches among others keeps them
            found[optimizer].append(text)
            taken = True
        if not taken:
            raise ConfigError(f"--space {name}: no optimizer here has it.{suggest(option, known)}")
    return found


def _batch(optimizer: str) -> str:
    from hybridopt.experiment import parts

    if optimizer == parts.EXTERNAL:
        return "mini"
    return getattr(parts.part_class("optimizer", optimizer), "batch", "mini")


def _check_only(only: Sequence[str], studies: Sequence[Any]) -> None:
    known = list(dict.fromkeys(itertools.chain.from_iterable(study.space.dimensions for study in studies)))
    for name in only:
        if name not in known:
            raise ConfigError(f"--only {name}: no optimizer searches it.{suggest(name, known)}")


def _show(task: str, chosen: Sequence[Any], budget: float) -> None:
    rows = []
    for one in chosen:
        facts = one.facts
        values = " ".join(f"{name.removeprefix('optimizer.')}={_short(value)}" for name, value in one.values.items())
        bad = sum(count for state, count in facts["states"].items() if state in ("diverged", "failed"))
        trials = f"{facts['trials']}" + (f" ({bad} diverged or failed)" if bad else "")
        cost = f"{facts['gradient_equivalents']:.4g}"
        rows.append([one.label, facts["score"], trials, cost, f"{facts['seconds']:.3g}", values])
    columns = ["optimizer", "best", "trials", "cost", "seconds", "chosen"]
    console.table(columns, rows, title=f"{task}: tuned on {budget:.4g} gradient-equivalents each")
    for one in chosen:
        if one.facts["defaults_best"]:
            console.line(f"{one.label}: no trial was better than the defaults")
        if one.facts.get("escape_jumps") == 0:
            console.line(f"{one.label}: no trial met a stall, so nothing is known of the escape's options")
        for advice in one.facts["edges"].values():
            console.line(f"{one.label}: {advice}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
