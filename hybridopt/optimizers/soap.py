"""SOAP: Adam in the eigenbasis of Shampoo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.optimizers.adamw_part import check_betas
from hybridopt.optimizers.direct_step import decay
from hybridopt.optimizers.matrix_step import MatrixConfig, MatrixStep
from hybridopt.optimizers.tensor_factors import along_all, eigenpairs, second_moment, working_form


@dataclass
class SOAPConfig(MatrixConfig):
    """Options of `SOAP`.

    Attributes:
        betas: Decay of the mean gradient and of the mean square.
        moment_beta: Decay of the second moments that the basis comes from; None for that of the mean square.
        eps: Added to the denominator.
        frequency: Steps from one refresh of the basis to the next.
        max_dim: Sides longer than this are not rotated.
        kernels: Whether conv kernels are flattened to a ``matrix`` or have a basis for every dimension (``tensor``).
    """

    lr: float = option(3e-3, ge=0, search=("log", 1e-4, 1e-1), help="learning rate")
    weight_decay: float = option(1e-2, ge=0, search=("log", 1e-4, 1.0), help="decoupled weight decay")
    betas: list[float] = option([0.95, 0.95], help="decay of the mean gradient and of the mean square")
    moment_beta: float | None = option(None, ge=0, lt=1, help="decay of the basis's moments; null: that of the square")
    eps: float = option(1e-8, ge=0, help="added to the denominator")
    frequency: int = option(10, ge=1, search=[1, 10, 50], help="steps between refreshes of the basis")
    max_dim: int = option(2048, ge=1, help="sides longer than this are not rotated")
    kernels: str = option("matrix", choices=["matrix", "tensor"], help="conv kernels as matrices or as tensors")


class SOAP(MatrixStep):
    """SOAP (Vyas et al. 2024) for matrices, AdamW for all else.

    Adam's mean square is kept in the eigenbasis of Shampoo's second moments, G G' and G' G, and its step is taken
    there; the mean gradient is kept in the parameter's own basis and rotated when it is used. Every `frequency` steps
    one power iteration with a QR decomposition brings the basis up to date, its columns, and the mean square with
    them, sorted by eigenvalue. As in the authors' code (the paper does not say) a parameter's first gradient serves to
    find a basis only and moves nothing, the basis of a step never knows its gradient, and refreshes are counted from
    the second. Bias correction and ``eps`` are where torch's Adam has them; the authors scale ``eps`` by the
    correction. Where both sides are longer than `max_dim` this is Adam. Gradients of low rank leave the basis of their
    null space undetermined: rounding decides there, so runs agree to the last bit on one machine, not across machines.

    Report: ``matrices`` and ``fallbacks`` (how many of each); in the first step an event ``split`` with their names.

    Args:
        params: Parameters, named parameters or param groups; a group may set ``lr``, ``weight_decay`` and ``rule``.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = SOAPConfig
    state_layout = ("kernels",)
    summary = "Adam in the eigenbasis of Shampoo (Vyas et al. 2024)"
    least_dimensions = 1

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        super().__init__(params, config, escape=escape, **options)
        check_betas(self.config.betas, owner="SOAP.betas")

    def move_matrices(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        """Takes Adam's step in the rotated basis.

        Args:
            parameters: With a gradient each.
            group: Their param group.
        """
        ready = [p for p in parameters if "basis" in self.state[p]]
        decay(ready, group["lr"] * group["weight_decay"])
        for parameter in parameters:
            gradient = parameter.grad.reshape(working_form(parameter.shape, self.config.kernels))
            state = self.state[parameter]
            if "basis" not in state:
                self._collect(state, gradient)
                self._find_basis(state)
                continue
            step = self._adam(parameter, gradient)
            parameter.add_(step.reshape(parameter.shape), alpha=-float(group["lr"]))
            self._collect(state, gradient)
            if state["count"] % self.config.frequency == 0:
                self._refresh(state)

    def _adam(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """Adam's step for a learning rate of one, in the working form and the parameter's own basis."""
        (beta1, beta2), state = self.config.betas, self.state[parameter]
        count = state["count"] = state.get("count", 0) + 1
        mean, squares = self.moments(parameter, gradient, "mean", "squares")
        mean.lerp_(gradient, 1.0 - beta1)
        squares.lerp_(along_all(gradient, state["basis"], transpose=True).square(), 1.0 - beta2)
        denominator = (squares / (1.0 - beta2**count)).sqrt_().add_(self.config.eps)
        rotated = along_all(mean / (1.0 - beta1**count), state["basis"], transpose=True)
        return along_all(rotated / denominator, state["basis"])

    def _collect(self, state: dict[str, Any], gradient: Tensor) -> None:
        """Takes the current gradient into the second moments."""
        config = self.config
        beta = config.betas[1] if config.moment_beta is None else config.moment_beta
        if "moments" not in state:
            sizes = [size if size <= config.max_dim else None for size in gradient.shape]
            state["moments"] = [None if size is None else gradient.new_zeros(size, size) for size in sizes]
        for side, held in enumerate(state["moments"]):
            if held is not None:
                held.lerp_(second_moment(gradient, side), 1.0 - beta)

    def _find_basis(self, state: dict[str, Any]) -> None:
        """Takes all eigenvectors, by falling eigenvalue."""
        basis = []
        for moment in state["moments"]:
            pair = None if moment is None else eigenpairs(moment)
            basis.append(None if pair is None else pair[1].flip(1).contiguous())
        state["basis"] = basis

    def _refresh(self, state: dict[str, Any]) -> None:
        """Does one power iteration, sorts by eigenvalue, and sorts the mean square likewise."""
        for side, (moment, basis) in enumerate(zip(state["moments"], state["basis"], strict=True)):
            if moment is None or basis is None:
                continue
            product = moment @ basis
            order = torch.argsort((basis * product).sum(dim=0), descending=True, stable=True)
            exact = torch.promote_types(product.dtype, torch.float32)
            refreshed = torch.linalg.qr(product[:, order].to(exact)).Q.to(product.dtype)
            # Moments that have overflowed say nothing; the last basis is still orthogonal.
            if bool(torch.isfinite(refreshed).all()):
                state["basis"][side] = refreshed
                state["squares"] = state["squares"].index_select(side, order)
