"""The calls that a loss function is made of, and the exponential family that each of them stands for."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hybridopt.core import CombinationError
from hybridopt.objective.share import Share, draw_rows

_OTHERS = (
    "binary_cross_entropy", "smooth_l1_loss", "huber_loss", "l1_loss", "kl_div", "poisson_nll_loss",
    "hinge_embedding_loss", "ctc_loss", "margin_ranking_loss", "multi_margin_loss",
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call of a loss of torch's.

    Attributes:
        name: Of the function in `torch.nn.functional`.
        arguments: All of them, by name.
        result: What it returned, with its graph.
    """

    name: str
    arguments: dict[str, Any]
    result: Tensor


class Recorder(TorchFunctionMode):
    """Context that records which of torch's losses are called in it.

    A softmax cross-entropy written as the ``nll_loss`` of a ``log_softmax`` is recorded as one of the logits: in here
    the first does both steps and the second none. That changes what anything else makes of log-probabilities.

    Attributes:
        calls: Of the losses in `RECOGNISED`, in order.
        others: Names of other losses.
        replaced: Whether either was called, so that the loss is another outside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.others: list[str] = []
        self.replaced = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the call, and keeps it if it is a loss.

        Args:
            func: What is called.
            types: Unused.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "log_softmax":
            self.replaced = True
            return args[0] if args else kwargs["input"]
        if name not in RECOGNISED or func is not getattr(functional, name):
            result = func(*args, **kwargs)
        else:
            bound = inspect.signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            self.replaced |= name == "nll_loss"
            result = (functional.cross_entropy if name == "nll_loss" else func)(*args, **kwargs)
            self.calls.append(Call(name, bound.arguments, result))
            return result
        if name in _OTHERS:
            self.others.append(name)
        return result


class Term(ABC):
    """One call as a weighted sum of negative log-likelihoods of independent units.

    Tensors of a term are arranged with the natural parameters of a unit in the last dimension (categorical), or one
    unit per element.

    Args:
        call: The call.
        factor: Derivative of the whole loss with respect to the call's result.

    Attributes:
        family: Name of the distribution.
        function: Name of the loss in `torch.nn.functional`.
        source: The natural parameters as the call got them, with their graph.
        weight: s_i of every unit.
        gradient: Derivative of the whole loss with respect to the natural parameters, at the actual targets.
    """

    family: ClassVar[str]
    function: str
    source: Tensor
    weight: Tensor
    gradient: Tensor

    def __init__(self, call: Call, factor: Tensor) -> None:
        arguments = call.arguments
        if arguments.get("size_average") is not None or arguments.get("reduce") is not None:
            raise CombinationError("The loss uses size_average or reduce, which torch has retired: use reduction.")
        self.function = call.name
        self._prepare(arguments, factor, arguments["reduction"])

    @abstractmethod
    def _prepare(self, arguments: dict[str, Any], factor: Tensor, reduction: str) -> None:
        """Sets source, weight and gradient."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None, share: Share | None = None) -> Tensor:
        """Returns sqrt(s_i) times the gradient of each unit at a target drawn from the model's distribution.

        Args:
            generator: Where the draws come from.
            share: This process's part of the batch, None for all of it.
        """

    @abstractmethod
    def columns(self, *, by_position: bool) -> Iterator[Tensor]:
        """Yields columns of a square root of the Hessian of every unit.

        Args:
            by_position: Whether the last dimension of elementwise units is one position, with a column per element.
        """

    @abstractmethod
    def hessian_product(self, tangent: Tensor) -> Tensor:
        """Returns the Hessian of the term times a vector.

        Args:
            tangent: Arranged as the natural parameters.
        """

    def scale(self) -> float:
        """Returns the sum of the squares of the numbers that the gradient is a difference of."""
        return float(self.weight.double().square().sum())

    def spread(self, tensor: Tensor) -> float:
        """Returns the largest difference between two entries of one unit.

        Args:
            tensor: Arranged as the natural parameters.
        """
        return 0.0

    def as_source(self, tensor: Tensor) -> Tensor:
        """Returns a tensor of the term in the layout of `source`.

        Args:
            tensor: Arranged as the natural parameters.
        """
        return tensor

    def from_source(self, tensor: Tensor) -> Tensor:
        """Returns a tensor in the layout of `source` as the term arranges it.

        Args:
            tensor: In the layout of `source`.
        """
        return tensor

    def per_unit(self, tensor: Tensor) -> Tensor:
        """Returns one entry of every unit, shape of `weight`.

        Args:
            tensor: Arranged as the natural parameters, the same within a unit.
        """
        return tensor

    def unit_mask(self, chosen: Tensor) -> Tensor:
        """Returns a mask that multiplies a tensor of the term.

        Args:
            chosen: One entry per unit, flat.
        """
        return chosen.reshape(self.weight.shape)


class Categorical(Term):
    """Softmax cross-entropy, with class weights, label smoothing, ignored targets, or probabilities as targets.

    A unit is one row of logits. Weights that depend on the target are those of the actual one.
    """

    family = "categorical"

    def _prepare(self, arguments: dict[str, Any], factor: Tensor, reduction: str) -> None:
        self.source = arguments["input"]
        self._classes = 0 if self.source.dim() == 1 else 1
        logits = self.from_source(self.source.detach())
        self._probabilities = logits.softmax(-1)
        classes = logits.shape[-1]
        target, smoothing = arguments["target"], arguments.get("label_smoothing", 0.0)
        weight = arguments["weight"]
        weight = logits.new_ones(classes) if weight is None else weight.to(logits)
        if target.is_floating_point():
            masses = self.from_source(target.detach().to(logits))
            total = logits[..., 0].numel()
        else:
            valid = target != arguments["ignore_index"]
            kept = torch.where(valid, target, 0)
            masses = functional.one_hot(kept, classes).to(logits) * valid[..., None]
            total = (weight[kept] * valid).sum()
        uniform = masses.sum(-1, keepdim=True) if not target.is_floating_point() else 1.0
        masses = weight * ((1 - smoothing) * masses + smoothing / classes * uniform)
        if reduction == "mean":
            factor = factor / total
        self.weight = factor * masses.sum(-1)
        spread = factor[..., None] if factor.dim() else factor
        self.gradient = self.weight[..., None] * self._probabilities - spread * masses

    def sample(self, generator: torch.Generator | None, share: Share | None = None) -> Tensor:
        """Draws a class of every unit; see `Term`."""
        p = self._probabilities
        # By inversion, in float64 on the generator's device: `multinomial` wants its generator on the tensor's.
        uniform = draw_rows(_uniform(generator), p.shape[:-1], share).to(p.device)
        steps = p.double().cumsum(-1)
        drawn = (steps < uniform[..., None] * steps[..., -1:]).sum(-1).clamp(max=p.shape[-1] - 1)
        return self.weight.sqrt()[..., None] * (p - functional.one_hot(drawn, p.shape[-1]).to(p))

    def columns(self, *, by_position: bool) -> Iterator[Tensor]:
        """Yields sqrt(s p_k) (p - e_k), the gradient at each class, weighted by its probability; see `Term`."""
        p = self._probabilities
        for k in range(p.shape[-1]):
            column = p.clone()
            column[..., k] -= 1
            yield column * (self.weight * p[..., k]).sqrt()[..., None]

    def hessian_product(self, tangent: Tensor) -> Tensor:
        """Returns s (diag(p) - p p') v; see `Term`."""
        p = self._probabilities
        centred = p * tangent - p * (p * tangent).sum(-1, keepdim=True)
        return self.weight[..., None] * centred

    def as_source(self, tensor: Tensor) -> Tensor:
        """Moves the classes to where the call has them; see `Term`."""
        return tensor.movedim(-1, self._classes)

    def from_source(self, tensor: Tensor) -> Tensor:
        """Moves the classes to the last dimension; see `Term`."""
        return tensor.movedim(self._classes, -1)

    def spread(self, tensor: Tensor) -> float:
        """Compares with the first class; see `Term`."""
        return float((tensor - tensor[..., :1]).abs().max())

    def per_unit(self, tensor: Tensor) -> Tensor:
        """Takes the first class; see `Term`."""
        return tensor[..., 0]

    def unit_mask(self, chosen: Tensor) -> Tensor:
        """Returns a mask over rows; see `Term`."""
        return chosen.reshape(self.weight.shape)[..., None]


class _Elementwise(Term):
    """Units of one element each."""

    _root: Tensor  # of the Hessian of every element, weight included

    def columns(self, *, by_position: bool) -> Iterator[Tensor]:
        """Yields the root itself, one element of the last dimension at a time if `by_position`; see `Term`."""
        if not by_position or self._root.dim() < 2:
            yield self._root
            return
        for k in range(self._root.shape[-1]):
            column = torch.zeros_like(self._root)
            column[..., k] = self._root[..., k]
            yield column

    def hessian_product(self, tangent: Tensor) -> Tensor:
        """Multiplies element by element; see `Term`."""
        return self._root.square() * tangent


class Gaussian(_Elementwise):
    """Squared error: a unit is one element, of variance 1/2 around the output."""

    family = "gaussian"

    def _prepare(self, arguments: dict[str, Any], factor: Tensor, reduction: str) -> None:
        with torch.enable_grad():
            self.source, target = torch.broadcast_tensors(arguments["input"], arguments["target"])
        if not self.source.requires_grad:
            self.source, target = target, self.source  # the two are equals; some write the targets first
        outputs = self.source.detach()
        given = arguments.get("weight")
        weight = torch.ones_like(outputs) if given is None else given.to(outputs).expand_as(outputs)
        if reduction == "mean":
            factor = factor / weight.sum()
        self.weight = factor * weight
        self.gradient = 2 * self.weight * (outputs - target.detach())
        self._root = (2 * self.weight).sqrt()

    def scale(self) -> float:
        """Returns the size of outputs and weights; see `Term`."""
        return float((self.weight * (1 + self.source.detach().abs())).double().square().sum())

    def sample(self, generator: torch.Generator | None, share: Share | None = None) -> Tensor:
        """Draws a Gaussian error of every element; see `Term`."""
        error = draw_rows(
            lambda count: torch.randn(count, generator=generator, dtype=torch.float64, device="cpu"),
            self._root.shape,
            share,
        )
        return self._root * error.to(self._root)


class GaussianOfVariance(Gaussian):
    """Gaussian negative log-likelihood with variances that are data: squared errors, each over twice its variance."""

    def _prepare(self, arguments: dict[str, Any], factor: Tensor, reduction: str) -> None:
        outputs, variance = arguments["input"], arguments["var"]
        if isinstance(variance, Tensor) and variance.requires_grad:
            raise CombinationError(
                "The variances of gaussian_nll_loss depend on parameters, so it is no squared error. Give variances "
                "that are data, or take the Gauss-Newton matrix (curvature=gauss_newton)."
            )
        variance = torch.as_tensor(variance, dtype=outputs.dtype, device=outputs.device)
        if variance.dim() == outputs.dim() - 1 and variance.dim() > 0:
            variance = variance.unsqueeze(-1)  # one for all elements of a row, as torch reads it
        if reduction == "mean":
            factor = factor / outputs.numel()
        weight = (0.5 / variance.clamp(min=arguments["eps"])).expand_as(outputs)
        super()._prepare({**arguments, "weight": weight}, factor, "sum")


class Bernoulli(_Elementwise):
    """Binary cross-entropy with logits, also for probabilities as targets: a unit is one element."""

    family = "bernoulli"

    def _prepare(self, arguments: dict[str, Any], factor: Tensor, reduction: str) -> None:
        self.source = arguments["input"]
        logits, target = self.source.detach(), arguments["target"].detach()
        weight, positive = (
            torch.ones_like(logits) if arguments[name] is None else arguments[name].to(logits).expand_as(logits)
            for name in ("weight", "pos_weight")
        )
        if reduction == "mean":
            factor = factor / logits.numel()
        masses = weight * positive * target
        self._probabilities = logits.sigmoid()
        self.weight = factor * (masses + weight * (1 - target))
        self.gradient = self.weight * self._probabilities - factor * masses
        self._root = (self.weight * self._probabilities * torch.sigmoid(-logits)).sqrt()

    def sample(self, generator: torch.Generator | None, share: Share | None = None) -> Tensor:
        """Draws zero or one for every element; see `Term`."""
        p = self._probabilities
        uniform = draw_rows(_uniform(generator), p.shape, share).to(p.device)
        return self.weight.sqrt() * (p - (uniform < p).to(p))


def _uniform(generator: torch.Generator | None) -> Callable[[int], Tensor]:
    return lambda count: torch.rand(count, generator=generator, dtype=torch.float64, device="cpu")


RECOGNISED: dict[str, type[Term]] = {
    "cross_entropy": Categorical,
    "nll_loss": Categorical,
    "mse_loss": Gaussian,
    "gaussian_nll_loss": GaussianOfVariance,
    "binary_cross_entropy_with_logits": Bernoulli,
}
"""Functions in `torch.nn.functional` and what they stand for."""
