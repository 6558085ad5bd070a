"""Initial parameters by rule: what is set, how, and what is left."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from hybridopt.core import ConfigError, DataError
from hybridopt.experiment.build import build, build_model, build_task, check_buildable
from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.initialization import registry
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_json
from tests.experiment import tiny

assert tiny.Tiny.name == "tiny"


class Net(nn.Module):
    """One layer of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.conv = nn.Conv2d(4, 40, 3, groups=2)
        self.up = nn.ConvTranspose1d(30, 20, 5)
        self.lstm = nn.LSTM(20, 32, num_layers=2)
        self.attention = nn.MultiheadAttention(48, 2)
        self.norm = nn.LayerNorm(6)
        self.first = nn.Linear(60, 80)
        self.tied = nn.Linear(60, 80)
        self.tied.weight = self.first.weight
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.own = nn.Parameter(torch.ones(3))


def apply(name: str, model: nn.Module, seed: int = 0, **options):
    cls = registry.get(name)
    return cls(cls.Config(**options), seed).apply(model)


def weights(model: Net) -> dict[str, torch.Tensor]:
    """Name to a weight block as (units, inputs)."""
    return {
        "conv": model.conv.weight.flatten(1),
        "lstm": model.lstm.weight_hh_l1[32:64],
        "attention": model.attention.in_proj_weight[48:96],
        "out": model.attention.out_proj.weight,
        "first": model.first.weight,
    }


@pytest.mark.parametrize("name", ["xavier", "he", "orthogonal", "sparse", "zero"])
def test_which_parameters_are_set(name: str) -> None:
    model = Net()
    before = {key: value.clone() for key, value in model.named_parameters()}
    facts = apply(name, model)
    left = {"norm.weight", "norm.bias", "own", "frozen.weight", "frozen.bias"}
    left |= set() if name == "zero" else {"embedding.weight"}
    assert set(facts["left"]) == left
    assert set(facts["set"]) | left == set(before)
    for key, value in model.named_parameters():
        if key in left:
            assert torch.equal(value, before[key]), key
        elif value.dim() == 1 or name == "zero":
            assert not value.any(), key
        else:
            assert value.any(), key
            assert not torch.equal(value, before[key]), key


def test_xavier_has_its_bounds_gate_by_gate() -> None:
    model = Net()
    apply("xavier", model, gain=2.0)
    fans = {"conv": (18, 360), "lstm": (32, 32), "attention": (48, 48), "out": (48, 48), "first": (60, 80)}
    for name, weight in weights(model).items():
        bound = 2.0 * math.sqrt(6 / sum(fans[name]))
        assert 0.95 * bound < weight.abs().max() <= bound, name


def test_he_keeps_the_size_of_activations() -> None:
    model = Net()
    apply("he", model)
    for name, weight in weights(model).items():
        assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / weight.shape[1]), rel=0.12), name
    assert float(model.up.weight.detach().std()) == pytest.approx(math.sqrt(2 / (30 * 5)), rel=0.1)
    apply("he", model, fan="out", gain=1.0, distribution="uniform")
    assert float(model.first.weight.detach().std()) == pytest.approx(math.sqrt(1 / 80), rel=0.1)


def test_orthogonal() -> None:
    model = Net()
    apply("orthogonal", model, gain=3.0)
    for name, weight in weights(model).items():
        values = torch.linalg.svdvals(weight.detach().double())
        assert torch.allclose(values, torch.full_like(values, 3.0), atol=1e-5), name


def test_sparse_has_15_into_each_unit() -> None:
    model = Net()
    apply("sparse", model, deviation=0.5)
    for name, weight in weights(model).items():
        assert ((weight != 0).sum(1) == 15).all(), name
        assert float(weight[weight != 0].detach().std()) == pytest.approx(0.5, rel=0.15), name


def test_the_seed_decides() -> None:
    models = [Net() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        apply("he", model, seed)
    first, same, other = (model.first.weight for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_nothing_to_set_is_refused_before_the_run() -> None:
    config = resolve({"task": "test_function", "optimizer": "lbfgs", "initialization": "he", "device": "cpu"})
    task = build_task(config)
    with pytest.raises(ConfigError, match="initialization=he finds no layer"):
        check_buildable(config, task.splits(0), task)


def tiny_config(**values):
    return resolve({"task": "tiny", "device": "cpu", "budget": {"epochs": 1}, **values})


def test_the_default_changes_neither_numbers_nor_identity() -> None:
    plain = to_plain(tiny_config())
    old = {key: value for key, value in plain.items() if key not in ("initialization", "augmentation", "precision")}
    assert run_id(plain) == run_id({**old, "stopping": None})
    assert run_id(plain) != run_id(to_plain(tiny_config(initialization="he")))
    task = build_task(tiny_config())
    assert torch.equal(build_model(tiny_config(), task)[0][0].weight, task.model(0)[0].weight)


def test_from_a_run(tmp_path: Path) -> None:
    run_job(tmp_path / "a", tiny_config(budget={"epochs": 3}))
    state = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["state"]
    for which, expected in (("last", state["model"]), ("best", state["best"]["model"])):
        config = tiny_config(initialization={"name": "checkpoint", "path": str(tmp_path / "a"), "which": which})
        found = build(config).model.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    run_job(tmp_path / "b", config)
    facts = read_json(tmp_path / "b" / "provenance.json")["task_facts"]["initialization"]
    assert facts["name"] == "checkpoint"
    assert len(facts["sha256"]) == 64


def test_from_files(tmp_path: Path) -> None:
    model = Net()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    other = Net()
    apply("checkpoint", other, path=str(tmp_path / "net.pt"))
    assert torch.equal(other.first.weight, model.first.weight)
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_model(nn.Linear(2, 2), tmp_path / "linear.safetensors")
    with pytest.raises(ConfigError, match=r"conv\.weight is missing"):
        apply("checkpoint", other, path=str(tmp_path / "linear.safetensors"))
    linear = nn.Linear(2, 2)
    apply("checkpoint", linear, path=str(tmp_path / "linear.safetensors"))
    assert torch.equal(linear.weight, safetensors.load_file(tmp_path / "linear.safetensors")["weight"])


def test_bad_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"initialization\.path"):
        apply("checkpoint", Net())
    with pytest.raises(DataError, match=r"no .*nowhere"):
        apply("checkpoint", Net(), path=str(tmp_path / "nowhere"))
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(DataError, match="weights_only"):
        apply("checkpoint", Net(), path=str(tmp_path / "text.pt"))
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"weight has shape \(2, 3\) instead of \(2, 2\)"):
        apply("checkpoint", nn.Linear(2, 2), path=str(tmp_path / "other.pt"))
