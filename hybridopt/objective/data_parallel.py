"""An objective whose batch is divided among processes: each evaluates its part, and the parts are summed."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import ObjectiveError
from hybridopt.objective.decay import Decay
from hybridopt.objective.ledger import Ledger
from hybridopt.objective.micro_batch import MicroBatched, mixes_samples
from hybridopt.objective.objective import Objective
from hybridopt.objective.parallel_point import ParallelPoint
from hybridopt.objective.problem import Problem
from hybridopt.objective.ranks import APART, Ranks, checksum
from hybridopt.objective.share import Share

_VALUE, _GRADIENT, _POINT = range(3)


class DataParallel(Objective):
    """The same function as an `Objective` on the whole batch, of which every process holds a part.

    Values, gradients and products are sums over the processes, each part weighted by its samples where the loss is a
    mean, so every process gets the same numbers to the last bit and takes the same decisions. Equal to the whole batch
    in one process up to rounding, except where samples see one another: train-mode BatchNorm normalizes by the shard
    (there is a warning), and random layers draw their own numbers in every process. Weight decay is counted once, the
    ledger pays for the samples of all.

    Every evaluation compares where the processes stand and what they ask for, so replicas that differ (other seeds,
    other options) are refused in the next evaluation, on all of them.

    All processes have to make the same calls. One that raises an error alone, or ends early, leaves the others waiting
    until the timeout of the process group.

    Made by `Objective.in_data_parallel`.
    """

    _local: Objective
    _ranks: Ranks
    _reduction: str
    _weight: float
    _irregular: bool

    @classmethod
    def of(cls, objective: Objective, process_group: Any, reduction: str) -> DataParallel:
        """Returns the objective of the batches of all processes.

        Args:
            objective: On this process's part of the batch.
            process_group: Of `torch.distributed`; None for all processes.
            reduction: ``"mean"`` or ``"sum"``: how the loss treats samples.

        Raises:
            ObjectiveError: If an option is senseless, there is no process group or no batch to divide, or the model
                has SyncBatchNorm in train mode.
        """
        if reduction not in ("mean", "sum"):
            raise ObjectiveError(f"reduction must be 'mean' or 'sum', as the loss has it, not {reduction!r}.")
        if isinstance(objective, DataParallel):
            raise ObjectiveError("This objective is divided among processes already: call in_data_parallel() once.")
        if objective.inputs is None:
            raise ObjectiveError(
                "There is no batch to divide among processes: the objective has no inputs. Minimize a function in one "
                "process."
            )
        made = object.__new__(cls)
        made.__dict__.update(objective.__dict__)
        made._ranks, made._reduction = Ranks(process_group), reduction
        _check_norms(objective.model, made._ranks)
        for name in ("curvature_batch", "overlap"):
            companion = getattr(objective, name)
            if companion is not None:
                setattr(made, name, cls.of(companion, process_group, reduction))
        if isinstance(objective, MicroBatched) and objective._reduction != reduction:
            raise ObjectiveError(f"The micro-batches are put together with reduction={objective._reduction!r}.")
        local = object.__new__(type(objective))
        local.__dict__.update(objective.__dict__)
        if isinstance(local, MicroBatched):
            local._problem = _with_own_ledger(objective._problem)
        local.curvature_batch = local.overlap = None
        local._decay = Decay()
        made._join(local)
        return made

    def _join(self, local: Objective | Exception) -> None:
        """Takes over this process's part of a batch and learns how large the others are, by one exchange."""
        failed = isinstance(local, Exception)
        mine = [0, 0, 0] if failed else [local.samples, local.work, _digest(local.key)]  # type: ignore[union-attr]
        everyone = self._ranks.gather(mine, self._device())
        if failed:
            raise local  # type: ignore[misc]
        assert isinstance(local, Objective)
        empty = [rank for rank, (samples, *_) in enumerate(everyone) if samples == 0]
        if empty:
            raise ObjectiveError(
                f"Process {empty[0]} of the group has no samples. Give every process at least one, or leave out the "
                "last batch of an epoch on all of them (drop_last=True)."
            )
        counts = [samples for samples, _, _ in everyone]
        share = Share(sum(counts[: self._ranks.rank]), local.samples, sum(counts))
        self.inputs, self.targets = local.inputs, local.targets
        self.samples, self.work = share.total, sum(work for _, work, _ in everyone)
        # The same on all processes, and the same again only if every one of them has its data again.
        self.key = f"parallel-{_digest('-'.join(str(key) for _, _, key in everyone)):x}"
        self._weight = share.samples / share.total if self._reduction == "mean" else 1.0
        self._local = local
        local.share = share
        if not isinstance(local, MicroBatched):
            local.work = self.work
        self.renew()

    @property
    def local(self) -> Objective:
        """The objective of this process's part of the batch, by itself."""
        return self._local

    def _device(self) -> torch.device:
        return next(parameter.device for module in self._problem.modules for parameter in module.parameters())

    def with_batch(
        self, inputs: Any, targets: Any = None, *, samples: int | None = None, key: str | None = None
    ) -> DataParallel:
        """Returns the objective of another batch, of which this process has a part; see `Objective.with_batch`.

        Args:
            inputs: This process's part.
            targets: What the loss compares with.
            samples: As in the constructor, of this part.
            key: Names this part.

        Raises:
            ObjectiveError: If a process has no samples.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.curvature_batch = other.overlap = None
        try:
            local: Objective | Exception = self._local.with_batch(inputs, targets, samples=samples, key=key)
        except ObjectiveError as error:
            local = error
        other._join(local)
        return other

    def in_micro_batches(
        self, size: int | None = None, *, memory_budget: float | None = None, reduction: str | None = None
    ) -> DataParallel:
        """Returns the same function, evaluated on a few samples at a time in every process.

        Args:
            size: Samples in a piece.
            memory_budget: Instead of `size`; see `Objective.in_micro_batches`.
            reduction: As it was given for the processes.

        Raises:
            ObjectiveError: As `Objective.in_micro_batches`, or if the reduction is another one.
        """
        if reduction not in (None, self._reduction):
            raise ObjectiveError(f"The processes' parts are put together with reduction={self._reduction!r}.")
        if isinstance(self._local, MicroBatched):
            raise ObjectiveError("This objective is evaluated in micro-batches already.")
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        part = self._local.with_batch(self._local.inputs, self._local.targets, samples=self._local.samples)
        part._problem = _with_own_ledger(self._problem)
        other._local = part.in_micro_batches(size, memory_budget=memory_budget, reduction=self._reduction)
        other._local.share = self._local.share
        other.renew()
        return other

    def bind(self, param_groups: Iterable[Mapping[str, Any]], *, regularize: bool = False) -> DataParallel:
        """Returns this objective as a function of an optimizer's parameters; see `Objective.bind`.

        Args:
            param_groups: Groups with ``params``.
            regularize: Whether ``weight_decay`` belongs to the function.
        """
        groups = list(param_groups)
        bound = super().bind(groups, regularize=regularize)
        assert isinstance(bound, DataParallel)
        bound._local = self._local.bind(groups)
        return bound

    def renew(self) -> None:
        """Forgets the replayed random state, of this process's part too."""
        super().renew()
        self._irregular = False
        self._local.renew()

    # -- evaluations -----------------------------------------------------------------------------------------------

    def _aligned(self) -> Objective:
        self._local._at_start = self._at_start
        return self._local

    def _agree(self, kind: int, loss: float, x: Tensor | None) -> float:
        """Sums the losses of all processes, and makes sure that they are at the same place for the same reason.

        The marks of all processes are equal if and only if their variance is zero; they are small enough for it to be
        computed without rounding.

        Raises:
            ObjectiveError: If they are not.
        """
        place = self.space.parameters if x is None else [x]
        mark = float((4 * checksum(place) + kind) % 2**20)
        parts = [self._weight * loss, float(not self._local.repeatable), mark, mark * mark]
        total, irregular, marks, squares = self._ranks.sum_numbers(parts, self.space.device)
        if not self._ranks.equal(marks, squares):
            raise ObjectiveError(APART)
        self._irregular = self._irregular or irregular > 0
        self._settle()
        return total

    def _settle(self) -> None:
        """Pays what the pieces of all processes have cost; without pieces, each pays for the whole batch at once."""
        if not isinstance(self._local, MicroBatched):
            return
        own = self._local.ledger
        counts = self._ranks.sum_numbers([*own.calls.values(), *own.samples.values()], self._device())
        own.load_state_dict({"calls": {}, "samples": {}})
        for index, kind in enumerate(own.calls):
            self.ledger.calls[kind] += int(counts[index])
            self.ledger.samples[kind] += int(counts[index + len(own.calls)])

    @contextmanager
    def autocast_in_forward(self) -> Iterator[None]:
        """Context in which the autocast that is on now holds in forward passes only, on all batches."""
        parts = [part for part in (self, self.curvature_batch, self.overlap) if isinstance(part, DataParallel)]
        problems = [part._local._problem for part in parts]
        before = [problem.autocast for problem in problems]
        with super().autocast_in_forward():
            try:
                for problem in problems:
                    problem.autocast = self._problem.autocast
                yield
            finally:
                for problem, old in zip(problems, before, strict=True):
                    problem.autocast = old

    def check_replicas(self) -> None:
        """Makes sure that the model has the same parameters in all processes, frozen ones too, by one exchange.

        Of those that are trained, methods that evaluate more than once do this at every evaluation anyway, first-order
        methods a step late.

        Raises:
            ObjectiveError: If it has not; on all processes.
        """
        parameters = [parameter for module in self._problem.modules for parameter in module.parameters()]
        marks = self._ranks.gather([checksum(parameters) % 2**62], self._device())
        if len({mark for (mark,) in marks}) > 1:
            raise ObjectiveError(APART)

    def __call__(self) -> Tensor:
        """Returns the loss of all processes, with the graph of this process's part.

        Differentiate it by `differentiate`, which sums over the processes; ``backward()`` gives this part's share only.
        """
        loss = self._local() * self._weight
        # Written over the part, as any sum with it would be rounded differently in every process.
        loss.detach().copy_(self._ranks.total(loss.detach().clone()))
        return loss

    def differentiate(
        self, loss: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Returns the derivatives of the loss of all processes.

        Args:
            loss: What calling the objective returned.
            inputs: With respect to what: parameters, which all processes have.
            create_graph: Must be False, as sums over processes have no graph.

        Raises:
            ObjectiveError: If a graph is asked for, the loss has none, or its graph was used up.
        """
        if create_graph:
            raise ObjectiveError(
                "Sums over processes have no graph. For second derivatives use objective.at().hessian()."
            )
        gradients = self._local.differentiate(loss, inputs)
        return tuple(self._ranks.total_of(gradients, loss.detach() * 0, inputs)[1])

    def loss_and_gradients(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Returns the loss and its derivatives, summed over the processes.

        Args:
            parameters: With respect to what.
        """
        loss, gradients = self._local.loss_and_gradients(parameters)
        self._settle()
        return self._ranks.total_of(gradients, loss, parameters, self._weight)

    def value(self, x: Tensor | None = None) -> float:
        """Returns the function's value; see `Objective.value`.

        Args:
            x: Where, shape (n,); the model's own parameters when None.
        """
        loss = self._agree(_VALUE, self._aligned().value(x), x)
        if x is None:
            self._remember_start(self._scalar(loss))
        return loss + self.regularization(x)

    def value_and_grad(self, x: Tensor | None = None) -> tuple[float, Tensor]:
        """Returns the function's value and gradient; see `Objective.value_and_grad`.

        Args:
            x: Where, shape (n,); the model's own parameters when None.
        """
        part, slope = self._aligned().value_and_grad(x)
        loss = self._agree(_GRADIENT, part, x)
        gradient = self._ranks.total(slope, self._weight)
        if x is None:
            self._remember_start(self._scalar(loss), self.space.tensors(gradient.clone()))
        self.add_decay_gradient(gradient, x)
        return loss + self.regularization(x), gradient

    def at(self, *, hidden: bool = False) -> ParallelPoint:  # type: ignore[override]
        """Returns the function where the model stands; every product is summed over the processes.

        Args:
            hidden: As in `Objective.at`.
        """
        if self.curvature_batch is not None:
            return super().at(hidden=hidden)  # type: ignore[return-value]
        own = self._aligned().at(hidden=hidden)
        loss = self._agree(_POINT, float(own.loss), None)
        gradient = self._ranks.total(own.gradient.clone(), self._weight)
        self._remember_start(self._scalar(loss), self.space.tensors(gradient.clone()))
        self.add_decay_gradient(gradient)
        return ParallelPoint(self, own, self._scalar(loss), loss + self.regularization(), gradient)

    def summed(self, tensors: Sequence[Tensor], *, as_loss: bool = False) -> list[Tensor]:
        """Returns sums over the samples of this process as sums over those of all; see `Objective.summed`.

        Args:
            tensors: Of the same shapes on all processes.
            as_loss: Whether they are weighted as the loss is.
        """
        return self._ranks.total_each(tensors, self._weight if as_loss else 1.0)

    @property
    def repeatable(self) -> bool:
        """Whether another step on the same data sees the same function, in all processes."""
        return not self._irregular and self._local.repeatable

    def adopt(self) -> None:
        """Gives the model the buffers that the evaluation of this process's part left."""
        self._local.adopt()

    def _scalar(self, loss: float) -> Tensor:
        return torch.tensor(loss, dtype=self.space.dtype, device=self.space.device)


def _with_own_ledger(problem: Problem) -> Problem:
    """Processes have different numbers of pieces: each counts its own, and `_settle` adds them up."""
    own = copy.copy(problem)
    own.ledger = Ledger()
    return own


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def _check_norms(model: nn.Module, ranks: Ranks) -> None:
    norms = {name: module for name, module in model.named_modules() if mixes_samples(module)}
    synced = [name for name, module in norms.items() if isinstance(module, nn.SyncBatchNorm)]
    if synced:
        raise ObjectiveError(
            f"SyncBatchNorm in train mode ({', '.join(synced[:3])}) sums over processes by itself, in proportions that "
            "hold for equal shards under DistributedDataParallel, and has no second derivative. Use GroupNorm, or eval "
            "mode."
        )
    if norms and ranks.size > 1:
        warnings.warn(
            f"BatchNorm in train mode ({', '.join(list(norms)[:3])}) normalizes by each process's shard, and its "
            "running statistics differ between processes: the function is not that of the whole batch. Use eval mode "
            "or GroupNorm.",
            stacklevel=4,
        )
