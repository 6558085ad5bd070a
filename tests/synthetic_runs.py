"""Run directories as the training loop leaves them, written through `RunStore`, without any training."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybridopt.experiment.identity import run_id
from hybridopt.experiment.store import RunStore

WEIGHTS = {"forward": 1 / 3, "gradient": 1.0, "hvp": 2.0, "ggnvp": 4 / 3}


@dataclasses.dataclass(frozen=True)
class Method:
    """How a pretended optimizer behaves: its curve's rate, price and noise."""

    name: str
    family: str
    rate: float  # decay of the loss per gradient-equivalent
    batches: int  # steps per epoch; 1 is full batch
    calls: dict[str, float]  # calls per step
    noise: float = 0.0
    escape: str = "none"
    seconds: float = 0.5  # per gradient-equivalent
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


METHODS = (
    Method("momentum", "first-order", 0.16, 20, {"gradient": 1}, 0.10),
    Method("adam", "first-order", 0.30, 20, {"gradient": 1}, 0.08, options={"lr": 1e-3}),
    Method("adamw", "first-order", 0.28, 20, {"gradient": 1}, 0.08),
    Method("lbfgs", "quasi-newton", 0.13, 1, {"gradient": 1.2, "forward": 0.4}, 0.01, seconds=0.4),
    Method("newton_cg", "newton", 0.09, 1, {"gradient": 1, "hvp": 0.8, "forward": 1}, 0.01, seconds=0.3),
    Method("hessian_free", "newton", 0.19, 1, {"gradient": 1, "ggnvp": 0.9, "forward": 1}, 0.01, seconds=0.32),
    Method("trust_newton_cg", "newton", 0.11, 1, {"gradient": 1, "hvp": 0.6, "forward": 1}, 0.01, seconds=0.3),
    Method("saddle_free_newton", "newton", 0.05, 1, {"gradient": 1, "hvp": 1, "forward": 1}, 0.02, seconds=0.3),
    Method("adam_lbfgs", "hybrid", 0.25, 20, {"gradient": 1, "forward": 0.1}, 0.06),
    Method(
        "newton_cg",
        "newton",
        0.14,
        1,
        {"gradient": 1, "hvp": 1, "forward": 1},
        0.01,
        "negative_curvature",
        0.3,
    ),
)

TASKS: dict[str, dict[str, Any]] = {
    "digits_cnn": {
        "trivial_loss": math.log(10),
        "targets": [
            {"metric": "validation_accuracy", "value": 0.95, "mode": "max"},
            {"metric": "train_loss", "value": 0.05, "mode": "min"},
        ],
        "reference_samples": 1078,
        "train_size": 1078,
        "validation_size": 359,
        "test_size": 360,
        "parameters": 6378,
        "floor": 0.004,
    },
    "adding_rnn": {
        "trivial_loss": 1 / 6,
        "targets": [{"metric": "validation_loss", "value": 0.01, "mode": "min"}],
        "reference_samples": 2048,
        "train_size": 2048,
        "validation_size": 512,
        "test_size": 512,
        "parameters": 4545,
        "floor": 0.0004,
    },
}


def config_of(task: str, method: Method, seed: int) -> dict[str, Any]:
    return {
        "experiment": "quickstart",
        "task": {"name": task},
        "optimizer": {"name": method.name, **method.options},
        "escape": {"name": method.escape},
        "schedule": {"name": "none"},
        "budget": {"epochs": 30.0, "steps": None, "gradient_equivalents": 60.0, "seconds": None},
        "tracker": {"name": "none"},
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
    }


def run_directory(root: Path, config: dict[str, Any]) -> Path:
    escape = "" if config["escape"]["name"] == "none" else f"+{config['escape']['name']}"
    name = f"s{config['seed']}-{run_id(config)[:8]}"
    return root / config["task"]["name"] / f"{config['optimizer']['name']}{escape}" / name


def write_run(
    root: Path,
    task: str = "digits_cnn",
    method: Method = METHODS[1],
    seed: int = 0,
    *,
    end: str = "done",
    cost: float = 40.0,
    timing: str = "shared",
    provenance: bool = True,
    every: int = 1,
) -> Path:
    """Writes one run and returns its directory.

    Args:
        end: "done", "failed" and "diverged" (halfway), "running" (halfway, status says running), "pending".
        cost: Budget in gradient-equivalents.
        every: Step rows per step that are kept (1: all).
    """
    facts = TASKS[task]
    config = config_of(task, method, seed)
    directory = run_directory(root, config)
    chance = random.Random(f"{task} {method.name} {method.escape} {seed}")
    if end == "pending":
        RunStore(directory, config).close()
        return directory
    with RunStore(directory, config) as store:
        store.resume()
        task_facts = {key: value for key, value in facts.items() if key != "floor"}
        if provenance:
            store.write_provenance(
                {
                    "started": "2026-01-02T03:04:05.000+00:00",
                    "versions": {"python": "3.11.7", "torch": "2.13.0", "hybridopt": "0.1.0"},
                    "commit": "0123456789abcdef0123456789abcdef01234567",
                    "dirty": None,
                    "device": "cpu",
                    "cpu": "Example CPU",
                    "threads": 1,
                    "timing": timing,
                    "task_facts": {**task_facts, "family": method.family},
                }
            )
        store.write_status(status_of("running", facts["targets"]))
        per_step = sum(WEIGHTS[kind] * count for kind, count in method.calls.items()) / method.batches
        total = int(cost / per_step)
        stop = total if end == "done" else total // 2
        rate = method.rate * chance.uniform(0.85, 1.15)
        scale = facts["trivial_loss"]
        reached: dict[int, dict[str, Any]] = {}
        loss = scale * 1.02
        interval = max(1, total // 30)
        for step in range(stop + 1):
            spent = step * per_step
            axes = {
                "step": step,
                "epoch": step / method.batches,
                "gradient_equivalents": round(spent, 4),
                "seconds": round(spent * method.seconds * chance.uniform(0.98, 1.02), 4),
            }
            clean = facts["floor"] + scale * 1.02 * math.exp(-rate * spent)
            if method.name == "saddle_free_newton" and spent < cost / 4:
                clean = scale * 1.001  # a plateau first
            loss = clean * math.exp(chance.gauss(0, method.noise * 2))
            if end == "diverged" and step > stop - 3:
                loss = math.nan if step == stop else scale * 10 ** (step - stop + 9)
                clean = loss
            if step and step % every == 0:
                store.append(
                    {
                        "type": "step",
                        **axes,
                        "loss": loss,
                        "lr": 0.1,
                        "report": {"grad_norm": loss / 2, "accepted": True},
                    }
                )
            if method.name == "adam_lbfgs" and step == total // 3:
                store.append({"type": "event", **axes, "event": "switch", "from": "adam", "to": "lbfgs"})
            if method.escape != "none" and step == total // 4:
                store.append({"type": "event", **axes, "event": "escaped", "decrease": 0.1})
            if step % interval == 0 or step == stop:
                row = evaluation(axes, clean, scale, method, step, chance)
                store.append(row)
                for number, target in enumerate(facts["targets"]):
                    value = row[target["metric"]]
                    good = value >= target["value"] if target["mode"] == "max" else value <= target["value"]
                    if good and number not in reached:
                        reached[number] = axes
                        store.append({"type": "event", **axes, "event": "target", **target})
        store.save_checkpoint({"step": stop})
        if end != "running":
            error = {"type": "RuntimeError", "message": "CUDA out of memory <b>"} if end == "failed" else None
            reasons = {"done": "budget", "failed": "exception", "diverged": "the loss is nan"}
            store.write_status(
                {
                    **status_of(end, facts["targets"], reached),
                    "reason": reasons[end],
                    "finished": "2026-01-02T03:05:05.000+00:00",
                    "steps": stop,
                    "gradient_equivalents": axes["gradient_equivalents"],
                    "seconds": axes["seconds"],
                    "phases": phases_of(axes["seconds"]),
                    "summary": {
                        "test_loss": loss * 1.2,
                        "best_test_loss": loss * 1.1,
                        "best_test_accuracy": max(0.1, 0.97 - loss),
                    }
                    if end == "done"
                    else {},
                    "error": error,
                }
            )
    return directory


def evaluation(
    axes: dict[str, Any], clean: float, scale: float, method: Method, step: int, chance: random.Random
) -> dict[str, Any]:
    calls = {kind: int(method.calls.get(kind, 0) * step) for kind in WEIGHTS}
    samples = {kind: int(count * 1078 / method.batches) for kind, count in calls.items()}
    accuracy = 0.985 - 0.88 * min(1.0, clean / scale) * chance.uniform(0.9, 1.0) if math.isfinite(clean) else math.nan
    return {
        "type": "evaluation",
        **axes,
        "train_loss": clean,
        "validation_loss": clean * 1.1 + scale * 0.004,
        "validation_accuracy": accuracy,
        "cost": {**calls, "samples": samples},
    }


def status_of(
    status: str, targets: Sequence[dict[str, Any]], reached: dict[int, dict[str, Any]] | None = None
) -> dict[str, Any]:
    reached = reached or {}
    return {
        "status": status,
        "reason": "",
        "started": "2026-01-02T03:04:05.000+00:00",
        "finished": None,
        "steps": 0,
        "gradient_equivalents": 0.0,
        "seconds": 0.0,
        "phases": phases_of(0.0),
        "targets": [
            {
                **target,
                "reached": number in reached,
                **{
                    key: reached[number][key] if number in reached else None
                    for key in ("step", "gradient_equivalents", "seconds")
                },
            }
            for number, target in enumerate(targets)
        ],
        "summary": {},
        "error": None,
    }


def phases_of(training: float) -> dict[str, float]:
    parts = {"evaluation": 0.1, "recording": 0.02, "checkpoints": 0.01}
    return {"startup": 2.5, "training": training, **{name: part * training for name, part in parts.items()}}


def write_quickstart(root: Path, seeds: int = 1, tasks: Sequence[str] = tuple(TASKS)) -> Path:
    """A whole sweep: every method on every task, one failed, one diverged."""
    for task in tasks:
        for method in METHODS:
            for seed in range(seeds):
                end = "done"
                if task == "adding_rnn" and method.name == "momentum" and seed == 0:
                    end = "diverged"
                if task == "adding_rnn" and method.name == "hessian_free" and seed == 0:
                    end = "failed"
                write_run(root, task, method, seed, end=end)
    return root


def write_replay(
    run: Path, *, slower: float = 0.25, timing: str = "exclusive", end: str = "done", load: float = 0.0, **change: Any
) -> Path:
    """Writes the replay of a run, as `hybridopt rerun --timing` does, and returns its directory.

    Args:
        run: The run's directory.
        slower: What its seconds are multiplied by.
        timing: What its provenance says.
        end: Its state.
        load: Of the machine when it began.
        **change: Values that the last evaluation has instead.
    """
    place = run / "timing"
    place.mkdir()
    (place / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for row in rows:
        row["seconds"] *= slower
    next(row for row in reversed(rows) if row["type"] == "evaluation").update(change)
    (place / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = json.loads((run / "provenance.json").read_text())
    place.joinpath("provenance.json").write_text(json.dumps({**facts, "timing": timing, "load": load, "host": "quiet"}))
    status = json.loads((run / "status.json").read_text())
    seconds = status["seconds"] * slower
    status |= {"status": end, "seconds": seconds, "phases": phases_of(seconds), "finished": "2026-02-02T00:00:00"}
    (place / "status.json").write_text(json.dumps(status))
    return place
