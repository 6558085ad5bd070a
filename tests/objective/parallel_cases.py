"""What two processes that share a batch are asked, in processes of their own: see test_data_parallel.py.

Run as ``python -m tests.objective.parallel_cases RANK STORE RESULTS [OPTIMIZERS]``; writes what every case returned and
three steps of each optimizer, or the error. A case gets this process's rank, returns plain values, and compares with
one process on the whole batch.
"""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import hybridopt as ho
from hybridopt.certificate import certify
from hybridopt.curvature import EKFAC, KFAC, Diagonal, EmpiricalFisher, Fisher
from hybridopt.curvature.structural import StructurallyDamped
from hybridopt.testing import SETTINGS

CUTS = (0, 4, 11)  # unequal parts of 11 samples
SIZE = len(CUTS) - 1
# Without matrices of more rows than a gradient has columns: eigenvectors to equal eigenvalues are up to rounding.
COMPARABLE = {"soap": {"max_dim": 4}}
CASES: dict[str, Callable[[int], Any]] = {}


def case(function: Callable[[int], Any]) -> Callable[[int], Any]:
    CASES[function.__name__] = function
    return function


def net(dtype: torch.dtype = torch.float64, seed: int = 1, **layers: Any) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), layers.get("between", nn.Tanh()), nn.Linear(5, 3)).to(dtype)


def data(dtype: torch.dtype = torch.float64, classes: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(11, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (11,), generator=generator)
    return inputs.to(dtype), targets if classes else torch.randn(11, 3, generator=generator, dtype=torch.float64).to(
        dtype
    )


def mine(rank: int) -> slice:
    return slice(CUTS[rank], CUTS[rank + 1])


def loss_of(reduction: str) -> Callable[[Tensor, Tensor], Tensor]:
    return partial(functional.cross_entropy, reduction=reduction)


def both(rank: int, model: nn.Module, loss: Any = None, reduction: str = "mean", classes: bool = True) -> Any:
    """Returns the objective of the whole batch in one process, and that which is divided among two."""
    loss = loss_of(reduction) if loss is None else loss
    inputs, targets = data(next(model.parameters()).dtype, classes)
    part = mine(rank)
    shared = ho.Objective(model, loss, inputs[part], targets[part]).in_data_parallel(reduction=reduction)
    return ho.Objective(model, loss, inputs, targets), shared


def off(found: Any, wanted: Any) -> float:
    """Largest difference, relative to the largest entry."""
    found, wanted = torch.as_tensor(found).double(), torch.as_tensor(wanted).double()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-300))


def bits(model: nn.Module) -> list[list[float]]:
    return [parameter.detach().double().flatten().tolist() for parameter in model.parameters()]


def message(function: Callable[[], Any]) -> str:
    try:
        function()
    except ho.HybridoptError as error:
        return str(error)
    return ""


@case
def evaluations(rank: int) -> dict[str, float]:
    found = {}
    for reduction in ("mean", "sum"):
        for size in (None, 3):
            model = net()
            whole, shared = both(rank, model, reduction=reduction)
            shared = shared if size is None else shared.in_micro_batches(size)
            groups = [{"params": [*model[0].parameters()], "weight_decay": 0.3}, {"params": [*model[2].parameters()]}]
            whole, shared = whole.bind(groups, regularize=True), shared.bind(groups, regularize=True)
            generator = torch.Generator().manual_seed(3)
            x = whole.position() + torch.randn(whole.space.n, generator=generator, dtype=torch.float64)
            vectors = torch.randn(whole.space.n, 3, generator=generator, dtype=torch.float64)
            one, two = whole.at(), shared.at()
            pairs = {
                "value": (shared.value(), whole.value()),
                "value elsewhere": (shared.value(x), whole.value(x)),
                "gradient": (shared.value_and_grad()[1], whole.value_and_grad()[1]),
                "gradient elsewhere": (shared.value_and_grad(x)[1], whole.value_and_grad(x)[1]),
                "value with gradient": (shared.value_and_grad(x)[0], whole.value_and_grad(x)[0]),
                "point": (two.value, one.value),
                "point's loss": (two.loss, one.loss),
                "point's gradient": (two.gradient, one.gradient),
                "hessian": (two.hessian() @ vectors[:, 0], one.hessian() @ vectors[:, 0]),
                "hessian, columns": (two.hessian() @ vectors, one.hessian() @ vectors),
                "gauss_newton": (two.gauss_newton() @ vectors[:, 0], one.gauss_newton() @ vectors[:, 0]),
                "gauss_newton, columns": (two.gauss_newton() @ vectors, one.gauss_newton() @ vectors),
                "first-order": (
                    torch.cat([g.flatten() for g in shared.loss_and_gradients(whole.space.parameters)[1]]),
                    torch.cat([g.flatten() for g in whole.loss_and_gradients(whole.space.parameters)[1]]),
                ),
                "first-order loss": (shared.loss_and_gradients(whole.space.parameters)[0], whole().detach()),
                "called": (shared().detach(), whole().detach()),
                "differentiated": (
                    torch.cat([g.flatten() for g in shared.differentiate(shared(), whole.space.parameters)]),
                    torch.cat([g.flatten() for g in whole.differentiate(whole(), whole.space.parameters)]),
                ),
            }
            found |= {f"{name}, {reduction}, size {size}": off(*pair) for name, pair in pairs.items()}
    return found


@case
def matrices(rank: int) -> dict[str, float]:
    found = {}
    for reduction in ("mean", "sum"):
        whole, shared = both(rank, net(), reduction=reduction)
        made: dict[str, Callable[[ho.Objective], Tensor]] = {
            "fisher": lambda f: Fisher(f).dense(),
            "fisher, drawn": lambda f: Fisher(f, "monte_carlo", samples=2).dense(),
            "empirical": lambda f: EmpiricalFisher(f).dense(),
            **{f"kfac {kind}": lambda f, kind=kind: KFAC(f, kind).dense() for kind in ("exact", "empirical", "auto")},
            "kfac propagation": lambda f: KFAC(f, "propagation", generator=torch.Generator().manual_seed(5)).dense(),
            "ekfac": lambda f: EKFAC(f, "monte_carlo").dense(),
            "diagonal of hessian": lambda f: Diagonal(f, "hessian").values,
            "diagonal of gauss_newton": lambda f: Diagonal(f, "gauss_newton").values,
            "diagonal of fisher, drawn": lambda f: Diagonal(f, "fisher", method="monte_carlo").values,
            "diagonal of empirical": lambda f: Diagonal(f, "empirical_fisher").values,
        }
        found |= {f"{name}, {reduction}": off(make(shared), make(whole)) for name, make in made.items()}
    # A loss that is recognised as nothing, a layer without a formula (its squares are drawn), and mean squared errors.
    model = net(between=nn.LayerNorm(5))
    whole, shared = both(rank, model, lambda z, y: (z - y).pow(4).mean(), classes=False)
    found["unrecognised"] = off(Diagonal(shared).values, Diagonal(whole).values)
    whole, shared = both(rank, model, functional.mse_loss, classes=False)
    drawn = [Diagonal(f, "fisher", method="monte_carlo").values for f in (shared, whole)]
    found["layer norm"] = off(*drawn)
    return found


@case
def companions(rank: int) -> dict[str, float]:
    whole, shared = both(rank, net())
    inputs, targets = data()
    few = slice(0, 2) if rank == 0 else slice(4, 5)
    rows = [0, 1, 4]
    whole = whole.with_curvature_batch(inputs[rows], targets[rows]).with_overlap(inputs[rows], targets[rows])
    shared = shared.with_curvature_batch(inputs[few], targets[few]).with_overlap(inputs[few], targets[few])
    v = torch.linspace(-1, 1, whole.space.n, dtype=torch.float64)
    one, two = whole.at(), shared.at()
    return {
        "gradient": off(two.gradient, one.gradient),
        "hessian": off(two.hessian() @ v, one.hessian() @ v),
        "fisher": off(Fisher(shared) @ v, Fisher(whole) @ v),
        "overlap": off(shared.overlap.value_and_grad()[1], whole.overlap.value_and_grad()[1]),
    }


@case
def hidden_states(rank: int) -> dict[str, float]:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.RNN(2, 3, batch_first=True), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(x.unflatten(1, (2, 2)))[0][:, -1])

    torch.manual_seed(1)
    model, found = Recurrent().double(), {}
    for reduction in ("mean", "sum"):
        whole, shared = both(rank, model, reduction=reduction)
        v = torch.linspace(-1, 1, whole.space.n, dtype=torch.float64)
        damped = [StructurallyDamped(f.at(hidden=True), 0.7) @ v for f in (shared, whole)]
        found[reduction] = off(*damped)
        found[f"kfac, {reduction}"] = off(*(KFAC(f, "exact", setting="expand").dense() for f in (shared, whole)))
    return found


@case
def bill(rank: int) -> dict[str, Any]:
    found = {}
    for size in (None, 3):
        whole, shared = both(rank, net())
        shared = shared if size is None else shared.in_micro_batches(size)
        if size is not None:  # either way round
            inputs, targets = data()
            part = ho.Objective(
                shared.model, loss_of("mean"), inputs[mine(rank)], targets[mine(rank)], ledger=ho.Ledger()
            )
            found["division first"] = part.in_micro_batches(size).in_data_parallel().value() == shared.value()
            found["paid"] = part.ledger.state_dict()
            _, shared = both(rank, net())
            shared = shared.in_micro_batches(size)
        for objective in (whole, shared):
            objective.value()
            objective.loss_and_gradients(objective.space.parameters)
            with objective.at() as point:
                _ = point.hessian() @ torch.ones(whole.space.n, 2, dtype=torch.float64)
                _ = point.gauss_newton() @ torch.ones(whole.space.n, dtype=torch.float64)
        found[str(size)] = [f.ledger.state_dict() for f in (shared, whole)]
        with shared.at() as point:
            point.kinks()
        found[f"{size}, after"] = shared.ledger.state_dict()
    _, shared = both(rank, net())
    inputs, targets = data()
    weighed = ho.Objective(
        net(), loss_of("mean"), inputs[mine(rank)], targets[mine(rank)], work=lambda x, y: 5 * len(x)
    )
    weighed = weighed.in_data_parallel().in_micro_batches(2)
    weighed.value()
    return {**found, "work": weighed.ledger.samples["forward"], "samples": shared.samples, "has": shared.work}


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


@case
def collectives(rank: int) -> dict[str, int]:
    """How often the processes meet, and for how many numbers beside the vector's own."""
    _, shared = both(rank, net())
    n, plain, calls = shared.space.n, torch.distributed.all_reduce, []
    vector = torch.ones(n, dtype=torch.float64)

    def counting(tensor: Tensor, **options: Any) -> Any:
        calls.append(tensor.numel())
        return plain(tensor, **options)

    torch.distributed.all_reduce = counting
    try:
        found = {}
        point = shared.at()
        for name, call in {
            "value": shared.value,
            "value_and_grad": shared.value_and_grad,
            "at": shared.at,
            "product": lambda: point.hessian() @ vector,
            "two products": lambda: point.gauss_newton() @ torch.stack([vector, vector], dim=1),
            "first-order": lambda: shared.loss_and_gradients(shared.space.parameters),
        }.items():
            calls.clear()
            call()
            found[name] = [size // n for size in calls]
        return found
    finally:
        torch.distributed.all_reduce = plain


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
    return found


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
def precisions(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for dtype, names in {torch.float32: ("adam", "newton_cg", "kfac"), torch.bfloat16: ("adam", "lbfgs")}.items():
        for name in names:
            model = net(dtype)
            whole, shared = both(rank, model)
            gradient = off(shared.value_and_grad()[1], whole.value_and_grad()[1])
            optimizer = ho.create(name, model.parameters())
            for _ in range(3):
                optimizer.step(shared)
            found[f"{name} {dtype}"] = {"bits": bits(model), "gradient": gradient}
    return found


@case
def unused(rank: int) -> dict[str, Any]:
    """A parameter that only one process's samples need, and one that none does."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.once, self.never = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.always(x) + (self.once(x) if rank == 1 else 0)

    torch.manual_seed(1)
    model = Branches().double()
    _, shared = both(rank, model)
    optimizer = ho.create("adamw", model.parameters())
    optimizer.step(shared)
    return {"none": [p.grad is None for p in model.parameters()], "bits": bits(model)}


@case
def keys(rank: int) -> dict[str, Any]:
    inputs, targets = data()
    part = mine(rank)
    x, y = inputs[part], targets[part]
    first = ho.Objective(net(), loss_of("mean"), x, y).in_data_parallel()
    again = first.with_batch(x, y)
    other = first.with_batch(x if rank else x + 1, y)
    named = [first.with_batch(x, y, key=f"step {step}").key for step in (1, 2, 1)]
    return {"keys": [first.key, again.key, other.key], "named": named}


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
