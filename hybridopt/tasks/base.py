"""What every task is: data splits, a model, a loss, metrics, and targets fixed beforehand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hybridopt.core import ConfigError, DataError, check, make_config, option

_METRICS = ("validation_accuracy", "validation_loss", "train_loss")


@dataclass(frozen=True)
class Target:
    """A value that counts as solved, fixed before any comparison.

    Args:
        metric: ``"train_loss"``, ``"validation_loss"`` or ``"validation_<metric>"``.
        value: The value to reach.
        mode: ``"min"`` when smaller is better, ``"max"`` when larger is.

    Raises:
        ConfigError: If the metric or the mode is none of these.

    Example:
        >>> Target("validation_accuracy", 0.95, "max").reached(0.96)
        True
    """

    metric: str
    value: float
    mode: str

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ConfigError(f"The mode of a target must be 'min' or 'max', not {self.mode!r}.")
        if not (self.metric == "train_loss" or self.metric.startswith("validation_")):
            raise ConfigError(
                f"A target is set on 'train_loss' or on 'validation_<metric>' (e.g. {', '.join(_METRICS)}), "
                f"not on {self.metric!r}."
            )

    def reached(self, value: float) -> bool:
        """Tells whether a measured value reaches the target; NaN never does.

        Args:
            value: The measured value.
        """
        return value <= self.value if self.mode == "min" else value >= self.value

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.mode == 'min' else '>='} {self.value:g}"


@dataclass(frozen=True)
class Split:
    """Inputs and targets of equal length; the first dimension counts samples.

    Args:
        inputs: Shape (samples, ...).
        targets: Shape (samples, ...). May be the very tensor `inputs`, as for an autoencoder.

    Raises:
        DataError: If the two differ in length or are empty.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if self.inputs.ndim == 0 or self.targets.ndim == 0 or len(self.inputs) != len(self.targets):
            raise DataError(
                f"Inputs of shape {tuple(self.inputs.shape)} and targets of shape {tuple(self.targets.shape)} do "
                "not belong together: their first dimensions must count the same samples."
            )
        if len(self.inputs) == 0:
            raise DataError("A split is empty: it has no samples. Give it at least one, or check the data files.")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Split:
        """Returns the split on a device; only floating-point tensors change to `dtype`, class labels stay.

        Args:
            device: Where to; None leaves it.
            dtype: Floating-point type; None leaves it.
        """

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return self._map(moved)

    def take(self, index: Tensor | slice) -> Split:
        """Returns some of the samples.

        Args:
            index: Positions, shape (k,), on the split's device; or a slice, which copies nothing.
        """
        return self._map(lambda tensor: tensor[index])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Split:
        inputs = function(self.inputs)
        return Split(inputs, inputs if self.targets is self.inputs else function(self.targets))


@dataclass(frozen=True)
class Splits:
    """The three disjoint parts of a data set.

    Args:
        train: What is optimized.
        validation: What targets, early stopping and tuning look at.
        test: What only the final report looks at.
    """

    train: Split
    validation: Split
    test: Split

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Splits:
        """Returns all three on a device and in a floating-point type.

        Args:
            device: Where to; None leaves it.
            dtype: Floating-point type; None leaves it.
        """
        return Splits(*(split.to(device, dtype) for split in self))

    def __iter__(self) -> Iterator[Split]:
        return iter((self.train, self.validation, self.test))


@dataclass
class TaskConfig:
    """Options that every task has; a task's own `Config` extends it.

    Args:
        batch_size: Mini-batch of optimizers that step on few samples.
        epochs: Default budget in epochs, passes over the training set; a full-batch step is one epoch.
    """

    batch_size: int = option(64, ge=1, help="mini-batch of optimizers that step on few samples")
    epochs: float = option(20.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")


class Task(ABC):
    """A learning problem: what an optimizer is run on and judged by.

    A task of your own gives `build_splits`, `build_model` and `loss`, and usually `metrics`, `targets` and a `Config`
    that extends `TaskConfig`. Everything is deterministic in the seeds of `splits` and `model`; the global random
    generators are left as they are.

    Args:
        config: An instance of the task's `Config`, or None.
        **options: Options of `Config` by name, instead of `config`.

    Attributes:
        name: Name in the registry.
        summary: One line for `hybridopt list tasks`.
        targets: What counts as solved; the first is the one that rankings use.
        config: The checked options.

    Raises:
        ConfigError: If an option is unknown, of the wrong type or out of range, or both forms are given.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    targets: ClassVar[tuple[Target, ...]] = ()

    images: ClassVar[bool] = False
    """Whether inputs are images, shape (samples, [channels,] height, width), whose targets stay what they are when the
    images are shifted, mirrored or partly covered: what ``augmentation=...`` needs."""

    Config: ClassVar[type[TaskConfig]] = TaskConfig

    def __init__(self, config: TaskConfig | None = None, **options: Any) -> None:
        owner = self.name or type(self).__name__
        if config is None:
            self.config = make_config(self.Config, options, owner=owner)
            return
        if options:
            raise ConfigError(f"{owner} takes either config=... or options by name, not both.")
        if not isinstance(config, self.Config):
            raise ConfigError(
                f"{owner} needs an instance of {self.Config.__qualname__} as config, not {type(config).__name__}."
            )
        self.config = check(config, owner=owner)

    @abstractmethod
    def build_splits(self, seed: int) -> Splits:
        """Returns the data; called by `splits`.

        Args:
            seed: Decides everything random in it, by a generator of its own.
        """

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Returns a freshly initialized model; called by `model`, which has seeded torch's CPU generator."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss, a mean over samples, as a 0-dim tensor.

        Args:
            outputs: Outputs of the model, shape (samples, ...).
            targets: The targets that belong to them.
        """

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Returns what is reported beside the loss, over a whole split. By default nothing.

        Args:
            outputs: Outputs of the model for the whole split.
            targets: All its targets.
        """
        return {}

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the training loss of the best predictor that ignores its input.

        A run that ends near it has learned nothing. This default fits a constant output by the loss itself, which is
        right for any loss that is convex in the outputs; the shipped tasks have it in closed form. A loss without a
        lower bound in the outputs has among them what the model charges for its parameters (the regularizer of
        `Logistic`), which no constant may stand for: then the model's own parameters are fitted, while all samples look
        alike to it (as their mean, or as the first one where inputs are no real numbers).

        Args:
            splits: What `splits` returned.

        Returns:
            The loss; NaN or infinite where neither fit has one.
        """
        train = splits.train
        dtype = train.inputs.dtype if train.inputs.is_floating_point() else None
        model = self.model(0).to(train.inputs.device, dtype).eval()
        same = train.inputs.mean(dim=0, keepdim=True) if train.inputs.is_floating_point() else train.inputs[:1]

        def loss(output: Tensor) -> Tensor:
            return self.loss(output.expand(len(train), *output.shape[1:]), train.targets)

        with torch.no_grad():
            constant = torch.zeros_like(model(same))
        lowest = fitted([constant.requires_grad_()], lambda: loss(constant))
        if math.isfinite(lowest):
            return lowest
        return fitted([p for p in model.parameters() if p.requires_grad], lambda: loss(model(same)))

    def splits(self, seed: int = 0) -> Splits:
        """Returns the data in three disjoint parts, float32, on the CPU.

        Args:
            seed: Decides which sample goes where, or generates the samples.

        Raises:
            DataError: If files are missing, damaged or cannot be fetched, or a part is empty.
            ConfigError: If the batch size is larger than the training set.
        """
        splits = self.build_splits(seed)
        check_batch_size(self.config.batch_size, len(splits.train), owner=self.name)
        return splits

    def model(self, seed: int = 0) -> nn.Module:
        """Returns a freshly initialized model, float32, on the CPU.

        Args:
            seed: Decides the initial parameters.
        """
        # Only the CPU generator is seeded: torch.manual_seed would reset those of all devices as well.
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            return self.build_model().float()

    def work(self, inputs: Tensor, targets: Tensor) -> int:
        """Returns what the ledger charges for one call on a batch: its number of samples.

        A task whose samples are not equally dear says so here; masked sequences count their valid steps.

        Args:
            inputs: Inputs of the batch.
            targets: The targets that belong to them.
        """
        return inputs.shape[0]

    def reference_samples(self, splits: Splits) -> int:
        """Returns on how much work, see `work`, one gradient is one gradient-equivalent: that of the training set.

        Args:
            splits: What `splits` returned.
        """
        return self.work(splits.train.inputs, splits.train.targets)


def fitted(parameters: list[Tensor], loss: Callable[[], Tensor]) -> float:
    """Returns the loss at the minimum that L-BFGS finds from where the parameters are, which it moves there.

    Args:
        parameters: Leaves that require gradients.
        loss: Their function.
    """
    optimizer = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        value = loss()
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return value.detach()

    with torch.enable_grad():
        optimizer.step(closure)
        return float(loss().detach())


def check_batch_size(batch_size: int, samples: int, *, owner: str = "") -> int:
    """Returns the batch size if that many samples are there.

    Args:
        batch_size: What is asked for.
        samples: Number of samples of the training set.
        owner: Name of the task, for the message.

    Raises:
        ConfigError: If it is below 1 or above the number of samples.
    """
    if 1 <= batch_size <= samples:
        return batch_size
    raise ConfigError(
        f"{f'{owner}: b' if owner else 'B'}atch_size is {batch_size}, but the training set has {samples} samples. "
        f"Choose batch_size between 1 and {samples}; {samples} is the full batch."
    )
