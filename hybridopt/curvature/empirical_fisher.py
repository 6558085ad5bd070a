"""The second moment of the gradients of single data, often called the empirical Fisher matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from hybridopt.core import CombinationError, ConfigError, ObjectiveError
from hybridopt.curvature.fisher import OuterProducts
from hybridopt.curvature.likelihood import couples, own_part, sample_dimension
from hybridopt.objective import Objective, Point
from hybridopt.objective.products import PointOperator
from hybridopt.objective.randomness import RandomState

_SAY = "Say reduction='mean' or 'sum', or take the Gauss-Newton matrix (an optimizer's curvature=gauss_newton)."


class EmpiricalFisherOperator(PointOperator):
    """The empirical Fisher matrix at a point; see `EmpiricalFisher`.

    Args:
        point: Where.
        reduction: ``"mean"`` or ``"sum"``, how the loss treats the data; None to find out.

    Raises:
        CombinationError: If the data cannot be told apart.
    """

    positive_semidefinite = True

    def __init__(self, point: Point, reduction: str | None = None) -> None:
        super().__init__(point)
        self.reduction, columns, dimensions = data_gradients(point, reduction)
        self._middle = OuterProducts([columns], dimensions)

    def _matvec(self, vector: Tensor) -> Tensor:
        return self.point.sandwich_product(vector, self._middle)


class EmpiricalFisher(EmpiricalFisherOperator):
    """The empirical Fisher matrix: the mean of g_n g_n' over the data, g_n being the gradient of one datum's loss.

    A mean over the batch if the loss is one, a sum if the loss is a sum. It is not the Fisher matrix: targets are the
    actual ones, and near a good fit it vanishes with the gradients (Kunstner, Balles and Hennig 2019). With r_n the
    loss's gradient in the outputs of datum n a product is ``J' (r_n <r_n, (J v)_n>)``: one Jacobian product and one
    back, no gradient of a single datum is ever formed.

    Regularization by ``weight_decay`` is added as its Hessian, not to the gradients.

    Args:
        objective: The loss as a function of the parameters.
        reduction: ``"mean"`` or ``"sum"``, how the loss treats the data; None to find out, by evaluating the loss on
            every output twice.

    Raises:
        CombinationError: If the data cannot be told apart: the loss couples them, BatchNorm in train mode does, no
            dimension of an output counts them, or the loss is linear in the outputs.
        ObjectiveError: If it is not an `Objective`.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> torch.nn.init.ones_(model.weight).shape
        torch.Size([1, 1])
        >>> f = Objective(model, torch.nn.functional.mse_loss, torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1))
        >>> round(float(EmpiricalFisher(f) @ torch.tensor([1.0])), 3)  # gradients 2 and 8
        34.0
    """

    def __init__(self, objective: Objective, reduction: str | None = None) -> None:
        if not isinstance(objective, Objective):
            raise ObjectiveError(f"EmpiricalFisher needs an Objective, not a {type(objective).__name__}.")
        super().__init__(objective.at(), reduction)


def data_gradients(
    point: Point, reduction: str | None = None, *, strict: bool = True
) -> tuple[str, list[Tensor], list[int]]:
    """Returns the loss's derivative in the outputs, scaled so that its outer products per datum add up to their mean.

    Args:
        point: Where.
        reduction: ``"mean"`` or ``"sum"``, how the loss treats the data; None to find out.
        strict: Whether to refuse data that are coupled, which have no gradients of their own but rows of the loss's
            derivative nevertheless, and losses whose reduction is not clear; else they are taken for means.

    Returns:
        The reduction; ``sqrt(N) dL/dz`` (``dL/dz`` for a sum), one tensor per output; of each output, the dimension
        that counts the data.

    Raises:
        CombinationError: If the data cannot be told apart.
        ConfigError: If the reduction is neither.
    """
    if reduction not in (None, "mean", "sum"):
        raise ConfigError(f"reduction must be 'mean', 'sum' or None, not {reduction!r}.")
    point = getattr(point, "products", point)  # where curvature has samples of its own, those count
    if not point.keeps_graph:
        raise CombinationError("Gradients of single data need the whole batch at once, not micro-batches.")
    weight, point = own_part(point)
    point.require_outputs()
    samples = point.objective.samples
    gradients = point.output_gradients
    if not gradients:
        raise CombinationError(
            "The loss is linear in the model's outputs, which hides the Jacobian from the kept graph. Let the model "
            "return logits and use torch.nn.functional.cross_entropy instead of nll_loss."
        )
    norms = [n for n, m in point.objective.model.named_modules() if isinstance(m, _BatchNorm) and uses_batch(m)]
    if norms and strict:
        raise CombinationError(
            f"BatchNorm in train mode ({', '.join(norms[:3])}) couples the data of a batch, so single data have no "
            "gradients. Put it in eval mode, use GroupNorm, or take the Gauss-Newton matrix."
        )
    dimensions = [sample_dimension(gradient, samples) for gradient in gradients]
    if strict and couples(point):
        raise CombinationError(
            "The loss couples the data of a batch (its derivative at one datum depends on another's outputs), so "
            "single data have no gradients. Take the Gauss-Newton matrix."
        )
    if reduction is None:
        try:
            reduction = _reduction(point, dimensions)
        except CombinationError:
            if strict:
                raise
            reduction = "mean"
    scale = (weight * samples) ** 0.5 if reduction == "mean" else 1.0
    return reduction, [scale * gradient for gradient in gradients], dimensions


def uses_batch(module: _BatchNorm) -> bool:
    """Whether a BatchNorm normalizes by the statistics of the batch.

    Args:
        module: Any BatchNorm.
    """
    return module.training or module.running_mean is None


def _reduction(point: Point, dimensions: list[int]) -> str:
    """Whether the loss is a mean or a sum over the data, from its value with every datum there twice."""
    objective = point.objective
    samples = objective.samples
    outputs, structure = point.free_outputs()
    place = {id(output): dimension for output, dimension in zip(outputs, dimensions, strict=True)}

    def twice(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in place:
            return torch.cat([leaf, leaf], place[id(leaf)])
        return torch.cat([leaf, leaf], leaf.shape.index(samples)) if samples in leaf.shape else leaf

    doubled, targets = tree_map(twice, (structure, objective.targets))
    before = RandomState(point.space.device)
    try:
        with torch.no_grad():
            loss_fn = objective.loss_fn
            assert loss_fn is not None
            value = float(loss_fn(doubled) if targets is None else loss_fn(doubled, targets))
    except (RuntimeError, ValueError, IndexError) as error:
        raise CombinationError(
            "Whether the loss is a mean or a sum over the data cannot be found out, as it does not take every datum "
            f"twice: {str(error).splitlines()[0]} {_SAY}"
        ) from error
    finally:
        before.restore()
    once = float(point.loss)
    slack = 100 * torch.finfo(point.space.dtype).eps * max(1.0, samples**0.5)
    if abs(value - once) <= slack * abs(once):
        return "mean"
    if abs(value - 2 * once) <= slack * abs(2 * once):
        return "sum"
    raise CombinationError(
        "It is not clear whether the loss is a mean or a sum over the data: with every datum there twice it changes "
        f"from {once:.6g} to {value:.6g}. {_SAY}"
    )
