from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

from hybridopt.core import ConfigError, DataError, option
from hybridopt.tasks import Split, Splits, Target, Task, TaskConfig, check_batch_size


class Line(Task):
    """The smallest task that a user would write."""

    name = "line"
    targets = (Target("validation_loss", 0.1, "min"),)

    @dataclass
    class Config(TaskConfig):
        batch_size: int = option(4, ge=1)
        samples: int = option(12, ge=0)

    def build_splits(self, seed):
        x = torch.linspace(-1, 1, self.config.samples).unsqueeze(1)
        return Splits(*(Split(x, 2 * x + 1) for _ in range(3)))

    def build_model(self):
        return nn.Linear(1, 1)

    def loss(self, outputs, targets):
        return functional.mse_loss(outputs, targets)


def test_options_and_config_are_two_ways_to_say_one_thing():
    assert Line(samples=8).config == Line(Line.Config(samples=8)).config
    assert Line().config.epochs == TaskConfig().epochs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 8}, "line has no option 'sample'. Did you mean 'samples'?"),
        ({"samples": "many"}, "line.samples must be of type int"),
        ({"batch_size": 0}, "line.batch_size must be >= 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError) as caught:
        Line(**options)
    assert message in str(caught.value)


def test_wrong_configs_are_refused():
    with pytest.raises(ConfigError, match="either config"):
        Line(Line.Config(), samples=3)
    with pytest.raises(ConfigError, match=r"needs an instance of Line\.Config"):
        Line(TaskConfig())
    with pytest.raises(ConfigError, match="batch_size must be >= 1"):
        Line(Line.Config(batch_size=-1))


def test_batch_larger_than_the_data():
    with pytest.raises(ConfigError, match="line: batch_size is 13, but the training set has 12 samples"):
        Line(batch_size=13).splits()
    assert check_batch_size(12, 12) == 12
    with pytest.raises(ConfigError, match="between 1 and 12"):
        check_batch_size(0, 12)


def test_empty_data():
    with pytest.raises(DataError, match="empty"):
        Line(samples=0).splits()


def test_mismatched_split():
    with pytest.raises(DataError, match="do not belong together"):
        Split(torch.zeros(3, 2), torch.zeros(4))
    with pytest.raises(DataError, match="do not belong together"):
        Split(torch.tensor(1.0), torch.tensor(1.0))


def test_split_moves_floats_and_keeps_labels():
    split = Split(torch.zeros(3, 2), torch.arange(3)).to("cpu", torch.float64)
    assert split.inputs.dtype == torch.float64
    assert split.targets.dtype == torch.int64
    assert split.take(torch.tensor([2, 0])).targets.tolist() == [2, 0]
    assert len(split.take(slice(0, 2))) == 2


def test_split_keeps_inputs_that_are_their_own_targets_shared():
    pixels = torch.rand(3, 2)
    moved = Split(pixels, pixels).to(dtype=torch.float64)
    assert moved.targets is moved.inputs
    assert moved.take(slice(2)).targets.data_ptr() == moved.inputs.data_ptr()


def test_splits_move_together():
    splits = Line().splits().to(dtype=torch.float64)
    assert {split.inputs.dtype for split in splits} == {torch.float64}


def test_target():
    assert Target("train_loss", 0.1, "min").reached(0.1)
    assert not Target("validation_accuracy", 0.9, "max").reached(0.89)
    assert not Target("train_loss", 0.1, "min").reached(float("nan"))
    assert str(Target("validation_accuracy", 0.95, "max")) == "validation_accuracy >= 0.95"
    with pytest.raises(ConfigError, match="'min' or 'max'"):
        Target("train_loss", 0.1, "least")
    with pytest.raises(ConfigError, match="not on 'test_loss'"):
        Target("test_loss", 0.1, "min")


def test_default_trivial_loss_fits_the_best_constant():
    splits = Line().splits()
    variance = splits.train.targets.var(correction=0).item()
    with torch.no_grad():  # whatever the caller's mode
        assert Line().trivial_loss(splits) == pytest.approx(variance, rel=1e-5)


class Words(Line):
    """Inputs are integers, so nothing has a mean; the prior of the targets is known."""

    def build_splits(self, seed):
        x = torch.arange(12)
        return Splits(*(Split(x, (x % 4 == 0).long()) for _ in range(3)))

    def build_model(self):
        return nn.Embedding(12, 2)

    def loss(self, outputs, targets):
        return functional.cross_entropy(outputs, targets)


class Charged(Words):
    """The model charges for its parameters in an output of its own: no constant may be put there."""

    def build_model(self):
        class Model(nn.Embedding):
            def forward(self, x):
                said = super().forward(x)
                return torch.cat([said, self.weight.square().sum().expand(len(said), 1)], 1)

        return Model(12, 2)

    def loss(self, outputs, targets):
        return functional.cross_entropy(outputs[:, :2], targets) + outputs[:, 2].mean()


def test_default_trivial_loss_of_integer_inputs_is_the_entropy():
    assert Words().trivial_loss(Words().splits()) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


def test_default_trivial_loss_pays_what_the_model_charges():
    # Of w = (-a, a) the loss is log(1 + e^(-2a)) + a/2 + 2 a^2; its minimum is found here by scanning a.
    a = torch.linspace(-2, 2, 400_001, dtype=torch.float64)
    expected = float((torch.log1p(torch.exp(-2 * a)) + a / 2 + 2 * a.square()).min())
    assert Charged().trivial_loss(Charged().splits()) == pytest.approx(expected, rel=1e-5)


def test_model_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second, other = Line().model(0), Line().model(0), Line().model(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)


def test_models_are_float32_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        assert Line().model().weight.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
