"""``hybridopt doctor``: what this machine has, what curvature costs on it, and whether an optimizer keeps the rules."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hybridopt.cli import console

_REPEATS = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("--device", default="auto", help="device to measure on: auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="output directory to look at")
    parser.add_argument(
        "--optimizer",
        nargs="+",
        metavar="NAME",
        help="check optimizers instead: registered names, torch:AdamW, package.module:Class or path/file.py:Class",
    )
    parser.add_argument("--all", action="store_true", help="check every registered optimizer")
    parser.add_argument(
        "--options", default="", metavar="YAML", help="options of the optimizers that are checked: '{lr: 0.1}'"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only checks with these words in them")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help="import it first")


def main(options: argparse.Namespace, *, debug: bool) -> int:
    """Shows what was found.

    Args:
        options: The parsed arguments.
        debug: Whether to show traces.

    Returns:
        1 when an optimizer fails a check, else 0.
    """
    if options.optimizer or options.all or options.plugin:
        from hybridopt.cli import conformance

        return conformance.main(options)
    from hybridopt.experiment.config import check_device

    device = check_device(options.device)
    rows = [*_software(), *_machine(device), *_places(options.out)]
    console.table(["", ""], rows)
    console.table(["product", "nominal", "measured"], list(_costs(device)), title="Cost in gradients of the same batch")
    return 0


def _software() -> Iterator[list[str]]:
    from hybridopt.experiment.provenance import source_state, versions

    for name, version in versions().items():
        yield [name, version]
    state = source_state()
    if state["commit"]:
        yield ["commit", state["commit"][:12] + (" with changes" if state["dirty"] else "")]


def _machine(device: str) -> Iterator[list[str]]:
    import torch

    from hybridopt.experiment.config import cores
    from hybridopt.experiment.provenance import cpu_model, device_name

    yield ["cpu", f"{cpu_model()}, {cores()} cores for this process"]
    yield ["torch threads", str(torch.get_num_threads())]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            yield [f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB"]
    else:
        yield ["cuda", "no device that torch can use"]
    yield ["measured on", device_name(device)]


def _places(out: Path) -> Iterator[list[str]]:
    data = os.environ.get("HYBRIDOPT_DATA")
    if not data:
        yield ["data", "HYBRIDOPT_DATA is not set: files are fetched when a task needs them"]
    elif Path(data).is_dir():
        yield [
            "data",
            f"HYBRIDOPT_DATA={data}: {', '.join(sorted(p.name for p in Path(data).iterdir())[:8])}",
        ]
    else:
        yield ["data", f"HYBRIDOPT_DATA={data} IS NO DIRECTORY"]
    yield ["wandb mode", os.environ.get("WANDB_MODE") or "offline, unless tracker.mode=online"]
    yield ["output", f"{out.resolve()}: {_writable(out.resolve())}"]


def _writable(directory: Path) -> str:
    existing = directory
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            return "writable"
    except OSError as error:
        return f"NOT WRITABLE ({error.strerror}): choose another with out=DIR"


def _costs(device: str) -> Iterator[list[str]]:
    """Measures products on a small convolutional net against its plain gradient."""
    import torch

    from hybridopt.curvature import GaussNewton, Hessian
    from hybridopt.objective import Objective
    from hybridopt.objective.ledger import WEIGHTS

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1),
            torch.nn.Tanh(),
            torch.nn.AvgPool2d(2),
            torch.nn.Conv2d(16, 32, 3, padding=1),
            torch.nn.Tanh(),
            torch.nn.Flatten(),
            torch.nn.Linear(32 * 14 * 14, 10),
        ).to(device)
        inputs, targets = torch.randn(128, 1, 28, 28).to(device), torch.randint(10, (128,)).to(device)
        objective = Objective(model, torch.nn.functional.cross_entropy, inputs, targets)
        vector = torch.randn_like(objective.position())
    parameters = list(model.parameters())

    def gradient() -> Any:
        return torch.autograd.grad(objective(), parameters)

    def forward() -> Any:
        with torch.no_grad():
            return objective()

    hessian, gauss_newton = Hessian(objective), GaussNewton(objective)
    measured = _interleaved(
        {
            "gradient": gradient,
            "forward": forward,
            "hvp": lambda: hessian @ vector,
            "ggnvp": lambda: gauss_newton @ vector,
        },
        device,
    )
    titles = {"forward": "forward", "hvp": "Hessian product", "ggnvp": "Gauss-Newton product"}
    for kind, title in titles.items():
        yield [title, f"{WEIGHTS[kind]:.2f}", f"{measured[kind] / measured['gradient']:.2f}"]


def _interleaved(actions: dict[str, Callable[[], Any]], device: str) -> dict[str, float]:
    """Returns the median seconds of each action, taken in turns so that a busy machine slows all of them alike."""
    import statistics

    import torch

    times: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(_REPEATS + 2):
        for name, action in actions.items():
            if device != "cpu":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            action()
            if device != "cpu":
                torch.cuda.synchronize(device)
            if repeat >= 2:  # the first rounds warm up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}
