"""Replicas of DistributedDataParallel would drift apart silently, so an objective refuses them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import hybridopt as ho
from hybridopt.core import ObjectiveError


@pytest.fixture
def replica(tmp_path: Path) -> DistributedDataParallel:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch without gloo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        yield DistributedDataParallel(nn.Linear(3, 2))
    finally:
        torch.distributed.destroy_process_group()


def test_one_process_works_and_several_are_refused(
    replica: DistributedDataParallel, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, targets = torch.randn(6, 3), torch.randint(0, 2, (6,))
    objective = ho.Objective(replica, nn.functional.cross_entropy, inputs, targets)
    loss = ho.create("newton_cg", replica.parameters()).step(objective)
    assert loss.isfinite()

    class TwoProcesses:
        def size(self) -> int:
            return 2

    monkeypatch.setattr(replica, "process_group", TwoProcesses())
    with pytest.raises(ObjectiveError, match="drift apart"):
        ho.Objective(replica, nn.functional.cross_entropy, inputs, targets)
