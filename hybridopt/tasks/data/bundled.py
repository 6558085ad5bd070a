"""Data sets that come inside scikit-learn's wheel, read without importing scikit-learn, which takes a second."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns what `sklearn.datasets.load_digits` does: float64 counts (1797, 8, 8) from 0 to 16, int64 labels (1797,).

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
    """
    table = _table("digits.csv.gz")
    if table is None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target.astype(np.int64)
    return np.ascontiguousarray(table[:, :-1]).reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def breast_cancer() -> tuple[np.ndarray, np.ndarray]:
    """Returns what `sklearn.datasets.load_breast_cancer` does: float64 (569, 30), int64 labels 0 or 1 (569,).

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
    """
    table = _table("breast_cancer.csv", header=1)
    if table is None:
        from sklearn.datasets import load_breast_cancer

        bunch = load_breast_cancer()
        return bunch.data, bunch.target.astype(np.int64)
    return np.ascontiguousarray(table[:, :-1]), table[:, -1].astype(np.int64)


def _table(name: str, header: int = 0) -> np.ndarray | None:
    """Returns the numbers of a file of ``sklearn.datasets.data``; None if it is not where it has always been."""
    spec = importlib.util.find_spec("sklearn")  # finds the package without running it
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(place) / "datasets" / "data" / name
        if path.is_file():
            data = path.read_bytes()
            text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
            return np.loadtxt(text.splitlines()[header:], delimiter=",")
    return None
