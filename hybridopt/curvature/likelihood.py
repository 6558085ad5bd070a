"""Which distribution of the targets a loss stands for, and what follows from it at the model's outputs.

A loss is a negative log-likelihood, up to a constant, of a categorical distribution (softmax cross-entropy), of
independent Gaussians (squared error) or of independent Bernoullis (binary cross-entropy with logits), or a weighted
sum of such. From that follow samples of the loss's gradient under the model's own distribution (the Monte-Carlo Fisher
matrix) and a square root of the loss's Hessian in the outputs (the exact one, K-FAC, Gauss-Newton diagonals).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError
from hybridopt.curvature.likelihood_terms import RECOGNISED, Call, Recorder, Term
from hybridopt.objective.parallel_point import ParallelPoint
from hybridopt.objective.point import Point
from hybridopt.objective.randomness import RandomState
from hybridopt.objective.share import Share

_KNOWN = (
    "It must be made of torch.nn.functional.cross_entropy, nll_loss of a log_softmax, mse_loss, gaussian_nll_loss or "
    "binary_cross_entropy_with_logits (or their modules, such as nn.CrossEntropyLoss), reduced, weighted and added up "
    "linearly, on the model's outputs themselves (reshaped or scaled at most)"
)
_INSTEAD = "Otherwise use the Gauss-Newton matrix (curvature=gauss_newton), which needs no likelihood."


class Likelihood:
    """The distribution that a loss stands for, at the outputs of a model on one batch.

    The loss is ``sum_i s_i l_i(z_i)`` with weights s_i (1/N for a mean over N samples) and units l_i, each a negative
    log-likelihood in its natural parameters z_i: a row of logits, an element of a prediction (squared error, a Gaussian
    of variance 1/2). In every unit the Fisher matrix of the outputs is the Hessian of l_i (Martens 2020, section 9.2).

    Everything here is *weighted by sqrt(s_i)* and in the layout of the model's outputs, one tensor per output (see
    `Point.outputs`), so that no other scale is needed: with u drawn by `sample`, or summed over the columns u of
    `square_root`, ``sum_n J_n' u_n u_n' J_n`` over the data n is the Fisher matrix, in expectation or exactly, which is
    the Gauss-Newton matrix of the objective.

    The loss function is not trusted to be what it looks like: its gradient at the actual targets, and its Hessian along
    a random direction, must equal those of the units.

    Made by `likelihood_at`.

    Attributes:
        families: ``"categorical"``, ``"gaussian"`` or ``"bernoulli"`` of each term of the loss.
        dimensions: Of each output, the dimension that counts the data.
    """

    def __init__(
        self, outputs: Sequence[Tensor], terms: Sequence[Term], samples: int, share: Share | None = None
    ) -> None:
        self._outputs = list(outputs)
        self._terms = list(terms)
        self.families = [term.family for term in terms]
        self._samples, self._share, self._weight = samples, share, 1.0

    @property
    def dimensions(self) -> list[int]:
        """Of each output, the dimension that counts the data.

        Raises:
            CombinationError: If an output has none of that length.
        """
        return [sample_dimension(output, self._samples) for output in self._outputs]

    def sample(self, generator: torch.Generator | None = None) -> list[Tensor]:
        """Draws targets from the model's distribution and returns the loss's gradient for them in the outputs.

        Args:
            generator: Where the draws come from (a CPU generator serves every device).

        Returns:
            One tensor per output, weighted as the class says: its mean is zero, its covariance the Hessian of the loss
            in the outputs.
        """
        drawn = self._pull([term.sample(generator, self._share) for term in self._terms])
        return [self._weight**0.5 * part for part in drawn]

    def square_root(self, per: str = "datum") -> Iterator[list[Tensor]]:
        """Yields the columns of an exact square root of the loss's Hessian in the outputs.

        Args:
            per: ``"datum"``: the outer products of a datum's columns add up to its block of the Hessian; as many
                columns as the outputs of the largest datum have elements. ``"position"``: to the block of every
                position of a datum (all dimensions but the classes, or the last one of a squared error or binary
                cross-entropy); only as many columns as there are classes, for methods that treat positions as
                independent.

        Yields:
            One tensor per output and column.

        Raises:
            ConfigError: If `per` is neither.
            CombinationError: If an output has no dimension that counts the data (``"datum"``).
        """
        if per not in ("datum", "position"):
            raise ConfigError(f"per must be 'datum' or 'position', not {per!r}.")
        for index, term in enumerate(self._terms):
            masks = [None] if per == "position" else self._one_unit_each(term)
            for column in term.columns(by_position=per == "position"):
                for mask in masks:
                    part = column if mask is None else column * mask
                    pulled = self._pull([part if at == index else None for at in range(len(self._terms))])
                    yield [self._weight**0.5 * each for each in pulled]

    def hessian_product(self, tangents: Sequence[Tensor | None]) -> list[Tensor]:
        """Returns the loss's Hessian in the outputs times a vector, by the formulas of the distributions.

        Args:
            tangents: One tensor per output, None for zeros.
        """
        products = self._pull([term.hessian_product(self._push(term, tangents)) for term in self._terms])
        return [self._weight * product for product in products]

    # -- between the outputs and the arguments of the loss's calls -------------------------------------------------

    def _pull(self, parts: Sequence[Tensor | None]) -> list[Tensor]:
        """Takes cotangents of the natural parameters to the outputs."""
        pairs = [(term, part) for term, part in zip(self._terms, parts, strict=True) if part is not None]
        found = torch.autograd.grad(
            [term.source for term, _ in pairs],
            self._outputs,
            [term.as_source(part) for term, part in pairs],
            retain_graph=True,
            allow_unused=True,
        )
        return [
            torch.zeros_like(output) if tensor is None else tensor
            for output, tensor in zip(self._outputs, found, strict=True)
        ]

    def _push(self, term: Term, tangents: Sequence[Tensor | None]) -> Tensor:
        """Takes tangents of the outputs to the natural parameters of a term, by the double-backward trick."""
        with torch.enable_grad():
            dummy = torch.zeros_like(term.source, requires_grad=True)
            back = torch.autograd.grad(
                term.source, self._outputs, dummy, create_graph=True, retain_graph=True, allow_unused=True
            )
        pairs = [
            (b, tangent) for b, tangent in zip(back, tangents, strict=True) if b is not None and tangent is not None
        ]
        if not pairs:
            return term.from_source(torch.zeros_like(dummy))
        (pushed,) = torch.autograd.grad([b for b, _ in pairs], dummy, [tangent for _, tangent in pairs])
        return term.from_source(pushed.detach())

    def _one_unit_each(self, term: Term) -> list[Tensor]:
        """Returns masks over a term's units that cover them all, each with at most one unit of every datum."""
        datum = [
            torch.arange(output.shape[d], dtype=torch.float64, device=output.device)
            .add_(1)
            .reshape([-1 if at == d else 1 for at in range(output.dim())])
            .expand(output.shape)
            for output, d in zip(self._outputs, self.dimensions, strict=True)
        ]
        ones, first, second = (
            self._push(term, [(index**power).to(output) for index, output in zip(datum, self._outputs, strict=True)])
            for power in (0, 1, 2)
        )
        # Of every unit: which datum's outputs it is made from; a mixture of several has a variance.
        mean, square = (torch.where(ones == 0, 0.0, moment / ones) for moment in (first, second))
        index = mean.round()
        off = (mean - index).abs().max() + (square - index**2).abs().max() / max(1, self._samples) + term.spread(index)
        if not float(off) < 0.1:
            raise CombinationError("The loss mixes the outputs of several data before it compares them with targets.")
        index = term.per_unit(index).long().flatten()
        order = index.argsort(stable=True)
        ordered = index[order]
        start = torch.searchsorted(ordered, ordered)
        rank = torch.empty_like(index)
        rank[order] = torch.arange(len(index), device=index.device) - start
        return [term.unit_mask(rank == place) for place in range(int(rank.max()) + 1)]


def likelihood_at(point: Point) -> Likelihood:
    """Returns the distribution that the loss of a point stands for.

    Args:
        point: Where; an `Objective.at`.

    Raises:
        CombinationError: If the loss is not known to stand for one, with the reason.
    """
    if not point.keeps_graph:
        raise CombinationError(
            "A likelihood needs the outputs of the whole batch at once: do not evaluate in micro-batches, or take the "
            "Gauss-Newton matrix."
        )
    weight, point = own_part(point)
    outputs, structure = point.free_outputs()
    loss_fn, targets = point.objective.loss_fn, point.objective.targets
    before = RandomState(point.space.device)
    try:
        with torch.enable_grad(), Recorder() as recorder:
            assert loss_fn is not None
            loss = loss_fn(structure) if targets is None else loss_fn(structure, targets)
        terms = _terms(loss, recorder.calls, recorder.others)
        if recorder.replaced:
            before.restore()
            with torch.enable_grad():
                loss = loss_fn(structure) if targets is None else loss_fn(structure, targets)
    finally:
        before.restore()
    made = Likelihood(outputs, terms, point.objective.samples, point.objective.share)
    _verify(made, loss, outputs, terms)
    made._weight = weight
    return made


def own_part(point: Point) -> tuple[float, Point]:
    """Returns the point of this process's samples, and the weight of their loss in that of the whole batch.

    They are the point itself and 1 unless the batch is divided among processes.

    Args:
        point: Where.
    """
    return (point.weight, point.own) if isinstance(point, ParallelPoint) else (1.0, point)


def _terms(loss: Tensor, calls: list[Call], others: list[str]) -> list[Term]:
    calls = [call for call in calls if call.result.requires_grad]
    used: tuple[Tensor | None, ...] = (None,) * len(calls)
    if loss.requires_grad and calls:
        used = torch.autograd.grad(loss, [call.result for call in calls], retain_graph=True, allow_unused=True)
    terms = [
        RECOGNISED[call.name](call, factor.detach())
        for call, factor in zip(calls, used, strict=True)
        if factor is not None
    ]
    if not terms:
        found = f" Found: {', '.join(others)}." if others else ""
        hint = ""
        if "binary_cross_entropy" in others:
            hint = " Let the model return logits and use binary_cross_entropy_with_logits."
        raise CombinationError(f"No likelihood is known for this loss.{found} {_KNOWN}.{hint} {_INSTEAD}")
    if any(bool((term.weight < 0).any()) for term in terms):
        raise CombinationError(f"The loss weighs some targets negatively, so it is no likelihood. {_INSTEAD}")
    return terms


def _verify(made: Likelihood, loss: Tensor, outputs: list[Tensor], terms: list[Term]) -> None:
    """Checks that the recorded units are the whole loss: its gradient, and its Hessian along random signs."""
    eps = torch.finfo(outputs[0].dtype).eps
    # Where the targets are fitted, gradient and Hessian are differences of numbers of this size.
    floor = 100 * eps * sum(term.scale() for term in terms) ** 0.5
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss, outputs, create_graph=True, allow_unused=True)
    gradients = [torch.zeros_like(z) if g is None else g for z, g in zip(outputs, gradients, strict=True)]
    wanted = [gradient.detach() for gradient in gradients]
    if not all(bool(tensor.isfinite().all()) for tensor in wanted):
        return  # nothing can be said; the optimizer reports the loss or gradient as not finite
    if _differ(made._pull([term.gradient for term in terms]), wanted, eps, floor):
        hint = ""
        if any(term.function == "nll_loss" for term in terms):
            hint = " Log-probabilities are no natural parameters: let the model return logits and use cross_entropy."
        raise CombinationError(f"The loss has parts that stand for no likelihood. {_KNOWN}.{hint} {_INSTEAD}")
    generator = torch.Generator().manual_seed(0)
    signs = [torch.randint(0, 2, z.shape, generator=generator, device="cpu").mul_(2).sub_(1).to(z) for z in outputs]
    curved = [(gradient, sign) for gradient, sign in zip(gradients, signs, strict=True) if gradient.requires_grad]
    products = torch.autograd.grad(
        [gradient for gradient, _ in curved],
        outputs,
        [sign for _, sign in curved],
        retain_graph=True,
        allow_unused=True,
    )
    products = [torch.zeros_like(z) if p is None else p for z, p in zip(outputs, products, strict=True)]
    if _differ(made.hessian_product(signs), products, eps, floor):
        raise CombinationError(
            f"The loss is not linear in what it is made of, or changes the outputs in a nonlinear way first. {_KNOWN}. "
            f"Move what is nonlinear into the model. {_INSTEAD}"
        )


def _differ(found: Sequence[Tensor], wanted: Sequence[Tensor], eps: float, floor: float) -> bool:
    difference = sum(float((f - w).double().square().sum()) for f, w in zip(found, wanted, strict=True)) ** 0.5
    size = sum(float(w.double().square().sum()) for w in wanted) ** 0.5
    return not difference <= eps**0.5 * size + floor


def sample_dimension(tensor: Tensor, samples: int) -> int:
    """Returns the dimension of an output that counts the data: the first of that length.

    Args:
        tensor: An output of the model.
        samples: How many data the batch has.

    Raises:
        CombinationError: If no dimension has that length.
    """
    for dimension, length in enumerate(tensor.shape):
        if length == samples:
            return dimension
    raise CombinationError(
        f"An output of shape {tuple(tensor.shape)} has no dimension that counts the {samples} samples of the batch, so "
        "its data cannot be told apart. Let the model return one row per sample, or set Objective(..., samples=)."
    )


def output_hessian_root(point: Point) -> Iterator[list[Tensor]]:
    """Yields columns whose outer products add up to each datum's block of the loss's Hessian in the outputs.

    For any convex loss, recognised or not, at the price of d products with that Hessian (which involve the loss only,
    not the model) and N eigendecompositions of size d, the number of output elements of a datum.

    Args:
        point: Where.

    Yields:
        One tensor per output and column; as many columns as a datum has output elements.

    Raises:
        CombinationError: If the loss couples the data, is not convex in the outputs, or has several outputs.
    """
    if not point.keeps_graph:
        raise CombinationError("The square root of the output Hessian needs the whole batch at once.")
    weight, point = own_part(point)
    outputs = point.outputs
    if len(outputs) != 1:
        raise CombinationError("The square root of an unrecognised loss's Hessian needs a single output tensor.")
    (output,) = outputs
    product = loss_hessian(point)
    rows = output.movedim(sample_dimension(output, point.objective.samples), 0)
    count, size = rows.shape[0], rows[0].numel()

    def as_output(flat: Tensor) -> Tensor:
        return flat.reshape(rows.shape).movedim(0, sample_dimension(output, point.objective.samples))

    def as_rows(tensor: Tensor) -> Tensor:
        return tensor.movedim(sample_dimension(output, point.objective.samples), 0).reshape(count, size)

    if couples(point):
        raise CombinationError("The loss couples the data of a batch, so its Hessian has no blocks per datum.")
    unit = torch.eye(size, dtype=output.dtype, device=output.device)
    block = torch.stack([as_rows(product([as_output(e.expand(count, size))])[0]) for e in unit], dim=2)
    values, vectors = torch.linalg.eigh((block + block.mT) / 2)
    floor = 10 * torch.finfo(output.dtype).eps * size * values.abs().max()
    if bool((values < -floor).any()):
        raise CombinationError("The loss is not convex in the outputs: its Hessian has no real square root.")
    roots = vectors * values.clamp(min=0).sqrt()[:, None, :]
    for column in range(size):
        yield [weight**0.5 * as_output(roots[:, :, column])]


def loss_hessian(point: Point) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Returns the product with the loss's Hessian in the outputs, by autograd; the model has no part in it.

    Args:
        point: Where.
    """

    def product(tangents: Sequence[Tensor]) -> list[Tensor]:
        found = point.loss_hessian_product(list(tangents))
        return [torch.zeros_like(z) if p is None else p.detach() for z, p in zip(tangents, found, strict=True)]

    return product


def couples(point: Point) -> bool:
    """Whether the loss's derivative at one datum's outputs depends on another datum's outputs.

    Args:
        point: Where.

    Raises:
        CombinationError: If an output has no dimension that counts the data.
    """
    product = loss_hessian(point)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, 2, (point.objective.samples,), generator=generator, device="cpu").bool()
    tangents, others = [], []
    for output in point.outputs:
        dimension = sample_dimension(output, point.objective.samples)
        shape = [-1 if at == dimension else 1 for at in range(output.dim())]
        probe = torch.randint(0, 2, output.shape, generator=generator, device="cpu").mul_(2).sub_(1).to(output)
        mask = chosen.to(output.device).reshape(shape)
        tangents.append(probe * mask)
        others.append(~mask)
    products = product(tangents)
    leaked = max(float((p * mask).abs().max()) for p, mask in zip(products, others, strict=True))
    largest = max(float(p.abs().max()) for p in products)
    return leaked > torch.finfo(products[0].dtype).eps ** 0.5 * largest
