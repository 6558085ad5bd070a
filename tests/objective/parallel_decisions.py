"""What two processes decide together, and what they are refused."""

from __future__ import annotations

import contextlib
import io
import runpy
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import hybridopt as ho
from hybridopt.certificate import certify
from hybridopt.curvature import KFAC, Fisher
from tests.objective.parallel_base import SIZE, bits, both, case, data, loss_of, message, mine, net, off


@case
def escapes(rank: int) -> Any:
    """From a saddle: both processes leave it by the same random numbers."""
    found = {}
    for escape in ("perturbation", "negative_curvature", "neon", "noisy_gradient"):
        model = net()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        inputs, targets = data()
        targets = inputs[:, :3].tanh()  # a zero network is a saddle of this
        objective = ho.Objective(
            model, functional.mse_loss, inputs[mine(rank)], (targets - targets.mean(0))[mine(rank)]
        )
        objective = objective.in_data_parallel()
        optimizer = ho.create("lbfgs", model.parameters(), escape={"name": escape})
        start, events = objective.value(), []
        for _ in range(8):
            optimizer.step(objective)
            events += [event["event"] for event in optimizer.report.events]
        found[escape] = {"start": start, "end": objective.value(), "events": events, "bits": bits(model)}
    return found


@case
def certificates(rank: int) -> dict[str, Any]:
    model = net()
    whole, shared = both(rank, model, functional.mse_loss, classes=False)
    optimizer = ho.create("trust_newton_cg", model.parameters(), weight_decay=0.3)
    for _ in range(8):
        optimizer.step(shared)
    bound = [f.bind(optimizer.param_groups, regularize=True) for f in (shared, whole)]
    verdicts = [certify(f, eps_H=1e-3, generator=torch.Generator().manual_seed(1)) for f in bound]
    torch.manual_seed(rank)  # as for dropout; the start vector is drawn from this generator by default
    return {
        "verdicts": [verdict.verdict for verdict in verdicts],
        "apart": off(verdicts[0].lambda_min_est, verdicts[1].lambda_min_est),
        "unseeded": message(lambda: bound[0].at().hessian() @ torch.randn(bound[0].space.n, dtype=torch.float64)),
    }


@case
def not_finite(rank: int) -> dict[str, Any]:
    """A NaN among the samples of one process only."""
    found = {}
    for name in ("lbfgs", "newton_cg", "trust_newton_cg", "kfac", "muon", "sls"):
        model = net()
        inputs, targets = (part[mine(rank)].clone() for part in data())
        if rank == 1:
            inputs[0, 0] = float("nan")
        objective = ho.Objective(model, loss_of("mean"), inputs, targets).in_data_parallel()
        before = bits(model)
        optimizer = ho.create(name, model.parameters())
        loss = float(optimizer.step(objective))
        found[name] = {"nan": loss != loss, "kept": bits(model) == before, "status": optimizer.report.status}
    _, shared = both(rank, net(), lambda z, y: z.square().mean() * (float("inf") if rank else 1.0))
    return {**found, "called": float(shared().detach())}


@case
def replicas(rank: int) -> dict[str, str]:
    """Processes that have gone apart are told so, both of them, whatever they ask for."""
    found = {}
    for name in ("sgd", "lbfgs", "newton_cg"):
        model = net(seed=rank)
        _, shared = both(rank, model)
        found[name] = message(partial(ho.create(name, model.parameters()).step, shared))
    model = net()
    _, shared = both(rank, model)
    optimizer = ho.create("adam", model.parameters(), lr=0.1 * (rank + 1))
    found["rate"] = message(lambda: [optimizer.step(shared) for _ in range(3)])
    found["checked"] = message(shared.check_replicas)
    model = net()
    with torch.no_grad():
        model[0].bias.requires_grad_(False)[0] += rank
    found["frozen"] = message(both(rank, model)[1].check_replicas)
    _, shared = both(rank, net())
    found["trial"] = message(lambda: shared.value(shared.position() + rank))
    found["call"] = message(shared.value if rank else shared.at)
    signs = torch.ones(shared.space.n, dtype=torch.float64)
    signs[rank] = -1
    found["signs"] = message(lambda: shared.at().hessian() @ signs)
    # Other random vectors: the steps differ, and the next evaluation says so.
    model = net()
    _, shared = both(rank, model, functional.mse_loss, classes=False)
    optimizer = ho.create("nystrom_newton_cg", model.parameters(), rank=3, seed=rank)
    found["seed"] = message(lambda: [optimizer.step(shared) for _ in range(5)])
    return found


@case
def dropout(rank: int) -> dict[str, Any]:
    model = net(between=nn.Dropout(0.5))
    torch.manual_seed(100 + rank)
    _, shared = both(rank, model)
    torch.manual_seed(100 + rank)
    values = [shared.value(), shared.value()]
    mask = functional.dropout(torch.ones(20), 0.5).tolist()
    optimizer = ho.create("lbfgs", model.parameters())
    for _ in range(3):
        optimizer.step(shared)
    return {"values": values, "mask": mask, "repeatable": shared.repeatable, "bits": bits(model)}


@case
def resumes(rank: int) -> dict[str, Any]:
    """What the first process saved goes on in both."""

    def named(rank: int, model: nn.Module) -> ho.Objective:
        inputs, targets = (part[mine(rank)] for part in data(classes=False))
        return ho.Objective(model, functional.mse_loss, inputs, targets, key="all").in_data_parallel()

    ends = []
    for broken in (False, True):
        model = net()
        shared = named(rank, model)
        optimizer = ho.create("lbfgs", model.parameters())
        for step in range(5):
            if broken and step == 2:
                saved = [[model.state_dict(), optimizer.state_dict()] if rank == 0 else None]
                torch.distributed.broadcast_object_list(saved, 0)
                model = net(seed=7)
                model.load_state_dict(saved[0][0])
                optimizer = ho.create("lbfgs", model.parameters())
                optimizer.load_state_dict(saved[0][1])
                shared = named(rank, model)
            optimizer.step(shared)
        ends.append(bits(model))
    return {"ends": ends}


@case
def refusals(rank: int) -> dict[str, Any]:
    inputs, targets = data()
    x, y = inputs[mine(rank)], targets[mine(rank)]
    objective = ho.Objective(net(), loss_of("mean"), x, y)
    shared = objective.in_data_parallel()
    norm = net(between=nn.BatchNorm1d(5))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ho.Objective(norm, loss_of("mean"), x, y).in_data_parallel()
        ho.Objective(norm.eval(), loss_of("mean"), x, y).in_data_parallel()
    synced = ho.Objective(net(between=nn.SyncBatchNorm(5)), loss_of("mean"), x, y)
    embedding = nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Flatten(), nn.Linear(12, 3, dtype=torch.float32))
    sparse = ho.Objective(embedding, loss_of("mean"), x.abs().long().clamp(max=3), y).in_data_parallel()
    pieces = shared.in_micro_batches(2)
    return {
        "empty": message(lambda: shared.with_batch(x[: 4 * rank], y[: 4 * rank])),
        "twice": message(shared.in_data_parallel),
        "reduction": message(lambda: objective.in_data_parallel(reduction="max")),
        "other reduction": message(lambda: shared.in_micro_batches(2, reduction="sum")),
        "reduction of pieces": message(lambda: objective.in_micro_batches(2).in_data_parallel(reduction="sum")),
        "function": message(ho.Objective.from_function(lambda z: z.sum(), torch.ones(2)).in_data_parallel),
        "synced": message(synced.in_data_parallel),
        "sparse": message(lambda: sparse.loss_and_gradients(list(embedding.parameters()))),
        "create_graph": message(lambda: shared.differentiate(shared(), [], create_graph=True)),
        "nearest": message(lambda: KFAC(shared, setting="nearest")),
        "pieces, kfac": message(lambda: KFAC(pieces)),
        "pieces, fisher": message(lambda: Fisher(pieces)),
        "pieces, kbfgs": message(lambda: ho.create("kbfgs", shared.model.parameters()).step(pieces)),
        "warnings": [str(warning.message) for warning in seen],
    }


@case
def wrapped(rank: int) -> dict[str, str]:
    model = nn.parallel.DistributedDataParallel(net())
    inputs, targets = data()
    return {"message": message(lambda: ho.Objective(model, loss_of("mean"), inputs, targets))}


@case
def example(rank: int) -> dict[str, str]:
    """examples/data_parallel.py as torchrun would start it, and as one process."""
    printed = {}
    for shared in (True, False) if rank == 0 else (True,):
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
            patch.setattr(torch.distributed, "init_process_group", lambda backend: None)  # there is one already
            patch.setattr(torch.distributed, "destroy_process_group", lambda: None)
            if shared:
                patch.setenv("WORLD_SIZE", str(SIZE))
            runpy.run_path("examples/data_parallel.py", run_name="__main__")
        printed["shared" if shared else "alone"] = out.getvalue()
    return printed
