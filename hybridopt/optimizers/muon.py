"""Muon: momentum, orthogonalized."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.optimizers.direct_step import decay
from hybridopt.optimizers.matrix_split import matrix_form
from hybridopt.optimizers.matrix_step import MatrixConfig, MatrixStep
from hybridopt.optimizers.muon_iteration import newton_schulz


@dataclass
class MuonConfig(MatrixConfig):
    """Options of `Muon`.

    Attributes:
        lr: Learning rate of the matrices; the fallback's is `fallback_rate` times it.
        momentum: Share of the mean gradient that is kept.
        nesterov: Whether to look ahead along the momentum.
        adjust_lr: Factor on ``lr`` by a matrix's shape (rows, columns): ``match_rms_adamw`` 0.2 sqrt(max(rows,
            columns)), with which steps are as long as AdamW's and one ``lr`` serves both; ``original`` sqrt(max(1,
            rows / columns)); ``none`` 1.
        newton_schulz_steps: Iterations of the orthogonalization.
        precision: What the iteration is computed in: ``bfloat16``, ``parameter`` (the parameter's own dtype), or
            ``auto``: bfloat16 for float32 parameters on an accelerator, else the parameter's own.
        eps: The least norm that a matrix is divided by before the iteration.
    """

    lr: float = option(3e-3, ge=0, search=("log", 1e-4, 1e-1), help="learning rate of the matrices")
    last: str = option(
        "fallback", choices=["matrix", "fallback"], help="the model's last matrix, e.g. the output layer"
    )
    embeddings: str = option("fallback", choices=["matrix", "fallback"], help="weights of nn.Embedding")
    momentum: float = option(0.95, ge=0, lt=1, search=[0.8, 0.9, 0.95, 0.98], help="share of the mean gradient kept")
    nesterov: bool = option(True, help="look ahead along the momentum")
    adjust_lr: str = option(
        "match_rms_adamw", choices=["match_rms_adamw", "original", "none"], help="factor on lr by a matrix's shape"
    )
    newton_schulz_steps: int = option(5, ge=1, le=50, help="iterations of the orthogonalization")
    precision: str = option("auto", choices=["auto", "bfloat16", "parameter"], help="what the iteration is computed in")
    eps: float = option(1e-7, gt=0, help="least norm that a matrix is divided by")


class Muon(MatrixStep):
    """Muon (Jordan et al. 2024) for matrices, AdamW for all else.

    The momentum of a matrix is replaced by nearly the closest matrix with orthonormal rows or columns, by five steps of
    a Newton-Schulz iteration. Conv kernels are flattened to (output channels, rest). As its authors advise, embeddings
    and the output layer go to AdamW by default, which `embeddings` and `last` change, and a param group's ``rule``
    overrides; `split` and `describe` say what became of each parameter. Matrices of equal shape are iterated together.
    A 2-D parameter moves as under `torch.optim.Muon` (mean momentum, decoupled decay); torch computes in bfloat16
    always and has no flattening and no fallback.

    Report: ``matrices`` and ``fallbacks`` (how many of each); in the first step an event ``split`` with their names.

    Args:
        params: Parameters, named parameters or param groups; a group may set ``lr``, ``weight_decay`` and ``rule``.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = MuonConfig
    summary = "orthogonalized momentum for matrices, AdamW for the rest (Jordan et al. 2024)"

    def move_matrices(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        """Steps along the orthogonalized momentum.

        Args:
            parameters: With a gradient each.
            group: Their param group.
        """
        config, lr = self.config, float(group["lr"])
        gradients = [p.grad for p in parameters]
        momenta = [self.moments(p, p, "momentum")[0] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, weight=1.0 - config.momentum)
        ahead = torch._foreach_lerp(gradients, momenta, weight=config.momentum) if config.nesterov else momenta
        decay(parameters, lr * group["weight_decay"])
        alike: dict[Any, list[int]] = defaultdict(list)
        for index, p in enumerate(parameters):
            alike[matrix_form(p.shape), p.dtype, p.device].append(index)
        for (form, dtype, device), members in alike.items():
            matrices = [ahead[index].reshape(form) for index in members]
            stacked = matrices[0] if len(members) == 1 else torch.stack(matrices)
            steps = newton_schulz(
                stacked,
                steps=config.newton_schulz_steps,
                eps=config.eps,
                dtype=self._precision(dtype, device),
            )
            rate = lr * shape_factor(form, config.adjust_lr)
            for index, step in zip(members, [steps] if len(members) == 1 else steps.unbind(), strict=True):
                parameters[index].add_(step.reshape(parameters[index].shape).to(dtype), alpha=-rate)

    def _precision(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        precision = self.config.precision
        if precision == "auto":
            precision = "bfloat16" if device.type != "cpu" and dtype == torch.float32 else "parameter"
        return torch.bfloat16 if precision == "bfloat16" else dtype


def shape_factor(form: tuple[int, int], rule: str) -> float:
    """Returns the factor on the learning rate of a matrix.

    Args:
        form: Rows and columns.
        rule: ``match_rms_adamw`` (Liu et al. 2025), ``original`` (Jordan et al. 2024) or ``none``.
    """
    if rule == "match_rms_adamw":
        return 0.2 * math.sqrt(max(form))
    return math.sqrt(max(1.0, form[0] / form[1])) if rule == "original" else 1.0
