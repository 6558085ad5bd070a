"""Macro averages over classes, against scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

import hybridopt.tasks as tasks
from hybridopt.tasks.metrics import classification_metrics


@pytest.mark.parametrize("kind", ["random", "good", "one answer", "absent classes"])
def test_agrees_with_scikit_learn(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    true = torch.randint(7 if kind != "absent classes" else 4, (300,), generator=generator)
    said = torch.randint(7 if kind != "absent classes" else 5, (300,), generator=generator)
    if kind == "good":
        said = torch.where(torch.rand(300, generator=generator) < 0.9, true, said)
    if kind == "one answer":
        said = torch.full_like(true, 2)
    found = classification_metrics(said, true, 7)
    precision, recall, f1, _ = precision_recall_fscore_support(true, said, average="macro", zero_division=0)
    expected = {"accuracy": accuracy_score(true, said), "precision": precision, "recall": recall, "f1": f1}
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_rnn", "logistic"])
def test_classification_tasks_report_them(name: str) -> None:
    task = tasks.create(name)
    validation = task.splits(0).validation
    with torch.no_grad():
        found = task.metrics(task.model(0)(validation.inputs), validation.targets)
    assert {"accuracy", "precision", "recall", "f1"} <= found.keys()
    assert all(0 <= value <= 1 for value in found.values())
