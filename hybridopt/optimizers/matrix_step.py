"""The step of methods that treat some parameters as matrices and leave the others to AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError, option
from hybridopt.objective import Objective
from hybridopt.optimizers.adamw_part import adamw, check_betas
from hybridopt.optimizers.direct_step import DirectConfig, DirectStep
from hybridopt.optimizers.matrix_split import RULES, Treatment, described, split, split_event


@dataclass
class MatrixConfig(DirectConfig):
    """Options of methods for matrices that have a fallback for all else.

    Attributes:
        rule: What ``auto`` does is said in `split`; ``matrix`` and ``fallback`` decide for a whole param group.
        embeddings: What is done with the weights of `nn.Embedding`.
        last: What is done with the last matrix of the model, usually the output layer's.
        fallback_rate: Learning rate of the fallback, as a multiple of ``lr``.
        fallback_betas: AdamW's decays of the mean gradient and of the mean square.
        fallback_eps: Added to AdamW's denominator.
    """

    rule: str = option("auto", choices=RULES, help="auto, or matrix or fallback for all; may differ between groups")
    embeddings: str = option("matrix", choices=["matrix", "fallback"], help="weights of nn.Embedding")
    last: str = option("matrix", choices=["matrix", "fallback"], help="the model's last matrix, e.g. the output layer")
    fallback_rate: float = option(1.0, ge=0, search=("log", 1e-2, 10.0), help="the fallback's rate as a multiple of lr")
    fallback_betas: list[float] = option([0.9, 0.999], help="AdamW's decays, for the fallback")
    fallback_eps: float = option(1e-8, ge=0, help="added to AdamW's denominator, for the fallback")


class MatrixStep(DirectStep):
    """Base of methods that treat some parameters as matrices and leave the others to AdamW.

    A subclass writes `move_matrices`. Groups may set ``rule``, beside ``lr`` and ``weight_decay``.
    """

    Config = MatrixConfig
    least_dimensions = 2
    """The fewest dimensions of a parameter that a group with the rule ``matrix`` may have."""

    _treatments: tuple[Any, dict[int, Treatment]] | None = None

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        super().__init__(params, config, escape=escape, **options)
        check_betas(self.config.fallback_betas, owner=f"{type(self).__name__}.fallback_betas")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, possibly with options of its own.

        Args:
            param_group: ``params`` and any of ``lr``, ``weight_decay``, ``rule``.

        Raises:
            ConfigError: If a parameter of a group with the rule ``matrix`` is none, or as in `Optimizer`.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        low = [tuple(p.shape) for p in group["params"] if p.dim() < self.least_dimensions or p.numel() == 0]
        if group["rule"] == "matrix" and low:
            raise ConfigError(
                f"{type(self).__name__} cannot treat a parameter of shape {low[0]} as a matrix, as the rule of its "
                "group asks for. Give such parameters a group with rule='auto' or 'fallback'."
            )

    def split(self, objective: Objective) -> list[Treatment]:
        """Returns how each parameter is treated, in the order of the groups.

        Args:
            objective: An objective of the model; it tells embeddings from other matrices, and names them.
        """
        return list(self._split(objective).values())

    def describe(self, objective: Objective) -> str:
        """Returns `split` as text, a line for each parameter.

        Args:
            objective: An objective of the model.
        """
        return described(self.split(objective), type(self).__name__, "AdamW")

    def _split(self, objective: Objective) -> dict[int, Treatment]:
        # Looking through the model takes longer than a step of a small one; nothing changes unless the groups do.
        key = [(group["rule"], *map(id, group["params"])) for group in self.param_groups]
        if self._treatments is None or self._treatments[0] != key:
            embeddings, last = self.config.embeddings == "matrix", self.config.last == "matrix"
            self._treatments = key, split(self.param_groups, objective.model, embeddings=embeddings, last=last)
        return self._treatments[1]

    def move(self, objective: Objective) -> None:
        """Moves matrices by the method and all else by AdamW.

        Args:
            objective: The objective of the step.
        """
        config, treatments = self.config, self._split(objective)
        for group in self.param_groups:
            active = self._active(group)
            matrices = [p for p in active if treatments[id(p)].matrix]
            others = [p for p in active if not treatments[id(p)].matrix]
            if matrices:
                self.move_matrices(matrices, group)
            if others:
                adamw(
                    others,
                    self.state,
                    lr=group["lr"] * config.fallback_rate,
                    betas=config.fallback_betas,
                    eps=config.fallback_eps,
                    weight_decay=group["weight_decay"],
                )
        rows = treatments.values()
        self.note(matrices=sum(row.matrix for row in rows), fallbacks=sum(not row.matrix for row in rows))
        if "split_shown" not in self.memory:
            self.memory["split_shown"] = True
            self.report.events.append(split_event(rows))

    def move_matrices(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        """Moves the parameters of a group that are treated as matrices.

        Args:
            parameters: With a gradient each.
            group: Their param group.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say how it moves matrices: define move_matrices.")

    def moments(self, parameter: Tensor, like: Tensor, *names: str) -> list[Tensor]:
        """Returns tensors of the state of a parameter, made as zeros when they are not there yet.

        Args:
            parameter: Whose state.
            like: Gives their shape.
            *names: Keys in it.
        """
        state = self.state[parameter]
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(like, memory_format=torch.contiguous_format)
        return [state[name] for name in names]
