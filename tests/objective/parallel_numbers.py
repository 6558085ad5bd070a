"""Numbers that two processes sum, and what they pay: values, gradients, products, factors, collectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import hybridopt as ho
from hybridopt.curvature import EKFAC, KFAC, Diagonal, EmpiricalFisher, Fisher
from hybridopt.curvature.structural import StructurallyDamped
from tests.objective.parallel_base import bits, both, case, data, loss_of, mine, net, off


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
def autocast(rank: int) -> dict[str, float]:
    """It reaches the forward pass of every batch, however they were put together, and ends with its context."""
    found = {}
    model = net(torch.float32)
    inputs, targets = (part[mine(rank)] for part in data(torch.float32))
    single = ho.Objective(model, loss_of("mean"), inputs, targets)
    for name, shared in {
        "whole": single.with_curvature_batch(inputs, targets).in_data_parallel(),
        "pieces": single.in_micro_batches(3).with_curvature_batch(inputs, targets).in_data_parallel(),
        "pieces later": single.in_data_parallel().in_micro_batches(3),
    }.items():
        for kind, objective in {"batch": shared, "curvature": shared.curvature_batch or shared}.items():
            plain = objective.value()
            with torch.autocast("cpu", dtype=torch.bfloat16), shared.autocast_in_forward():
                found[f"{name}, {kind}, moved"] = abs(objective.value() - plain)
            found[f"{name}, {kind}, after"] = abs(objective.value() - plain)
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
