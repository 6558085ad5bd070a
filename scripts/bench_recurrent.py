"""Times gradients and curvature products of recurrent networks: torch's fused layers, a plain loop, and ours.

    python scripts/bench_recurrent.py                     # three sizes of LSTM, GRU and RNN, some minutes
    python scripts/bench_recurrent.py --cells lstm --repeats 30 --json

The three variants take turns within each repetition, and medians are compared, so that what else the machine does
falls on all of them alike. Columns:

- gradient: forward and backward pass, no graph kept;
- graph: the same with the graph that the products are taken from, which is what a step with curvature pays once;
- Hessian, Gauss-Newton: one product on that graph, of several.

The differences are relative to the fused layers' result, and of the size of rounding errors in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hybridopt.objective import recurrent

SIZES = {
    "T100 b64 h64 i2": (100, 64, 64, 2),
    "T100 b64 h64 i28": (100, 64, 64, 28),
    "T20 b256 h32 i28": (20, 256, 32, 28),
}
MODULES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}
PRODUCTS = 3  # of each kind on one graph, as in a Krylov solver
QUANTITIES = ("gradient", "graph", "hessian", "gauss_newton")


def plain_lstm(x: Tensor, hx: Sequence[Tensor], weights: Sequence[Tensor], *_: Any) -> tuple[Tensor, ...]:
    """One batch-first layer as anyone would write it."""
    w_ih, w_hh, b_ih, b_hh = weights
    h, c = hx[0][0], hx[1][0]
    outputs = []
    for projected in F.linear(x.transpose(0, 1), w_ih, b_ih + b_hh).unbind(0):
        i, f, g, o = torch.addmm(projected, h, w_hh.t()).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs, dim=1), h[None], c[None]


def plain_gru(x: Tensor, hx: Tensor, weights: Sequence[Tensor], *_: Any) -> tuple[Tensor, ...]:
    """One batch-first layer as anyone would write it."""
    w_ih, w_hh, b_ih, b_hh = weights
    h, outputs, size = hx[0], [], hx.shape[2]
    for projected in F.linear(x.transpose(0, 1), w_ih, b_ih).unbind(0):
        recurrent_part = torch.addmm(b_hh, h, w_hh.t())
        r, z = (projected[:, : 2 * size] + recurrent_part[:, : 2 * size]).sigmoid().chunk(2, dim=1)
        n = (projected[:, 2 * size :] + r * recurrent_part[:, 2 * size :]).tanh()
        h = n + z * (h - n)
        outputs.append(h)
    return torch.stack(outputs, dim=1), h[None]


def plain_rnn(x: Tensor, hx: Tensor, weights: Sequence[Tensor], *_: Any) -> tuple[Tensor, ...]:
    """One batch-first layer as anyone would write it."""
    w_ih, w_hh, b_ih, b_hh = weights
    h, outputs = hx[0], []
    for projected in F.linear(x.transpose(0, 1), w_ih, b_ih + b_hh).unbind(0):
        h = torch.addmm(projected, h, w_hh.t()).tanh()
        outputs.append(h)
    return torch.stack(outputs, dim=1), h[None]


VARIANTS: dict[str, dict[str, Callable[..., Any]]] = {
    "fused": {},
    "loop": {"lstm": plain_lstm, "gru": plain_gru, "rnn_tanh": plain_rnn},
    "ours": {name: lambda *args, name=name: recurrent.recurrent(name, args) for name in MODULES},
}


class _Replace(TorchFunctionMode):
    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        super().__init__()
        self.functions = functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replacement = self.functions.get(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {})) if replacement is None else replacement(*args)


class Problem:
    """A classifier on the last output of a recurrent layer.

    Args:
        cell: Name of the cell.
        size: Steps, batch, hidden size, input size.
        device: Where to run.
    """

    def __init__(self, cell: str, size: tuple[int, int, int, int], device: torch.device) -> None:
        steps, batch, hidden, inputs = size
        torch.manual_seed(0)
        self.layer = MODULES[cell](inputs, hidden, batch_first=True).to(device)
        self.head = nn.Linear(hidden, 10).to(device)
        self.x = torch.randn(batch, steps, inputs).to(device)
        self.y = torch.randint(10, (batch,)).to(device)
        self.parameters = [*self.layer.parameters(), *self.head.parameters()]
        self.vector = [torch.randn(p.shape).to(device) for p in self.parameters]
        self.device = device

    def forward(self, variant: str) -> Tensor:
        """Returns the outputs; cuDNN has no second derivative, so torch's own layers run without it."""
        guard = torch.backends.cudnn.flags(enabled=False) if self.device.type == "cuda" else nullcontext()
        with guard, _Replace(VARIANTS[variant]):
            return self.head(self.layer(self.x)[0][:, -1])

    def gradient(self, variant: str) -> Sequence[Tensor]:
        """Returns the gradient."""
        return torch.autograd.grad(F.cross_entropy(self.forward(variant), self.y), self.parameters)

    def graph(self, variant: str) -> tuple[Sequence[Tensor], Tensor, Tensor]:
        """Returns gradient, gradient of the outputs, and outputs, with their graph."""
        z = self.forward(variant)
        *g, g_z = torch.autograd.grad(F.cross_entropy(z, self.y), [*self.parameters, z], create_graph=True)
        return g, g_z, z

    def hessian(self, graph: tuple[Sequence[Tensor], Tensor, Tensor]) -> Sequence[Tensor]:
        """Returns the Hessian product with the vector."""
        return torch.autograd.grad(graph[0], self.parameters, self.vector, retain_graph=True)

    def gauss_newton(self, graph: tuple[Sequence[Tensor], Tensor, Tensor]) -> Sequence[Tensor]:
        """Returns the Gauss-Newton product with the vector."""
        g, g_z, z = graph
        (tangent,) = torch.autograd.grad(g, g_z, self.vector, retain_graph=True)
        (curved,) = torch.autograd.grad(g_z, z, tangent, retain_graph=True)
        return torch.autograd.grad(z, self.parameters, curved, retain_graph=True)


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Returns the largest difference of a tensor, relative to its largest entry."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True))


def measure(cell: str, size: tuple[int, int, int, int], repeats: int, device: torch.device) -> dict[str, Any]:
    """Returns medians in ms for each variant and quantity, and differences from the fused layers.

    Args:
        cell: Name of the cell.
        size: Steps, batch, hidden size, input size.
        repeats: Number of repetitions, one more is run to warm up.
        device: Where to run.
    """
    problem = Problem(cell, size, device)
    seconds: dict[str, dict[str, list[float]]] = {v: {q: [] for q in QUANTITIES} for v in VARIANTS}
    results: dict[str, list[Sequence[Tensor]]] = {}

    def timed(variant: str, quantity: str, function: Callable[..., Any], *args: Any) -> Any:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        result = function(*args)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds[variant][quantity].append(time.perf_counter() - start)
        return result

    for _ in range(repeats + 1):
        for variant in VARIANTS:
            gradient = timed(variant, "gradient", problem.gradient, variant)
            graph = timed(variant, "graph", problem.graph, variant)
            for _ in range(PRODUCTS):
                hessian = timed(variant, "hessian", problem.hessian, graph)
                gauss_newton = timed(variant, "gauss_newton", problem.gauss_newton, graph)
            results[variant] = [gradient, hessian, gauss_newton]
            del graph
    medians = {
        v: {q: 1e3 * statistics.median(times[len(times) // (repeats + 1) :]) for q, times in row.items()}
        for v, row in seconds.items()
    }
    differences = {
        v: dict(
            zip(("gradient", "hessian", "gauss_newton"), map(difference, results[v], results["fused"]), strict=True)
        )
        for v in ("loop", "ours")
    }
    return {"milliseconds": medians, "difference": differences}


def show(cell: str, size: str, result: dict[str, Any]) -> None:
    """Prints one table.

    Args:
        cell: Name of the cell.
        size: Name of the size.
        result: From `measure`.
    """
    medians = result["milliseconds"]
    print(f"\n{cell}, {size}")
    print(f"  {'':14}" + "".join(f"{q.replace('_', '-'):>14}" for q in QUANTITIES))
    for variant, row in medians.items():
        print(f"  {variant + ' [ms]':14}" + "".join(f"{row[q]:14.2f}" for q in QUANTITIES))
    for other in ("fused", "loop"):
        ratios = (medians[other][q] / medians["ours"][q] for q in QUANTITIES)
        print(f"  {other + ' / ours':14}" + "".join(f"{ratio:14.2f}" for ratio in ratios))
    worst = max(result["difference"]["ours"].values())
    print(f"  largest relative difference from fused: {worst:.1e}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark.

    Args:
        arguments: Command line without the program's name.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=sorted(MODULES), default=list(MODULES))
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": options.threads,
        "device": options.device,
        "results": {},
    }
    for cell in options.cells:
        for size in options.sizes:
            result = measure(cell, SIZES[size], options.repeats, torch.device(options.device))
            report["results"].setdefault(cell, {})[size] = result
            if not options.json:
                show(cell, size, result)
    if options.json:
        json.dump(report, sys.stdout, indent=1)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
