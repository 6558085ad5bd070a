"""Changed training images: what is done to them, when, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hybridopt.core import CombinationError
from hybridopt.experiment.augmentation import registry
from hybridopt.experiment.build import build, build_task, check_buildable
from hybridopt.experiment.config import resolve
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_rows


def change(images: torch.Tensor, seed: int = 0, name: str = "shift_flip", **options: float) -> torch.Tensor:
    cls = registry.get(name)
    fill = images.amin(dim=(0, 2, 3)) - 1
    options = {"shift": 0.0, "flip": 0.0, "cutout": 0.0, **options}
    return cls(cls.Config(**options)).change(images, fill, torch.Generator().manual_seed(seed))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(200, 3, 6, 8) + 1.0


def test_nothing_asked_nothing_done(images: torch.Tensor) -> None:
    assert torch.equal(change(images), images)


def test_flips_are_mirror_images(images: torch.Tensor) -> None:
    assert torch.equal(change(images, flip=1.0), images.flip(3))
    changed = change(images, flip=0.5)
    mirrored = [bool(torch.equal(new, old.flip(2))) for new, old in zip(changed, images, strict=True)]
    same = [bool(torch.equal(new, old)) for new, old in zip(changed, images, strict=True)]
    assert all(one or other for one, other in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


def test_shifts_are_those_of_a_padded_crop(images: torch.Tensor) -> None:
    changed = change(images, shift=0.25)
    padded = torch.zeros(200, 3, 10, 12) + (images.amin(dim=(0, 2, 3)) - 1)[:, None, None]
    padded[:, :, 2:8, 2:10] = images
    seen = set()
    for new, wide in zip(changed, padded, strict=True):
        crops = [(i, j) for i in range(5) for j in range(5) if torch.equal(new, wide[:, i : i + 6, j : j + 8])]
        assert len(crops) == 1
        seen |= set(crops)
    assert len(seen) == 25


def test_cutout_is_a_square_of_zeros_cut_at_the_border(images: torch.Tensor) -> None:
    changed = change(images, name="cutout", cutout=0.5)
    assert ((changed == images) | (changed == 0)).all()
    hole = (changed == 0).all(1)
    assert torch.equal(hole, (changed == 0).any(1))
    heights, widths = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(hole.sum((1, 2)), heights * widths)
    assert (int(heights.max()), int(widths.max())) == (3, 4)
    assert int(heights.min()) < 3
    # Any pixel may be the centre, so all are covered sometimes.
    assert hole.any(0).all()


def config(**values):
    base = {"task": "digits_cnn", "optimizer": {"name": "adam", "lr": 0.01}, "device": "cpu", "threads": 1}
    return resolve({**base, "augmentation": "cutout", **values})


def test_batches_are_a_function_of_seed_and_step() -> None:
    first, second, other = build(config()).batches, build(config()).batches, build(config(seed=1)).batches
    _ = second.batch(7)
    for step in (0, 3):
        assert torch.equal(first.batch(step)[0], second.batch(step)[0])
    assert not torch.equal(first.batch(0)[0], other.batch(0)[0])
    inputs, targets, key = first.batch(0)
    index = first.index(0)
    assert torch.equal(targets, first.take(index)[1])
    assert not torch.equal(inputs, first.take(index)[0])
    assert key != build(config(augmentation="none")).batches.batch(0)[2]


def test_full_batches_differ_from_step_to_step() -> None:
    batches = build(config(optimizer="lbfgs", task={"name": "digits_cnn", "batch_size": "full"})).batches
    assert batches.full
    assert batches.batch(0)[2] != batches.batch(1)[2]
    assert not torch.equal(batches.batch(0)[0], batches.batch(1)[0])


def test_images_without_a_channel_dimension_keep_their_shape() -> None:
    batches = build(config(task="digits_rnn")).batches
    assert batches.batch(0)[0].shape == batches.take(batches.index(0))[0].shape


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_runs_and_evaluates_without_changes(tmp_path: Path, optimizer: str) -> None:
    starts = []
    for name in ("none", "cutout"):
        run_job(tmp_path / name, config(optimizer=optimizer, augmentation=name, budget={"steps": 3}))
        rows = read_rows(tmp_path / name / "history.jsonl")
        starts.append(next(row for row in rows if row["type"] == "evaluation")["train_loss"])
    assert starts[0] == starts[1]


@pytest.mark.parametrize(
    ("other", "reason"),
    [({"task": "adding_rnn"}, "images"), ({"data": "overlap"}, "data=one"), ({"data": "growing"}, "data=one")],
)
def test_senseless_combinations_are_refused(other: dict, reason: str) -> None:
    values = config(**{"optimizer": "lbfgs", **other})
    task = build_task(values)
    with pytest.raises(CombinationError, match=reason):
        check_buildable(values, task.splits(0), task)
