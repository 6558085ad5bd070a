"""The script behind settings=tuned writes the file of each optimizer that it tunes, and touches no other."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from hybridopt.tuning import Settings

SCRIPT = Path(__file__).parents[2] / "scripts" / "tune_shipped.py"


class Tuning:
    """Stands in for ``hybridopt``: leaves what a search leaves, or ends with an exit code.

    Args:
        out: What the script names as the directory of the tuning.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.calls: list[str] = []
        self.codes: dict[str, int] = {}
        self.trials = 9
        self.settings: list[str] = []

    def __call__(self, arguments: list[str]) -> int:
        given = dict(text.partition("=")[::2] for text in arguments[1:])
        self.settings = arguments
        name = given["optimizer"]
        self.calls.append(name)
        if code := self.codes.get(name, 0):
            return code
        assert given["out"] == str(self.out)
        rate = float(len(self.calls))
        entry = {
            **{"values": {"optimizer.lr": rate}, "defaults_best": False, "score": "good", "edges": {}, "seed": 1000},
            **{"trials": self.trials, "gradient_equivalents": 130.0, "budget_per_trial": 15.0, "sampler": "sobol"},
            **{"budget": float(given["spend"]), "objective": "target"},
        }
        path = self.out / "tuned.yaml"
        known = yaml.safe_load(path.read_text()) if path.exists() else {"tasks": {"digits_cnn": {}}}
        known["tasks"]["digits_cnn"][name] = entry
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(known))
        return 0


@pytest.fixture
def tuning(tmp_path: Path) -> Tuning:
    return Tuning(tmp_path / "out")


@pytest.fixture
def script(tmp_path: Path, tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tune_shipped", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "conf_dir", lambda: tmp_path / "conf")
    monkeypatch.setattr(module, "hybridopt", tuning)
    return module


def run(script: ModuleType, tuning: Tuning, optimizers: str) -> int:
    return script.main(["digits_cnn", "--optimizers", optimizers, "--out", str(tuning.out)])


def rates(tmp_path: Path) -> dict[str, float]:
    found = (tmp_path / "conf" / "settings" / "tuned" / "digits_cnn").glob("*.yaml")
    return {path.stem: yaml.safe_load(path.read_text())["optimizer"]["lr"] for path in found}


def test_one_optimizer_leaves_the_files_of_the_others(tmp_path: Path, script: ModuleType, tuning: Tuning) -> None:
    assert run(script, tuning, "sgd,adam") == 0
    assert rates(tmp_path) == {"sgd": 1.0, "adam": 2.0}
    assert run(script, tuning, "sgd") == 0
    assert rates(tmp_path) == {"sgd": 3.0, "adam": 2.0}


def test_a_search_that_was_stopped_keeps_what_is_done(tmp_path: Path, script: ModuleType, tuning: Tuning) -> None:
    tuning.codes["adam"] = 130
    assert run(script, tuning, "sgd,adam,lbfgs") == 130
    assert tuning.calls == ["sgd", "adam"]
    assert rates(tmp_path) == {"sgd": 1.0}
    del tuning.codes["adam"]
    assert run(script, tuning, "sgd,adam,lbfgs") == 0
    assert set(rates(tmp_path)) == {"sgd", "adam", "lbfgs"}


@pytest.mark.parametrize("why", ["no finite result", "too few trials"])
def test_one_that_cannot_be_called_tuned_loses_its_file(
    why: str, tmp_path: Path, script: ModuleType, tuning: Tuning
) -> None:
    assert run(script, tuning, "sgd,adam") == 0
    if why == "no finite result":
        tuning.codes["sgd"] = 1  # its entry of before still stands in tuned.yaml
    else:
        tuning.trials = 7
    assert run(script, tuning, "sgd") == 0
    assert set(rates(tmp_path)) == {"adam"}


def test_every_call_has_the_same_stated_budget_and_a_seed_of_its_own(
    tmp_path: Path, script: ModuleType, tuning: Tuning
) -> None:
    assert run(script, tuning, "sgd") == 0
    assert f"spend={script.SPEND}" in tuning.settings
    assert f"budget.gradient_equivalents={script.TRIAL}" in tuning.settings
    assert not any(text.startswith(("seed=", "trials=")) for text in tuning.settings)
    assert script.SPEND >= script.LEAST_TRIALS * script.TRIAL
    Settings(spend=script.SPEND).validate("tune")


@pytest.mark.parametrize(("task", "name"), [("digits_cnn", "sls"), ("digits_rnn", "trust_gltr")])
def test_the_optimizers_are_those_of_the_sweep(task: str, name: str, script: ModuleType) -> None:
    from hybridopt._paths import conf_dir

    script.conf_dir = conf_dir
    names = script.optimizers_of(script.TASKS[task])
    assert name in names
    assert len(set(names)) == len(names) > 20
