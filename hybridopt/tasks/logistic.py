"""Logistic regression with a convex or a non-convex regularizer, on bundled data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridopt.core import option
from hybridopt.tasks.base import Split, Splits, Target, Task, TaskConfig
from hybridopt.tasks.data import bundled
from hybridopt.tasks.data.split import partition, standardize

SHARES = (0.7, 0.15, 0.15)
"""Train, validation and test: 398, 85 and 86 of the 569 samples."""


class Logistic(Task):
    """Tells malignant from benign tumours by 30 measurements: logistic regression from zero, L2-regularized.

    Wisconsin Diagnostic Breast Cancer, bundled with scikit-learn. The regularizer alpha/2 ||w||^2 makes the loss
    strongly convex: every method has to find the one minimum. The trivial loss is the entropy of the two classes,
    about 0.66.
    """

    name = "logistic"
    summary = "L2-regularized logistic regression on breast cancer data (bundled), strongly convex"
    # Measured with Adam (1e-2) on seeds 0 to 2 (data and initialization): both targets in 15 to 28 epochs.
    targets = (
        Target("validation_loss", 0.12, "min"),
        Target("train_loss", 0.08, "min"),
    )

    @dataclass
    class Config(TaskConfig):
        """Options of `Logistic`.

        Args:
            batch_size: Mini-batch of optimizers that step on few samples.
            epochs: Default budget, in epochs; a full-batch step is one epoch.
            alpha: Strength of the regularizer.
        """

        batch_size: int = option(32, ge=1, help="mini-batch of optimizers that step on few samples")
        epochs: float = option(60.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")
        alpha: float = option(1e-3, ge=0, help="strength of the regularizer")

    config: Config

    def build_splits(self, seed: int) -> Splits:
        """Returns standardized measurements, shape (samples, 30), and labels 0 or 1, shape (samples, 1).

        Args:
            seed: Decides which sample goes where.
        """
        measurements, classes = bundled.breast_cancer()
        features, labels = torch.from_numpy(measurements).float(), torch.from_numpy(classes)
        parts = partition(len(features), SHARES, seed, labels=labels)
        inputs = standardize(*(features[index] for index in parts), per_feature=True)
        return Splits(*(Split(x, labels[index, None].float()) for x, index in zip(inputs, parts, strict=True)))

    def build_model(self) -> nn.Module:
        """Returns a linear model that starts at zero and answers a logit and the regularizer."""
        return _Regularized(30, self.config.alpha, self.penalty)

    @staticmethod
    def penalty(weight: Tensor) -> Tensor:
        """Returns the regularizer without its strength: half the sum of squares.

        Args:
            weight: The weights without the bias.
        """
        return 0.5 * weight.square().sum()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean cross-entropy in nats plus the regularizer.

        Args:
            outputs: Logit and regularizer (the same for all samples), shape (samples, 2).
            targets: 0 or 1, shape (samples, 1).
        """
        logits, penalties = outputs[:, :1], outputs[:, 1]
        return functional.binary_cross_entropy_with_logits(logits, targets) + penalties.mean()

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Returns ``accuracy``, ``precision``, ``recall`` and ``f1`` of the class 1.

        Args:
            outputs: Logit and regularizer, shape (samples, 2).
            targets: 0 or 1, shape (samples, 1).
        """
        said, true = outputs[:, :1] > 0, targets > 0.5
        hits = int((said & true).sum())
        precision, recall = hits / max(1, int(said.sum())), hits / max(1, int(true.sum()))
        return {
            "accuracy": float((said == true).double().mean()),
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / max(precision + recall, 1e-12),
        }

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the entropy of the two classes in the training set, in nats.

        Args:
            splits: What `splits` returned.
        """
        share = splits.train.targets.double().mean()
        return float(-(torch.xlogy(share, share) + torch.special.xlog1py(1 - share, -share)))


class NonconvexLogistic(Logistic):
    """Logistic regression with the non-convex regularizer alpha sum_i w_i^2 / (1 + w_i^2).

    The objective of Kohler and Lucchi (ICML 2017), alpha = 1e-3, on other data.
    """

    name = "nonconvex_logistic"
    summary = "logistic regression with the non-convex regularizer w^2/(1+w^2) on breast cancer data (bundled)"

    @staticmethod
    def penalty(weight: Tensor) -> Tensor:
        """Returns the regularizer without its strength: sum of w^2 / (1 + w^2).

        Args:
            weight: The weights without the bias.
        """
        square = weight.square()
        return (square / (1 + square)).sum()


class _Regularized(nn.Module):
    def __init__(self, features: int, alpha: float, penalty: object) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.alpha, self.penalty = alpha, penalty
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.linear(inputs)
        penalty = self.alpha * self.penalty(self.linear.weight)  # type: ignore[operator]
        return torch.cat([logits, penalty.expand_as(logits)], dim=1)
