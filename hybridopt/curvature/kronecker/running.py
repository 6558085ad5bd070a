"""Running averages of the factors, as an optimizer keeps them from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hybridopt.curvature.kronecker.factors import Basis
from hybridopt.curvature.kronecker.layers import Layer
from hybridopt.curvature.kronecker.statistics import Statistics
from hybridopt.objective.parameters import ParameterSpace


class Running:
    """Averaged factors and the eigenvectors they had when these were last taken, in a dict of plain values.

    Args:
        memory: Where everything is kept; empty at first.
        corrected: Whether eigenvalues are averaged second moments (EK-FAC) and not products.

    Attributes:
        memory: The same dict.
    """

    def __init__(self, memory: dict[str, Any], *, corrected: bool = False) -> None:
        self.memory = memory
        self.corrected = corrected

    @property
    def count(self) -> int:
        """Batches averaged so far."""
        return self.memory.get("count", 0)

    @property
    def layers(self) -> list[Layer]:
        """The layers."""
        return [
            Layer(
                entry["weight"] if entry["weight"] >= 0 else None,
                entry["bias"] if entry["bias"] >= 0 else None,
                entry["kind"],
                entry["groups"],
            )
            for entry in self.memory.get("layers", [])
        ]

    @property
    def excluded(self) -> frozenset[int]:
        """Positions of parameters that are used by layers and by other operations."""
        return frozenset(self.memory.get("excluded", []))

    def bases(self) -> dict[Layer, Basis]:
        """Returns the eigenvectors of each layer, if they were taken already."""
        return {layer: Basis(*entry) for layer, entry in zip(self.layers, self.memory.get("bases", []), strict=False)}

    def update(self, found: Statistics, decay: float) -> None:
        """Averages one more batch in, with weight 1 - e on it, e = min(1 - 1/k, decay) for the k-th.

        Martens and Grosse 2015, section 5. Other layers than before start the averages anew.

        Args:
            found: Of the batch.
            decay: Weight of the past, at most.
        """
        if self.layers != found.layers or self.memory.get("rest") != found.rest:
            self.memory.clear()
            self.memory["layers"] = [
                {
                    "weight": -1 if layer.weight is None else layer.weight,
                    "bias": -1 if layer.bias is None else layer.bias,
                    "kind": layer.kind,
                    "groups": layer.groups,
                }
                for layer in found.layers
            ]
            self.memory["rest"] = list(found.rest)
        self.memory["excluded"] = sorted(found.excluded)
        self.memory["count"] = self.count + 1
        keep = min(1.0 - 1.0 / self.count, decay)
        for name, new in (
            ("inputs", list(found.inputs.values())),
            ("outputs", list(found.outputs.values())),
            ("diagonal", found.diagonal),
            # In the present eigenvectors; of a first batch there are none.
            ("squares", list(found.squares.values()) if "bases" in self.memory else []),
        ):
            old = self.memory.get(name)
            if not old:
                self.memory[name] = new
            elif new:
                torch._foreach_lerp_(old, new, 1.0 - keep)

    def refresh(self) -> None:
        """Takes the eigenvectors of the averages; corrected eigenvalues become those that the old ones imply."""
        older = self.bases()
        fresh = {
            layer: Basis.of(inputs, outputs)
            for layer, inputs, outputs in zip(self.layers, self.memory["inputs"], self.memory["outputs"], strict=True)
        }
        if self.corrected:
            squares = self.memory.get("squares") or [None] * len(fresh)
            self.memory["squares"] = [
                basis.values if layer not in older or values is None else basis.carry(values, older[layer])
                for (layer, basis), values in zip(fresh.items(), squares, strict=True)
            ]
        self.memory["bases"] = [
            [basis.input_values, basis.input_vectors, basis.output_values, basis.output_vectors]
            for basis in fresh.values()
        ]

    def solve(self, space: ParameterSpace, vector: Tensor, damping: Sequence[float]) -> Tensor:
        """Returns the damped inverse times a vector.

        The damping is split between the factors (`Basis.split`), or added where eigenvalues are corrected.

        Args:
            space: The parameters.
            vector: Shape (n,).
            damping: One for each parameter; that of a layer is the one of its first parameter.

        Returns:
            Shape (n,).
        """
        out = torch.empty_like(vector)
        source, target = space.views(vector), space.views(out)
        for place, (layer, basis) in enumerate(self.bases().items()):
            strength = damping[layer.positions[0]]
            values = self.memory["squares"][place] + strength if self.corrected else basis.split(strength)
            layer.scatter(basis.back(basis.to(layer.matrix(source)) / values), target)
        for place, scale in zip(self.memory["rest"], self.memory["diagonal"], strict=True):
            torch.div(source[place], scale + damping[place], out=target[place])
        return out
