"""Metrics that several tasks report beside their loss."""

from __future__ import annotations

from torch import Tensor


def classification_metrics(said: Tensor, true: Tensor, classes: int) -> dict[str, float]:
    """Returns ``accuracy``, and ``precision``, ``recall`` and ``f1`` as plain means over the classes ("macro").

    Precision is the share of those said to be of a class that are, recall the share of those of a class that were said
    to be, F1 their harmonic mean; 0/0 counts as 0. Classes that are neither said nor true are left out, as in
    scikit-learn's ``average="macro"``.

    Args:
        said: Predicted classes, int64, any shape.
        true: The classes, int64, same shape.
        classes: How many there are.

    Example:
        >>> import torch
        >>> classification_metrics(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 3)["recall"]
        0.8333333333333333
    """
    said, true = said.flatten(), true.flatten()
    # Rows: the true class; columns: what was said.
    confusion = (true * classes + said).bincount(minlength=classes * classes).view(classes, classes).double().cpu()
    hits, claims, members = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
    seen = claims + members > 0
    each = {
        "precision": hits / claims.clamp_min(1),
        "recall": hits / members.clamp_min(1),
        "f1": 2 * hits / (claims + members).clamp_min(1),
    }
    total = confusion.sum().clamp_min(1)
    return {"accuracy": float(hits.sum() / total), **{name: float(value[seen].mean()) for name, value in each.items()}}
