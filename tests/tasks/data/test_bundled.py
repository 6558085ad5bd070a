from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hybridopt.tasks.data import bundled

datasets = pytest.importorskip("sklearn.datasets")


@pytest.mark.parametrize("missing", [False, True])
def test_the_numbers_are_those_of_scikit_learn(missing, monkeypatch):
    if missing:  # another layout of the wheel
        monkeypatch.setattr(bundled, "_table", lambda name, header=0: None)
    for (data, labels), bunch, field in (
        (bundled.digits(), datasets.load_digits(), "images"),
        (bundled.breast_cancer(), datasets.load_breast_cancer(), "data"),
    ):
        assert data.dtype == np.float64
        assert labels.dtype == np.int64
        assert np.array_equal(data, bunch[field])
        assert np.array_equal(labels, bunch.target)


def test_tables_are_found_where_the_wheel_has_them():
    assert bundled._table("digits.csv.gz").shape == (1797, 65)
    assert bundled._table("no_such_file.csv") is None


def test_a_first_step_imports_neither_scikit_learn_nor_the_compiler():
    code = (
        "import sys\n"
        "from hybridopt.experiment.build import build\n"
        "from hybridopt.experiment.config import resolve\n"
        "for name in ('adam', 'sgd', 'lbfgs'):\n"
        "    build(resolve({'task': 'digits_cnn', 'optimizer': name, 'device': 'cpu'}))  # steps once to warm up\n"
        "bad = {'sklearn', 'scipy.stats', 'torch._dynamo', 'sympy', 'pandas', 'hydra', 'wandb'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
