"""The config of a run: checked, filled in, and the same after a round trip."""

from __future__ import annotations

import pytest

from hybridopt.core import ConfigError, DeviceError, UnknownNameError
from hybridopt.experiment import config as configs
from hybridopt.experiment import parts
from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.identity import IDENTITY, PLAIN, run_id


def test_defaults_are_filled_in() -> None:
    config = resolve({"task": "adding_rnn", "optimizer": {"name": "adam", "lr": 1e-2}, "device": "cpu"})
    assert config.optimizer["lr"] == 1e-2
    assert config.optimizer["betas"] == [0.9, 0.999]
    assert config.escape == {"name": "none"}
    assert config.threads >= 1


def test_a_resolved_config_resolves_to_itself() -> None:
    once = resolve({"optimizer": "lbfgs", "escape": "perturbation", "budget": {"steps": 3}, "seed": 4})
    again = resolve(to_plain(once))
    assert to_plain(again) == to_plain(once)
    assert run_id(to_plain(again)) == run_id(to_plain(once))


def test_the_optimizer_decides_the_batch() -> None:
    mini = resolve({"optimizer": "sgd"}).task
    full = resolve({"optimizer": "lbfgs"}).task
    assert isinstance(mini["batch_size"], int)
    assert full["batch_size"] == "full"
    assert resolve({"optimizer": "lbfgs", "task": {"name": "digits_cnn", "batch_size": 7}}).task["batch_size"] == 7


def test_external_optimizer_is_looked_up() -> None:
    config = resolve({"optimizer": {"name": "external", "cls": "torch:AdamW", "options": {"lr": 1e-3}}})
    assert config.optimizer["options"] == {"lr": 1e-3}
    with pytest.raises(UnknownNameError, match="Did you mean"):
        resolve({"optimizer": {"name": "external", "cls": "torch:AdamWW"}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimiser": "adam"}, "Did you mean 'optimizer'"),
        ({"optimizer": "adamm"}, "Did you mean 'adam'"),
        ({"task": {"name": "digit_cnn"}}, "Did you mean 'digits_cnn'"),
        ({"escape": "perturb"}, "Did you mean 'perturbation'"),
        ({"optimizer": {"name": "newton_cg", "dampin": 3}}, "Did you mean 'damping'"),
        ({"optimizer": {"name": "adam", "lr": "fast"}}, "optimizer=adam: optimizer.lr must be of type float"),
        ({"optimizer": {"name": "adam", "lr": -1.0}}, "optimizer.lr must be >= 0"),
        ({"optimizer": {"lr": 1.0}}, "needs a name"),
        ({"budget": {"epoch": 1}}, "Did you mean 'epochs'"),
        ({"budget": {"epochs": 0}}, "budget.epochs must be > 0"),
        ({"task": {"name": "digits_cnn", "batch_size": "ful"}}, "Did you mean 'full'"),
        ({"task": {"name": "digits_cnn", "batch_size": True}}, "batch_size must be"),
        ({"seed": -1}, "^seed must be >= 0"),
        ({"dtype": "float16"}, "^dtype must be one of"),
        ({"device": "gpu"}, "device must be auto, cpu"),
        ({"retry": "always"}, "^retry must be one of"),
    ],
)
def test_what_is_wrong_is_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(values)


def test_absent_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device=cpu"):
        resolve({"device": "cuda"})
    assert resolve({"device": "auto"}).device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve({"device": "cuda:1"}).device == "cuda:1"
    with pytest.raises(DeviceError, match="cuda:0 to cuda:1"):
        resolve({"device": "cuda:2"})


def test_threads_do_not_depend_on_being_in_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "cores", lambda: 16)
    assert resolve({}).threads == 2
    assert resolve({"launcher": {"slots": 4}}).threads == 4
    assert resolve({"threads": 5}).threads == 5


def test_every_part_is_in_a_runs_identity_and_a_late_one_has_a_default_that_is_not() -> None:
    plain = to_plain(resolve({"device": "cpu"}))
    assert {*parts.KINDS} <= {*plain}
    assert {*parts.KINDS} - {*IDENTITY} == {"tracker"}
    late = {kind for kind in parts.KINDS if kind in IDENTITY} - {"task", "optimizer", "escape", "schedule"}
    assert {kind: plain[kind] for kind in late} == {kind: {"name": PLAIN[kind]} for kind in late}
