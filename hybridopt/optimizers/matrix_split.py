"""Which parameters a structured method treats as matrices, and which go to its fallback."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hybridopt.objective.function import FunctionModule

RULES = ["auto", "matrix", "fallback"]
"""What a param group may ask for."""


@dataclass(frozen=True)
class Treatment:
    """How one parameter is treated.

    Attributes:
        name: Its name in the model, or in the param group if that has names.
        shape: Its shape.
        matrix: Whether it is treated as a matrix.
        reason: Why: ``matrix``, ``vector``, ``embedding``, ``last matrix`` or ``asked for``.
    """

    name: str
    shape: tuple[int, ...]
    matrix: bool
    reason: str


def matrix_form(shape: Sequence[int]) -> tuple[int, int]:
    """Returns the shape of a parameter as a matrix: the first dimension against all others, as for conv kernels.

    Args:
        shape: With at least one dimension.
    """
    return shape[0], math.prod(shape[1:])


def split(
    groups: Iterable[Mapping[str, Any]], model: nn.Module, *, embeddings: bool, last: bool
) -> dict[int, Treatment]:
    """Decides how every parameter is treated.

    In groups with the rule ``auto``, matrices are the parameters with at least two dimensions that have more than one
    row and more than one column when flattened to (first dimension, rest). A parameter knows nothing of its module, so
    the model is asked which of them are the weights of `nn.Embedding` or `nn.EmbeddingBag`, and which is the last in
    its order of registration, usually the output layer's.

    Args:
        groups: Param groups with ``params`` and ``rule``.
        model: The module that the parameters belong to.
        embeddings: Whether embeddings count as matrices.
        last: Whether the last matrix counts as one, if the model has another. (A plain function has no layers, so
            no last one.)

    Returns:
        Treatments by the parameters' ``id``, in the order of the groups.
    """
    names: dict[int, str] = {}
    embedded: set[int] = set()
    matrices: list[int] = []
    # Under each of their names: a decoder that is tied to the embedding is the last matrix, and an embedding.
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            names.setdefault(id(parameter), f"{prefix}.{name}" if prefix else name)
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                embedded.add(id(parameter))
            if _is_matrix(parameter):
                matrices.append(id(parameter))
    has_last = len(set(matrices)) > 1 and not isinstance(model, FunctionModule)
    output = matrices[-1] if has_last else None
    treatments: dict[int, Treatment] = {}
    for number, group in enumerate(groups):
        given = group.get("param_names") or [""] * len(group["params"])
        for index, (parameter, own) in enumerate(zip(group["params"], given, strict=True)):
            key = id(parameter)
            if group["rule"] != "auto":
                matrix, reason = group["rule"] == "matrix", "asked for"
            elif not _is_matrix(parameter):
                matrix, reason = False, "vector"
            elif key in embedded:
                matrix, reason = embeddings, "embedding"
            elif key == output:
                matrix, reason = last, "last matrix"
            else:
                matrix, reason = True, "matrix"
            name = own or names.get(key, f"{number}.{index}")
            treatments[key] = Treatment(name, tuple(parameter.shape), matrix, reason)
    return treatments


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.dim() >= 2 and min(matrix_form(parameter.shape)) > 1
