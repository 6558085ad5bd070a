"""The factors of all layers, and the diagonal of all other parameters, from one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hybridopt.core import CombinationError
from hybridopt.curvature.kronecker.calls import Call
from hybridopt.curvature.kronecker.capture import Capture, capture
from hybridopt.curvature.kronecker.cotangents import cotangents
from hybridopt.curvature.kronecker.factors import (
    Basis,
    input_factor,
    nearest_input_factor,
    nearest_output_factor,
    output_factor,
    squared_gradients,
)
from hybridopt.curvature.kronecker.layers import Layer, layers_of
from hybridopt.curvature.likelihood import own_part
from hybridopt.objective import Point
from hybridopt.objective.micro_batch import MicroBatchedPoint
from hybridopt.objective.parallel_point import ParallelPoint


@dataclass
class Statistics:
    """What one batch says.

    Attributes:
        inputs: A of every layer.
        outputs: G of every layer.
        squares: Squared gradients of every layer for which a basis was given, in that basis.
        rest: Positions of all parameters that no layer has.
        diagonal: Of these, the estimated diagonal of the Fisher matrix.
        excluded: Positions of parameters that are used both by layers and by other operations.
    """

    inputs: dict[Layer, Tensor] = field(default_factory=dict)
    outputs: dict[Layer, Tensor] = field(default_factory=dict)
    squares: dict[Layer, Tensor] = field(default_factory=dict)
    rest: list[int] = field(default_factory=list)
    diagonal: list[Tensor] = field(default_factory=list)
    excluded: frozenset[int] = frozenset()

    def add(self, other: Statistics, weight: float, share: float) -> None:
        """Adds those of one piece of the batch.

        Args:
            other: Of the piece.
            weight: What the loss of the piece is multiplied with in that of the batch.
            share: The piece's share of the data.

        Raises:
            CombinationError: If the model calls other layers for this piece.
        """
        if self.inputs and (self.layers != other.layers or self.rest != other.rest):
            raise CombinationError(
                "The model calls other layers in one micro-batch than in another: take whole batches."
            )
        for totals, parts, factor in (
            (self.inputs, other.inputs, share),
            (self.outputs, other.outputs, weight),
            (self.squares, other.squares, weight),
        ):
            for layer, part in parts.items():
                totals[layer] = totals[layer].add_(part, alpha=factor) if layer in totals else part * factor
        self.diagonal = [
            part * weight if not self.diagonal else self.diagonal[at].add_(part, alpha=weight)
            for at, part in enumerate(other.diagonal)
        ]
        self.rest, self.excluded = other.rest, other.excluded

    @property
    def layers(self) -> list[Layer]:
        """The layers, in the order in which the model first calls them."""
        return list(self.inputs)


@dataclass(frozen=True)
class Recipe:
    """How the statistics of a batch are made.

    Attributes:
        kind: See `cotangents`.
        samples: See `cotangents`.
        setting: Out of `SETTINGS`, see `factors`.
    """

    kind: str = "monte_carlo"
    samples: int = 1
    setting: str = "expand"

    def setting_of(self, layer: Layer) -> str:
        """Returns ``expand``, ``reduce`` or ``nearest``.

        Args:
            layer: Any.
        """
        if self.setting != "auto":
            return self.setting
        return "nearest" if layer.kind == "recurrent" else "expand"


def statistics(
    point: Point | MicroBatchedPoint,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    bases: Mapping[Layer, Basis] | None = None,
    excluded: frozenset[int] = frozenset(),
) -> Statistics:
    """Returns the factors at a point, by one more forward pass and one backward pass for each cotangent.

    The diagonal for parameters that no layer has is the mean of squared gradients of the whole batch for cotangents
    that are independent between data and of mean zero: its expectation is the diagonal of the Fisher matrix
    (the Gauss-Newton-Bartlett estimate of Liu et al. 2023, section 2.3). For ``kind="empirical"`` the cotangents have
    no mean zero, and it is an upper estimate.

    Args:
        point: Where.
        recipe: How.
        generator: Where random numbers come from.
        bases: Of layers whose squared gradients are wanted.
        excluded: Positions of parameters known to be used by other operations than layers.

    Raises:
        CombinationError: If the model has no layer that is known, or the loss does not suit the recipe.
    """
    # Where curvature has samples of its own (`Objective.with_curvature_batch`), so have the factors.
    point = getattr(point, "products", point)
    if isinstance(point, ParallelPoint):
        return _of_processes(point, recipe, generator, bases or {}, excluded)
    if point.keeps_graph:
        return _of_piece(point, recipe, generator, bases or {}, excluded)
    total = Statistics()
    if len(point.objective.pieces) > 1:
        recipe = _piecewise(recipe)
    for weight, piece in point.objective.pieces:
        with piece.at() as part:
            own = _of_piece(part, recipe, generator, bases or {}, excluded | total.excluded)
        total.add(own, weight, piece.samples / point.objective.samples)
    return total


def _piecewise(recipe: Recipe) -> Recipe:
    """Returns a recipe of which every piece of a batch can do its part."""
    if recipe.setting == "nearest":
        raise CombinationError(
            "setting=nearest needs the whole batch at once: use setting=expand with micro-batches or several processes."
        )
    return replace(recipe, setting="reduce" if recipe.setting == "reduce" else "expand")


def _of_processes(
    point: ParallelPoint,
    recipe: Recipe,
    generator: torch.Generator,
    bases: Mapping[Layer, Basis],
    excluded: frozenset[int],
) -> Statistics:
    """The sums of all processes' statistics, each a piece of the batch."""
    if not point.keeps_graph:
        raise CombinationError("K-FAC takes micro-batches or several processes, not both: leave the micro-batches out.")
    objective, part = point.objective, point.own.objective.share
    assert part is not None
    # The cotangents are those of the whole batch's loss, the activations weigh as their samples do.
    found = _of_piece(point, _piecewise(recipe), generator, bases, excluded)
    for name, weight in (("inputs", part.samples / part.total), ("outputs", 1.0), ("squares", 1.0)):
        kept: dict[Layer, Tensor] = getattr(found, name)
        sums = objective.summed([factor * weight for factor in kept.values()])
        kept.update(zip(kept, sums, strict=True))
    found.diagonal = objective.summed(found.diagonal)
    return found


def _of_piece(
    point: Point,
    recipe: Recipe,
    generator: torch.Generator,
    bases: Mapping[Layer, Basis],
    excluded: frozenset[int],
) -> Statistics:
    space = point.space
    columns = cotangents(point, recipe.kind, recipe.samples, generator)
    made = Statistics()
    with capture(own_part(point)[1].objective, excluded) as seen:
        made.excluded = seen.excluded
        layers = layers_of(seen.calls)
        if not layers and not seen.excluded:
            raise CombinationError(
                "K-FAC found no layer that it knows in this model: it takes linear layers, convolutions and recurrent "
                "layers and cells whose weights are parameters. For other models use lbfgs, newton_cg or hessian_free."
            )
        own = {place for layer in layers for place in layer.positions}
        made.rest = [place for place in range(len(space.parameters)) if place not in own]
        made.diagonal = [
            torch.zeros(space.shapes[place], dtype=space.dtype, device=space.device) for place in made.rest
        ]
        for layer, calls in layers.items():
            made.inputs[layer] = factor = input_factor(layer, calls, recipe.setting_of(layer), space.dtype)
            rows = space.shapes[layer.positions[0]][0] // layer.groups
            made.outputs[layer] = factor.new_zeros(layer.groups, rows, rows)
            if layer in bases:
                made.squares[layer] = factor.new_zeros(layer.groups, rows, factor.shape[1])
        for column in columns:
            gradients = seen.backward(column, made.rest)
            for total, gradient in zip(made.diagonal, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.to(space.dtype).square())
            for layer, calls in layers.items():
                if any(call.raw is not None for call in calls):
                    made.outputs[layer].add_(output_factor(layer, calls, recipe.setting_of(layer), space.dtype))
                    if layer in bases:
                        made.squares[layer].add_(squared_gradients(layer, calls, bases[layer]))
        _approach(
            made,
            {layer: calls for layer, calls in layers.items() if recipe.setting_of(layer) == "nearest"},
            seen,
            columns,
        )
    return made


def _approach(
    made: Statistics, layers: Mapping[Layer, list[Call]], seen: Capture, columns: Sequence[Sequence[Tensor]]
) -> None:
    """Takes the factors to nearly the nearest Kronecker product, by two more passes over the cotangents."""
    start = {layer: made.inputs[layer] for layer in layers}
    _renew(
        made.inputs, layers, seen, columns, lambda layer, calls: nearest_input_factor(layer, calls, made.outputs[layer])
    )
    for layer, old in start.items():
        # The scale of A is free; that of `expand` is the same for all batches, as averages want it.
        traces = [factor.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None] for factor in (old, made.inputs[layer])]
        made.inputs[layer] = torch.where(traces[1] > 0, made.inputs[layer] * (traces[0] / traces[1]), old)
    _renew(
        made.outputs,
        layers,
        seen,
        columns,
        lambda layer, calls: nearest_output_factor(layer, calls, made.inputs[layer]),
    )


def _renew(
    factors: dict[Layer, Tensor],
    layers: Mapping[Layer, list[Call]],
    seen: Capture,
    columns: Sequence[Sequence[Tensor]],
    part: Callable[[Layer, list[Call]], Tensor],
) -> None:
    """Replaces factors by sums over the cotangents; what the last backward pass left serves a single one."""
    total = {layer: torch.zeros_like(factors[layer]) for layer in layers}
    for column in columns if layers else ():
        if len(columns) > 1:
            seen.backward(column)
        for layer, calls in layers.items():
            if any(call.raw is not None for call in calls):
                total[layer].add_(part(layer, calls))
    factors.update(total)
