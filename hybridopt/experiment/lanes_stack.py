"""The parameters, states and gradients of many runs of one model, stacked so that one call serves all of them.

A run in it is a "lane". The lanes' models hold views of the stack, so everything that looks at one run (evaluation,
the best model so far, checkpoints) goes on working on its own model, while a step is taken for all lanes at once:
the forward pass by ``torch.func.vmap`` over the stacked parameters and batches, one backward pass of the sum of the
lanes' losses (which do not depend on each other, so that a NaN stays in its lane), and the optimizer's declared
rule (`hybridopt.optimizers.rules`) over stacked tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import CombinationError
from hybridopt.objective.parameters import Slots
from hybridopt.optimizers.rules import Rule

BLOCK = 2**16
"""Entries of a CPU tensor that an elementwise rule is given at once, so that its intermediate results stay in cache."""

MOST_BYTES = 2**28
"""Largest batch of all lanes together."""


class NotShareable(CombinationError):
    """Runs cannot be done in lanes; the message is the reason, without a full stop."""


class Stack:
    """Lanes of one model, one optimizer and one batch size.

    Args:
        lanes: The parts of each run, an `hybridopt.experiment.build.Experiment`; their models and optimizers are
            taken over until `release`.
        rule: What all of the optimizers do with a tensor.

    Attributes:
        lanes: The parts of the runs that are in the stack now.
        flat: Parameters, shape (lanes, n).
        gradient: Gradient of the last `differentiate`, clipped as asked for, shape (lanes, n).
        losses: Losses of the last `differentiate`, shape (lanes,).

    Raises:
        NotShareable: If the models differ in more than the values of their parameters.
    """

    def __init__(self, lanes: Sequence[Any], rule: Rule) -> None:
        self.lanes = list(lanes)
        self.rule = rule
        owned = [_trainable(lane) for lane in self.lanes]
        self._shapes = [parameter.shape for parameter in owned[0]]
        _check_alike(self.lanes, owned)
        self.base = copy.deepcopy(self.lanes[0].model).train()
        self.slots = Slots([self.base], [p for p in self.base.parameters() if p.requires_grad])
        self._task = self.lanes[0].task
        self.flat = torch.stack([torch.cat([p.detach().flatten() for p in own]) for own in owned])
        self.gradient = torch.zeros_like(self.flat)
        self.losses = self.flat.new_zeros(len(self.lanes))
        self.steps = [0] * len(self.lanes)
        self._hand_out()
        self._refresh()
        self.state = self._initial_state()

    # -- a step ----------------------------------------------------------------------------------------------------

    def differentiate(self, inputs: Tensor, targets: Tensor, *, clip: bool = True) -> None:
        """Fills `losses` and `gradient`.

        Args:
            inputs: The lanes' batches, shape (lanes, samples, ...).
            targets: What belongs to them.
            clip: Whether to bound the gradients as the optimizers' options say.

        Raises:
            NotShareable: If the loss does not depend on every parameter.
        """
        parts = [part.detach().requires_grad_() for part in self._split(self.flat)]
        with torch.enable_grad():
            losses = torch.vmap(self._loss)(parts, inputs, targets)
            gradients = torch.autograd.grad(losses.sum(), parts, allow_unused=True)
        if any(gradient is None for gradient in gradients):
            raise NotShareable("the loss does not depend on all parameters of the model")
        for place, gradient in zip(self._split(self.gradient), gradients, strict=True):
            place.copy_(gradient)
        self.losses = losses.detach()
        if clip:
            self._clip()
        self._losses = self._norms = None

    def step(self) -> None:
        """Moves every lane by its optimizer's rule along `gradient`."""
        self._refresh()
        self.steps = [step + 1 for step in self.steps]
        t = torch.tensor(self.steps, dtype=torch.float64, device=self.flat.device)
        if not self.rule.elementwise:
            update = torch.vmap(self.rule.update)
            for place, g, state in zip(self._split(self.flat), self._split(self.gradient), self.state, strict=True):
                new, after = update(place, g, state, self._hyper, t)
                place.copy_(new)
                state.update(after)
            return
        state = self.state[0]
        for rows, columns in self._blocks():
            hyper = {name: value[rows, None] for name, value in self._hyper.items()}
            part = {name: value[rows, columns] for name, value in state.items()}
            new, after = self.rule.update(
                self.flat[rows, columns], self.gradient[rows, columns], part, hyper, t[rows, None]
            )
            self.flat[rows, columns] = new
            for name, value in after.items():
                part[name].copy_(value)

    def loss(self, lane: int) -> float:
        """Returns a lane's loss in the last `differentiate`.

        Args:
            lane: Its place in `lanes`.
        """
        if self._losses is None:
            self._losses = self.losses.tolist()
        return self._losses[lane]

    def norm(self, lane: int) -> float:
        """Returns the length of a lane's gradient.

        Args:
            lane: Its place in `lanes`.
        """
        if self._norms is None:
            self._norms = torch.linalg.vector_norm(self.gradient, dim=1).tolist()
        return self._norms[lane]

    # -- lanes come and go -----------------------------------------------------------------------------------------

    def take_over(self, lane: int, steps: int) -> None:
        """Takes a lane's optimizer state, as loaded from a checkpoint, into the stack.

        Args:
            lane: Its place in `lanes`.
            steps: Steps that the lane has done.
        """
        self.steps[lane] = steps
        kept = self.lanes[lane].optimizer.state
        for parameter, places in zip(_trainable(self.lanes[lane]), self._state_of(lane), strict=True):
            for name, place in places.items():
                if name in kept[parameter]:
                    place.copy_(kept[parameter][name].view_as(place))
        kept.clear()

    @contextmanager
    def lent(self, lane: int) -> Iterator[None]:
        """Context in which a lane's model and optimizer hold tensors of their own, as outside of a stack.

        Args:
            lane: Its place in `lanes`.
        """
        self._set_free(lane)
        try:
            yield
        finally:
            self.lanes[lane].optimizer.state.clear()
            self._view(lane)

    def release(self, lanes: Sequence[int]) -> None:
        """Gives lanes their own tensors back and goes on without them.

        Args:
            lanes: Places in `lanes`, which those that stay change.
        """
        for lane in lanes:
            self._set_free(lane)
        stay = [lane for lane in range(len(self.lanes)) if lane not in set(lanes)]
        self.lanes = [self.lanes[lane] for lane in stay]
        self.steps = [self.steps[lane] for lane in stay]
        index = torch.tensor(stay, dtype=torch.int64, device=self.flat.device)
        self.flat, self.gradient, self.losses = self.flat[index], self.gradient[index], self.losses[index]
        self.state = [{name: value[index] for name, value in state.items()} for state in self.state]
        self._hand_out()
        self._rates = None
        self._losses = self._norms = None

    def snapshot(self) -> Any:
        """Returns all that a step changes, for `restore`."""
        state = [{name: value.clone() for name, value in state.items()} for state in self.state]
        return self.flat.clone(), state, list(self.steps)

    def restore(self, saved: Any) -> None:
        """Goes back to a snapshot of the same lanes.

        Args:
            saved: What `snapshot` returned.
        """
        flat, state, self.steps = saved[0], saved[1], list(saved[2])
        self.flat.copy_(flat)
        for own, kept in zip(self.state, state, strict=True):
            for name, value in kept.items():
                own[name].copy_(value)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _loss(self, parts: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        with self.slots.hold(parts):
            return self._task.loss(self.base(inputs), targets)

    def _clip(self) -> None:
        """Bounds the gradients as `torch.nn.utils` does, each lane's by its own options."""
        values = [lane.optimizer.config.clip_value for lane in self.lanes]
        if any(value is not None for value in values):
            bound = self._column([torch.inf if value is None else value for value in values])
            self.gradient = torch.maximum(torch.minimum(self.gradient, bound), -bound)
        norms = [lane.optimizer.config.clip_norm for lane in self.lanes]
        if any(norm is not None for norm in norms):
            bound = self._column([torch.inf if norm is None else norm for norm in norms])
            length = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
            self.gradient *= (bound / (length + 1e-6)).clamp(max=1.0)

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self.flat.dtype, device=self.flat.device)[:, None]

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        count, n = self.flat.shape
        if self.flat.device.type != "cpu":
            yield slice(0, count), slice(0, n)
            return
        rows, columns = max(1, BLOCK // n), min(n, BLOCK)
        for row in range(0, count, rows):
            for column in range(0, n, columns):
                yield slice(row, row + rows), slice(column, column + columns)

    def _split(self, flat: Tensor) -> list[Tensor]:
        """Returns views of shape (lanes, *shape of the parameter)."""
        views, place = [], 0
        for shape in self._shapes:
            views.append(flat[:, place : place + shape.numel()].view(len(flat), *shape))
            place += shape.numel()
        return views

    def _refresh(self) -> None:
        """Reads the options as numbers again if a schedule has moved the rate."""
        groups = [lane.optimizer.param_groups[0] for lane in self.lanes]
        rates = [float(group["lr"]) for group in groups]
        if rates == getattr(self, "_rates", None):
            return
        self._rates = rates
        values = [self.rule.hyper(group) for group in groups]
        stacked = {name: [value[name] for value in values] for name in values[0]}
        if not any(stacked.get("weight_decay", [])):
            stacked.pop("weight_decay", None)
        device = self.flat.device
        self._hyper = {name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in stacked.items()}

    def _initial_state(self) -> list[dict[str, Tensor]]:
        """One state for the whole of `flat` if the rule is elementwise, else one for each parameter."""
        if self.rule.elementwise:
            return [self.rule.init(self.flat, {name: value[:, None] for name, value in self._hyper.items()})]
        return [dict(torch.vmap(self.rule.init)(part, self._hyper)) for part in self._split(self.flat)]

    def _state_of(self, lane: int) -> list[dict[str, Tensor]]:
        """Returns views of a lane's state of each parameter, under torch's names and in the parameter's shape."""
        if not self.rule.elementwise:
            return [{name: value[lane] for name, value in state.items()} for state in self.state]
        split = {name: self._split(value) for name, value in self.state[0].items()}
        return [{name: views[i][lane] for name, views in split.items()} for i in range(len(self._shapes))]

    def _view(self, lane: int) -> None:
        row = self.flat[lane : lane + 1]
        with torch.no_grad():
            for parameter, view in zip(_trainable(self.lanes[lane]), self._split(row), strict=True):
                parameter.set_(view[0])

    def _hand_out(self) -> None:
        for lane in range(len(self.lanes)):
            self._view(lane)

    def _set_free(self, lane: int) -> None:
        optimizer = self.lanes[lane].optimizer
        for parameter, places in zip(_trainable(self.lanes[lane]), self._state_of(lane), strict=True):
            with torch.no_grad():
                parameter.set_(parameter.detach().clone())
            if self.steps[lane] and (places or self.rule.counted):
                own = {"step": torch.tensor(float(self.steps[lane]))} if self.rule.counted else {}
                optimizer.state[parameter] = own | {name: place.clone() for name, place in places.items()}


def _trainable(lane: Any) -> list[nn.Parameter]:
    return [parameter for parameter in lane.model.parameters() if parameter.requires_grad]


def _check_alike(lanes: Sequence[Any], owned: Sequence[Sequence[Tensor]]) -> None:
    """Refuses models that are not the same function of their parameters, as far as that can be seen."""
    first = [(parameter.shape, parameter.dtype) for parameter in owned[0]]
    if len({dtype for _, dtype in first}) != 1:
        raise NotShareable("the model's parameters are of more than one dtype")
    constants = _constants(lanes[0].model)
    for lane, own in zip(lanes, owned, strict=True):
        if [(parameter.shape, parameter.dtype) for parameter in own] != first:
            raise NotShareable("the models differ in shape")
        if len(lane.optimizer.param_groups) != 1:
            raise NotShareable("the optimizer has more than one param group")
        others = _constants(lane.model)
        if others.keys() != constants.keys() or not all(torch.equal(others[name], constants[name]) for name in others):
            raise NotShareable("the models differ in their buffers or frozen parameters")


def _constants(model: nn.Module) -> dict[str, Tensor]:
    frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return frozen | dict(model.named_buffers())
