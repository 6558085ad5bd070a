"""The one interface of all optimizers: `step(objective)`, a report, and a complete state."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError, HybridoptError, ObjectiveError, check, make_config, suggest
from hybridopt.escape.base import Escape, resolve_escape
from hybridopt.escape.snapshot import copy_state
from hybridopt.objective import Objective
from hybridopt.objective.autocast import in_forward_only
from hybridopt.optimizers.conversion import check_precision, follow, kinds
from hybridopt.optimizers.report import Report, norm
from hybridopt.optimizers.saved_state import STAMP, check_state, stamp

MEMORY = "memory"
"""Key in `Optimizer.state` of all that a method remembers beside torch's per-parameter state.

A string, because torch casts state that is stored under a parameter to that parameter's dtype when it is loaded.
"""


class Stepping:
    """What every optimizer of the library does around its own step: checks, report, escapes, complete state.

    `Optimizer` (methods written for this library) and the subclasses of torch's own optimizers share it.
    """

    Config: ClassVar[type]
    family: ClassVar[str] = "first-order"
    """``first-order``, ``quasi-newton``, ``newton``, ``structured`` (matrices and diagonals) or ``hybrid``."""
    batch: ClassVar[str] = "mini"
    """What data a step is meant for: ``mini`` (a small batch), ``large`` or ``full``."""
    summary: ClassVar[str] = ""
    """One line for listings."""

    coupled_decay: ClassVar[bool] = True
    """Whether a group's ``weight_decay`` is part of the function (L2), and not a decay of its own as in AdamW."""

    descends: ClassVar[bool] = True
    """Whether the steps head for lower values. What an escape gains from a method that is drawn to any stationary
    point would be lost again, so the two are refused together."""

    half_precision: ClassVar[bool] = True
    """Whether the parameters may be in bfloat16 or float16."""

    state_layout: ClassVar[tuple[str, ...]] = ()
    """Options that shape what the method remembers: a state saved with others of them is refused."""

    state_elementwise: ClassVar[bool] = False
    """Whether every tensor that is remembered under a parameter has its shape, or that of its rows or columns."""

    state_of_its_own: ClassVar[bool] = True
    """Whether what is remembered under a parameter is about that parameter alone."""

    memory_key: str = MEMORY
    """Where in `state` the method's memory is; a hybrid gives each of its members another."""

    config: Any
    report: Report
    escape: Escape | None

    def _start(self, config: Any, escape: Any) -> None:
        self.config = config
        self.escape = resolve_escape(escape)
        if self.escape is not None and not self.descends:
            raise CombinationError(
                f"{type(self).__name__} does not descend: it is drawn to saddle points as well, so it would lose again "
                "what an escape gains. Leave the escape out, or take a method that descends: newton_cg, "
                "trust_newton_cg or saddle_free_newton."
            )
        self.report = Report()
        check_precision(self)
        self._look_at_parameters()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters.

        Args:
            param_group: ``params`` and options of the group.
        """
        super().add_param_group(param_group)  # type: ignore[misc]
        if "_kinds" in vars(self):  # not while it is being made
            self._kinds = {**kinds(self), **self._kinds}

    def _look_at_parameters(self) -> None:
        """Notes the dtypes and devices that the state is made for."""
        self._kinds = kinds(self)
        self._seen: tuple[list[Any], list[Any]] = [], []

    def _follow(self, parameters: list[Tensor]) -> None:
        """Brings the state to parameters that were converted or moved since the last step, all or some of them.

        Args:
            parameters: The trainable ones.
        """
        # Two lists, which are compared in every step, cost a tenth of a microsecond a parameter.
        seen = [p.dtype for p in parameters], [p.device for p in parameters]
        if seen != self._seen:
            if any(self._kinds.get(id(p)) != (p.dtype, p.device) for p in parameters):
                follow(self, self._kinds)
                self._look_at_parameters()
            self._seen = seen

    # -- the step --------------------------------------------------------------------------------------------------

    def _check_objective(self, objective: Any) -> None:
        if isinstance(objective, Objective):
            return
        if objective is None:
            raise ObjectiveError(
                "step() needs the objective: optimizer.step(hybridopt.Objective(model, loss_fn, inputs, targets)). "
                "It computes loss and gradient itself; there is no loss.backward() to call before."
            )
        what = "a closure" if callable(objective) else f"a {type(objective).__name__}"
        raise ObjectiveError(
            f"step() takes an Objective, not {what}. Instead of a closure that calls backward(), pass "
            "hybridopt.Objective(model, loss_fn, inputs, targets), which gives the optimizer values, gradients and "
            "curvature as it needs them."
        )

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # GradScaler.step asks for this; there is no other place to meet it with a useful message.
        raise ObjectiveError(
            "GradScaler does not work with step(objective): the optimizer computes its gradients itself, so there is "
            "nothing to unscale. Use bfloat16 autocast inside the model's forward, which needs no scaler."
        )

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, value: bool) -> None:
        """Torch's fused optimizers assign this; it has no meaning here."""

    def note(self, **values: Any) -> None:
        """Adds values to the report of the running step.

        Args:
            **values: Numbers, tensors (read only when looked at) or functions without arguments.
        """
        self.report.note(**values)

    def can_descend(self, value: float, grad_norm: float) -> bool:
        """Returns whether a step can be made from a gradient; if not, notes why in the report.

        Args:
            value: The function at the step's start.
            grad_norm: Length of the gradient there.
        """
        if grad_norm > 0.0 and math.isfinite(grad_norm) and math.isfinite(value):
            return True
        self.note(accepted=False, status="zero_gradient" if grad_norm == 0.0 else "non_finite", step_norm=0.0)
        return False

    def moved(self, objective: Objective, reason: str) -> None:
        """Tells the optimizer that its parameters were moved from outside (an escape's jump, a restored snapshot).

        Methods whose memory belongs to the left point override this.

        Args:
            objective: The bound objective, at the new point.
            reason: ``"escape"``, ``"restore"`` (the state was put back too) or ``"average"``.
        """

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Context in which the model holds the parameters to evaluate, where these differ from those trained."""
        yield

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def memory(self) -> dict[str, Any]:
        """What the method remembers between steps: plain tensors, numbers, text, and lists or dicts of them."""
        return self.state[self.memory_key]  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as torch does, and in ``made_by`` what it has to fit: method, options, parameters.

        A method that goes on from its last step's end on the same data knows the data by the objective's ``key``. For
        a run that goes on in another process to the last bit, name the batches: ``Objective(..., key=...)``.
        """
        return {**super().state_dict(), STAMP: stamp(self)}  # type: ignore[misc]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a saved state, cloned, and moved to the device of the parameters.

        Args:
            state_dict: What `state_dict` returned, possibly through `torch.save` and
                ``torch.load(weights_only=True)``; torch's own classes also take what bare torch saved.

        Raises:
            ConfigError: If another method saved it, or it was saved for other parameters, or with other options that
                shape it; the optimizer then stays as it is.
        """
        check_state(self, state_dict)
        super().load_state_dict(state_dict)  # type: ignore[misc]
        device = next((p.device for group in self.param_groups for p in group["params"]), torch.device("cpu"))  # type: ignore[attr-defined]
        for key, value in list(self.state.items()):  # type: ignore[attr-defined]
            # torch has moved what lies under a parameter already, but shares it with the saved state.
            self.state[key] = copy_state(value, device if isinstance(key, str) else None)  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        own = {"config": self.config, "escape": self.escape, "memory_key": self.memory_key}
        return super().__getstate__() | own  # type: ignore[misc]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self.report = Report()
        self._look_at_parameters()

    def _grads(self) -> list[Tensor]:
        groups = self.param_groups  # type: ignore[attr-defined]
        return [p.grad for group in groups for p in group["params"] if p.requires_grad and p.grad is not None]


class Optimizer(Stepping, torch.optim.Optimizer):
    """Base class of optimizers that move the parameters through the objective.

    A subclass declares a `Config` dataclass and writes `update`; it gets argument checks, param groups, reports,
    escapes, a complete state, the command line and the conformance tests. ``lr`` and ``weight_decay``, where the
    config has them, may differ between param groups. ``weight_decay`` w means w/2 ||p||^2 added to the function.

    Args:
        params: Parameters, named parameters or param groups, as torch's optimizers take them.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle: a name, a mapping with ``name`` and options, an `Escape`, or None.
        **options: Fields of `Config`; unknown ones are errors.

    Raises:
        ConfigError: If an option is unknown, has a wrong type or is out of range.
    """

    group_options: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        config = resolve_config(type(self), config, options)
        shared = [name for name in self.group_options if hasattr(config, name)]
        # Before the base class's init: `add_param_group` runs inside it and asks for the config.
        self.config = config
        try:
            torch.optim.Optimizer.__init__(self, params, {name: getattr(config, name) for name in shared})
        except HybridoptError:
            raise
        except ValueError as error:
            raise ConfigError(f"{type(self).__name__}: {error}") from error
        self._start(config, escape)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, possibly with options of its own.

        Args:
            param_group: ``params`` and any of `group_options`.

        Raises:
            ConfigError: If the group sets an option that cannot differ between groups, or a value out of range.
        """
        if isinstance(param_group, dict):
            own = {name: param_group[name] for name in param_group if name not in _GROUP_KEYS}
            for name in own:
                if name not in self.defaults:
                    known = ", ".join(self.defaults) or "none"
                    raise ConfigError(
                        f"{type(self).__name__} cannot set {name!r} for one param group.{suggest(name, self.defaults)} "
                        f"Options that may differ between groups: {known}."
                    )
            checked = check(dataclasses.replace(self.config, **own), owner=type(self).__name__)
            # NumPy's numbers as Python's, or the state could not be loaded with weights_only.
            param_group.update({name: getattr(checked, name) for name in own})
        super().add_param_group(param_group)

    @in_forward_only
    def step(self, objective: Objective | None = None) -> Tensor:  # type: ignore[override]
        """Does one step on the objective.

        Afterwards ``p.grad`` is the gradient at the step's starting point, and `report` tells what happened.

        Args:
            objective: The loss as a function of the parameters.

        Returns:
            The loss at the step's starting point, a detached scalar tensor.

        Raises:
            ObjectiveError: If it is not an `Objective`, or cannot be evaluated.
        """
        self._check_objective(objective)
        self.report = Report()
        bound = objective.bind(self.param_groups, regularize=True)
        self._follow(bound.space.parameters)
        bound.renew()
        self.update(bound)
        bound.adopt()
        if bound.start_loss is None:
            raise ObjectiveError(
                f"{type(self).__name__}.update did not evaluate the objective at the starting point; call "
                "objective.at(), value() or value_and_grad() in it."
            )
        loss = bound.start_loss
        if "loss" not in self.report:
            self.note(loss=loss)
        if bound.start_gradients is not None:
            gradients = bound.start_gradients
            for parameter, gradient in zip(bound.space.parameters, gradients, strict=True):
                parameter.grad = gradient
            if "grad_norm" not in self.report:
                present = [gradient for gradient in gradients if gradient is not None]
                self.note(grad_norm=lambda: norm(present))
        if self.escape is not None:
            self.escape.after_step(self, bound)
        return loss

    def update(self, objective: Objective) -> None:
        """Moves the parameters through the objective; the one method that a new optimizer has to write.

        Args:
            objective: Bound to the parameters of this optimizer: `at`, `value`, `value_and_grad` evaluate it,
                `commit` moves the model.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say how it moves: define update(self, objective).")

    def can_move(self) -> bool:
        """Returns whether a group has a rate that is not zero; if none has, notes that in the report.

        For methods with something that adapts to how steps turn out: one of rate zero teaches it nothing.
        """
        if any(float(group["lr"]) != 0.0 for group in self.param_groups):
            return True
        self.note(accepted=False, status="zero_rate", step_norm=0.0)
        return False

    def rate(self, objective: Objective) -> float | Tensor:
        """Returns the groups' ``lr``: one number when they agree, else a vector of shape (n,).

        Args:
            objective: The bound objective.
        """
        rates = {group["lr"] for group in self.param_groups}
        if len(rates) == 1:
            return float(rates.pop())
        by_parameter = {id(p): float(group["lr"]) for group in self.param_groups for p in group["params"]}
        space = objective.space
        parts = [
            torch.full((size,), by_parameter[id(parameter)], dtype=space.dtype, device=space.device)
            for parameter, size in zip(space.parameters, space.sizes, strict=True)
        ]
        return torch.cat(parts)


# What torch itself, or its schedulers, put into a group.
_GROUP_KEYS = {"params", "param_names", "initial_lr", "swa_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"}


def resolve_config(cls: type[Stepping], config: Any, options: Mapping[str, Any]) -> Any:
    """Returns the checked config of an optimizer from either way of giving it.

    Args:
        cls: The optimizer's class.
        config: An instance of its `Config`, or None.
        options: Fields of its `Config`.

    Raises:
        ConfigError: If both are given, the config is of another class, or an option is wrong.
    """
    declared = getattr(cls, "Config", None)
    if declared is None or not dataclasses.is_dataclass(declared):
        raise ConfigError(f"{cls.__name__} needs a dataclass named Config inside it that declares its options.")
    if config is None:
        return make_config(declared, options, owner=cls.__name__)
    if options:
        raise ConfigError(f"Give {cls.__name__} either config=... or options ({', '.join(options)}), not both.")
    if not isinstance(config, declared):
        raise ConfigError(f"{cls.__name__} takes a {declared.__qualname__}, not a {type(config).__qualname__}.")
    return check(config, owner=cls.__name__)
