"""What every test relies on: one thread, no network, nothing written outside temporary directories.

The environment is set when this file is imported, before any test imports torch, so that subprocesses and
doctests inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"


@pytest.fixture(scope="session", autouse=True)
def _wandb_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep wandb's files, caches and settings out of the checkout and of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` where there is no CUDA device, even when they are asked for."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
