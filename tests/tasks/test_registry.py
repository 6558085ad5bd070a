from __future__ import annotations

import subprocess
import sys

import pytest

import hybridopt.tasks as tasks
from hybridopt.core import ConfigError, UnknownNameError

NAMES = ["digits_cnn", "digits_rnn", "adding_rnn", "fashion_cnn", "mnist_autoencoder"]


SHIPPED = [name for name in tasks.registry.names() if tasks.registry.get(name).__module__.startswith("hybridopt.")]
CHEAP = ["adding_rnn", "curves_autoencoder", "digits_cnn", "digits_rnn", "memorization_rnn", "multiplication_rnn"]
CHEAP += ["permutation_rnn", "residual_mlp", "temporal_order_rnn", "logistic", "nonconvex_logistic"]


@pytest.mark.parametrize("name", CHEAP)
def test_the_trivial_loss_is_what_the_best_constant_gets(name):
    task = tasks.create(name)
    splits = task.splits(0)
    assert task.reference_samples(splits) == len(splits.train)
    assert task.trivial_loss(splits) == pytest.approx(tasks.Task.trivial_loss(task, splits), rel=1e-4)
    trained = [target for target in task.targets if target.metric == "train_loss"]
    assert all(target.value < task.trivial_loss(splits) for target in trained), "who has learned nothing is not there"


def test_every_name_leads_to_a_complete_task():
    assert set(NAMES) <= set(SHIPPED)
    for name in SHIPPED:
        if name == "saddle":  # all data are training data
            assert [target.metric for target in tasks.create(name).targets] == ["train_loss"]
            continue
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
