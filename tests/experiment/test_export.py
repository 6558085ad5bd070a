"""Weights and programs of trained models, read by a process that has no hybridopt."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hybridopt import cli
from hybridopt.core.errors import ConfigError, StoreError
from hybridopt.experiment import config as config_module
from hybridopt.experiment.config import resolve
from hybridopt.experiment.export import PROGRAM, WEIGHTS, write_program
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.job import run_job
from hybridopt.experiment.parts import part_class
from hybridopt.tasks.recurrent import LastStepRNN
from hybridopt.tasks.shakespeare_transformer import _Transformer
from tests.experiment import tiny

safetensors = pytest.importorskip("safetensors")

STRANGER = """
import json, sys
sys.modules["hybridopt"] = None  # importing it is an error from here on
import torch
directory = sys.argv[1]
for name in sys.argv[2:]:
    extra = {"hybridopt.json": ""}
    program = torch.export.load(f"{directory}/{name}.pt2", extra_files=extra).module()
    inputs, expected = torch.load(f"{directory}/{name}.pt", weights_only=True)
    torch.testing.assert_close(program(inputs), expected, rtol=1e-5, atol=1e-6)
    assert json.loads(extra["hybridopt.json"])["batch"] == "any", name
"""


def config(**values: Any):
    base = {"task": "tiny", "optimizer": "adam", "device": "cpu", "budget": {"epochs": 3}, "log_every": 1}
    return resolve({**base, **values})


def stranger(directory: Path, *names: str) -> None:
    """Runs programs in a process that cannot import this package."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(directory), *names], cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def models() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    convolution = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    )
    convolution(torch.randn(16, 1, 8, 8))  # so that the running statistics are no longer what they begin with
    return {
        "convolution": (convolution, torch.randn(9, 1, 8, 8)),
        **{cell: (LastStepRNN(cell, 3, 5, 2), torch.randn(9, 4, 3)) for cell in ("rnn", "gru", "lstm")},
        "transformer": (_Transformer(16, 2, 2, 6), torch.randint(0, 60, (9, 6))),
    }


def test_programs_run_without_this_package(tmp_path: Path) -> None:
    found = models()
    for name, (model, inputs) in found.items():
        write_program(tmp_path / f"{name}.pt2", model, model.state_dict(), inputs, {"name": name})
        assert model.training, "the model is left as it is"
        model.eval()
        with torch.no_grad():
            torch.save((inputs, model(inputs)), tmp_path / f"{name}.pt")
    stranger(tmp_path, *found)


def test_a_run_leaves_what_was_asked_for(tmp_path: Path) -> None:
    plain = config()
    wanted = config(export={"weights": True, "program": True})
    assert run_id(config_module.to_plain(plain)) == run_id(config_module.to_plain(wanted))
    status = run_job(tmp_path, wanted)
    assert {kind: one["file"] for kind, one in status["exports"].items()} == {"weights": WEIGHTS, "program": PROGRAM}

    from safetensors import safe_open
    from safetensors.torch import load_file

    weights = load_file(tmp_path / WEIGHTS)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    best = checkpoint["state"]["best"]
    assert weights.keys() == best["model"].keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in best["model"].items())
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        facts = file.metadata()
    assert facts["format"] == "pt"
    assert (facts["task"], facts["optimizer"], facts["seed"]) == ("tiny", "adam", "0")
    assert (facts["model"], facts["step"]) == ("best", str(best["step"]))
    assert facts["run_id"] == checkpoint["run_id"]

    model = tiny.Tiny().model(0).eval()
    model.load_state_dict(weights)
    inputs = torch.randn(7, 3)
    with torch.no_grad():
        torch.save((inputs, model(inputs)), tmp_path / "program.pt")
    stranger(tmp_path, "program")


def test_a_finished_run_is_exported_from_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file

    run = tmp_path / "run"
    status = run_job(run, config(optimizer="schedule_free", export={"weights": True, "model": "last"}))
    at_end = load_file(run / WEIGHTS)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    out = tmp_path / "again.safetensors"
    assert cli.main(["export", "weights", str(run), "--model", "last", "--out", str(out)]) == 0
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    again = load_file(out)
    assert all(torch.equal(again[name], tensor) for name, tensor in at_end.items())
    # What was evaluated is what is exported: the average, not the running point.
    task = tiny.Tiny()
    model = task.model(0).eval()
    model.load_state_dict(again)
    test = task.splits(0).test
    assert task.loss(model(test.inputs), test.targets).item() == pytest.approx(status["summary"]["test_loss"], rel=1e-6)
    running = torch.load(run / "checkpoint.pt", weights_only=True)["state"]["model"]
    assert any(not torch.equal(running[name], again[name]) for name in again)

    assert cli.main(["export", "program", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(out), str(run / PROGRAM)]
    description = {"hybridopt.json": ""}
    torch.export.load(run / PROGRAM, extra_files=description)
    assert json.loads(description["hybridopt.json"])["model"] == "best"


class Evasive(nn.Linear):
    """Asks its data where to go, which no trace can follow."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(inputs)
        return outputs if float(inputs.detach().sum()) > 0 else -outputs


def test_a_model_that_cannot_be_traced_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The class that is registered: a test before may have loaded the file once more, as a plugin.
    monkeypatch.setattr(part_class("task", "tiny"), "build_model", lambda self: Evasive(3, 1))
    status = run_job(tmp_path, config(export={"weights": True, "program": True}))
    assert status["status"] == "done"
    assert status["exports"]["weights"]["error"] is None
    assert "cannot trace Evasive" in status["exports"]["program"]["error"]
    assert not (tmp_path / PROGRAM).exists()
    log = (tmp_path / "run.log").read_text()
    assert log.count("WARNING") == 1
    assert "The program could not be exported" in log
    with pytest.raises(StoreError, match="weights can be exported"):
        write_program(tmp_path / PROGRAM, Evasive(3, 1), Evasive(3, 1).state_dict(), torch.randn(9, 3), {})


def test_a_program_that_depends_on_the_number_of_samples_keeps_it(tmp_path: Path) -> None:
    class Square(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs * torch.arange(3.0).reshape(3, 1)

    write_program(tmp_path / PROGRAM, Square(), {}, torch.randn(9, 2), {})
    description = {"hybridopt.json": ""}
    torch.export.load(tmp_path / PROGRAM, extra_files=description)
    assert json.loads(description["hybridopt.json"])["batch"] == "3"


def test_tied_weights_keep_both_names(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from hybridopt.experiment.export import write_weights

    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    write_weights(tmp_path / WEIGHTS, model.state_dict(), {})
    fresh = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    fresh[1].weight = fresh[0].weight
    fresh.load_state_dict(load_file(tmp_path / WEIGHTS))
    assert torch.equal(fresh(torch.ones(1, 3)), model(torch.ones(1, 3)))


def test_without_safetensors_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hybridopt\[export\]"):
        config(export={"weights": True})


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    from hybridopt.experiment.layout import write_config

    write_config(tmp_path, config_module.to_plain(config()))
    assert cli.main(["export", "weights", str(tmp_path)]) == 2
