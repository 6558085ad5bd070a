"""A batch divided among two processes is the whole batch in one: values, products, steps, decisions, the bill."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hybridopt as ho
from hybridopt.core import ObjectiveError
from tests.objective.parallel_base import SIZE

ROOT = Path(__file__).resolve().parents[2]
Found = list[dict[str, Any]]

pytestmark = [
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch without gloo"
    ),
    # Processes that wait for one another are slow on a machine with much else to do.
    pytest.mark.timeout(480),
]
_OPTIMIZERS = [*ho.optimizers.registry._builtins, "torch:AdamW", "torch:LBFGS", "scipy:L-BFGS-B", "scipy:trust-ncg"]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What every process found, by case and by optimizer."""
    folder = tmp_path_factory.mktemp("processes")
    results = [folder / f"results{rank}" for rank in range(SIZE)]
    command = [sys.executable, "-m", "tests.objective.parallel_cases"]
    started = [
        subprocess.Popen([*command, str(rank), str(folder / "store"), str(result), *_OPTIMIZERS], cwd=ROOT)
        for rank, result in enumerate(results)
    ]
    try:
        assert [process.wait(timeout=450) for process in started] == [0] * SIZE
    finally:
        for process in started:
            process.kill()
    found = [torch.load(result, weights_only=True) for result in results]
    for one in found:
        for name, value in one.items():
            assert "error" not in value, f"{name}: {value['error']}"
    return found


@pytest.fixture
def found(everything: Found, request: pytest.FixtureRequest) -> Found:
    """What a case found, which is named as the test is."""
    return [one[request.node.name.removeprefix("test_")] for one in everything]


def test_evaluations(found: Found) -> None:
    assert found[0] == found[1]
    assert max(found[0].values()) < 1e-12, found[0]


def test_matrices(found: Found) -> None:
    assert found[0] == found[1]
    assert max(found[0].values()) < 1e-12, found[0]


def test_companions(found: Found) -> None:
    assert max(found[0].values()) < 1e-12, found[0]


def test_hidden_states(found: Found) -> None:
    assert max(found[0].values()) < 1e-12, found[0]


def test_bill(found: Found) -> None:
    assert found[0] == found[1]
    shared, whole = found[0]["None"]
    assert shared == whole
    pieces, _ = found[0]["3"]
    # Two and three pieces: products build the graphs of all of them again; one piece shows that there are outputs.
    assert pieces["calls"] == {"forward": 5, "gradient": 4 * 5 + 2, "hvp": 2 * 5, "ggnvp": 5}
    assert {kind: pieces["samples"][kind] for kind in ("forward", "hvp", "ggnvp")} == {
        "forward": 11,
        "hvp": 2 * 11,
        "ggnvp": 11,
    }
    assert (found[0]["work"], found[0]["samples"], found[0]["has"]) == (5 * 11, 11, 11)

    assert found[0]["division first"]
    assert found[0]["paid"]["calls"]["forward"] == 5
    assert found[0]["paid"]["samples"]["forward"] == 11


def test_collectives(found: Found) -> None:
    """In vectors of the parameters' length; a few numbers count for nothing."""
    assert found[0] == {
        "value": [0],
        "value_and_grad": [0, 1],
        "at": [0, 1],
        "product": [1],
        "two products": [2],
        "first-order": [0, 1],
    }


def test_escapes(found: Found) -> None:
    assert found[0] == found[1]
    for name, one in found[0].items():
        assert "escape_jump" in one["events"], name
        assert one["end"] < 0.9 * one["start"], name


def test_certificates(found: Found) -> None:
    assert found[0] == found[1]
    assert found[0]["verdicts"][0] == found[0]["verdicts"][1] == "second_order_stationary"
    assert found[0]["apart"] < 1e-8
    assert "seeded alike" in found[0]["unseeded"]


def test_not_finite(found: Found) -> None:
    for one in found:
        assert one.pop("called") == math.inf
        for name, seen in one.items():
            assert seen == {"nan": True, "kept": True, "status": "non_finite"}, name


def test_replicas(found: Found) -> None:
    for one in found:
        for name in ("seed", "signs"):
            assert "seeded alike" in one.pop(name), name
        for name, text in one.items():
            assert "broadcast" in text, name


def test_dropout(found: Found) -> None:
    one, two = found
    assert one["mask"] != two["mask"]
    assert one["values"] == two["values"]
    assert one["values"][0] == one["values"][1]
    assert not one["repeatable"]
    assert one["bits"] == two["bits"]


def test_precisions(found: Found) -> None:
    assert found[0] == found[1]
    for name, one in found[0].items():
        assert one["gradient"] < (2e-2 if "bfloat16" in name else 1e-6), name
        assert all(math.isfinite(entry) for part in one["bits"] for entry in part), name


def test_autocast(found: Found) -> None:
    assert found[0] == found[1]
    for name, distance in found[0].items():
        assert 1e-6 < distance < 1e-2 if "moved" in name else distance == 0.0, (name, distance)


def test_unused(found: Found) -> None:
    assert found[0] == found[1]
    assert found[0]["none"] == [False, False, False, False, True, True]


def test_keys(found: Found) -> None:
    assert found[0] == found[1]
    first, again, other = found[0]["keys"]
    assert first == again != other
    one, two, three = found[0]["named"]
    assert one == three != two


def test_resumes(found: Found) -> None:
    assert found[0] == found[1]
    whole, broken = found[0]["ends"]
    assert whole == broken


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("twice", "once"),
        ("reduction", "'mean' or 'sum'"),
        ("other reduction", "reduction='mean'"),
        ("reduction of pieces", "reduction='mean'"),
        ("function", "no inputs"),
        ("synced", "SyncBatchNorm"),
        ("sparse", "sparse=False"),
        ("create_graph", "no graph"),
        ("nearest", "setting=expand"),
        ("pieces, kfac", "micro-batches"),
        ("pieces, fisher", "micro-batches"),
        ("pieces, kbfgs", "micro-batches"),
    ],
)
def test_refusals(everything: Found, what: str, words: str) -> None:
    for one in everything:
        assert words in one["refusals"][what]


def test_an_empty_part_is_refused_everywhere(everything: Found) -> None:
    assert "no samples" in everything[0]["refusals"]["empty"]
    assert "Process 0" in everything[1]["refusals"]["empty"]


def test_batch_norm_is_warned_of_in_train_mode_only(everything: Found) -> None:
    (text,) = everything[0]["refusals"]["warnings"]
    assert "BatchNorm in train mode" in text


def test_wrapped(found: Found) -> None:
    """What DistributedDataParallel is refused with names what to do."""
    assert "in_data_parallel()" in found[0]["message"]


def test_example(found: Found) -> None:
    """It prints the same in two processes as in one, and only the first of them does."""
    assert found[0]["shared"] == found[0]["alone"]
    assert re.findall(r"^(\w+): loss", found[0]["alone"], flags=re.MULTILINE) == ["newton_cg", "adam"]
    assert found[1]["shared"] == ""


def test_without_a_process_group() -> None:
    objective = ho.Objective(nn.Linear(2, 1), nn.functional.mse_loss, torch.ones(3, 2), torch.ones(3, 1))
    with pytest.raises(ObjectiveError, match="torchrun"):
        objective.in_data_parallel()


@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_steps_are_those_of_one_process(everything: Found, name: str) -> None:
    one, two = (found[name] for found in everything)
    assert one["bits"] == two["bits"]
    assert one["status"] == two["status"]
    assert one["bill"]
    assert max(one["apart"]) < 1e-9, one["apart"]
