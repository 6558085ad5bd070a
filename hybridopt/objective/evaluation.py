"""The evaluations of an objective: one deterministic function from `renew` to `renew`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybridopt.objective.decay import Decay
from hybridopt.objective.guard import as_written, full_precision, twice_differentiable
from hybridopt.objective.ledger import Ledger
from hybridopt.objective.parameters import ParameterSpace, Slots
from hybridopt.objective.point import Point, flatten_outputs
from hybridopt.objective.problem import Problem, differentiate
from hybridopt.objective.randomness import RandomState
from hybridopt.objective.share import Share

if TYPE_CHECKING:
    from hybridopt.objective.objective import Objective


class Evaluation:
    """Values, gradients and points of a model's loss on a batch; `Objective` says which model, batch and parameters.

    The random state of the first evaluation since `renew` is replayed at every other, and buffers are written to
    copies, of which `adopt` takes over those of the starting point.
    """

    inputs: Any
    targets: Any
    samples: int
    work: int
    space: ParameterSpace
    slots: Slots
    ledger: Ledger
    loss_fn: Callable[..., Tensor] | None
    curvature_batch: Objective | None
    overlap: Objective | None
    position: Callable[[], Tensor]
    _problem: Problem
    _decay: Decay
    share: Share | None = None
    """This process's part of a batch that is divided among processes; None if it has all of it."""

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
        loss = self._loss(x)
        self.ledger.pay("forward", self.work)
        return float(loss) + self.regularization(x)

    def _loss(self, x: Tensor | None) -> Tensor:
        try:
            return self._evaluated(x)
        except RuntimeError as error:
            if self._problem.differentiates or "does not require grad" not in str(error):
                raise
        self._problem.differentiates = True
        return self._evaluated(x)

    def _evaluated(self, x: Tensor | None) -> Tensor:
        slots = self.slots
        # In the first trial a graph shows whether the model still reaches its own parameters; usually there is none.
        recording = self._problem.differentiates or (x is not None and not slots.proven)
        with self._evaluation(at_start=x is None and self._at_start), torch.set_grad_enabled(recording):
            if x is None:
                loss = self._forward()[0].detach()
                self._remember_start(loss)
                return loss
            with slots.hold(self.space.stand_ins(self.space.checked(x))):
                loss = self._forward()[0]
            slots.prove(loss)
        return loss.detach()

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
                with self.slots.hold(self.space.stand_ins(leaf)):
                    loss = self._forward()[0]
                    # Inside, since checkpointed parts run once more in the backward pass.
                    gradient = self.differentiate(loss, [leaf])[0]
                self.slots.prove(loss)
                gradient = torch.zeros_like(x) if gradient is None else gradient
        self.ledger.pay("gradient", self.work)
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
        self._problem.uncompiled = True
        guard = twice_differentiable(hidden=hidden)
        with self._evaluation(at_start=self._at_start), torch.enable_grad(), guard as demand:
            loss, outputs = self._forward(separate=True)
            tensors = [] if self.loss_fn is None else flatten_outputs(outputs)
            kept = demand.hidden or []
            gradients = self._parameter_gradients(loss, [*tensors, *kept], create_graph=True)
        self.ledger.pay("gradient", self.work)
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
        if not torch.is_grad_enabled():  # a context costs microseconds that most steps need not spend
            with torch.enable_grad():
                return self.loss_and_gradients(parameters)
        loss, _ = self._forward()
        gradients = differentiate(loss, parameters)
        if not self._problem.looked:
            self._problem.check_checkpoints(loss, gradients)
        self.ledger.pay("gradient", self.work)
        return loss.detach(), gradients

    def summed(self, tensors: Sequence[Tensor], *, as_loss: bool = False) -> list[Tensor]:
        """Returns sums over the samples of this process as sums over those of the whole batch.

        For methods that look at samples themselves; values, gradients and products are of the whole batch already.

        Args:
            tensors: Any shapes, which may be overwritten.
            as_loss: Whether to weigh them as the loss of this process's samples in that of the whole batch.
        """
        return list(tensors)

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
        if not self._problem.looked:
            self._problem.check_checkpoints(loss, gradients[: len(parameters)])
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

    def resume(self, value: float, gradient: Tensor, *, share: bool = False) -> None:
        """Takes value and gradient at the model's parameters as known, so that they need not be evaluated.

        Args:
            value: The function's value, as an earlier evaluation on the same data gave it.
            gradient: Its gradient, shape (n,).
            share: Whether `start_gradients`, which become ``p.grad``, may be views of `gradient`: nothing that is kept
                beyond the step may then lie in it.
        """
        if self._decay:
            plain = gradient - self.add_decay_product(torch.zeros_like(gradient), self.position())
        else:
            plain = gradient if share else gradient.clone()
        loss = torch.as_tensor(value - self.regularization(), dtype=gradient.dtype, device=gradient.device)
        self._remember_start(loss, self.space.tensors(plain))

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
            with full_precision(device), as_written(self._problem.uncompiled), slots.dense_gradients():
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
