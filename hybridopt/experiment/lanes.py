"""Many runs trained at once, each recorded as if it had been alone.

Every lane is a `Trainer` with model, data, optimizer, schedule and store of its own; only the optimizer steps are
taken for all together, by a `Stack`. So rows, evaluations, targets, budgets and checkpoints are those of an ordinary
run, a lane may end when it likes, and one that was interrupted goes on in lanes or alone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hybridopt.experiment.clock import Clock
from hybridopt.experiment.lanes_stack import MOST_BYTES, NotShareable, Stack
from hybridopt.experiment.loop import Trainer
from hybridopt.experiment.randomness import seed_everything
from hybridopt.optimizers.report import Report


class LaneClock(Clock):
    """The clock of a lane: it is told what its share of the common steps was, and counts the other phases itself."""

    def start(self) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""


class LaneTrainer(Trainer):
    """A run whose steps are taken in a stack.

    Attributes:
        stack: Where its parameters are, None once it has left.
        failed: What went wrong in this run alone, or None.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.clock = LaneClock(self.parts.device)
        self.stack: Stack | None = None
        self.failed: BaseException | None = None
        # Torch's schedulers warn where the optimizer's own `step` was not called before theirs; the stack steps here.
        self.parts.optimizer._opt_called = True

    def save(self) -> None:
        """Stores the complete state of the run: the checkpoint that it would have written alone."""
        # Nothing in a lane draws random numbers, so the generators are still where a run of its own has them.
        seed_everything(self.config.seed)
        if self.stack is None:
            super().save()
            return
        with self.stack.lent(self.place_in_stack):
            super().save()

    @property
    def place_in_stack(self) -> int:
        """The lane's present place in the stack."""
        assert self.stack is not None
        return next(place for place, lane in enumerate(self.stack.lanes) if lane is self.parts)


def feed(trainers: Sequence[Trainer]) -> tuple[Tensor, Tensor]:
    """Returns the batches of the lanes' next steps, inputs and targets, each of shape (lanes, samples, ...).

    Args:
        trainers: The lanes.
    """
    inputs, targets = [], []
    for trainer in trainers:
        own, answers, _ = trainer.parts.batches.batch(trainer.step)
        inputs.append(own)
        targets.append(answers)
    stacked = torch.stack(inputs)
    same = all(one is other for one, other in zip(inputs, targets, strict=True))
    return stacked, stacked if same else torch.stack(targets)


class Lanes:
    """Trains lanes to the end of their budgets.

    Args:
        trainers: One a lane; freshly built.
        stack: The stack of their parts, in the same order.
        ended: Called with a lane and its final status as soon as it has one; with None if the lane failed.
    """

    def __init__(
        self,
        trainers: Sequence[LaneTrainer],
        stack: Stack,
        ended: Callable[[LaneTrainer, dict[str, Any] | None], None],
    ) -> None:
        self.trainers, self.stack, self.ended = list(trainers), stack, ended
        self._whole: tuple[Tensor, Tensor] | None = None

    def run(self) -> None:
        """Trains until no lane is left."""
        endings: dict[int, tuple[str, str] | None] = {}
        for place, trainer in enumerate(self.trainers):
            trainer.stack = self.stack
            ending = self._guarded(trainer, trainer.begin)
            self.stack.take_over(place, trainer.step)
            if ending is not None or trainer.failed is not None:
                endings[place] = ending
        self._leave(endings)
        while self.trainers:
            self._step()
            self._leave(self._advance())

    def _step(self) -> None:
        started = time.perf_counter()
        if self._whole is not None:
            batch = self._whole
        else:
            batch = feed(self.trainers)
            if all(trainer.parts.batches.full for trainer in self.trainers):
                self._whole = batch
        self.stack.differentiate(*batch)
        self.stack.step()
        if self.stack.flat.device.type == "cuda":
            torch.cuda.synchronize(self.stack.flat.device)
        share = (time.perf_counter() - started) / len(self.trainers)
        for place, trainer in enumerate(self.trainers):
            trainer.clock.add({"training": share})
            trainer.objective.ledger.pay("gradient", trainer.parts.task.work(batch[0][place], batch[1][place]))
            trainer.parts.optimizer.report = Report(
                loss=functools.partial(self.stack.loss, place), grad_norm=functools.partial(self.stack.norm, place)
            )

    def _advance(self) -> dict[int, tuple[str, str] | None]:
        """Does what is due for each lane; returns the endings of those that are at their end, None for failed ones."""
        endings: dict[int, tuple[str, str] | None] = {}
        for place, trainer in enumerate(self.trainers):
            ending = self._guarded(trainer, trainer.advance)
            if ending is not None or trainer.failed is not None:
                endings[place] = ending
        return endings

    def _leave(self, endings: dict[int, tuple[str, str] | None]) -> None:
        if not endings:
            return
        leaving = [self.trainers[place] for place in endings]
        self.stack.release(list(endings))
        self._whole = None
        self.trainers = [trainer for place, trainer in enumerate(self.trainers) if place not in endings]
        for trainer, ending in zip(leaving, endings.values(), strict=True):
            trainer.stack = None
            status = None
            if ending is not None and trainer.failed is None:
                status = self._guarded(trainer, functools.partial(trainer.finish, *ending))
            self.ended(trainer, status)

    @staticmethod
    def _guarded(trainer: LaneTrainer, call: Callable[[], Any]) -> Any:
        """Keeps what goes wrong in one lane (its metrics, its store) to that lane."""
        try:
            return call()
        except Exception as error:
            trainer.failed = error
            return None


def check_lanes(stack: Stack, trainers: Sequence[Trainer]) -> None:
    """Finds out by trying whether the lanes' gradients are those of ordinary runs.

    One lane of each seed is compared; lanes of one seed differ in the numbers of their optimizers only.

    Args:
        stack: The lanes.
        trainers: The runs, in the same order.

    Raises:
        NotShareable: If the model cannot be mapped over lanes, is random, writes to its buffers, or a gradient
            differs.
    """
    sizes = {trainer.parts.batches.size for trainer in trainers}
    if len(sizes) != 1:
        raise NotShareable("the batches differ in size")
    first = trainers[0].parts
    sample = first.batches.batch(0)[0]
    if sample.numel() * sample.element_size() * len(trainers) > MOST_BYTES:
        raise NotShareable(f"the batches of {len(trainers)} lanes together are larger than {MOST_BYTES // 2**20} MB")
    _check_plain(stack, sample)
    try:
        stack.differentiate(*feed(trainers), clip=False)
    except NotShareable:
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "random operation" in text:
            raise NotShareable("the model or its loss draws random numbers") from error
        raise NotShareable(f"the model cannot be mapped over lanes: {text}") from error
    tolerance = 1e-3 if stack.flat.dtype == torch.float32 else 1e-8
    seen: set[int] = set()
    for place, trainer in enumerate(trainers):
        if trainer.config.seed in seen:
            continue
        seen.add(trainer.config.seed)
        parts = trainer.parts
        inputs, targets, _ = parts.batches.batch(trainer.step)
        parameters = [parameter for parameter in parts.model.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            loss = parts.task.loss(parts.model.train()(inputs), targets)
            own = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, parameters)])
        if not torch.allclose(
            stack.gradient[place], own, rtol=tolerance, atol=tolerance * float(own.abs().max()), equal_nan=True
        ):
            raise NotShareable(f"in lanes, the gradient of seed {trainer.config.seed} is not that of an ordinary run")


def _check_plain(stack: Stack, inputs: Tensor) -> None:
    """Refuses a model that draws random numbers or writes to its buffers."""
    device = stack.flat.device
    before = {name: buffer.clone() for name, buffer in stack.base.named_buffers()}
    drawn = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    with torch.no_grad():
        stack.base(inputs)
    if not torch.equal(torch.get_rng_state(), drawn[0]) or (
        drawn[1] is not None and not torch.equal(torch.cuda.get_rng_state(device), drawn[1])
    ):
        raise NotShareable("the model draws random numbers (dropout)")
    for name, buffer in stack.base.named_buffers():
        if not torch.equal(buffer, before[name]):
            raise NotShareable(f"the model writes to its buffer {name} (BatchNorm)")
