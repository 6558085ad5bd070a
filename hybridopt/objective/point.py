"""The function at one point, with the graph from which curvature products are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from hybridopt.core import CombinationError, ObjectiveError, StaleOperatorError
from hybridopt.objective.demand import Demand
from hybridopt.objective.smoothness import differentiable_once, kinked_operations

if TYPE_CHECKING:
    from hybridopt.objective.objective import Objective
    from hybridopt.objective.products import GaussNewtonOperator, HessianOperator

# What torch.compile makes is run as plain torch instead, so this is somebody's own use of AOTAutograd.
COMPILED_AHEAD = (
    "A part of the model was compiled ahead of time, so it has no second derivatives, which products with curvature "
    "matrices are. Give the objective the model as it was before that, compile it by torch.compile, or use an "
    "optimizer that needs gradients only."
)

CHECKPOINTED = (
    "torch.utils.checkpoint cannot run a part of the model again as is needed here: with use_reentrant=True it works "
    "in backward() only, and recurrent layers under it have no products. Use use_reentrant=False around other layers, "
    "or leave checkpointing out and bound the memory by objective.in_micro_batches(memory_budget=...)."
)


def flatten_outputs(outputs: Any, *, differentiable: bool = True) -> list[Tensor]:
    """Returns the tensors in a model's output, which may be a tensor or nested tuples, lists and dicts of them.

    Args:
        outputs: What the model returned.
        differentiable: Whether to leave out those without a graph.
    """
    if isinstance(outputs, Tensor):
        leaves = [outputs]
    else:
        leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.requires_grad] if differentiable else leaves


def separate_outputs(outputs: Any) -> Any:
    """Returns a model's outputs with every tensor in them seen through a view of its own.

    One output may be computed from another (logits from features), or be returned twice. The loss's derivative with
    respect to such a view holds the others fixed, which is what the Gauss-Newton matrix means by it.

    Args:
        outputs: What the model returned.
    """
    if isinstance(outputs, Tensor):
        return outputs.view_as(outputs)
    return tree_map(lambda leaf: leaf.view_as(leaf) if isinstance(leaf, Tensor) else leaf, outputs)


class Point:
    """One forward pass with its gradient and its graph, kept for as many curvature products as wanted.

    All derivatives come from one backward pass that is itself recorded: it yields the gradient of the parameters
    and, on the way, the gradient with respect to the model's outputs. Differentiating the former again gives Hessian
    products. As it is linear in the latter, differentiating with respect to *that* gives Jacobian products, and so
    Gauss-Newton products, without a graph of their own (the double-backward trick).

    Made by `Objective.at`. The graph stands on the module's own parameters; once they are written to, every product
    raises `StaleOperatorError`.

    Attributes:
        loss: The loss, a detached scalar tensor, without regularization.
        value: The function's value: the loss plus the regularization of the optimizer's groups.
        gradient: Gradient of the function, shape (n,).
    """

    keeps_graph = True
    """Whether outputs and products come from one graph over the whole batch."""

    def __init__(
        self,
        objective: Objective,
        loss: Tensor,
        gradients: Sequence[Tensor | None],
        outputs: Sequence[Tensor],
        output_gradients: Sequence[Tensor | None],
        demand: Demand,
        structure: Any = None,
        hidden_gradients: Sequence[Tensor | None] = (),
    ) -> None:
        hidden = (demand.hidden or [])[: len(hidden_gradients)]
        space = objective.space
        self.objective = objective
        self.space = space
        self.loss = loss.detach()
        self._graph: Tensor | None = loss
        self._versions = space.versions()
        self._live: list[tuple[int, Tensor]] = [
            (index, gradient)
            for index, gradient in enumerate(gradients)
            if gradient is not None and gradient.requires_grad
        ]
        self.gradient = space.pack([None if gradient is None else gradient.detach() for gradient in gradients])
        objective.add_decay_gradient(self.gradient)
        self._has_outputs = any(dz is not None for dz in output_gradients)
        # A loss that is linear in an output has a constant derivative there, and no curvature through it.
        pairs = [
            (z, dz) for z, dz in zip(outputs, output_gradients, strict=True) if dz is not None and dz.requires_grad
        ]
        self._outputs = [z for z, _ in pairs]
        self._output_gradients = [dz for _, dz in pairs]
        kept = [(h, dh) for h, dh in zip(hidden, hidden_gradients, strict=True) if dh is not None and dh.requires_grad]
        self._hidden = [h for h, _ in kept]
        self._hidden_gradients = [dh for _, dh in kept]
        self._structure = structure
        self._demand = demand
        self._released = False
        self._regularization = objective.regularization()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ObjectiveError(
            "A point, and an operator at it, can be neither copied nor pickled: it stands on autograd's graph of the "
            "model's own parameters. Copy the model, make an objective of it and build the operator there, or keep "
            "what is plain: operator.dense(), eigenpairs, a gradient."
        )

    @property
    def value(self) -> float:
        """The function's value: the loss plus the regularization of the optimizer's groups."""
        return float(self.loss) + self._regularization

    def hessian(self) -> HessianOperator:
        """Returns the Hessian of the function at this point, as an operator."""
        from hybridopt.objective.products import HessianOperator

        return HessianOperator(self)

    def gauss_newton(self) -> GaussNewtonOperator:
        """Returns the generalized Gauss-Newton matrix at this point, as an operator.

        Raises:
            CombinationError: If the objective has no model outputs that a loss function is applied to.
        """
        from hybridopt.objective.products import GaussNewtonOperator

        return GaussNewtonOperator(self)

    def require_outputs(self) -> None:
        """Checks that a Gauss-Newton matrix exists here.

        Raises:
            CombinationError: If the objective has no model outputs that a loss function is applied to.
        """
        if not self._has_outputs:
            raise CombinationError(
                "The Gauss-Newton matrix needs a model whose outputs go through a loss function, as in "
                "Objective(model, loss_fn, inputs, targets); here the model returns the loss itself (or its outputs "
                "have no graph). Use the Hessian instead."
            )

    def hessian_product(self, vector: Tensor) -> Tensor:
        """Returns H v by differentiating the kept gradient once more (Pearlmutter 1994, in reverse over reverse).

        Args:
            vector: Shape (n,).

        Returns:
            Shape (n,), a new tensor.

        Raises:
            StaleOperatorError: If the parameters were written to since, or the point was released.
            ObjectiveError: If a layer has no second derivative.
        """
        self._check_fresh()
        self.objective.ledger.pay("hvp", self.objective.work)
        parts = self._along(vector, self.space.parameters)
        return self.objective.add_decay_product(self.space.pack(parts), vector)

    def gauss_newton_product(self, vector: Tensor) -> Tensor:
        """Returns G v = J' H_L J v, with J the outputs' Jacobian and H_L the loss's Hessian in the outputs.

        Schraudolph 2002; J v comes from the kept gradient by the double-backward trick.

        Args:
            vector: Shape (n,).

        Returns:
            Shape (n,), a new tensor.

        Raises:
            CombinationError: If the objective has no model outputs that a loss function is applied to.
            StaleOperatorError: If the parameters were written to since, or the point was released.
            ObjectiveError: If a layer has no second derivative.
        """
        return self.sandwich_product(vector, self.loss_hessian_product)

    def sandwich_product(
        self,
        vector: Tensor,
        middle: Callable[[list[Tensor | None]], Sequence[Tensor | None]],
        *,
        hidden: float = 0.0,
    ) -> Tensor:
        """Returns J' M J v, with J the Jacobian of the model's outputs, and the regularization's part.

        Costs what a Gauss-Newton product costs, whatever M is.

        Args:
            vector: Shape (n,).
            middle: The symmetric M, a function of one tensor per output (see `outputs`), None for zeros; it returns
                the same.
            hidden: Multiple of ``J_h' J_h v`` that is added, J_h being the Jacobian of the hidden states; not zero only
                at a point that knows them, see `Objective.at`.

        Returns:
            Shape (n,), a new tensor.

        Raises:
            CombinationError: If the objective has no model outputs that a loss function is applied to.
            StaleOperatorError: If the parameters were written to since, or the point was released.
            ObjectiveError: If a layer has no second derivative.
        """
        self._check_fresh()
        self.require_outputs()
        self.objective.ledger.pay("ggnvp", self.objective.work)
        states = self._hidden_gradients if hidden else []
        self._demand.jacobian = True
        try:
            tangents = list(self._along(vector, [*self._output_gradients, *states]))
        finally:
            self._demand.jacobian = False
        count = len(self._output_gradients)
        moved = [None if tangent is None else hidden * tangent for tangent in tangents[count:]]
        parts = self._back(middle(tangents[:count]), moved)
        return self.objective.add_decay_product(self.space.pack(parts), vector)

    def pull_back(self, cotangents: Sequence[Tensor | None]) -> Tensor:
        """Returns J' u: the derivative of <outputs, u> with respect to the parameters, without regularization.

        One backward pass; the ledger counts a gradient.

        Args:
            cotangents: One tensor per output (see `outputs`), None for zeros.

        Returns:
            Shape (n,).

        Raises:
            CombinationError: If the objective has no model outputs that a loss function is applied to.
            StaleOperatorError: If the parameters were written to since, or the point was released.
        """
        self._check_fresh()
        self.require_outputs()
        self.objective.ledger.pay("gradient", self.objective.work)
        return self.space.pack(self._back(cotangents))

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors among the model's outputs in which the loss is curved, detached."""
        return [output.detach() for output in self._outputs]

    @property
    def output_gradients(self) -> list[Tensor]:
        """The loss's derivatives with respect to `outputs`, detached."""
        return [gradient.detach() for gradient in self._output_gradients]

    def free_outputs(self) -> tuple[list[Tensor], Any]:
        """Returns the model's outputs cut off from the model, as the loss function takes them.

        Returns:
            The tensors of `outputs` as leaves that require a gradient, and the whole output of the model with those
            leaves in it.
        """
        self._check_fresh()
        self.require_outputs()
        free = {id(output): output.detach().requires_grad_() for output in self._outputs}

        def cut(leaf: Any) -> Any:
            return free.get(id(leaf), leaf.detach()) if isinstance(leaf, Tensor) else leaf

        return list(free.values()), tree_map(cut, self._structure)

    @property
    def used(self) -> set[int]:
        """Positions of the parameters on which the gradient depends."""
        return {index for index, _ in self._live}

    def loss_hessian_product(self, tangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Returns H_L t, with H_L the loss's Hessian in the outputs; the model has no part in it and none is paid.

        Args:
            tangents: One tensor per output (see `outputs`), None for zeros.

        Returns:
            The same.
        """
        curved = [
            (dz, tangent) for dz, tangent in zip(self._output_gradients, tangents, strict=True) if tangent is not None
        ]
        return self._grad([dz for dz, _ in curved], self._outputs, [tangent for _, tangent in curved])

    @property
    def hidden_states(self) -> list[Tensor]:
        """The hidden states of the recurrent layers that the loss depends on, detached, as the layers gave them.

        One tensor for each layer and direction, (steps, samples, units) inside the layers of torch; those of cells as
        often as they are called. Empty unless the point was asked to keep them; see `Objective.at`.
        """
        return [states.detach() for states in self._hidden]

    def _back(
        self, cotangents: Sequence[Tensor | None], hidden: Sequence[Tensor | None] = ()
    ) -> Sequence[Tensor | None]:
        given = [*zip(self._outputs, cotangents, strict=True), *zip(self._hidden, hidden, strict=False)]
        back = [(z, w) for z, w in given if w is not None]
        return self._grad([z for z, _ in back], self.space.parameters, [w for _, w in back])

    def kinks(self) -> list[str]:
        """Returns the operations of the graph that have no second derivative everywhere, e.g. ``["Relu"]``."""
        self._check_fresh()
        assert self._graph is not None
        once = differentiable_once(gradient for _, gradient in self._live)
        return kinked_operations(self._graph) + (["a function that is differentiable once"] if once else [])

    def release(self) -> None:
        """Lets go of the graph and its memory; products raise from then on."""
        self._live, self._outputs, self._output_gradients, self._graph = [], [], [], None
        self._structure, self._hidden, self._hidden_gradients = None, [], []
        self._released = True

    def __enter__(self) -> Point:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _along(self, vector: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Differentiates <gradient, vector>."""
        self.objective._problem.require_second_derivatives(gradient for _, gradient in self._live)
        views = self.space.stand_ins(vector)
        return self._grad([gradient for _, gradient in self._live], inputs, [views[index] for index, _ in self._live])

    def _grad(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        if not outputs or not inputs:
            return [None] * len(inputs)
        try:
            return torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if "modified by an inplace operation" in str(error):
                raise stale("The batch, or another tensor behind the loss, was changed in place") from error
            if "torch.utils.checkpoint" in str(error):
                raise ObjectiveError(CHECKPOINTED) from error
            if "does not currently support double backward" in str(error):
                raise ObjectiveError(COMPILED_AHEAD) from error
            if "not implemented" in str(error):
                raise ObjectiveError(
                    f"A layer of the model has no second derivative: {str(error).splitlines()[0]} Replace the layer, "
                    "or use an optimizer that needs gradients only."
                ) from error
            raise

    def _check_fresh(self) -> None:
        if self._released:
            raise StaleOperatorError(
                "This point was released: its graph is gone. Take the products before release() (or inside the with "
                "block), or call objective.at() again."
            )
        if self._versions != self.space.versions():
            raise stale()


def stale(what: str = "The parameters have moved") -> StaleOperatorError:
    """Returns the error of a product at a point that the model has left.

    Args:
        what: What has changed.
    """
    return StaleOperatorError(
        f"{what} since this operator was built, so its products would belong to no point. Build it "
        "again: objective.at().hessian(), or hybridopt.curvature.Hessian(objective)."
    )
