"""`hybridopt doctor --optimizer`: a table, a reason for each failure, and the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridopt.cli import main
from hybridopt.testing import CHECKS

SOURCE = """
from dataclasses import dataclass
import hybridopt as ho
import torch

class Descent(ho.Optimizer):
    '''Gradient descent.'''
    summary = "gradient descent"

    @dataclass
    class Config:
        lr: float = ho.option(0.1, ge=0, search=("log", 1e-3, 1.0))

    def update(self, objective):
        _, gradient = objective.value_and_grad()
        objective.commit(objective.position() - self.rate(objective) * gradient)

class Ascent(Descent):
    def rate(self, objective):
        return -super().rate(objective)

@ho.register("descent_of_the_doctor")
class Registered(Descent):
    '''The same, registered.'''

class Other:
    pass

class NoConfig(ho.Optimizer):
    '''Says no options.'''

class Raises(Descent):
    def update(self, objective):
        raise KeyError("velocity")

class OfTorch(torch.optim.SGD):
    pass
"""


@pytest.fixture(autouse=True)
def _in_a_directory_with_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "doctored.py").write_text(SOURCE)


def test_a_correct_optimizer_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--optimizer", "doctored.py:Descent"]) == 0
    text = capsys.readouterr().out
    assert "FAIL" not in text
    assert "not applicable" in text
    for check in CHECKS:
        assert check.name in text


def test_a_failure_has_its_reason_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--optimizer", "doctored:Ascent", "--only", "descent"]) == 1
    text = capsys.readouterr().out
    assert "FAIL" in text
    assert "after 10 steps on a convex quadratic" in text
    assert "survives pickle" not in text


def test_one_that_raises_in_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--optimizer", "doctored.py:Raises", "--only", "gradient of zero"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "step raised KeyError at a gradient of zero: 'velocity'" in text
    assert "doctored.py:" in text


def test_several_optimizers(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["adam", "torch:SGD", "doctored:Descent", "doctored:Ascent"]
    assert main(["doctor", "--only", "quadratic", "--optimizer", *names]) == 1
    text = capsys.readouterr().out
    assert "4 optimizers: 3 passed, 1 FAILED" in text
    for name in names:
        assert name in text


def test_options_reach_the_optimizer(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["doctor", "--optimizer", "sgd", "--only", "falls_on_a_quadratic", "--options"]
    assert main([*command, "{lr: 0.01}"]) == 0
    assert main([*command, "{lr: 100.0}"]) == 1
    assert main([*command, "lr=100"]) == 2
    assert "--options takes a mapping" in capsys.readouterr().err


def test_all_with_a_plugin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridopt.optimizers import registry

    monkeypatch.setattr(registry, "_registered", {})  # what other tests of this process have registered
    assert main(["doctor", "--all", "--plugin", "doctored.py", "--only", "says what it is"]) == 0
    text = capsys.readouterr().out
    assert "descent_of_the_doctor" in text
    assert f"{len(registry.names())} optimizers: {len(registry.names())} passed" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adm"], "Did you mean 'adam'"),
        (["--optimizer", "torch:Adm"], "Did you mean 'Adam'"),
        (["--optimizer", "nowhere.py:Descent"], "does not exist"),
        (["--optimizer", "doctored.py:Other"], "it has Descent, Ascent, Registered, NoConfig, Raises."),
        (["--optimizer", "doctored.py:Descant"], "it has Descent, Ascent, Registered, NoConfig, Raises."),
        (["--optimizer", "doctored.py:NoConfig"], "NoConfig needs a dataclass named Config inside it"),
        (["--optimizer", "doctored.py:OfTorch"], "checked by the name of its module, as 'doctored:OfTorch'"),
        (["--optimizer", "doctored.py"], "after a colon: doctored.py:MyMethod"),
        (["--optimizer", "doctored.Descent"], "after a colon: doctored:Descent"),
        (["--optimizer", "adam", "--only", "speed"], "No check has speed in its name"),
        (["--plugin", "doctored.py"], "--optimizer NAME, or --all"),
    ],
)
def test_what_is_wrong(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from hybridopt.optimizers import registry

    assert main(["doctor", *arguments]) == 2
    registry._registered.pop("descent_of_the_doctor", None)
    assert message in capsys.readouterr().err
