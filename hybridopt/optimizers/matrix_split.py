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
        reason: Why: ``matrix``, ``vector``, ``embedding``, ``last matrix`` or ``asked for``; for methods that go by
            layers ``linear``, ``convolution`` or ``no layer``.
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
    groups = list(groups)
    names = parameter_names(groups, model)
    embedded: set[int] = set()
    matrices: list[int] = []
    # Under each of their names: a decoder that is tied to the embedding is the last matrix, and an embedding.
    for module in (module for _, module in model.named_modules(remove_duplicate=False)):
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                embedded.add(id(parameter))
            if _is_matrix(parameter):
                matrices.append(id(parameter))
    has_last = len(set(matrices)) > 1 and not isinstance(model, FunctionModule)
    output = matrices[-1] if has_last else None
    treatments: dict[int, Treatment] = {}
    for group in groups:
        for parameter in group["params"]:
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
            treatments[key] = Treatment(names[key], tuple(parameter.shape), matrix, reason)
    return treatments


def parameter_names(groups: Iterable[Mapping[str, Any]], model: nn.Module) -> dict[int, str]:
    """Returns the names of parameters by their ``id``: the groups' own, else the model's, else their places.

    Args:
        groups: Param groups.
        model: The module that the parameters belong to.
    """
    known: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        known.setdefault(id(parameter), name)
    names: dict[int, str] = {}
    for number, group in enumerate(groups):
        given = group.get("param_names") or [""] * len(group["params"])
        for index, (parameter, own) in enumerate(zip(group["params"], given, strict=True)):
            names[id(parameter)] = own or known.get(id(parameter), f"{number}.{index}")
    return names


def described(rows: Sequence[Treatment], matrix: str, other: str) -> str:
    """Returns treatments as text, a line for each.

    Args:
        rows: The treatments.
        matrix: What matrices are treated by.
        other: What all else is treated by.
    """
    width = max((len(row.name) for row in rows), default=0)
    kinds = max(len(matrix), len(other))
    return "\n".join(
        f"{row.name:<{width}}  {matrix if row.matrix else other:<{kinds}}  {row.shape} ({row.reason})" for row in rows
    )


def split_event(rows: Iterable[Treatment]) -> dict[str, str]:
    """Returns the event of a first step that names what is treated how.

    Args:
        rows: The treatments.
    """
    shown: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        shown[row.matrix].append(row.name)
    return {"event": "split", "matrices": ", ".join(shown[True]), "fallback": ", ".join(shown[False])}


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.dim() >= 2 and min(matrix_form(parameter.shape)) > 1
