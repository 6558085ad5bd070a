"""What the classification tasks share: cross-entropy, accuracy, and the entropy of the class prior."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hybridopt.tasks.base import Splits, Task


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
        """Returns ``accuracy``, the share of samples whose largest logit is that of their class.

        Args:
            outputs: Logits, shape (samples, classes).
            targets: Class of each sample, int64, shape (samples,).
        """
        return {"accuracy": float((outputs.argmax(dim=1) == targets).double().mean())}

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the entropy of the classes in the training set, in nats: the loss of always saying the prior.

        Args:
            splits: What `splits` returned.
        """
        counts = splits.train.targets.bincount().double()
        prior = counts[counts > 0] / counts.sum()
        return float(-(prior * prior.log()).sum())
