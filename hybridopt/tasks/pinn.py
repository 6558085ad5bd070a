"""Physics-informed networks: what those of all equations share. The equations are in `pinn_equations`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hybridopt.core import option
from hybridopt.tasks.base import Split, Splits, Task, TaskConfig, fitted
from hybridopt.tasks.data.split import generator
from hybridopt.tasks.taylor_mlp import TaylorMLP

INTERIOR, INITIAL, BOUNDARY, SPEED, SOLUTION = range(5)
"""What a row of the inputs asks for: the equation's residual, u at the start, the boundary condition, u_t at the
start, or u itself (for evaluation)."""


@dataclass
class PINNConfig(TaskConfig):
    """Options of the physics-informed networks.

    Args:
        batch_size: Mini-batch of optimizers that step on few samples.
        epochs: Default budget, in epochs; a full-batch step is one epoch.
        width: Units of a hidden layer (published: 50 to 400).
        layers: Hidden layers.
        points: Residual points, drawn once from the inner grid (published: 10,000).
        coefficient: beta of convection (40), rho of reaction (5), beta of the wave (5), nu of Burgers (0.01/pi);
            None for the published value in parentheses.
    """

    batch_size: int = option(256, ge=1, help="mini-batch of optimizers that step on few samples")
    epochs: float = option(4000.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")
    width: int = option(50, ge=1, help="units of a hidden layer")
    layers: int = option(3, ge=1, help="hidden layers")
    points: int = option(2000, ge=10, help="residual points, drawn once from the inner grid")
    coefficient: float | None = option(None, gt=0, help="coefficient of the equation; null: the published value")


class PINN(Task):
    """A network u(x, t) that is to satisfy a differential equation: sum of mean squared residuals.

    Grid, sampling, network and initialization follow Rathore et al., "Challenges in Training PINNs: A Loss Landscape
    Perspective" (ICML 2024): 255 x 100 inner points of which some are drawn once, 257 points at the start, 101 on each
    boundary, tanh units, Xavier initialization. The loss is the sum over the kinds of points of the mean square
    (their code's, without the factor 1/2 of their formula), written as one weighted mean so that it can be taken on
    mini-batches. Validation and test set are disjoint random points of the whole grid on which u itself is compared
    with the exact solution; ``l2re`` is the relative error there. Run it in float64 (``dtype=float64``): in float32
    quasi-Newton methods stop early.

    A subclass gives the equation.

    Attributes:
        length: The domain is [0, length] x [0, 1]; Burgers' is [-1, 1] x [0, 1].
        published: The coefficient of the paper.
    """

    Config = PINNConfig
    config: PINNConfig
    start: ClassVar[float] = 0.0
    length: ClassVar[float] = 2 * math.pi
    published: ClassVar[float] = 1.0
    initial_speed: ClassVar[bool] = False

    @property
    def coefficient(self) -> float:
        """The equation's coefficient."""
        return self.published if self.config.coefficient is None else self.config.coefficient

    def exact(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the exact solution.

        Args:
            x: Places, float64.
            t: Times, float64.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say its solution: define exact.")

    @staticmethod
    def residual(u: Tensor, x: tuple[Tensor, Tensor], t: tuple[Tensor, Tensor], coefficient: float) -> Tensor:
        """Returns the equation's residual from u and its derivatives.

        Args:
            u: Values.
            x: First and second derivative in x.
            t: First and second derivative in t.
            coefficient: Of the equation.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError("A physics-informed task needs a residual.")

    def boundary(self, network: TaylorMLP, t: Tensor, side: Tensor) -> Tensor:
        """Returns the residual of the boundary condition; periodic unless a subclass says otherwise.

        Args:
            network: The network.
            t: Times, shape (samples,).
            side: Place on the boundary, shape (samples,).
        """
        left, right = (
            torch.stack([torch.full_like(t, place), t], 1) for place in (self.start, self.start + self.length)
        )
        return (network(left) - network(right))[:, 0]

    def build_splits(self, seed: int) -> Splits:
        """Returns rows (x, t, kind) and targets (value, weight).

        Args:
            seed: Draws the residual points and the points of evaluation.
        """
        chosen = torch.randperm(self.candidates, generator=generator(seed, "pinn interior"))[: self.config.points]
        grid = torch.cartesian_prod(*self._grid())
        order = torch.randperm(len(grid), generator=generator(seed, "pinn grid"))
        halves = (grid[part] for part in order.chunk(2))
        rest = (_split([(SOLUTION, half, self.exact(*half.unbind(1)), 1.0)]) for half in halves)
        return Splits(self.with_points(chosen), *rest)

    @property
    def candidates(self) -> int:
        """Inner points of the grid, of which `points` are used for the residual."""
        return len(self._inner())

    def with_points(self, chosen: Tensor) -> Split:
        """Returns the training rows with these residual points.

        Args:
            chosen: Numbers of inner points, int64.
        """
        inner = self._inner()[chosen]
        x, t = self._grid()
        at_start = torch.stack([x, torch.zeros_like(x)], 1)
        sides = [torch.stack([torch.full_like(t, side), t], 1) for side in self._sides()]
        groups = [
            (INTERIOR, inner, torch.zeros(len(inner), dtype=torch.float64)),
            (INITIAL, at_start, self.exact(x, torch.zeros_like(x))),
            *((BOUNDARY, side, torch.zeros(len(side), dtype=torch.float64)) for side in sides),
        ]
        if self.initial_speed:
            groups.append((SPEED, at_start, torch.zeros(len(x), dtype=torch.float64)))
        total = sum(len(points) for _, points, _ in groups)
        per_kind = {kind: sum(len(points) for k, points, _ in groups if k == kind) for kind, _, _ in groups}
        return _split([(kind, points, value, total / per_kind[kind]) for kind, points, value in groups])

    @torch.no_grad()
    def candidate_residuals(self, model: nn.Module) -> Tensor:
        """Returns the equation's residual at every inner point, shape (candidates,).

        Args:
            model: What `model` returned, on any device.
        """
        parameter = next(model.parameters())
        inner = self._inner()
        rows = torch.cat([inner, torch.full((len(inner), 1), float(INTERIOR))], 1)
        return model(rows.to(parameter.device, parameter.dtype))[:, 0]

    def _grid(self) -> tuple[Tensor, Tensor]:
        x = torch.linspace(self.start, self.start + self.length, 257, dtype=torch.float64)
        return x, torch.linspace(0, 1, 101, dtype=torch.float64)

    def _inner(self) -> Tensor:
        x, t = self._grid()
        return torch.cartesian_prod(x[1:-1], t[1:])

    def _sides(self) -> tuple[float, ...]:
        return (self.start,)

    def build_model(self) -> nn.Module:
        """Returns the network, which answers each row with what it asks for."""
        network = TaylorMLP(2, self.config.width, self.config.layers)
        return _Residuals(network, self)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the sum of the mean squared residuals of each kind, as one weighted mean.

        Args:
            outputs: Residuals and values, shape (samples, 1).
            targets: Value and weight, shape (samples, 2).
        """
        value, weight = targets[:, :1], targets[:, 1:]
        return (weight * (outputs - value).square()).mean()

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Returns ``l2re``, the relative L2 error against the targets: of u, on validation and test points.

        Args:
            outputs: Shape (samples, 1).
            targets: Value and weight, shape (samples, 2).
        """
        value = targets[:, :1].double()
        return {"l2re": float((outputs.double() - value).norm() / value.norm().clamp_min(1e-300))}

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the loss of the best constant u, what a network says that sees neither x nor t.

        Args:
            splits: What `splits` returned.
        """
        train = splits.train.to(dtype=torch.float64)
        model = _Residuals(TaylorMLP(2, 1, 1).to(train.inputs), self)
        constant = model.network.linears[-1].bias
        losses = []
        for start in (0.0, float(train.targets[train.inputs[:, 2] == INITIAL, 0].mean())):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
                constant.fill_(start)
            losses.append(fitted([constant], lambda: self.loss(model(train.inputs), train.targets)))
        return min(losses)


class _Residuals(nn.Module):
    """Answers rows (x, t, kind) with the residual or value that the kind asks for."""

    def __init__(self, network: TaylorMLP, task: PINN) -> None:
        super().__init__()
        self.network = network
        self._coefficient = task.coefficient
        self._residual, self._boundary = task.residual, task.boundary

    def forward(self, rows: Tensor) -> Tensor:
        points, kind = rows[:, :2], rows[:, 2]
        u, first, second = self.network.derivatives(points)
        x, t = ((first[i, :, 0], second[i, :, 0]) for i in (0, 1))
        u = u[:, 0]
        residual = self._residual(u, x, t, self._coefficient)
        out = torch.where(kind == INTERIOR, residual, u)
        out = torch.where(kind == BOUNDARY, self._boundary(self.network, points[:, 1], points[:, 0]), out)
        return torch.where(kind == SPEED, t[0], out)[:, None]


def _split(groups: list[tuple[int, Tensor, Tensor, float]]) -> Split:
    rows = [torch.cat([points, torch.full((len(points), 1), float(kind))], 1) for kind, points, _, _ in groups]
    targets = [torch.stack([value, torch.full_like(value, weight)], 1) for _, _, value, weight in groups]
    return Split(torch.cat(rows).float(), torch.cat(targets).float())
