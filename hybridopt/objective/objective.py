"""The loss as a function of the parameters: the one way by which optimizers reach the problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import ObjectiveError
from hybridopt.objective import autocast
from hybridopt.objective.decay import Decay
from hybridopt.objective.evaluation import Evaluation
from hybridopt.objective.function import FunctionModule
from hybridopt.objective.ledger import Ledger
from hybridopt.objective.parameters import ParameterSpace, Slots
from hybridopt.objective.problem import Problem, count_samples


class Objective(Evaluation):
    """The loss of a model on one batch, as a function of the model's parameters.

    Calling it gives the loss with its graph, through the model itself and nothing else. The methods below it serve
    optimizers that evaluate more than once: they all see *one deterministic function*. The random state of the first
    evaluation is replayed at every other, BatchNorm's running statistics go to copies, and nothing that they do is
    seen from outside until `commit` and `adopt`.

    Args:
        model: The module, called as ``model(inputs)``; a tuple or list of inputs is passed as positional arguments,
            a dict as keyword arguments.
        loss_fn: ``loss_fn(outputs, targets)`` (``loss_fn(outputs)`` when `targets` is None), a scalar, usually a
            mean over samples. None when the model itself returns the loss.
        inputs: The batch.
        targets: What the loss compares with.
        samples: How many samples the batch counts for; default: the leading dimension of the first tensor found in
            `targets`, then `inputs`, and 1 for a function.
        work: ``work(inputs, targets)``, what the ledger charges for one call on a batch where samples are not equally
            dear, e.g. the valid steps of padded sequences; default: the number of samples.
            Statistics keep to `samples`.
        ledger: Where costs are entered; a new one when None.
        key: Names the batch: two objectives with the same key have the same data. An optimizer that ended its last
            step with a gradient on the same key need not take it again. Default: unique per batch and process, so name
            the batches of a run that is to go on in another process to the last bit.

    Raises:
        ObjectiveError: If the model is no module or function, or the batch is empty.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> objective = Objective(model, nn.functional.mse_loss, torch.randn(8, 3), torch.randn(8, 1))
        >>> objective().shape
        torch.Size([])
        >>> value, gradient = objective.value_and_grad()
        >>> gradient.shape
        torch.Size([4])
    """

    _whole = False  # whether the space is that of all trainable parameters, and not an optimizer's

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Tensor] | None = None,
        inputs: Any = None,
        targets: Any = None,
        *,
        samples: int | None = None,
        work: Callable[[Any, Any], int] | None = None,
        ledger: Ledger | None = None,
        key: str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ObjectiveError(
                f"Objective needs a torch.nn.Module first, not {type(model).__name__}. For a plain function of "
                "tensors use Objective.from_function(function, x0), or hybridopt.minimize(function, x0)."
            )
        if loss_fn is not None and not callable(loss_fn):
            raise ObjectiveError(f"loss_fn must be a function of (outputs, targets), not {type(loss_fn).__name__}.")
        if isinstance(loss_fn, type) and issubclass(loss_fn, nn.Module):
            raise ObjectiveError(f"loss_fn is the class {loss_fn.__name__}; pass one of it: {loss_fn.__name__}().")
        self._problem = Problem(model, loss_fn, Ledger() if ledger is None else ledger, work)
        self._space: ParameterSpace | None = None
        self._slots: Slots | None = None
        self._decay = Decay()
        self.curvature_batch: Objective | None = None
        self.overlap: Objective | None = None
        self._set_batch(inputs, targets, samples, key)

    @classmethod
    def from_function(cls, function: Callable[[Any], Tensor], x0: Any, *, ledger: Ledger | None = None) -> Objective:
        """Returns the objective of a plain function; `objective.model` holds the parameters.

        Args:
            function: Takes one tensor, or a list or dict of tensors, and returns a scalar tensor.
            x0: Starting point in that structure; copied.
            ledger: Where costs are entered; a new one when None.

        Raises:
            ObjectiveError: If the start is not made of floating-point tensors.

        Example:
            >>> objective = Objective.from_function(lambda x: (x**2).sum(), torch.tensor([3.0, 4.0]))
            >>> objective.value()
            25.0
        """
        return cls(FunctionModule(function, x0), ledger=ledger)

    # -- the batch -------------------------------------------------------------------------------------------------

    def _set_batch(self, inputs: Any, targets: Any, samples: int | None, key: str | None) -> None:
        self.inputs = inputs
        self.targets = targets
        self.samples = count_samples(inputs, targets) if samples is None else int(samples)
        if self.samples <= 0:
            raise ObjectiveError("The batch is empty: it has no samples. Check the data and the batch size.")
        weigh = self._problem.work
        self.work = self.samples if weigh is None else max(1, int(weigh(inputs, targets)))
        if key is None:
            key = self._problem.new_key()
        self.key: str = key
        self.renew()

    def with_batch(
        self, inputs: Any, targets: Any = None, *, samples: int | None = None, key: str | None = None
    ) -> Objective:
        """Returns the objective of another batch with the same model, ledger and binding, in constant time.

        Args:
            inputs: The batch.
            targets: What the loss compares with.
            samples: As in the constructor.
            key: As in the constructor; the same tensors again keep their key.

        Raises:
            ObjectiveError: If the batch is empty.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.curvature_batch = other.overlap = None
        if key is None and inputs is self.inputs and targets is self.targets:
            key = self.key
        other._set_batch(inputs, targets, samples, key)
        return other

    def with_curvature_batch(
        self, inputs: Any, targets: Any = None, *, samples: int | None = None, key: str | None = None
    ) -> Objective:
        """Returns this objective with other samples for curvature.

        Value and gradient stay on the batch, and so do acceptance tests; the products of `at` are those of the other
        samples (Byrd, Chin, Neveitt and Nocedal 2011). The ledger counts both.

        Args:
            inputs: The samples for curvature.
            targets: What the loss compares with.
            samples: As in the constructor.
            key: As in the constructor.

        Raises:
            ObjectiveError: If there are no samples.

        Example:
            >>> model = nn.Linear(3, 1)
            >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
            >>> objective = Objective(model, nn.functional.mse_loss, x, y).with_curvature_batch(x[:2], y[:2])
            >>> _ = objective.at().hessian() @ torch.ones(4)
            >>> objective.ledger.samples["gradient"], objective.ledger.samples["hvp"]
            (10, 2)
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.curvature_batch = self.with_batch(inputs, targets, samples=samples, key=key)
        other.renew()
        return other

    def with_overlap(
        self, inputs: Any, targets: Any = None, *, samples: int | None = None, key: str | None = None
    ) -> Objective:
        """Returns this objective with the part of its batch that the next batch will share, as `overlap`.

        On it a stochastic quasi-Newton method compares gradients (Berahas, Nocedal and Takac 2016).

        Args:
            inputs: The shared samples.
            targets: What the loss compares with.
            samples: As in the constructor.
            key: As in the constructor.

        Raises:
            ObjectiveError: If there are no samples.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.overlap = self.with_batch(inputs, targets, samples=samples, key=key)
        other.renew()
        return other

    def in_micro_batches(
        self, size: int | None = None, *, memory_budget: float | None = None, reduction: str = "mean"
    ) -> Objective:
        """Returns the same function, evaluated on a few samples at a time, for batches whose graph is too large.

        Args:
            size: Samples in a piece.
            memory_budget: Instead of `size`: bytes that a point and its products may take beside the parameters and a
                few vectors of their length. The size follows from two small trial points.
            reduction: ``"mean"`` or ``"sum"``: how the loss treats samples.

        Raises:
            ObjectiveError: If neither or both are given, the batch cannot be divided along its first dimension, or
                the budget is too small for one sample.

        Example:
            >>> model = nn.Linear(3, 1)
            >>> whole = Objective(model, nn.functional.mse_loss, torch.randn(8, 3), torch.randn(8, 1))
            >>> pieces = whole.in_micro_batches(3)
            >>> abs(pieces.value() - whole.value()) < 1e-6
            True
        """
        from hybridopt.objective.memory import samples_within
        from hybridopt.objective.micro_batch import MicroBatched

        if (size is None) == (memory_budget is None):
            raise ObjectiveError("Give in_micro_batches either size (samples) or memory_budget (bytes).")
        if memory_budget is not None:
            size = samples_within(self, memory_budget)
        return MicroBatched.of(self, size, reduction)

    def in_data_parallel(self, process_group: Any = None, *, reduction: str = "mean") -> Objective:
        """Returns the function of a batch that is divided among processes, each of which gives its part to this one.

        Values, gradients and products are summed over the processes, so every method takes the same steps in all of
        them; see `hybridopt.objective.data_parallel.DataParallel`. Parts may have different sizes. Micro-batches within
        a process: ``objective.in_data_parallel().in_micro_batches(size)``.

        Args:
            process_group: Of `torch.distributed`; None for all processes.
            reduction: ``"mean"`` or ``"sum"``: how the loss treats samples. A mean over anything else, such as the
                valid steps of padded sequences, has to be written as a sum divided by a constant.

        Raises:
            ObjectiveError: If there is no process group, a process has no samples, or the model has SyncBatchNorm in
                train mode.
        """
        from hybridopt.objective.data_parallel import DataParallel

        return DataParallel.of(self, process_group, reduction)

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are optimized."""
        return self._problem.model

    @property
    def loss_fn(self) -> Callable[..., Tensor] | None:
        """The loss function, or None when the model returns the loss."""
        return self._problem.loss_fn

    @property
    def ledger(self) -> Ledger:
        """Where every evaluation is entered."""
        return self._problem.ledger

    # -- parameters ------------------------------------------------------------------------------------------------

    def bind(self, param_groups: Iterable[Mapping[str, Any]], *, regularize: bool = False) -> Objective:
        """Returns this objective as a function of the parameters of an optimizer, in the order of its groups.

        All others are constants. The batch, the ledger and the random state are shared with this one.

        Args:
            param_groups: Groups with ``params``, as an optimizer holds them.
            regularize: Whether each group's ``weight_decay`` w adds w/2 ||p||^2 to the function (and its gradient
                and products), as a method with an acceptance test needs it.

        Raises:
            ObjectiveError: If no parameter requires a gradient, or one does not belong to the model.
        """
        groups = list(param_groups)
        parameters = [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]
        space, slots = self._problem.binding(parameters)
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._space, bound._slots, bound._whole = space, slots, False
        bound._decay = Decay.of_groups(space, groups) if regularize else Decay()
        if self.curvature_batch is not None:
            bound.curvature_batch = self.curvature_batch.bind(groups, regularize=regularize)
        if self.overlap is not None:
            bound.overlap = self.overlap.bind(groups, regularize=regularize)
        return bound

    @contextmanager
    def autocast_in_forward(self) -> Iterator[None]:
        """Context in which the autocast that is on now holds in forward passes only, on all batches."""
        now = autocast.regions()
        before, self._problem.autocast = self._problem.autocast, now
        try:
            with autocast.left(now):
                yield
        finally:
            self._problem.autocast = before

    @property
    def space(self) -> ParameterSpace:
        """The parameters as one flat vector; by default all trainable ones of the model, in order.

        Raises:
            ObjectiveError: If no parameter requires a gradient.
        """
        if self._space is None or (self._whole and self._space.converted()):
            self._space, self._slots = self._problem.binding(self._problem.trainable())
            self._whole = True
        return self._space

    @property
    def slots(self) -> Slots:
        """The places of those parameters in the model."""
        if self._slots is None:
            _ = self.space
        assert self._slots is not None
        return self._slots

    @property
    def eps(self) -> float:
        """Rounding unit of the parameters' dtype, the scale of every noise floor."""
        return torch.finfo(self.space.dtype).eps

    def position(self) -> Tensor:
        """Returns the parameters as a new flat vector, shape (n,)."""
        return self.space.read()

    def commit(self, x: Tensor) -> None:
        """Moves the model to `x`, by one in-place copy. Curvature operators built before are stale from then on.

        Args:
            x: Shape (n,).
        """
        self.space.write(self.space.checked(x))
        self._at_start = False
