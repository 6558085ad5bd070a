"""K-FAC and EK-FAC of an objective, as symmetric operators with inverses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hybridopt.core import ConfigError, ObjectiveError
from hybridopt.curvature.kronecker.cotangents import KINDS
from hybridopt.curvature.kronecker.factors import SETTINGS, Basis
from hybridopt.curvature.kronecker.layers import Layer
from hybridopt.curvature.kronecker.statistics import Recipe, Statistics, statistics
from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective import Objective
from hybridopt.objective.parameters import ParameterSpace

RULES = ("split", "exact")


class KroneckerOperator(SymmetricOperator):
    """A block-diagonal matrix of Kronecker products, one for each layer, and a diagonal for all other parameters.

    The blocks are small, so that everything is in closed form: products, inverses, eigenvalues, trace, determinant.

    Args:
        space: The parameters.
        names: Their names.
        found: Factors of the layers and diagonal of the rest.

    Attributes:
        layers: The layers, in the order in which the model first calls them.
        fallback: Names of the parameters that no layer has, which are treated by a diagonal.
    """

    positive_semidefinite = True

    def __init__(self, space: ParameterSpace, names: Sequence[str], found: Statistics) -> None:
        super().__init__(space.n, dtype=space.dtype, device=space.device)
        self.space = space
        self.layers = found.layers
        self.fallback = [names[place] for place in found.rest]
        self._names = list(names)
        self._found = found
        self._bases: dict[Layer, Basis] = {}

    # -- what subclasses say ---------------------------------------------------------------------------------------

    def _product(self, layer: Layer, matrix: Tensor) -> Tensor:
        return self._found.outputs[layer] @ matrix @ self._found.inputs[layer]

    def values(self, layer: Layer) -> Tensor:
        """Returns the eigenvalues of a layer's block, (groups, rows, columns), in the order of `basis`.

        Args:
            layer: Out of `layers`.
        """
        return self.basis(layer).values

    # -- blocks ----------------------------------------------------------------------------------------------------

    def basis(self, layer: Layer) -> Basis:
        """Returns the eigenvectors of a layer's factors; computed when first asked for.

        Args:
            layer: Out of `layers`.
        """
        if layer not in self._bases:
            self._bases[layer] = Basis.of(*self.factors(layer))
        return self._bases[layer]

    def factors(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Returns A, (groups, columns, columns), and G, (groups, rows, rows).

        Args:
            layer: Out of `layers`.
        """
        return self._found.inputs[layer], self._found.outputs[layer]

    def parameter_names(self, layer: Layer) -> list[str]:
        """Returns the names of a layer's parameters, the weight's first.

        Args:
            layer: Out of `layers`.
        """
        return [self._names[place] for place in layer.positions]

    def indices(self, layer: Layer) -> Tensor:
        """Returns where the entries of a layer's matrices lie in the flat vector, (groups, rows, columns).

        With it ``dense()[i][:, i]``, i the flattened indices of one group, is kron(G, A).

        Args:
            layer: Out of `layers`.
        """
        return layer.matrix(self.space.views(torch.arange(self.n, device=self.device)))

    def describe(self) -> str:
        """Returns one line for each layer, and one for the parameters that no layer has."""
        lines = []
        for layer in self.layers:
            inputs, outputs = self.factors(layer)
            times = f"{layer.groups} x " if layer.groups > 1 else ""
            names = ", ".join(self.parameter_names(layer))
            lines.append(f"{layer.kind}: {names}: {times}{outputs.shape[1]} x {inputs.shape[1]}")
        if self.fallback:
            lines.append(f"diagonal: {', '.join(self.fallback)}")
        return "\n".join(lines)

    # -- products and inverses -------------------------------------------------------------------------------------

    def _matvec(self, vector: Tensor) -> Tensor:
        return self._apply(vector, self._product, self._found.diagonal)

    def _apply(self, vector: Tensor, on_layer: object, diagonal: Sequence[Tensor]) -> Tensor:
        out = torch.empty_like(vector)
        source, target = self.space.views(vector), self.space.views(out)
        for layer in self.layers:
            layer.scatter(on_layer(layer, layer.matrix(source)), target)  # type: ignore[operator]
        for place, scale in zip(self._found.rest, diagonal, strict=True):
            torch.mul(scale, source[place], out=target[place])
        return out

    def inverse_apply(self, vector: Tensor, damping: float, rule: str = "split") -> Tensor:
        """Returns the product of the damped inverse with a vector.

        Args:
            vector: Shape (n,).
            damping: l > 0.
            rule: ``"split"``: each factor gets its share of sqrt(l), so that a block becomes
                (G + sqrt(l)/pi I) kron (A + pi sqrt(l) I) (Martens and Grosse 2015, section 6.3). ``"exact"``: l is
                added to the block. Parameters without a layer get l on their diagonal in both.

        Returns:
            Shape (n,).

        Raises:
            ConfigError: If the damping is not positive, or the rule or the vector unknown.
        """
        if not damping > 0:
            raise ConfigError(f"The damping of an inverse must be > 0, not {damping}.")
        if rule not in RULES:
            raise ConfigError(f"rule must be one of {', '.join(map(repr, RULES))}, not {rule!r}.")

        def inverse(layer: Layer, matrix: Tensor) -> Tensor:
            return self.basis(layer).back(self.basis(layer).to(matrix) / self._damped(layer, damping, rule))

        return self._apply(self._checked(vector), inverse, [1.0 / (part + damping) for part in self._found.diagonal])

    def _damped(self, layer: Layer, damping: float, rule: str) -> Tensor:
        return self.values(layer) + damping if rule == "exact" else self.basis(layer).split(damping)

    # -- closed forms ----------------------------------------------------------------------------------------------

    def eigenvalues(self) -> Tensor:
        """Returns all eigenvalues, shape (n,), in no particular order."""
        parts = [self.values(layer).flatten() for layer in self.layers]
        return torch.cat(parts + [part.flatten() for part in self._found.diagonal])

    def trace(
        self, samples: int | None = None, *, method: str = "hutch++", generator: torch.Generator | None = None
    ) -> float:
        """Returns the trace, which is exact and costs no product.

        Args:
            samples: Not used.
            method: Not used.
            generator: Not used.
        """
        return float(self.eigenvalues().double().sum())

    def frobenius_norm(self) -> float:
        """Returns the root of the sum of all squared entries."""
        return float(self.eigenvalues().double().square().sum().sqrt())

    def log_determinant(
        self,
        samples: int | None = None,
        *,
        shift: float = 0.0,
        steps: int = 30,
        generator: torch.Generator | None = None,
    ) -> float:
        """Returns the logarithm of the determinant of this matrix plus a multiple of the identity, which is exact.

        Args:
            samples: Not used.
            shift: The multiple.
            steps: Not used.
            generator: Not used.
        """
        return float((self.eigenvalues().double() + shift).log().sum())

    def diagonal(
        self, samples: int | None = None, *, method: str = "hutchinson", generator: torch.Generator | None = None
    ) -> Tensor:
        """Returns the diagonal, shape (n,), which is exact and costs no product.

        Args:
            samples: Not used.
            method: Not used.
            generator: Not used.
        """
        out = torch.empty(self.n, dtype=self.dtype, device=self.device)
        views = self.space.views(out)
        for layer in self.layers:
            layer.scatter(self._layer_diagonal(layer), views)
        for place, part in zip(self._found.rest, self._found.diagonal, strict=True):
            views[place].copy_(part)
        return out

    def _layer_diagonal(self, layer: Layer) -> Tensor:
        inputs, outputs = (factor.diagonal(dim1=1, dim2=2) for factor in self.factors(layer))
        return outputs[:, :, None] * inputs[:, None, :]

    def _pack(self, tensors: list[Tensor]) -> Tensor:
        if [tuple(tensor.shape) for tensor in tensors] != [tuple(shape) for shape in self.space.shapes]:
            raise ConfigError("This operator takes a list of tensors shaped as the parameters.")
        return self.space.pack(tensors)

    def _unpack(self, vector: Tensor) -> list[Tensor]:
        return self.space.tensors(vector)


class KFAC(KroneckerOperator):
    """Kronecker-factored approximation of an objective's Fisher matrix, one block for each layer.

    Martens and Grosse 2015 for linear layers, Grosse and Martens 2016 for convolutions, Eschenhagen et al. 2023 for
    layers with shared weights; for `nn.RNN`, `nn.GRU`, `nn.LSTM` and their cells the steps are positions at which the
    weights are shared, so that different steps count as independent (`factors` has the formulas). A block is a weight
    with its bias; input and hidden weights of a recurrent layer are two blocks. Layers are recognised by the function
    calls, so weights written by hand and passed to `F.linear` are seen, a module that is used twice is one block, and
    so are the projections of `nn.MultiheadAttention` (not where keys differ from queries: there its one weight is
    three). Parameters of anything else (normalizations, embeddings, computed weights) have a diagonal, see `fallback`
    and `describe()`.

    The factors are those of the objective's own loss, whatever its reduction; without regularization.

    Args:
        objective: The loss as a function of the parameters.
        kind: ``"monte_carlo"``: targets drawn from the model, one backward pass per sample. ``"exact"``: the whole
            expectation, as many backward passes as a datum has outputs. ``"propagation"``: an unbiased estimate of
            that for any loss that is convex in the outputs, one backward pass per sample. ``"empirical"``: the actual
            targets. ``"auto"``: ``monte_carlo`` where the loss stands for a known distribution, else ``propagation``.
        samples: Draws per datum, for ``monte_carlo`` and ``propagation``.
        setting: ``"expand"`` or ``"reduce"``, how weight sharing is approximated; ``"nearest"``: nearly the Kronecker
            product that is nearest to the block, at the cost of the gradients of single data for layers with shared
            weights, and of two more backward passes for each of several cotangents; ``"auto"``: that for recurrent
            layers only, ``expand`` for all others.
        generator: Where random numbers come from; one seeded with 0 when None.

    Raises:
        ObjectiveError: If it is not an `Objective`.
        ConfigError: If an option is senseless.
        CombinationError: If the model has no layer that is known, or the loss no known distribution.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> f = Objective(model, torch.nn.functional.mse_loss, torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        >>> KFAC(f, kind="exact") @ torch.tensor([1.0])
        tensor([8.0000])
    """

    corrected = False

    def __init__(
        self,
        objective: Objective,
        kind: str = "monte_carlo",
        *,
        samples: int = 1,
        setting: str = "expand",
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(objective, Objective):
            raise ObjectiveError(f"{type(self).__name__} needs an Objective, not a {type(objective).__name__}.")
        for name, value, choices in (("kind", kind, KINDS), ("setting", setting, SETTINGS)):
            if value not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.")
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, not {samples}.")
        recipe = Recipe(kind, samples, setting)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        before = generator.get_state()
        with objective.at() as point:
            point.require_outputs()
            found = statistics(point, recipe, generator)
            super().__init__(objective.space, parameter_names(objective), found)
            if self.corrected:
                # The same draws again, now in the eigenvectors of the factors that they gave.
                bases = {layer: self.basis(layer) for layer in self.layers}
                generator.set_state(before)
                recipe = Recipe(kind, samples)
                again = statistics(point, recipe, generator, bases=bases, excluded=found.excluded)
                found.squares.update(again.squares)


class EKFAC(KFAC):
    """K-FAC with corrected eigenvalues (George et al. 2018): exact second moments in the eigenvectors of its factors.

    Of all matrices with these eigenvectors the nearest to the block of the Fisher matrix in the Frobenius norm, so
    never further than `KFAC` for the same cotangents. Correlations between positions at which weights are shared are in
    the moments. Costs one more pass than `KFAC`.

    Args:
        objective: The loss as a function of the parameters.
        kind: As for `KFAC`.
        samples: As for `KFAC`.
        setting: As for `KFAC`: of the factors whose eigenvectors are used.
        generator: As for `KFAC`.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> f = Objective(model, torch.nn.functional.mse_loss, torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        >>> EKFAC(f, kind="exact") @ torch.tensor([1.0])
        tensor([8.0000])
    """

    corrected = True

    def values(self, layer: Layer) -> Tensor:
        """Returns the corrected eigenvalues of a layer's block, (groups, rows, columns).

        Args:
            layer: Out of `layers`.
        """
        return self._found.squares[layer]

    def _product(self, layer: Layer, matrix: Tensor) -> Tensor:
        basis = self.basis(layer)
        return basis.back(basis.to(matrix) * self.values(layer))

    def inverse_apply(self, vector: Tensor, damping: float, rule: str = "exact") -> Tensor:
        """Returns the product of the damped inverse with a vector; see `KroneckerOperator.inverse_apply`.

        Args:
            vector: Shape (n,).
            damping: l > 0.
            rule: ``"exact"``; the corrected eigenvalues are no product that could be split.

        Returns:
            Shape (n,).

        Raises:
            ConfigError: If the rule is ``"split"``.
        """
        if rule == "split":
            raise ConfigError("The eigenvalues of EKFAC are no products of two factors: use rule='exact', or KFAC.")
        return super().inverse_apply(vector, damping, rule)

    def _layer_diagonal(self, layer: Layer) -> Tensor:
        basis = self.basis(layer)
        return basis.output_vectors.square() @ self.values(layer) @ basis.input_vectors.square().mT


def parameter_names(objective: Objective) -> list[str]:
    """Returns the names of an objective's parameters, in the model or else in the loss.

    Args:
        objective: Bound to them.
    """
    names: Mapping[int, str] = {}
    for module in (objective.loss_fn, objective.model):
        if isinstance(module, torch.nn.Module):
            names = {**names, **{id(parameter): name for name, parameter in module.named_parameters()}}
    return [
        names.get(id(parameter), f"parameter {place}") for place, parameter in enumerate(objective.space.parameters)
    ]
