"""What makes two runs the same run, and that a directory belongs to one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridopt.core.errors import ConfigError, StoreError
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.layout import read_config, write_config
from hybridopt.experiment.store import RunStore
from tests.experiment.stored import CONFIG


def test_stays_what_it_was() -> None:
    # Another value here means that every stored sweep would be run again: raise FORMAT if that is meant.
    assert run_id(CONFIG) == "f0f5be9827d18f58"


@pytest.mark.parametrize(
    "same",
    [
        {"optimizer": {"betas": (0.9, 0.999), "lr": 0.001, "name": "adam"}},
        {"budget": {"epochs": 5}},
        {"seed": 0.0},
        {"tracker": {"name": "none"}, "out": "elsewhere", "launcher": {"slots": 4}, "experiment": "x"},
        {"device": "cpu:0"},
        {"optimizer": {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "added_later": None}},
    ],
    ids=["order", "int", "float", "outside", "index", "none"],
)
def test_does_not_depend_on(same: dict[str, object]) -> None:
    assert run_id({**CONFIG, **same}) == run_id(CONFIG)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"optimizer": {"name": "adam", "lr": 2e-3, "betas": [0.9, 0.999]}},
        {"optimizer": {"name": "adam", "lr": "0.001", "betas": [0.9, 0.999]}},
        {"optimizer": {"name": "adam", "lr": 1e-3, "betas": [0.999, 0.9]}},
        {"escape": {"name": "perturbation"}},
        {"schedule": {"name": "cosine"}},
        {"budget": {"epochs": 6}},
        {"dtype": "float64"},
        {"device": "cuda"},
        {"threads": 2},
        {"seed": True},
    ],
    ids=str,
)
def test_depends_on(other: dict[str, object]) -> None:
    assert run_id({**CONFIG, **other}) != run_id(CONFIG)


def test_which_gpu_makes_no_difference() -> None:
    assert run_id({**CONFIG, "device": "cuda:1"}) == run_id({**CONFIG, "device": "cuda"})


def test_unresolved_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="auto"):
        run_id({**CONFIG, "device": "auto"})


def test_without_the_seed_seeds_agree() -> None:
    first, second = (run_id({**CONFIG, "seed": seed}, without=("seed",)) for seed in (0, 1))
    assert first == second


def test_survives_the_config_file(tmp_path: Path) -> None:
    write_config(tmp_path, {**CONFIG, "optimizer": {"name": "adam", "lr": 1e-5, "tag": "1e-5"}})
    config = read_config(tmp_path)
    assert config["optimizer"] == {"name": "adam", "lr": 1e-5, "tag": "1e-5"}


def test_exponents_without_a_dot_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("optimizer: {name: adam, lr: 1e-05}\n")
    assert read_config(tmp_path)["optimizer"]["lr"] == 1e-5


def test_directory_of_another_run_is_refused(tmp_path: Path) -> None:
    RunStore(tmp_path, CONFIG).close()
    with pytest.raises(StoreError, match="another run"):
        RunStore(tmp_path, {**CONFIG, "seed": 1})


def test_what_is_no_part_of_the_identity_may_change(tmp_path: Path) -> None:
    RunStore(tmp_path, CONFIG).close()
    RunStore(tmp_path, {**CONFIG, "tracker": {"name": "none"}}).close()
    assert read_config(tmp_path)["tracker"] == {"name": "none"}
