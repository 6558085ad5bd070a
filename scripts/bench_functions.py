"""Compares methods on the test functions of More, Garbow and Hillstrom: who solves what, at what cost.

    python scripts/bench_functions.py [--methods newton_cg,scipy:BFGS] [--starts 1,10] [--verbose] [--json FILE]

Every method, ours, SciPy's, pytorch-minimize's and torch's, has its default options, tolerances that let it run until
it converges or the budget is spent (`function_runs.SCIPY`, `TORCHMIN`), the same starts and the same budget in
gradient-equivalents, counted alike: a value 1/3, a gradient 1, a Hessian product 2, a dense Hessian n products. A run
that takes longer than `--seconds` of processor time is broken off and recorded as that. Solved is a value within 1e-5
of a listed minimum (`hybridopt.tasks.functions.Problem.solved`). Ends with 1 if a method of ours claims success where
there is none, or a gate below is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from bench_common import write_json
from function_runs import Run, run

from hybridopt.optimizers import registry
from hybridopt.tasks.functions import problems

OURS = (
    *("trust_newton_cg", "trust_gltr", "newton_cg", "cubic_newton", "newton", "newton_mr", "capped_newton_cg"),
    *(
        "saddle_free_newton",
        "nystrom_newton_cg",
        "curvilinear_newton",
        "bfgs",
        "lbfgs",
        "sr1",
        "lsr1",
        "ssbroyden",
        "ncg",
    ),
)
RESIDUALS = ("gauss_newton", "levenberg_marquardt")
"""Methods that see the residuals; they have their row, but are not what the others are measured by."""
PEERS = (
    *("scipy:BFGS", "scipy:L-BFGS-B", "scipy:CG", "scipy:Newton-CG"),
    *("scipy:trust-ncg", "scipy:trust-krylov", "scipy:trust-exact"),
    *("torchmin:bfgs", "torchmin:l-bfgs", "torchmin:cg", "torchmin:newton-cg", "torchmin:newton-exact"),
    *("torchmin:trust-ncg", "torchmin:trust-exact", "torch:LBFGS"),
)
GATES = {
    **dict.fromkeys(("trust_newton_cg", "trust_gltr", "newton_cg", "cubic_newton", "bfgs"), (1.0, 0.75)),
    "lbfgs": (0.97, 0.0),
}
"""Least shares solved from x0 and from 10 x0."""
WIDEST = 10.0
"""Largest cost ratio of the profile."""

Results = dict[str, dict[tuple[str, int], Run]]


def main() -> int:
    """Runs all methods on all functions and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", help="comma-separated; default: all registered of a fixed list, and the peers")
    parser.add_argument("--functions", help="comma-separated names; default: all")
    parser.add_argument("--starts", default="1,10", help="multiples of the standard start, of 1, 10, 100")
    parser.add_argument("--budget", type=float, default=2000.0, help="gradient-equivalents for each run")
    parser.add_argument("--options", default="{}", help="JSON, options of the methods of ours, to try them out")
    parser.add_argument("--verbose", action="store_true", help="the cost of every run")
    parser.add_argument("--seconds", type=float, default=120.0, help="most processor time of one run")
    parser.add_argument("--json", help="where to write everything")
    parser.add_argument("--reuse", help="JSON of an earlier run, for the methods that are in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = options.methods.split(",") if options.methods else _default_methods()
    starts = [int(start) for start in options.starts.split(",")]
    chosen = [p for p in problems() if options.functions is None or p.name in options.functions.split(",")]
    results: Results = {}
    known = _recorded(options.reuse, options.budget) if options.reuse else {}
    for method in methods:
        wanted = {(problem.name, start) for start in starts for problem in chosen}
        if wanted <= set(known.get(method, {})):
            results[method] = {key: known[method][key] for key in wanted}
            continue
        began = time.perf_counter()
        own = json.loads(options.options) if ":" not in method else {}
        results[method] = {
            (problem.name, start): run(method, problem, start, options.budget, own, options.seconds)
            for start in starts
            for problem in chosen
        }
        print(f"{method}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    names = [problem.name for problem in chosen]
    if options.verbose:
        _print_runs(results, names, starts)
    areas = {start: profile_areas(results, names, [start]) for start in starts}
    everywhere = profile_areas(results, names, starts)
    _print_summary(results, names, starts, areas, everywhere)
    failed = _print_claims(results, options.verbose) + _print_gates(results, names, starts)
    summary = {
        method: {
            "solved": {str(start): len(_solved(results[method], names, start)) for start in starts},
            "profile_area": {str(start): areas[start].get(method) for start in starts},
            "profile_area_all": everywhere.get(method),
            "claims": sum(one.claimed for one in results[method].values()),
            "false_claims": sum(bool(one.false_claim) for one in results[method].values()),
        }
        for method in methods
    }
    runs = {
        method: {f"{name} x{start}": vars(one) for (name, start), one in of.items()} for method, of in results.items()
    }
    write_json(
        options.json,
        {"budget": options.budget, "functions": names, "starts": starts, "summary": summary, "runs": _plain(runs)},
    )
    return 1 if failed else 0


def profile_areas(results: Results, names: list[str], starts: list[int]) -> dict[str, float]:
    """Returns the area below each method's performance profile (Dolan and More 2002), in [0, 1].

    The profile is the share of problems that a method solves at a cost of at most tau times the least of all; the
    area is its mean over log tau, tau from 1 to 10. Problems that no method solves are left out.

    Args:
        results: Runs of each method.
        names: Functions that count.
        starts: Starts that count.
    """
    compared = [method for method in results if method not in RESIDUALS]
    shares = dict.fromkeys(compared, 0.0)
    counted = 0
    for key in ((name, start) for name in names for start in starts):
        least = min((results[method][key].cost for method in compared), default=math.inf)
        if math.isinf(least):
            continue
        counted += 1
        for method in compared:
            ratio = results[method][key].cost / least
            shares[method] += max(0.0, 1.0 - math.log(ratio) / math.log(WIDEST)) if ratio < WIDEST else 0.0
    return {method: share / max(1, counted) for method, share in shares.items()}


def _default_methods() -> list[str]:
    peers = [name for name in PEERS if not name.startswith("torchmin:") or _has_torchmin()]
    return [name for name in (*OURS, *RESIDUALS) if name in registry.names()] + peers


def _recorded(path: str, budget: float) -> Results:
    """Runs from a file that this script wrote, under the same budget."""
    stored = json.loads(Path(path).read_text(encoding="utf-8"))
    if stored["budget"] != budget:
        raise SystemExit(f"{path} is of a budget of {stored['budget']:g}, not {budget:g}; leave --reuse out.")
    results: Results = {}
    for method, runs in stored["runs"].items():
        results[method] = {}
        for key, one in runs.items():
            name, start = key.rsplit(" x", 1)
            numbers = {field: math.inf if one[field] is None else one[field] for field in ("value", "cost", "total")}
            results[method][name, int(start)] = Run(**{**one, **numbers})
    return results


def _has_torchmin() -> bool:
    try:
        import torchmin  # noqa: F401
    except ImportError:
        print("pytorch-minimize is not installed: its methods are left out", file=sys.stderr)
        return False
    return True


def _solved(runs: dict[tuple[str, int], Run], names: list[str], start: int) -> list[str]:
    return [name for name in names if math.isfinite(runs[name, start].cost)]


def _print_runs(results: Results, names: list[str], starts: list[int]) -> None:
    for start in starts:
        print(f"\nGradient-equivalents to the solution from {start} x0 ('.': not solved, with its lowest value)")
        for name in names:
            print(f"  {name}")
            for method, runs in results.items():
                one = runs[name, start]
                what = f"{one.cost:8.1f}" if math.isfinite(one.cost) else f"       . f = {one.value:.9g}"
                print(f"    {method:24} {what}   {one.total:7.1f} {one.end[:70]}")


def _print_summary(
    results: Results,
    names: list[str],
    starts: list[int],
    areas: dict[int, dict[str, float]],
    everywhere: dict[str, float],
) -> None:
    header = "".join(f"{f'from {start} x0':>14}{'area':>7}" for start in starts)
    print(f"\nSolved of {len(names)}, and area below the performance profile for ratios from 1 to {WIDEST:g}")
    print(f"{'method':24}{header}{'area, all':>11}{'seconds':>9}")
    for method in sorted(results, key=lambda name: -everywhere.get(name, -1.0)):
        row = "".join(
            f"{len(_solved(results[method], names, start)):14d}{_number(areas[start].get(method)):>7}"
            for start in starts
        )
        seconds = sum(one.seconds for one in results[method].values())
        print(f"{method:24}{row}{_number(everywhere.get(method)):>11}{seconds:9.1f}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print_claims(results: Results, verbose: bool) -> int:
    """Prints who claims success at a point that is not stationary, or at a saddle; returns how many claims are ours."""
    print("\nClaimed success, but not converged (largest gradient entry above 1e-6, or negative curvature)")
    ours = 0
    for method, runs in results.items():
        false = [(key, one) for key, one in runs.items() if one.false_claim]
        claims = sum(one.claimed for one in runs.values())
        saddles = sum(one.false_claim.startswith("lambda") for _, one in false)
        print(f"  {method:24} {len(false):2} of {claims:2} claims, {saddles} of them at saddles")
        if ":" not in method:
            ours += len(false)
        elif not verbose:
            continue
        for (name, start), one in false:
            print(f"  {'':24} {name} from {start} x0: {one.false_claim} ({one.end[:60]})")
    print(f"  {'of ours':24} {ours:2}")
    return ours


def _print_gates(results: Results, names: list[str], starts: list[int]) -> int:
    missed = 0
    for method, shares in GATES.items():
        for start, share in zip((1, 10), shares, strict=True):
            if method not in results or start not in starts or share == 0:
                continue
            solved = _solved(results[method], names, start)
            if len(solved) < share * len(names):
                missed += 1
                left = ", ".join(name for name in names if name not in solved)
                print(f"Gate missed: {method} solves {len(solved)} of {len(names)} from {start} x0; not {left}")
    if not missed:
        print("All gates are met.")
    return missed


def _plain(value: object) -> object:
    """Numbers that JSON has: None for infinity and NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    return value


if __name__ == "__main__":
    sys.exit(main())
