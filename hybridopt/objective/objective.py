"""The loss as a function of the parameters: the one way by which optimizers reach the problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import ObjectiveError
from hybridopt.objective.decay import Decay
from hybridopt.objective.function import FunctionModule
from hybridopt.objective.guard import full_precision, twice_differentiable
from hybridopt.objective.ledger import Ledger
from hybridopt.objective.parameters import ParameterSpace, Slots
from hybridopt.objective.point import Point, flatten_outputs
from hybridopt.objective.problem import Problem, count_samples, differentiate
from hybridopt.objective.randomness import RandomState


class Objective:
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
        ledger: Where costs are entered; a new one when None.
        key: Names the batch: two objectives with the same key have the same data. An optimizer that ended its last
            step with a gradient on the same key need not take it again. Default: unique per batch.

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

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Tensor] | None = None,
        inputs: Any = None,
        targets: Any = None,
        *,
        samples: int | None = None,
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
        self._problem = Problem(model, loss_fn, Ledger() if ledger is None else ledger)
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
        bound._space, bound._slots = space, slots
        bound._decay = Decay.of_groups(space, groups) if regularize else Decay()
        if self.curvature_batch is not None:
            bound.curvature_batch = self.curvature_batch.bind(groups, regularize=regularize)
        if self.overlap is not None:
            bound.overlap = self.overlap.bind(groups, regularize=regularize)
        return bound

    @property
    def space(self) -> ParameterSpace:
        """The parameters as one flat vector; by default all trainable ones of the model, in order.

        Raises:
            ObjectiveError: If no parameter requires a gradient.
        """
        if self._space is None:
            self._space, self._slots = self._problem.binding(self._problem.trainable())
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

    # -- evaluation ------------------------------------------------------------------------------------------------

    def __call__(self) -> Tensor:
        """Returns the loss on the batch with its graph: the model's own forward pass, with nothing around it.

        Raises:
            ObjectiveError: If the loss is not a scalar.
        """
        return self._forward()[0]

    def value(self, x: Tensor | None = None) -> float:
        """Returns the function's value; the model stays where it is.

        Args:
            x: Where to evaluate, shape (n,); the model's own parameters when None.
        """
        with self._evaluation(at_start=x is None and self._at_start), torch.no_grad():
            if x is None:
                loss = self._forward()[0]
                self._remember_start(loss)
            else:
                with self.slots.hold(self.space.tensors(self.space.checked(x))):
                    loss = self._forward()[0]
        self.ledger.pay("forward", self.samples)
        return float(loss) + self.regularization(x)

    def value_and_grad(self, x: Tensor | None = None) -> tuple[float, Tensor]:
        """Returns the function's value and its gradient; the model stays where it is.

        Args:
            x: Where to evaluate, shape (n,); the model's own parameters when None.

        Returns:
            The value and the gradient, shape (n,).

        Raises:
            ObjectiveError: If the loss is not a scalar or has no graph.
        """
        with self._evaluation(at_start=x is None and self._at_start), torch.enable_grad():
            if x is None:
                loss = self._forward()[0]
                gradients = self._parameter_gradients(loss, ())
                self._remember_start(loss, gradients)
                gradient = self.space.pack(gradients)
            else:
                leaf = self.space.checked(x).detach().requires_grad_()
                with self.slots.hold(self.space.tensors(leaf)):
                    loss = self._forward()[0]
                gradient = self.differentiate(loss, [leaf])[0]
                gradient = torch.zeros_like(x) if gradient is None else gradient
        self.ledger.pay("gradient", self.samples)
        self.add_decay_gradient(gradient, x)
        return float(loss.detach()) + self.regularization(x), gradient

    def at(self, *, hidden: bool = False) -> Point:
        """Returns the function where the model stands: one forward pass with its gradient and a kept graph.

        Args:
            hidden: Whether the point is to know the hidden states of recurrent layers, for structural damping.

        Raises:
            ObjectiveError: If the loss is not a scalar or has no graph.
        """
        if self.curvature_batch is not None:
            from hybridopt.objective.split_point import SplitPoint

            return SplitPoint(self, hidden=hidden)  # type: ignore[return-value]
        guard = twice_differentiable(hidden=hidden)
        with self._evaluation(at_start=self._at_start), torch.enable_grad(), guard as demand:
            loss, outputs = self._forward(separate=True)
            tensors = [] if self.loss_fn is None else flatten_outputs(outputs)
            kept = demand.hidden or []
            gradients = self._parameter_gradients(loss, [*tensors, *kept], create_graph=True)
        self.ledger.pay("gradient", self.samples)
        count = len(self.space.parameters)
        self._remember_start(loss, gradients[:count])
        ours, rest, last = gradients[:count], gradients[count:], count + len(tensors)
        return Point(self, loss, ours, tensors, rest[: len(tensors)], demand, outputs, gradients[last:])

    def loss_and_gradients(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Returns the loss, detached, and its derivatives, through the model's own forward pass and nothing else.

        Args:
            parameters: With respect to what.

        Raises:
            ObjectiveError: If the loss is not a scalar or has no graph.
        """
        with torch.enable_grad():
            loss = self()
            gradients = self.differentiate(loss, parameters)
        self.ledger.pay("gradient", self.samples)
        return loss.detach(), gradients

    def differentiate(
        self, loss: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Returns the derivatives of a loss of this objective, with torch's complaints in the user's terms.

        Args:
            loss: What calling the objective returned.
            inputs: With respect to what.
            create_graph: Whether the result is to be differentiated again.

        Raises:
            ObjectiveError: If the loss has no graph, or its graph was used up.
            RuntimeError: Anything else that torch complains about.
        """
        return differentiate(loss, inputs, create_graph=create_graph)

    def _parameter_gradients(
        self, loss: Tensor, others: Sequence[Tensor], *, create_graph: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Differentiates with respect to the parameters, then `others`."""
        parameters = self.space.parameters
        gradients = self.differentiate(loss, [*parameters, *others], create_graph=create_graph)
        if any(gradient is None for gradient in gradients[: len(parameters)]):
            # Unused, which is fine, or no longer the model's: then zeros would be silently wrong.
            self.slots.check()
        return gradients

    def renew(self) -> None:
        """Forgets the replayed random state: the next evaluation starts a new deterministic function."""
        self._replay: RandomState | None = None
        self._random_drawn = False
        self._statistics = False
        self._buffers_after: list[Tensor] | None = None
        self._buffers_wanted = True
        self._at_start = True
        self.start_loss: Tensor | None = None
        self.start_gradients: Sequence[Tensor | None] | None = None
        for companion in (self.curvature_batch, self.overlap):
            if companion is not None:
                companion.renew()

    def _remember_start(self, loss: Tensor, gradients: Sequence[Tensor | None] | None = None) -> None:
        """Keeps what the first evaluation at the model's own parameters found, for the report and for p.grad."""
        if not self._at_start:
            return
        if self.start_loss is None:
            self.start_loss = loss.detach()
        if self.start_gradients is None and gradients is not None:
            self.start_gradients = [None if gradient is None else gradient.detach() for gradient in gradients]

    def resume(self, value: float, gradient: Tensor) -> None:
        """Takes value and gradient at the model's parameters as known, so that they need not be evaluated.

        Args:
            value: The function's value, as an earlier evaluation on the same data gave it.
            gradient: Its gradient, shape (n,).
        """
        plain = (
            gradient
            if not self._decay
            else gradient - self.add_decay_product(torch.zeros_like(gradient), self.position())
        )
        loss = torch.as_tensor(value - self.regularization(), dtype=gradient.dtype, device=gradient.device)
        self._remember_start(loss, self.space.tensors(plain.clone()))

    @property
    def repeatable(self) -> bool:
        """Whether another step on the same data sees the same function: no random layer, no buffer that is written to.

        Known after the first evaluation.
        """
        return not self._random_drawn and not self._statistics

    def adopt(self) -> None:
        """Gives the model the buffers that the first evaluation at its own parameters since `renew` left.

        These are BatchNorm's statistics, for example: they then stand as after one forward pass.
        """
        if self._buffers_after is not None:
            self.slots.adopt_buffers(self._buffers_after)
            self._buffers_after = None

    @contextmanager
    def _evaluation(self, *, at_start: bool) -> Iterator[None]:
        """One evaluation of the deterministic function: same random numbers, buffers written to copies.

        Args:
            at_start: Whether it is where the model stood at `renew`, so that its buffers are the ones to adopt.
        """
        device, slots = self.space.device, self.slots
        now = RandomState(device)
        first = self._replay is None
        done = False
        if self._replay is not None:
            self._replay.restore()
        try:
            with full_precision(device):
                if not slots.has_buffers:
                    yield
                else:
                    with slots.cloned_buffers() as after:
                        yield
                    if first:
                        self._statistics = slots.differ(after)
                    if at_start and self._buffers_wanted:
                        self._buffers_after, self._buffers_wanted = after, False
            done = True
        finally:
            # After the first evaluation the generators stand as after one forward pass, and stay there; one that
            # failed leaves no trace.
            if first and done:
                self._replay = now
                self._random_drawn = not now.is_current()
            else:
                now.restore()

    def _forward(self, *, separate: bool = False) -> tuple[Tensor, Any]:
        return self._problem.forward(self.inputs, self.targets, separate=separate)

    # -- L2 regularization that belongs to the function ------------------------------------------------------------

    def regularization(self, x: Tensor | None = None) -> float:
        """Returns what the weight decay of the optimizer's groups adds to the loss; 0 where it is not bound so.

        Args:
            x: Where, shape (n,); the model's own parameters when None.
        """
        if not self._decay:
            return 0.0
        return self._decay.value(self.position() if x is None else x)

    def add_decay_gradient(self, gradient: Tensor, x: Tensor | None = None) -> None:
        """Adds the regularizer's gradient to `gradient` in place.

        Args:
            gradient: Shape (n,).
            x: Where, shape (n,); the model's own parameters when None.
        """
        if self._decay:
            self._decay.add_product(gradient, self.position() if x is None else x)

    def add_decay_product(self, out: Tensor, vector: Tensor) -> Tensor:
        """Adds the regularizer's (constant, diagonal) Hessian times a vector to `out` in place.

        Args:
            out: Shape (n,).
            vector: Shape (n,).

        Returns:
            `out`.
        """
        return self._decay.add_product(out, vector)
