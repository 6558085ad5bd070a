"""What two processes that share a batch are asked, in processes of their own: see test_data_parallel.py.

Run as ``python -m tests.objective.parallel_cases RANK STORE RESULTS [OPTIMIZERS]``; writes what every case returned and
three steps of each optimizer, or the error. A case gets this process's rank, returns plain values, and compares with
one process on the whole batch.
"""

from __future__ import annotations

import sys
import traceback
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch.nn import functional

import hybridopt as ho
from hybridopt.testing import SETTINGS
from tests.objective import parallel_decisions, parallel_numbers  # noqa: F401  (they enter their cases)
from tests.objective.parallel_base import CASES, SIZE, bits, both, net, off

# Without matrices of more rows than a gradient has columns: eigenvectors to equal eigenvalues are up to rounding.
COMPARABLE = {"soap": {"max_dim": 4}}


def trajectory(name: str, rank: int, steps: int = 3) -> dict[str, Any]:
    """Steps one optimizer on the shared batch, and on the whole one, from the same start."""
    apart, options = [], {**SETTINGS.get(name, {}), **COMPARABLE.get(name, {})}
    models = [net(), net()]
    whole, shared = both(rank, models[0], functional.mse_loss, classes=False)
    shared = both(rank, models[1], functional.mse_loss, classes=False)[1]
    ours, alone = (ho.create(name, model.parameters(), **options) for model in (models[1], models[0]))
    for _ in range(steps):
        ours.step(shared)
        if rank == 0:
            alone.step(whole)
            apart.append(
                max(off(p.detach(), q.detach()) for p, q in zip(*(m.parameters() for m in models), strict=True))
            )
    bill = shared.ledger.samples == whole.ledger.samples if rank == 0 else True
    return {"apart": apart, "bits": bits(models[1]), "status": str(getattr(ours.report, "status", None)), "bill": bill}


def main(rank: int, store: str, results: str, names: list[str]) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=SIZE, timeout=timedelta(seconds=120)
    )
    found: dict[str, Any] = {}
    for name in [*CASES, *names]:
        run = CASES.get(name) or partial(trajectory, name)
        try:
            found[name] = run(rank)
        except Exception:
            found[name] = {"error": traceback.format_exc()}
            break  # the other process may be waiting in the middle of this case
    torch.save(found, results)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
