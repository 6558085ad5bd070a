"""Physics-informed networks: convection, reaction, wave and Burgers' equation as least-squares problems."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hybridopt.core import option
from hybridopt.tasks.base import Split, Splits, Target, Task, TaskConfig, fitted
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


class PINNConvection(PINN):
    """u_t + beta u_x = 0, u(x, 0) = sin x, periodic, beta = 40: sin(x - beta t)."""

    name = "pinn_convection"
    summary = "physics-informed network: convection, beta = 40 (Rathore et al. 2024)"
    # Hard. On seed 0 in float64, full batch: switch from adam (lr=1e-3) at step 1,000 to ssbroyden
    # (max_dimension=6000), evaluated every 100 epochs, reaches both at cost 3,181 (0.086 and 5.5e-4). adam_lbfgs with
    # the same Adam and history=100 is at 0.79 and 0.019 at cost 4,045, and at 0.83 and 0.014 at 6,093.
    targets = (Target("validation_l2re", 0.1, "min"), Target("train_loss", 1e-3, "min"))
    published = 40.0

    def exact(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns sin(x - beta t).

        Args:
            x: Places.
            t: Times.
        """
        return torch.sin(x - self.coefficient * t)

    @staticmethod
    def residual(u: Tensor, x: tuple[Tensor, Tensor], t: tuple[Tensor, Tensor], coefficient: float) -> Tensor:
        """Returns u_t + beta u_x; see `PINN.residual`."""
        return t[0] + coefficient * x[0]


class PINNReaction(PINN):
    """u_t = rho u (1 - u), u(x, 0) = exp(-(x - pi)^2 / (2 (pi/4)^2)) = h, periodic, rho = 5."""

    name = "pinn_reaction"
    summary = "physics-informed network: reaction, rho = 5 (Rathore et al. 2024)"
    # On seed 0 in float64, full-batch adam_lbfgs (switch at 1,000) reaches them in epochs 1,200 and 2,200.
    targets = (Target("validation_l2re", 0.1, "min"), Target("train_loss", 1e-4, "min"))
    published = 5.0

    def exact(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns h e^(rho t) / (h e^(rho t) + 1 - h).

        Args:
            x: Places.
            t: Times.
        """
        h = torch.exp(-((x - math.pi) ** 2) / (2 * (math.pi / 4) ** 2))
        grown = h * torch.exp(self.coefficient * t)
        return grown / (grown + 1 - h)

    @staticmethod
    def residual(u: Tensor, x: tuple[Tensor, Tensor], t: tuple[Tensor, Tensor], coefficient: float) -> Tensor:
        """Returns u_t - rho u (1 - u); see `PINN.residual`."""
        return t[0] - coefficient * u * (1 - u)


class DirichletPINN(PINN):
    """u = 0 at both ends of the domain instead of a period."""

    def _sides(self) -> tuple[float, ...]:
        return (self.start, self.start + self.length)

    def boundary(self, network: TaylorMLP, t: Tensor, side: Tensor) -> Tensor:
        """Returns u at the ends, which is to be zero; see `PINN.boundary`.

        Args:
            network: The network.
            t: Times.
            side: Place on the boundary.
        """
        return network(torch.stack([side, t], 1))[:, 0]


class PINNWave(DirichletPINN):
    """u_tt = 4 u_xx on [0, 1], u = 0 at both ends, at rest at the start, beta = 5.

    u(x, 0) = sin(pi x) + sin(beta pi x) / 2; u = sin(pi x) cos(2 pi t) + sin(beta pi x) cos(2 beta pi t) / 2.
    """

    name = "pinn_wave"
    summary = "physics-informed network: wave, beta = 5 (Rathore et al. 2024)"
    # Hard, and no setting is known yet that reaches these. On seed 0 in float64, full batch: switch from adam
    # (lr=1e-3) at step 1,000 to ssbroyden (max_dimension=6000) is at 0.384 and 0.0151 at cost 3,234, and at 0.363 and
    # 0.0121 at 4,000. Width 30, soap (lr=3e-3) for 500 steps and ssbroyden with lr=0.5, of whose steps more are taken
    # at the first trial: 0.375 and 0.0138 at 2,835, 0.359 and 0.0118 at 4,000. Soap alone on batches of 512 stays at
    # 0.48 and 0.107.
    targets = (Target("validation_l2re", 0.3, "min"), Target("train_loss", 1e-2, "min"))
    length = 1.0
    published = 5.0
    initial_speed = True

    def exact(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns sin(pi x) cos(2 pi t) + sin(beta pi x) cos(2 beta pi t) / 2.

        Args:
            x: Places.
            t: Times.
        """
        beta = self.coefficient
        slow = torch.sin(math.pi * x) * torch.cos(2 * math.pi * t)
        return slow + 0.5 * torch.sin(beta * math.pi * x) * torch.cos(2 * beta * math.pi * t)

    @staticmethod
    def residual(u: Tensor, x: tuple[Tensor, Tensor], t: tuple[Tensor, Tensor], coefficient: float) -> Tensor:
        """Returns u_tt - 4 u_xx; see `PINN.residual`."""
        return t[1] - 4 * x[1]


class PINNBurgers(DirichletPINN):
    """u_t + u u_x = nu u_xx on [-1, 1], u(x, 0) = -sin(pi x), u = 0 at both ends, nu = 0.01 / pi.

    The exact solution is Cole's and Hopf's, by Gauss-Hermite quadrature (Basdevant et al., Computers & Fluids 14,
    1986).
    """

    name = "pinn_burgers"
    summary = "physics-informed network: Burgers' equation, nu = 0.01/pi"
    # On seed 0 in float64, full-batch adam_lbfgs (switch at 1,000) reaches them in epochs 1,300 and 1,400.
    targets = (Target("validation_l2re", 0.2, "min"), Target("train_loss", 1e-2, "min"))
    start = -1.0
    length = 2.0
    published = 0.01 / math.pi

    def exact(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns Cole's and Hopf's solution.

        Args:
            x: Places.
            t: Times.
        """
        from numpy.polynomial.hermite import hermgauss

        nodes, weights = (torch.from_numpy(part) for part in hermgauss(100))
        nu = self.coefficient
        width = torch.sqrt(4 * nu * t.clamp_min(1e-12))
        shifted = x[:, None] - width[:, None] * nodes
        exponent = -torch.cos(math.pi * shifted) / (2 * math.pi * nu)
        # Scaled by its largest term, or exp overflows.
        kernel = weights * torch.exp(exponent - exponent.max(dim=1, keepdim=True).values)
        u = -(kernel * torch.sin(math.pi * shifted)).sum(1) / kernel.sum(1)
        return torch.where(t > 0, u, -torch.sin(math.pi * x))

    @staticmethod
    def residual(u: Tensor, x: tuple[Tensor, Tensor], t: tuple[Tensor, Tensor], coefficient: float) -> Tensor:
        """Returns u_t + u u_x - nu u_xx; see `PINN.residual`."""
        return t[0] + u * x[0] - coefficient * x[1]


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
