"""Times curvature products in gradients of the same batch: ours, curvlinops, and a plain retained-graph loop.

    python scripts/bench_curvature.py [--json FILE] [--models cnn,autoencoder,lstm] [--device cuda]

One figure is (build + k products) / k, divided by one gradient of the same batch by the fastest way torch has (fused
nn.LSTM included). All contenders run in turns in one process; medians. The gates are those that the project set
itself; a figure that misses its gate is marked, and the script ends with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from typing import Any

import torch
from bench_common import interleave, machine, median, write_json
from torch import Tensor, nn

from hybridopt import Objective

GATES = {("cnn", "hessian"): 1.4, ("autoencoder", "hessian"): 2.0, ("cnn", "ggn"): 1.0, ("autoencoder", "ggn"): 1.5}
HESSIAN_LEAD = 1.4  # by how much our Hessian has to be faster than curvlinops's


class LastStep(nn.Module):
    """LSTM over a sequence, a linear layer on its last output."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.out = nn.Linear(hidden, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits."""
        return self.out(self.lstm(inputs)[0][:, -1])


def cnn() -> tuple[nn.Module, Any, Tensor, Tensor]:
    """Two convolutions with ReLU and max-pooling on 28x28 images, batch 256."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    return model, nn.functional.cross_entropy, torch.randn(256, 1, 28, 28), torch.randint(0, 10, (256,))


def autoencoder() -> tuple[nn.Module, Any, Tensor, Tensor]:
    """The 784-1000-500-250-30 autoencoder of Hinton and Salakhutdinov 2006, batch 1000."""
    sizes = [784, 1000, 500, 250, 30, 250, 500, 1000, 784]
    layers: list[nn.Module] = []
    for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(n_in, n_out))
        if index not in (3, len(sizes) - 2):
            layers.append(nn.Sigmoid())
    images = torch.rand(1000, 784)
    return nn.Sequential(*layers), nn.functional.binary_cross_entropy_with_logits, images, images


def lstm() -> tuple[nn.Module, Any, Tensor, Tensor]:
    """LSTM with 64 units over 100 steps of 2 features, batch 64."""
    return LastStep(2, 64, 10), nn.functional.cross_entropy, torch.randn(64, 100, 2), torch.randint(0, 10, (64,))


MODELS = {"cnn": cnn, "autoencoder": autoencoder, "lstm": lstm}


def ours(case: tuple[Any, ...], kind: str, k: int, vector: Tensor) -> Any:
    """Builds our operator and multiplies k times."""
    objective = Objective(*case)

    def run() -> Tensor:
        with objective.at() as point:
            operator = point.hessian() if kind == "hessian" else point.gauss_newton()
            for _ in range(k):
                product = operator @ vector
        return product

    return run


def retained(case: tuple[Any, ...], kind: str, k: int, vector: Tensor) -> Any:
    """The loop one writes by hand: a retained graph, differentiated again."""
    model, loss_fn, inputs, targets = case
    params = list(model.parameters())
    parts = [part.view_as(p) for part, p in zip(vector.split([p.numel() for p in params]), params, strict=True)]

    def flat(tensors: Any) -> Tensor:
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def hessian() -> Tensor:
        gradients = torch.autograd.grad(loss_fn(model(inputs), targets), params, create_graph=True)
        for _ in range(k):
            product = flat(torch.autograd.grad(gradients, params, parts, retain_graph=True))
        return product

    def ggn() -> Tensor:
        outputs = model(inputs)
        dummy = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(outputs, params, dummy, create_graph=True)
        z = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss_fn(z, targets), z, create_graph=True)
        for _ in range(k):
            (jv,) = torch.autograd.grad(pulled, dummy, parts, retain_graph=True)
            (curved,) = torch.autograd.grad(slope, z, jv, retain_graph=True)
            product = flat(torch.autograd.grad(outputs, params, curved, retain_graph=True))
        return product

    return hessian if kind == "hessian" else ggn


def peer(case: tuple[Any, ...], kind: str, k: int, vector: Tensor) -> Any:
    """The package curvlinops with its determinism check off.

    It differentiates forward over reverse, which torch's fused LSTM kernels cannot: for that model they are off.
    """
    import curvlinops

    model, loss_fn, inputs, targets = case
    cls = curvlinops.HessianLinearOperator if kind == "hessian" else curvlinops.GGNLinearOperator
    loss = {
        nn.functional.cross_entropy: nn.CrossEntropyLoss(),
        nn.functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss(),
    }[loss_fn]
    params = list(model.parameters())
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())

    def plain_kernels() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        if recurrent:
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        return stack

    def run() -> Tensor:
        with plain_kernels():
            return products()

    def products() -> Tensor:
        operator = cls(model, loss, params, [(inputs, targets)], check_deterministic=False, num_data=len(inputs))
        for _ in range(k):
            product = operator @ vector
        return product

    return run


def main() -> int:
    """Runs the benchmark and prints its table; returns 1 when a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="cnn,autoencoder,lstm")
    parser.add_argument("--products", default="1,10,50")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each model, matrix and k")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{machine()}\nper product, build included, in gradients of the same batch (medians)\n")
    print(f"{'model':12} {'matrix':8} {'k':>3} {'ours':>7} {'plain':>7} {'curvlinops':>11} {'gradient ms':>12}  gate")
    rows, missed = [], 0
    for name in options.models.split(","):
        model, loss_fn, inputs, targets = MODELS[name]()
        case = (model.to(options.device), loss_fn, inputs.to(options.device), targets.to(options.device))
        params = list(case[0].parameters())
        vector = torch.randn(sum(p.numel() for p in params), device=options.device)

        def gradient(case: Any = case, params: Any = params) -> Any:
            return torch.autograd.grad(case[1](case[0](case[2]), case[3]), params)

        for kind in ("hessian", "ggn"):
            reference = retained(case, kind, 1, vector)()
            for other, make in (("ours", ours), ("curvlinops", peer)):
                error = float((make(case, kind, 1, vector)() - reference).norm() / reference.norm())
                if error > 1e-3:
                    print(f"{name} {kind}: {other} differs from the plain loop by {error:.1e}")
                    missed += 1
            for k in map(int, options.products.split(",")):
                contenders = {"gradient": gradient, "ours": ours(case, kind, k, vector)}
                contenders["plain"] = retained(case, kind, k, vector)
                contenders["curvlinops"] = peer(case, kind, k, vector)
                times = interleave(contenders, seconds=options.seconds, least=3)
                unit = median(times.pop("gradient"))
                row = {who: median(values) / k / unit for who, values in times.items()}
                gate, verdict = GATES.get((name, kind)), []
                if k == 10:
                    if gate is not None:
                        verdict.append((row["ours"] <= gate, f"<= {gate}"))
                    lead = HESSIAN_LEAD if kind == "hessian" else 1.0
                    verdict.append((row["curvlinops"] >= lead * row["ours"], f"{row['curvlinops'] / row['ours']:.2f}x"))
                missed += sum(not ok for ok, _ in verdict)
                marks = "  ".join(f"{text} {'ok' if ok else 'MISSED'}" for ok, text in verdict)
                print(
                    f"{name:12} {kind:8} {k:3d} {row['ours']:7.2f} {row['plain']:7.2f} {row['curvlinops']:11.2f} "
                    f"{unit * 1e3:12.1f}  {marks}",
                    flush=True,
                )
                rows.append({"model": name, "matrix": kind, "k": k, "gradient_ms": unit * 1e3, **row})
    write_json(options.json, {"benchmark": "curvature", "rows": rows, "missed": missed})
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
