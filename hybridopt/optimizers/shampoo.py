"""Shampoo: an inverse root of the gradients' second moment for every dimension of a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.optimizers.direct_step import decay
from hybridopt.optimizers.matrix_step import MatrixConfig, MatrixStep
from hybridopt.optimizers.tensor_factors import along_all, inverse_root, pieces, second_moment, working_form


@dataclass
class ShampooConfig(MatrixConfig):
    """Options of `Shampoo`.

    Attributes:
        beta1: Decay of the mean gradient that is preconditioned; 0 preconditions the gradient itself.
        beta2: Decay of the second moments; 1 sums them up as Gupta et al. do.
        root: r of the exponent -1/r of each factor; None for 2k with k dimensions, as Gupta et al. have it.
        epsilon: Ridge of the second moments.
        ridge: Whether `epsilon` is ``relative`` to the largest eigenvalue or ``absolute`` as in Gupta et al.
        frequency: Steps from one computation of the roots to the next.
        graft: Whose length a step takes over, parameter by parameter: ``sgd``, ``adagrad``, ``adam``, or ``none``.
        graft_beta2: Decay of the mean square of ``adam``.
        graft_eps: Added to the denominators of ``adagrad`` and ``adam``.
        block_size: No factor is larger than this.
        large: What is done with longer sides: ``blocks`` cuts the parameter, ``diagonal`` keeps the diagonal only.
        kernels: Whether conv kernels are flattened to a ``matrix`` or have a factor for every dimension (``tensor``).
    """

    lr: float = option(3e-3, ge=0, search=("log", 1e-4, 1.0), help="learning rate")
    beta1: float = option(0.9, ge=0, lt=1, search=[0.0, 0.9, 0.95], help="decay of the mean gradient")
    beta2: float = option(0.99, gt=0, le=1, search=[0.95, 0.99, 0.999, 1.0], help="decay of the moments; 1: sum")
    root: float | None = option(None, gt=0, search=[None, 2.0, 4.0], help="factors have exponent -1/root; null: 2k")
    epsilon: float = option(1e-6, ge=0, search=("log", 1e-12, 1e-3), help="ridge of the second moments")
    ridge: str = option("relative", choices=["relative", "absolute"], help="what epsilon is measured by")
    frequency: int = option(10, ge=1, search=[1, 10, 50], help="steps between computations of the roots")
    graft: str = option("adam", choices=["none", "sgd", "adagrad", "adam"], help="whose length a step has")
    graft_beta2: float = option(0.999, ge=0, lt=1, help="decay of the mean square of graft=adam")
    graft_eps: float = option(1e-8, ge=0, help="added to the denominators of graft=adagrad and adam")
    block_size: int = option(512, ge=1, help="no factor is larger than this")
    large: str = option("blocks", choices=["blocks", "diagonal"], help="what is done with sides longer than that")
    kernels: str = option("matrix", choices=["matrix", "tensor"], help="conv kernels as matrices or as tensors")


class Shampoo(MatrixStep):
    """Shampoo (Gupta, Koren and Singer 2018, Algorithm 2), with grafting and blocks, and AdamW for all but matrices.

    For each dimension i of a parameter a matrix L_i collects the second moments of the gradient unfolded along it, and
    the gradient is multiplied by L_i^(-1/2k) along every one of the k dimensions. The moments are taken in every step
    (the current gradient included), the roots every `frequency` steps, by eigenvalues, not by Newton's iteration as in
    Anil et al. 2020. From there come grafting (a step has Shampoo's direction and another method's length), the free
    exponent, the ridge relative to the largest eigenvalue, and the blocks that long sides are cut into. As in
    Shi et al. 2023, it is the mean gradient that is preconditioned, grafted steps have its length under the other
    method, and means are corrected for their start at zero. ``beta1=0, beta2=1, ridge="absolute", graft="none",
    frequency=1`` is Gupta et al. to the letter, but for the fallback. With the rule ``matrix``, a group's vectors are
    preconditioned too, by one factor with exponent -1/2 (full-matrix Adagrad).

    Where roots cannot be computed, as moments have overflowed, the last ones stay; an event says so.

    Report: ``matrices`` and ``fallbacks`` (how many of each); in the first step an event ``split`` with their names.

    Args:
        params: Parameters, named parameters or param groups; a group may set ``lr``, ``weight_decay`` and ``rule``.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = ShampooConfig
    state_layout = ("block_size", "large", "kernels")
    summary = "Kronecker factors of the gradients' second moment (Gupta et al. 2018)"
    least_dimensions = 1

    def move_matrices(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        """Steps along the preconditioned mean gradients.

        Args:
            parameters: With a gradient each.
            group: Their param group.
        """
        decay(parameters, group["lr"] * group["weight_decay"])
        for parameter in parameters:
            parameter.add_(self._direction(parameter).reshape(parameter.shape), alpha=-float(group["lr"]))

    def _direction(self, parameter: Tensor) -> Tensor:
        """The step for a learning rate of one, in the working form."""
        config, state = self.config, self.state[parameter]
        gradient = parameter.grad.reshape(working_form(parameter.shape, config.kernels))
        blocks = pieces(gradient.shape, config.block_size if config.large == "blocks" else None)
        count = state["count"] = state.get("count", 0) + 1
        self._collect(state, gradient, blocks)
        if (count - 1) % config.frequency == 0:
            self._take_roots(state, len(gradient.shape), count)
        mean = gradient
        if config.beta1 > 0:
            held = self.moments(parameter, gradient, "mean")[0]
            mean = held.lerp_(gradient, 1.0 - config.beta1) / (1.0 - config.beta1**count)
        direction = torch.empty_like(mean)
        for block, roots in zip(blocks, state["roots"], strict=True):
            direction[block] = along_all(mean[block], roots)
        if config.graft != "none":
            other = self._grafted(parameter, gradient, mean, count)
            length = torch.linalg.vector_norm(direction)
            direction.mul_(torch.where(length > 0, torch.linalg.vector_norm(other) / length, 0.0))
        return direction

    def _collect(self, state: dict[str, Any], gradient: Tensor, blocks: list[tuple[slice, ...]]) -> None:
        """Adds the current gradient to the second moments."""
        beta2, cap = self.config.beta2, self.config.block_size
        sides = range(gradient.dim())
        new = [
            [second_moment(gradient[block], side, diagonal=gradient[block].shape[side] > cap) for side in sides]
            for block in blocks
        ]
        if "moments" not in state:
            state["moments"] = [[torch.zeros_like(part) for part in row] for row in new]
        held = [part for row in state["moments"] for part in row]
        if beta2 < 1:
            torch._foreach_mul_(held, beta2)
        torch._foreach_add_(held, [part for row in new for part in row], alpha=1.0 - beta2 if beta2 < 1 else 1.0)

    def _take_roots(self, state: dict[str, Any], order: int, count: int) -> None:
        """Computes the inverse roots of the second moments."""
        config = self.config
        correction = 1.0 - config.beta2**count if config.beta2 < 1 else 1.0
        root = 2.0 * order if config.root is None else config.root
        relative = config.ridge == "relative"
        failed, taken = 0, []
        for index, row in enumerate(state["moments"]):
            roots = [inverse_root(part / correction, root, config.epsilon, relative=relative) for part in row]
            failed += sum(part is None for part in roots)
            before = state["roots"][index] if "roots" in state else [None] * len(row)
            taken.append([old if part is None else part for part, old in zip(roots, before, strict=True)])
        state["roots"] = taken
        if failed:
            self.report.events.append({"event": "root_failed", "factors": failed})

    def _grafted(self, parameter: Tensor, gradient: Tensor, mean: Tensor, count: int) -> Tensor:
        """The other method's step from the mean gradient."""
        config = self.config
        if config.graft == "sgd":
            return mean
        squares = self.moments(parameter, gradient, "squares")[0]
        if config.graft == "adagrad":
            return mean / squares.addcmul_(gradient, gradient).sqrt().add_(config.graft_eps)
        squares.lerp_(gradient.square(), 1.0 - config.graft_beta2)
        return mean / (squares / (1.0 - config.graft_beta2**count)).sqrt_().add_(config.graft_eps)
