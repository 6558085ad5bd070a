"""What is optimized: data, model, loss, metrics and the targets that count as solved.

A task of your own is one class under a name:

    @hybridopt.tasks.register("my_task")
    class MyTask(hybridopt.tasks.Task):
        def build_splits(self, seed): ...
        def build_model(self): ...
        def loss(self, outputs, targets): ...

or an entry point in the group `hybridopt.tasks`. Importing this room imports neither scikit-learn nor pooch; a task
does when its data is asked for.
"""

from __future__ import annotations

from typing import Any

from hybridopt.core import Registry
from hybridopt.tasks.base import Split, Splits, Target, Task, TaskConfig, check_batch_size

registry = Registry(
    "task",
    {
        "digits_cnn": "hybridopt.tasks.digits_cnn:DigitsCNN",
        "digits_rnn": "hybridopt.tasks.digits_rnn:DigitsRNN",
        "adding_rnn": "hybridopt.tasks.adding_rnn:AddingRNN",
        "fashion_cnn": "hybridopt.tasks.fashion_cnn:FashionCNN",
        "mnist_autoencoder": "hybridopt.tasks.mnist_autoencoder:MNISTAutoencoder",
        "mnist_cnn": "hybridopt.tasks.mnist_cnn:MNISTCNN",
        "mnist_rnn": "hybridopt.tasks.mnist_cnn:MNISTRNN",
        "cifar10_3c3d": "hybridopt.tasks.cifar10:CIFAR3c3d",
        "cifar10_resnet": "hybridopt.tasks.cifar10:CIFARResNet",
        "multiplication_rnn": "hybridopt.tasks.multiplication_rnn:MultiplicationRNN",
        "temporal_order_rnn": "hybridopt.tasks.temporal_order_rnn:TemporalOrderRNN",
        "memorization_rnn": "hybridopt.tasks.memorization_rnn:MemorizationRNN",
        "permutation_rnn": "hybridopt.tasks.permutation_rnn:PermutationRNN",
        "japanese_vowels": "hybridopt.tasks.japanese_vowels:JapaneseVowels",
        "shakespeare_lstm": "hybridopt.tasks.shakespeare_lstm:ShakespeareLSTM",
        "shakespeare_transformer": "hybridopt.tasks.shakespeare_transformer:ShakespeareTransformer",
        "curves_autoencoder": "hybridopt.tasks.curves_autoencoder:CurvesAutoencoder",
        "residual_mlp": "hybridopt.tasks.residual_mlp:ResidualMLP",
        "logistic": "hybridopt.tasks.logistic:Logistic",
        "nonconvex_logistic": "hybridopt.tasks.logistic:NonconvexLogistic",
        "pinn_convection": "hybridopt.tasks.pinn_equations:PINNConvection",
        "pinn_reaction": "hybridopt.tasks.pinn_equations:PINNReaction",
        "pinn_wave": "hybridopt.tasks.pinn_equations:PINNWave",
        "pinn_burgers": "hybridopt.tasks.pinn_equations:PINNBurgers",
        "test_function": "hybridopt.tasks.functions:FunctionTask",
        "saddle": "hybridopt.tasks.saddles:SaddleTask",
    },
    entry_points="hybridopt.tasks",
)
"""Every task by name."""

register = registry.register
"""Class decorator that adds a task: ``@register("my_task")``."""


def create(name: str, **options: Any) -> Task:
    """Returns a task by name.

    Args:
        name: A name out of ``registry.names()``.
        **options: Options of that task's `Config`.

    Raises:
        UnknownNameError: If there is no such task.
        ConfigError: If an option is unknown, of the wrong type or out of range.

    Example:
        >>> task = create("adding_rnn", T=10)
        >>> task.splits(seed=0).train.inputs.shape
        torch.Size([1000, 10, 2])
    """
    return registry.get(name)(**options)


__all__ = [
    "Split",
    "Splits",
    "Target",
    "Task",
    "TaskConfig",
    "check_batch_size",
    "create",
    "register",
    "registry",
]
