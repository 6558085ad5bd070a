"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from hybridopt.core import NonFiniteError
from hybridopt.experiment.build import Experiment
from hybridopt.experiment.checkpoint import restore, save
from hybridopt.experiment.clock import Clock
from hybridopt.experiment.config import RunConfig
from hybridopt.experiment.diagnostics import gradient_norms
from hybridopt.experiment.evaluation import BestModel, TargetLog, evaluate
from hybridopt.experiment.layout import PAUSED
from hybridopt.experiment.store import RunStore
from hybridopt.objective import Objective

MINI_LOG_EVERY = 20
"""Steps between two rows of a mini-batch method, unless the config says otherwise."""


class Trainer:
    """Trains one model with one optimizer until its budget is used, and records it.

    Seconds of training are counted during optimizer steps only, the clock's other phases beside them. Rows, checkpoints
    and evaluations never change what is computed, and a run that goes on from a checkpoint computes what an undisturbed
    one does.

    Args:
        config: The run's config.
        parts: Task, data, model, optimizer, schedule, data policy.
        store: Where rows and checkpoints go.
        stop: Asked after every step; returns why the run should stop early, or None.
        observer: Called with every row once it is recorded.
        pause_at: Cost in gradient-equivalents at which to stop as interrupted; a later start goes on as if nothing
            had been, since nothing is evaluated or recorded for the pause.
    """

    def __init__(
        self,
        config: RunConfig,
        parts: Experiment,
        store: RunStore,
        *,
        stop: Callable[[], str | None] = lambda: None,
        observer: Callable[[dict[str, Any]], None] = lambda row: None,
        pause_at: float | None = None,
    ) -> None:
        self.pause_at = pause_at
        self.config, self.parts, self.store, self.stop, self.observer = config, parts, store, stop, observer
        self.step = 0
        self.saved = -math.inf
        self.clock = Clock(parts.device)
        self.targets = TargetLog(parts.task.targets)
        self.best = BestModel()
        self.latest: dict[str, Any] = {}
        self.reference = parts.task.reference_samples(parts.splits)
        inputs, targets, key = parts.batches.batch(0)
        self.objective = Objective(parts.model, parts.task.loss, inputs, targets, work=parts.task.work, key=key)
        self._limits = [(name, limit) for name, limit in parts.limits.items() if limit is not None]
        per_epoch = parts.data.steps_per_epoch
        self.eval_steps = max(1, round(config.eval_every * per_epoch))
        self.log_steps = config.log_every or (MINI_LOG_EVERY if per_epoch >= MINI_LOG_EVERY else 1)

    def run(self) -> dict[str, Any]:
        """Trains to the end of the budget, or until stopped.

        Returns:
            The run's status: the content of status.json but for its dates.
        """
        ending = self.begin()
        self.clock.start()
        while ending is None:
            self.objective = self.parts.data.draw(self.objective, self.step)
            try:
                self.parts.optimizer.step(self.objective)
            except NonFiniteError as error:
                ending = "diverged", str(error)
                break
            event = self.parts.data.after_step(self.parts.optimizer, self.objective)
            if event is not None:
                self.parts.optimizer.report.events.append(event)
            ending = self.advance()
        self.clock.stop()
        return self.finish(*ending)

    def begin(self) -> tuple[str, str] | None:
        """Goes to the newest checkpoint, or evaluates the start; returns status and reason if nothing is to be done."""
        self.parts.model.train()
        with self.clock.phase("startup"):
            resumed = restore(self)
        if not resumed:
            self.evaluate()
        self.saved = time.monotonic()
        return self.over()

    def advance(self) -> tuple[str, str] | None:
        """Does what is due after an optimizer step; returns status and reason if the run is at its end, else None."""
        self.step += 1
        self.parts.schedule.after_step(self.step)
        ending = self.over()
        log_due = self.step % self.log_steps == 0 or bool(self.parts.optimizer.report.events)
        eval_due = self.step % self.eval_steps == 0 or (ending is not None and ending[0] == "done")
        save_due = time.monotonic() - self.saved > self.config.checkpoint_every
        if log_due or eval_due or save_due:
            with self.clock.phase("recording"):
                if log_due:
                    ending = self.log_step() or ending
                if eval_due and not (ending is not None and ending[0] == "diverged"):
                    ending = self.evaluate() or ending
                if save_due and ending is None:
                    self.save()
                    self.saved = time.monotonic()
        return ending

    def save(self) -> None:
        """Stores the complete state of the run as its newest checkpoint."""
        with self.clock.phase("checkpoints"):
            save(self)

    def over(self) -> tuple[str, str] | None:
        """Returns status and reason if the run is at its end, else None."""
        for name, limit in self._limits:  # most runs have one
            if METERS[name](self) >= limit:
                return "done", f"budget.{name}={limit:g} is used"
        if self.pause_at is not None and METERS["gradient_equivalents"](self) >= self.pause_at:
            return "interrupted", f"{PAUSED} gradient_equivalents={self.pause_at:g}"
        reason = self.stop()
        return None if reason is None else ("interrupted", reason)

    def place(self) -> dict[str, Any]:
        """Returns where the run stands, on all axes."""
        return {
            "step": self.step,
            "epoch": METERS["epochs"](self),
            "gradient_equivalents": METERS["gradient_equivalents"](self),
            "seconds": METERS["seconds"](self),
        }

    def record(self, kind: str, **values: Any) -> dict[str, Any]:
        """Stores a row and shows it to the observer.

        Args:
            kind: ``step``, ``evaluation`` or ``event``.
            **values: What the row says beside its place.
        """
        row = {"type": kind, **self.place(), **values}
        with self.clock.phase("recording"):
            self.store.append(row)
            self.observer(row)
        return row

    def log_step(self) -> tuple[str, str] | None:
        """Records the step just done and its events; a loss that is not finite ends the run."""
        report = self.parts.optimizer.report
        if report.events:
            place = self.place()
            for event in report.events:
                self.record("event", **{key: value for key, value in event.items() if key not in place})
        values = report.as_dict()
        loss = float(values.pop("loss"))
        rate = self.parts.optimizer.param_groups[0].get("lr", math.nan)
        self.record("step", loss=loss, lr=float(rate), report=values)
        return None if math.isfinite(loss) else ("diverged", f"the training loss is {loss} at step {self.step}")

    def evaluate(self) -> tuple[str, str] | None:
        """Records losses and metrics; returns status and reason if they end the run."""
        if self.latest.get("step") == self.step:
            return None
        with self.clock.phase("evaluation"):
            return self._evaluate()

    def _evaluate(self) -> tuple[str, str] | None:
        task, splits, model = self.parts.task, self.parts.splits, self.parts.model
        diagnosed = self.diagnose()
        with self.parts.optimizer.evaluation():
            train = evaluate(model, task, splits.train)
            validation = evaluate(model, task, splits.validation)
            values = {
                "train_loss": train["loss"],
                **{f"validation_{key}": value for key, value in validation.items()},
            }
            ledger = self.objective.ledger
            cost = {**ledger.counts, "samples": dict(ledger.samples)}
            self.latest = self.record("evaluation", **values, **diagnosed, cost=cost)
            self.best.see(self.latest, model)
        for target in self.targets.see(self.latest):
            self.record("event", event="target", **{key: target[key] for key in ("metric", "value", "mode")})
        self.parts.schedule.see(train["loss"], validation["loss"])
        event, stop = self.parts.stopping.see(validation["loss"], self.parts.optimizer, self.objective)
        if event is not None:
            self.record("event", **event)
        if not math.isfinite(train["loss"]):
            return "diverged", f"the training loss is {train['loss']} at step {self.step}"
        budget = self.config.budget
        if budget.stop_at_targets and self.targets.all_reached:
            return "done", "every target is reached"
        if budget.patience is not None and self.best.stale >= budget.patience:
            return "done", f"no lower validation loss in {budget.patience} evaluations"
        return None if stop is None else ("done", stop)

    def diagnose(self) -> dict[str, Any]:
        """Returns what the config wants to be said about the model where it stands, beside losses and metrics."""
        wanted, parts = self.config.diagnostics, self.parts
        if not wanted.gradients:
            return {}
        inputs, targets, _ = parts.batches.batch(self.step)
        bounds = {"vanishing": wanted.vanishing, "exploding": wanted.exploding}
        return {"gradients": gradient_norms(parts.model, parts.task.loss, inputs, targets, **bounds)}

    def finish(self, status: str, reason: str) -> dict[str, Any]:
        """Saves what the run ended with, and returns its status."""
        summary = {key: value for key, value in self.latest.items() if key.startswith(("train_", "validation_"))}
        if status != "diverged":
            self.save()
        if status == "done":
            with self.clock.phase("evaluation"), self.parts.optimizer.evaluation():
                summary |= self.best.summary(self.parts)
        return {**self.standing(), "status": status, "reason": reason, "summary": summary, "error": None}

    def standing(self) -> dict[str, Any]:
        """Returns how far the run got: the part of its status that is known at any time."""
        place = self.place()
        return {
            "steps": place["step"],
            **{key: place[key] for key in ("epoch", "gradient_equivalents", "seconds")},
            "phases": self.clock.phases,
            "targets": self.targets.entries,
        }


METERS: dict[str, Callable[[Trainer], float]] = {
    "steps": lambda trainer: trainer.step,
    "epochs": lambda trainer: trainer.parts.data.epochs(trainer.step),
    "gradient_equivalents": lambda trainer: trainer.objective.ledger.gradient_equivalents(trainer.reference),
    "seconds": lambda trainer: trainer.clock.seconds,
}
"""Limits of a budget, and what each is met by: only those that are set are read after every step."""
