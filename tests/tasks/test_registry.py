from __future__ import annotations

import subprocess
import sys

import pytest

import hybridopt.tasks as tasks
from hybridopt.core import ConfigError, UnknownNameError

NAMES = ["digits_cnn", "digits_rnn", "adding_rnn", "fashion_cnn", "mnist_autoencoder"]


def test_every_name_leads_to_a_complete_task():
    assert set(NAMES) <= set(tasks.registry.names())
    for name in NAMES:
        task = tasks.create(name)
        assert task.name == name, "the name on the class must be the registry's"
        assert task.summary
        assert "\n" not in task.summary
        assert task.targets, "a task without a target cannot be ranked"
        assert task.targets[0].metric.startswith("validation_")
        assert any(target.metric == "train_loss" for target in task.targets)
        assert type(task).Config.__doc__
        assert task.config.epochs > 0


def test_unknown_task():
    with pytest.raises(UnknownNameError, match=r"There is no task 'digit_cnn'. Did you mean 'digits_cnn'\?"):
        tasks.create("digit_cnn")


def test_wrong_option_names_the_task():
    with pytest.raises(ConfigError, match=r"adding_rnn has no option 'hiden'. Did you mean 'hidden'\?"):
        tasks.create("adding_rnn", hiden=3)


def test_users_register_their_own(monkeypatch):
    monkeypatch.setattr(tasks.registry, "_registered", {})

    @tasks.register("mine")
    class Mine(tasks.Task):
        pass

    assert tasks.registry.get("mine") is Mine
    with pytest.raises(ConfigError, match="built in"):
        tasks.register("digits_cnn")(Mine)


def test_importing_and_building_tasks_needs_neither_scikit_learn_nor_pooch():
    code = (
        "import sys, hybridopt.tasks as t\n"
        "for name in t.registry.names(): t.create(name)\n"
        "t.create('digits_cnn').model(0)\n"
        "t.create('adding_rnn').splits(0)\n"
        "bad = {'sklearn', 'pooch', 'requests', 'hydra', 'wandb', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
