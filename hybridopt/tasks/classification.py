"""What the classification tasks share: cross-entropy, accuracy, macro averages, and the entropy of the classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hybridopt.tasks.base import Splits, Task
from hybridopt.tasks.metrics import classification_metrics


class Classification(Task):
    """A task with one class label per sample and logits as outputs of shape (samples, classes)."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean cross-entropy in nats.

        Args:
            outputs: Logits, shape (samples, classes).
            targets: Class of each sample, int64, shape (samples,).
        """
        return functional.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Returns ``accuracy``, the share of samples whose largest logit is that of their class, and macro averages.

        These are ``precision``, ``recall`` and ``f1``, see `classification_metrics`.

        Args:
            outputs: Logits, shape (samples, classes).
            targets: Class of each sample, int64, shape (samples,).
        """
        return classification_metrics(outputs.argmax(dim=1), targets, outputs.shape[1])

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the entropy of the classes in the training set, in nats: the loss of always saying the prior.

        Args:
            splits: What `splits` returned.
        """
        counts = splits.train.targets.bincount().double()
        prior = counts[counts > 0] / counts.sum()
        return float(-(prior * prior.log()).sum())
