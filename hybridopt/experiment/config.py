"""The config of one run: typed, checked, and the same whether it comes from Hydra, a YAML file or Python."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from hybridopt.core import ConfigError, DeviceError, make_config, need, option, suggest, to_dict
from hybridopt.experiment import parts


@dataclasses.dataclass
class Budget:
    """When a run ends: at whichever limit it meets first. With none of the first four the task's default holds.

    Attributes:
        epochs: Passes over the training set.
        steps: Optimizer steps.
        gradient_equivalents: Cost in gradients on the task's reference samples.
        seconds: Training time; evaluation and logging do not count.
        stop_at_targets: Ends the run when every target of the task has been reached.
        patience: Ends the run after that many evaluations in a row without a lower validation loss.
    """

    epochs: float | None = option(None, gt=0, help="passes over the training set")
    steps: int | None = option(None, ge=1, help="optimizer steps")
    gradient_equivalents: float | None = option(None, gt=0, help="cost in gradients on the reference samples")
    seconds: float | None = option(None, gt=0, help="training time without evaluation")
    stop_at_targets: bool = option(False, help="end when every target of the task is reached")
    patience: int | None = option(None, ge=1, help="evaluations without a lower validation loss")

    @property
    def unlimited(self) -> bool:
        """Whether none of the four limits is set."""
        return (self.epochs, self.steps, self.gradient_equivalents, self.seconds) == (None,) * 4


@dataclasses.dataclass
class Launcher:
    """How the jobs of a sweep are started: one fresh process each.

    Attributes:
        name: ``local``: a queue of slots on this machine. ``submitit_slurm``, ``submitit_local``, ``ray``: by the
            queue of a cluster.
        slots: Jobs at the same time on the CPU; None: one a core, at most 8.
        jobs_per_gpu: Jobs at the same time on each GPU.
        time_limit: Seconds after which a job is stopped and counted as failed; None: no limit.
        lanes: Whether runs that differ in their seeds and numbers only are trained at once in one process, ``auto``:
            where that is measured to be faster. Their seconds mean nothing then, and float32 rounds differently.
        options: Options of the cluster, named as in Hydra's launcher plugins, e.g. ``partition``.
    """

    name: str = option("local", choices=["local", "submitit_slurm", "submitit_local", "ray"])
    slots: int | None = option(None, ge=1, help="jobs at the same time on the CPU")
    jobs_per_gpu: int = option(1, ge=1, help="jobs at the same time on each GPU")
    time_limit: float | None = option(None, gt=0, help="seconds a job may take")
    lanes: str = option("off", choices=["off", "auto", "on"], help="whether like runs share a process")
    options: dict[str, Any] = option({}, help="options of the cluster, named as in Hydra's launcher plugins")

    @property
    def elsewhere(self) -> bool:
        """Whether the jobs run on machines that may have other devices than this one."""
        return self.name in ("submitit_slurm", "ray")

    @property
    def asks_for_gpus(self) -> bool:
        """Whether the cluster is asked for GPUs."""
        asked = {**self.options, **(self.options.get("remote") or {})}
        return any(asked.get(name) for name in ("gpus_per_node", "gpus_per_task", "gres", "mem_per_gpu", "num_gpus"))


@dataclasses.dataclass
class Export:
    """What a run leaves at its end beside its records; no part of its identity.

    Attributes:
        weights: Whether to write ``weights.safetensors``; needs the extra ``export``.
        program: Whether to write ``program.pt2``, which `torch.export.load` runs without this library.
        model: ``best`` (lowest validation loss) or ``last``.
    """

    weights: bool = option(False, help="write weights.safetensors")
    program: bool = option(False, help="write program.pt2 (torch.export)")
    model: str = option("best", choices=["best", "last"])


@dataclasses.dataclass
class Diagnostics:
    """What evaluation rows say beside losses and metrics; no part of a run's identity, since it changes no number.

    Attributes:
        gradients: Whether to record the norm of every layer's gradient, at the price of one more gradient on at most
            512 samples. The ledger and the clock leave it out.
        vanishing: A norm below this share of the largest one is flagged.
        exploding: A norm above this, or not finite, is flagged.
    """

    gradients: bool = option(False, help="record the norm of every layer's gradient at evaluations")
    vanishing: float = option(1e-7, ge=0, help="share of the largest norm below which a layer is flagged")
    exploding: float = option(1e3, gt=0, help="norm above which a layer is flagged")


@dataclasses.dataclass
class RunConfig:
    """Everything that a run depends on.

    Attributes:
        task: Name and options of the task; ``batch_size`` may be a number, ``large``, ``full`` or ``auto``: what the
            optimizer wants, which is then filled in.
        optimizer: Name and options of the optimizer.
        escape: Name and options of the escape strategy, ``none`` for none.
        schedule: Name and options of the learning-rate schedule.
        data: Name and options of the data policy: which samples a step sees.
        initialization: Name and options of the rule for the initial parameters, ``default`` for the task's own.
        augmentation: Name and options of what changes the training images, ``none`` for nothing.
        precision: ``full``, or ``bf16_autocast`` for the forward pass.
        stopping: Name and options of early stopping, ``none`` for none.
        budget: When the run ends.
        tracker: Name and options of the tracker that mirrors the run.
        launcher: How sweeps are started.
        export: Which files of the trained model a run leaves.
        diagnostics: What evaluation rows say beside losses and metrics.
        seed: Seed of data split, initialization, batch order and the optimizer's own random numbers.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``float32`` or ``float64``.
        threads: Threads of torch; None: the cores divided by the slots of a sweep, hence 1 on up to 8 cores.
        log_every: Steps between two rows of the history; None: 1, and 20 where an epoch has as many steps.
        eval_every: Epochs between two evaluations.
        checkpoint_every: Seconds between two checkpoints.
        out: Directory of the experiment; None: ``outputs/<experiment>``, or ``outputs/runs``.
        retry: ``none``, or ``failed`` to start failed runs again.
        experiment: Name of the experiment that the run belongs to.
        tuning: Where tuned options come from, as `hybridopt tune` writes it: their ``values`` and what they cost.
        plugins: Files or modules that register more parts, imported first.
    """

    task: dict[str, Any] = option({"name": "digits_cnn"})
    optimizer: dict[str, Any] = option({"name": "adam"})
    escape: dict[str, Any] = option({"name": "none"})
    schedule: dict[str, Any] = option({"name": "none"})
    data: dict[str, Any] = option({"name": "one"})
    initialization: dict[str, Any] = option({"name": "default"})
    augmentation: dict[str, Any] = option({"name": "none"})
    precision: dict[str, Any] = option({"name": "full"})
    stopping: dict[str, Any] = option({"name": "none"})
    budget: Budget = dataclasses.field(default_factory=Budget)
    tracker: dict[str, Any] = option({"name": "none"})
    launcher: Launcher = dataclasses.field(default_factory=Launcher)
    export: Export = dataclasses.field(default_factory=Export)
    diagnostics: Diagnostics = dataclasses.field(default_factory=Diagnostics)
    seed: int = option(0, ge=0, le=2**31 - 1)
    device: str = option("auto", help="auto, cpu, cuda or cuda:N")
    dtype: str = option("float32", choices=["float32", "float64"])
    threads: int | None = option(None, ge=1, help="threads of torch")
    log_every: int | None = option(None, ge=1, help="steps between rows")
    eval_every: float = option(1.0, gt=0, help="epochs between evaluations")
    checkpoint_every: float = option(60.0, gt=0, help="seconds between checkpoints")
    out: str | None = option(None, help="directory of the experiment")
    retry: str = option("none", choices=["none", "failed"])
    experiment: str | None = option(None, help="name of the experiment")
    tuning: dict[str, Any] | None = option(None, help="where tuned options come from")
    plugins: list[str] = option([], help="files or modules that register more parts")


def resolve(values: Mapping[str, Any], *, here: bool = False) -> RunConfig:
    """Returns a checked config with every default filled in and nothing left to decide later.

    Args:
        values: Plain nested values under the names of `RunConfig`; a part may be given by its name alone.
        here: Whether the run is to be done by this process, whatever launcher it was started with.

    Raises:
        ConfigError: If a key, a name, a type or a range is wrong; the message proposes the nearest.
        DeviceError: If this machine does not have the device.

    Example:
        >>> resolve({"optimiser": "adam"})
        Traceback (most recent call last):
        ...
        hybridopt.core.errors.ConfigError: There is no config key 'optimiser'. Did you mean 'optimizer'? ...
    """
    known = [field.name for field in dataclasses.fields(RunConfig)]
    for key in values:
        if key not in known:
            raise ConfigError(f"There is no config key {key!r}.{suggest(key, known)} The keys are: {', '.join(known)}.")
    given = dict(values)
    if isinstance(given.get("launcher"), Mapping) and "lanes" in given["launcher"]:
        # YAML takes a bare on or off for a boolean.
        lanes = {"true": "on", "false": "off"}.get(str(given["launcher"]["lanes"]).lower())
        given["launcher"] = {**given["launcher"], **({} if lanes is None else {"lanes": lanes})}
    for kind in parts.KINDS:
        if isinstance(given.get(kind), str):
            given[kind] = {"name": given[kind]}
    try:
        config = make_config(RunConfig, given, owner="config")
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("config.")) from error
    config.task = _check_task(config.task)
    for kind in parts.KINDS[1:]:
        setattr(config, kind, parts.check_part(kind, getattr(config, kind)))
    if config.export.weights:
        need_safetensors()
    elsewhere = config.launcher.elsewhere and not here
    config.device = check_device(config.device, asked_for=config.launcher.asks_for_gpus if elsewhere else None)
    # The same for a single run as for one of a sweep, so that they are the same run; on small models more threads
    # cost time rather than save it.
    shared = 1 if elsewhere else max(1, cores() // slot_count(config.launcher.slots, None))
    config.threads = config.threads or config.launcher.options.get("cpus_per_task") or shared
    _settle_batch(config)
    return config


def to_plain(config: RunConfig) -> dict[str, Any]:
    """Returns the config as plain nested values: what `config.yaml` holds and `resolve` takes back.

    Args:
        config: A checked config.
    """
    return to_dict(config)


def need_safetensors() -> None:
    """Refuses to go on without the package that writes weights.

    Raises:
        ConfigError: If it is not installed.
    """
    otherwise = "leave export.weights=false; checkpoint.pt holds the weights in any case"
    need("safetensors", extra="export", owner="Writing weights", otherwise=otherwise, error=ConfigError)


def check_device(device: str, *, asked_for: bool | None = None) -> str:
    """Returns the device that a name stands for on this machine: ``cpu``, ``cuda`` or ``cuda:N``.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        asked_for: For a machine that is not this one: whether a GPU is asked for, which ``auto`` then is.

    Raises:
        ConfigError: If it is none of those.
        DeviceError: If this machine does not have it.
    """
    kind, colon, index = device.partition(":")
    if device not in ("auto", "cpu") and not (kind == "cuda" and (not colon or index.isdecimal())):
        raise ConfigError(
            f"device must be auto, cpu, cuda or cuda:N, not {device!r}.{suggest(device, ['auto', 'cpu', 'cuda'])}"
        )
    if device == "cpu":
        return device
    if asked_for is not None:
        return device if device != "auto" else ("cuda" if asked_for else "cpu")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if count else "cpu"
    if count == 0:
        raise DeviceError(
            f"device={device} was asked for, but torch finds no CUDA device here. Use device=cpu (or auto), or install "
            "a CUDA build of torch and check the driver with nvidia-smi."
        )
    if colon and int(index) >= count:
        last = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0"
        raise DeviceError(f"device={device} was asked for, but this machine has {last} only. Choose one of those.")
    return device


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


MOST_SLOTS = 8
"""Jobs at the same time on the CPU unless the config says otherwise; each is a process with its own torch."""


def slot_count(slots: int | None, threads: int | None) -> int:
    """Returns how many jobs of a sweep run at the same time on the CPU.

    Args:
        slots: As configured, or None.
        threads: Threads of each job as configured, or None.
    """
    return slots or max(1, min(MOST_SLOTS, cores() // (threads or 1)))


def batch_policy(optimizer: Mapping[str, Any]) -> str:
    """Returns the batch that an optimizer wants: ``mini``, ``large`` or ``full``.

    Args:
        optimizer: The optimizer part of a config.
    """
    return getattr(optimizer_class(optimizer), "batch", "mini")


def optimizer_class(optimizer: Mapping[str, Any]) -> Any:
    """Returns the class of an optimizer; the one that ``optimizer.cls`` names, for ``external``.

    Args:
        optimizer: The optimizer part of a config.

    Raises:
        UnknownNameError: If there is no such class.
        ConfigError: If it cannot be imported.
    """
    name = optimizer["name"]
    if name in parts.registry("optimizer"):
        return parts.part_class("optimizer", name)
    path = str(optimizer["cls"])
    if path.startswith("scipy:"):
        from hybridopt.optimizers.scipy_adapter import SciPy

        return SciPy
    if ":" not in path:
        raise ConfigError(
            f"optimizer=external needs optimizer.cls=torch:AdamW or optimizer.cls=package.module:Class, not {path!r}."
        )
    from hybridopt.optimizers.adapters import adapt

    return adapt(path)


def _check_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a task's options; its batch size may be a word."""
    batch = task.get("batch_size", "auto")
    words = ("auto", "large", "full")
    if isinstance(batch, bool) or not (batch in words or (isinstance(batch, int) and batch > 0)):
        raise ConfigError(
            f"task.batch_size must be auto (as the optimizer wants it), large, full or a number of samples of at "
            f"least 1, not {batch!r}.{suggest(str(batch), words)}"
        )
    checked = parts.check_part("task", {key: item for key, item in task.items() if key != "batch_size"})
    return {**checked, "batch_size": batch, "default_batch_size": checked.get("batch_size")}


def _settle_batch(config: RunConfig) -> None:
    """Replaces batch_size=auto by what the optimizer wants."""
    default = config.task.pop("default_batch_size")
    if config.task["batch_size"] != "auto":
        return
    policy = batch_policy(config.optimizer)
    config.task["batch_size"] = policy if policy in ("full", "large") else (default or "full")
