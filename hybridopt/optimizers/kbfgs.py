"""K-BFGS: a BFGS inverse for either side of every layer's weight matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import CombinationError, option
from hybridopt.objective import Objective
from hybridopt.objective.data_parallel import DataParallel
from hybridopt.objective.micro_batch import MicroBatched
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.kbfgs_factors import LimitedMemory, bfgs, double_damping
from hybridopt.optimizers.kbfgs_layers import Layer, Seen, layers_of, of_all_processes, watching
from hybridopt.optimizers.matrix_split import Treatment, described, parameter_names, split_event


@dataclass
class KBFGSConfig:
    """Options of `KBFGS`.

    Attributes:
        lr: Learning rate.
        weight_decay: w adds w/2 ||p||^2 to the function, as in the paper.
        damping: lambda: sqrt(lambda) is added to the inputs' second moment, and is the least curvature of a pair of
            the output side. The authors' 0.3 is for losses that are summed over hundreds of outputs.
        momentum: Decay of the mean gradient.
        input_decay: Decay of the inputs' second moment.
        pair_decay: Decay of the mean pairs of the output side; 0 for full batches.
        output: The output side's inverse: ``bfgs``, or ``lbfgs`` for K-BFGS(L).
        history: Pairs kept by ``lbfgs``.
        powell: Least s'y / y'Hy of a pair of the output side.
        max_dim: Layers with more rows or columns than this go to the fallback.
        fallback_rate: Learning rate of the fallback, as a multiple of ``lr``.
    """

    lr: float = option(0.3, ge=0, search=("log", 1e-3, 1.0), help="learning rate")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    damping: float = option(1e-2, gt=0, lt=1, search=("log", 1e-4, 0.9), help="lambda; its root damps either side")
    momentum: float = option(0.9, ge=0, lt=1, search=[0.0, 0.9], help="decay of the mean gradient")
    input_decay: float = option(0.9, ge=0, lt=1, search=[0.9, 0.95], help="decay of the inputs' second moment")
    pair_decay: float = option(0.9, ge=0, lt=1, search=[0.0, 0.9], help="decay of the output side's mean pairs")
    output: str = option("bfgs", choices=["bfgs", "lbfgs"], help="inverse of the output side")
    history: int = option(100, ge=1, search=[20, 100], help="pairs kept by output=lbfgs")
    powell: float = option(0.2, gt=0, lt=1, help="least s'y / y'Hy of a pair of the output side")
    max_dim: int = option(8192, ge=1, help="layers with more rows or columns go to the fallback")
    fallback_rate: float = option(1.0, ge=0, search=("log", 1e-2, 10.0), help="the fallback's rate as a multiple of lr")


class KBFGS(Optimizer):
    """K-BFGS and K-BFGS(L) (Goldfarb, Ren and Bahamou 2020).

    The curvature of a layer h = W a + b in (W b) is taken for the Kronecker product of A, the second moment of its
    inputs (with a one for the bias), and G, the loss's curvature in its pre-activations. The step is -lr Hg M Ha with
    the mean gradient M. Ha follows (A + sqrt(damping) I)^-1 by "Hessian action": each step makes it right along the
    mean input, by a BFGS update with s = Ha a, y = (A + sqrt(damping) I) s. Hg is a BFGS inverse from mean changes of
    pre-activations and of the loss's gradient in them, both on the batch of the step and under its random numbers, so
    a step costs two gradients. Pairs are doubly damped, never refused for lack of curvature.

    For convolutions, as in Ren, Bahamou and Goldfarb 2021, rows are places too: A and the changes of h are means, the
    changes of the gradient sums over samples and places, which is the scale of the loss as it stands. A is begun with
    the first batch, where the authors take the whole training set. Their code completes the mean input by the mean of
    its entries; here, as in the paper, by the one of the bias.

    `nn.Linear` and `nn.Conv1d` to `nn.Conv3d` (groups too) have such matrices. All other parameters take the mean
    gradient itself, and so do layers that the model goes around (by calling `F.linear` with their weights, say). Of
    these `split` and `describe` cannot know; the event and the report say what was seen. A step into a loss that is
    not finite is undone.

    Report: ``layers`` and ``fallbacks`` (how many layers, and parameters outside of them), ``evaluations``; in the
    first step an event ``split`` with the names.

    Args:
        params: Parameters, named parameters or param groups; a group may set ``lr`` and ``weight_decay``.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = KBFGSConfig
    half_precision = False
    state_layout = ("output",)
    family = "structured"
    batch = "large"
    summary = "BFGS inverses for both sides of every layer (Goldfarb et al. 2020)"

    def update(self, objective: Objective) -> None:
        """Steps along the mean gradients between their inverses, and looks at the batch again for the pairs.

        Args:
            objective: Bound to the parameters.

        Raises:
            CombinationError: If the objective is evaluated in micro-batches.
        """
        space = objective.space
        layers = self._layers(objective)
        with watching(layers, inputs=True) as before:
            value, gradient = objective.value_and_grad()
        length = float(torch.linalg.vector_norm(gradient))
        self.note(grad_norm=length)
        if not self.can_descend(value, length):
            return
        seen = [one for one in of_all_processes(before, objective) if one.complete]
        self._show(objective, [one.layer for one in seen])
        means = self._mean_gradients(space.parameters, space.tensors(gradient))
        direction = {id(p): mean * self.config.fallback_rate for p, mean in zip(space.parameters, means, strict=True)}
        for one in seen:
            self._see_inputs(one)
            layer = one.layer
            bias = None if layer.bias is None else self.state[layer.bias]["mean"]
            matrix = self._preconditioned(layer, layer.matrix(self.state[layer.weight]["mean"], bias))
            weight, bias = layer.parts(matrix)
            direction[id(layer.weight)] = weight
            if layer.bias is not None:
                direction[id(layer.bias)] = bias
        step = space.pack([direction[id(parameter)] for parameter in space.parameters]) * self.rate(objective)
        origin = objective.position()
        objective.commit(origin - step)
        with watching([one.layer for one in seen], inputs=False) as after:
            moved_value, _ = objective.value_and_grad()
        of_all_processes(after, objective)
        accepted = math.isfinite(moved_value)
        if accepted:
            for one, other in zip(seen, after, strict=True):
                self._update_inverses(one, other)
        else:
            objective.commit(origin)
            self.note(status="non_finite")
        self.note(
            accepted=accepted,
            evaluations=1,
            step_norm=(lambda: float(torch.linalg.vector_norm(step))) if accepted else 0.0,
        )

    def split(self, objective: Objective) -> list[Treatment]:
        """Returns how each parameter is treated, in the order of the groups.

        Args:
            objective: An objective of the model.
        """
        bound = objective.bind(self.param_groups)
        return self._treatments(bound, self._layers(bound))

    def describe(self, objective: Objective) -> str:
        """Returns `split` as text, a line for each parameter.

        Args:
            objective: An objective of the model.
        """
        return described(self.split(objective), "K-BFGS", "gradient")

    def _layers(self, objective: Objective) -> list[Layer]:
        if isinstance(objective.local if isinstance(objective, DataParallel) else objective, MicroBatched):
            raise CombinationError(
                "K-BFGS needs what its layers see of a whole batch at once: do not evaluate in micro-batches, or use "
                "kfac or shampoo."
            )
        return layers_of(objective.model, objective.space.parameters, self.config.max_dim)

    def _treatments(self, objective: Objective, layers: list[Layer]) -> list[Treatment]:
        kinds = {id(layer.weight): layer.kind for layer in layers}
        kinds |= {id(layer.bias): layer.kind for layer in layers if layer.bias is not None}
        names = parameter_names(self.param_groups, objective.model)
        return [
            Treatment(names[id(p)], tuple(p.shape), id(p) in kinds, kinds.get(id(p), "no layer"))
            for p in objective.space.parameters
        ]

    def _show(self, objective: Objective, layers: list[Layer]) -> None:
        inside = sum(1 + (layer.bias is not None) for layer in layers)
        self.note(layers=len(layers), fallbacks=len(objective.space.parameters) - inside)
        if "split_shown" not in self.memory:
            self.memory["split_shown"] = True
            self.report.events.append(split_event(self._treatments(objective, layers)))

    def _mean_gradients(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        for parameter in parameters:
            if "mean" not in self.state[parameter]:
                self.state[parameter]["mean"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        means = [self.state[parameter]["mean"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, weight=1.0 - self.config.momentum)
        return means

    def _see_inputs(self, seen: Seen) -> None:
        """Brings the second moment of a layer's inputs up to date; makes the layer's inverses at first."""
        config, state, layer = self.config, self.state[seen.layer.weight], seen.layer
        moment = seen.products / seen.rows
        if "inputs" in state and state["inputs"].shape == moment.shape:
            state["inputs"].lerp_(moment, 1.0 - config.input_decay)
            return
        ridge = config.damping**0.5 * torch.eye(layer.columns, dtype=moment.dtype, device=moment.device)
        inverse, _ = torch.linalg.inv_ex(moment + ridge)
        identity = torch.eye(layer.rows, dtype=moment.dtype, device=moment.device).repeat(layer.groups, 1, 1)
        state.update(
            inputs=moment,
            input_inverse=inverse,
            step=torch.zeros(layer.groups, layer.rows, dtype=moment.dtype, device=moment.device),
            change=torch.zeros(layer.groups, layer.rows, dtype=moment.dtype, device=moment.device),
        )
        state.pop("pairs", None)
        if config.output == "bfgs":
            state["output_inverse"] = identity
        else:
            state["pairs"] = {}

    def _output_product(self, state: dict[str, Any], matrix: Tensor) -> Tensor:
        """Hg times a matrix, (groups, rows, columns)."""
        if self.config.output == "bfgs":
            return state["output_inverse"] @ matrix
        return LimitedMemory(state["pairs"], self.config.history).product(matrix)

    def _preconditioned(self, layer: Layer, matrix: Tensor) -> Tensor:
        state = self.state[layer.weight]
        return self._output_product(state, matrix) @ state["input_inverse"]

    def _update_inverses(self, before: Seen, after: Seen) -> None:
        """Takes what a layer saw at either end of the step into its inverses."""
        config, state = self.config, self.state[before.layer.weight]
        mean = before.inputs / before.rows
        action = (state["input_inverse"] @ mean[..., None])[..., 0]
        change = (state["inputs"] @ action[..., None])[..., 0] + config.damping**0.5 * action
        state["input_inverse"] = bfgs(state["input_inverse"], action, change)
        if not after.complete:
            return
        share = 1.0 - config.pair_decay
        state["step"].lerp_(after.outputs / after.rows - before.outputs / before.rows, share)
        state["change"].lerp_(after.gradients - before.gradients, share)
        s, y = state["step"], state["change"]
        hy = self._output_product(state, y[..., None])[..., 0]
        s, y = double_damping(s, y, hy, config.powell, config.damping**0.5)
        if config.output == "bfgs":
            state["output_inverse"] = bfgs(state["output_inverse"], s, y)
        else:
            LimitedMemory(state["pairs"], config.history).push(s, y)
