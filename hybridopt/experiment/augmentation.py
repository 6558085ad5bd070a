"""Random changes of the training images, drawn anew for every step as a function of seed and step number."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, ClassVar

import torch
from torch import Tensor

from hybridopt.core import CombinationError, Registry, option
from hybridopt.data import Batches

registry = Registry(
    "augmentation",
    {
        "none": "hybridopt.experiment.augmentation:Augmentation",
        "shift_flip": "hybridopt.experiment.augmentation:ShiftFlip",
        "cutout": "hybridopt.experiment.augmentation:CutOut",
    },
    entry_points="hybridopt.augmentations",
)
"""Names of the config group ``augmentation``."""


class Augmentation:
    """Leaves the images as they are; base class of the others, which define `change`.

    Args:
        config: An instance of `Config`.
    """

    @dataclasses.dataclass
    class Config:
        """No options."""

    summary: ClassVar[str] = "training images as they are"

    def __init__(self, config: Any) -> None:
        self.config = config

    def change(self, images: Tensor, fill: Tensor, generator: torch.Generator) -> Tensor:
        """Returns changed images.

        Args:
            images: Shape (samples, channels, height, width).
            fill: What lies beyond their borders, shape (channels,): the smallest value of the training images.
            generator: On the CPU, whatever device the images are on, so that all devices draw the same.

        Returns:
            Same shape; new memory.
        """
        return images


@dataclasses.dataclass
class ImageConfig:
    """Options of the augmentations of images; they can be combined in either.

    Attributes:
        shift: Largest shift along each axis as a share of the side, in whole pixels.
        flip: Probability of a mirror image, left to right. Not for digits and letters.
        cutout: Side of a square that is set to zero, as a share of the image's; its centre is anywhere in the image.
    """

    shift: float = option(0.125, ge=0, le=0.5, help="largest shift, as a share of the side")
    flip: float = option(0.5, ge=0, le=1, help="probability of a mirror image")
    cutout: float = option(0.0, ge=0, le=1, help="side of a square set to zero, as a share of the image's")


class ShiftFlip(Augmentation):
    """Shifts by up to an eighth of the side and mirrors every second image, as is usual for CIFAR (He et al. 2016).

    What comes in at the border is black (the smallest value of the channel in the training set); the square of
    `cutout` is zero, which in standardized images is the mean (DeVries and Taylor 2017).
    """

    Config = ImageConfig
    summary = "shifts and mirror images"

    def change(self, images: Tensor, fill: Tensor, generator: torch.Generator) -> Tensor:
        """Returns shifted, mirrored images with a square cut out, each with draws of its own."""
        count, _, height, width = images.shape
        draws = torch.rand((5, count), generator=generator, dtype=torch.float64)
        # Compared and rounded on the CPU in float64: the same pixels on every device.
        reach = [round(self.config.shift * side) for side in (height, width)]
        down, right = ((row * (2 * r + 1)).long() - r for row, r in zip(draws[:2], reach, strict=True))
        rows = torch.arange(height) - down[:, None]
        columns = torch.arange(width).expand(count, -1)
        columns = torch.where((draws[2] < self.config.flip)[:, None], width - 1 - columns, columns) - right[:, None]
        inside = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None, :]
        place = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        device = images.device
        place = place.flatten(1).to(device)[:, None, :].expand(-1, images.shape[1], -1)
        moved = images.flatten(2).gather(2, place).view_as(images)
        moved = torch.where(inside.to(device)[:, None], moved, fill[:, None, None])
        if self.config.cutout > 0:
            sides = [max(1, round(self.config.cutout * side)) for side in (height, width)]
            hole = [
                _inside(torch.arange(side) - (draw * side).long()[:, None] + extent // 2, extent)
                for draw, side, extent in zip(draws[3:], (height, width), sides, strict=True)
            ]
            moved = moved.masked_fill((hole[0][:, :, None] & hole[1][:, None, :]).to(device)[:, None], 0.0)
        return moved


@dataclasses.dataclass
class CutOutConfig(ImageConfig):
    """Options of `CutOut`.

    Attributes:
        cutout: Side of a square that is set to zero, as a share of the image's; its centre is anywhere in the image.
    """

    cutout: float = option(0.5, ge=0, le=1, help="side of a square set to zero, as a share of the image's")


class CutOut(ShiftFlip):
    """`ShiftFlip`, and a square of half the side cut out (DeVries and Taylor 2017)."""

    Config = CutOutConfig
    summary = "shifts, mirror images and a square cut out"


class AugmentedBatches(Batches):
    """The batches of a run with changed images; every step draws anew, and no two steps have the same data.

    Args:
        batches: The batches.
        augmentation: What changes them.
        data: The training split.
    """

    def __init__(self, batches: Batches, augmentation: Augmentation, data: Any) -> None:
        super().__init__(data, batches.size, batches.size, batches.seed)
        self._augmentation = augmentation
        images = _with_channels(data.inputs)
        self._fill = images.amin(dim=(0, 2, 3))

    def batch(self, step: int) -> tuple[Any, Any, str]:
        """Returns inputs, targets and a key of the batch of a step.

        Args:
            step: Number of steps done before this one.
        """
        inputs, targets, key = super().batch(step)
        digest = hashlib.sha256(f"augmentation:{self.seed}:{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        changed = self._augmentation.change(_with_channels(inputs), self._fill, generator)
        return changed.view_as(inputs), targets, f"{key}-augmented-{step}"


def augmented(batches: Batches, augmentation: Augmentation, task: Any, data: Any, policy: str) -> Batches:
    """Returns batches with an augmentation, or the same ones where it changes nothing.

    Args:
        batches: The batches.
        augmentation: What is to change them.
        task: What they are of.
        data: Its training split.
        policy: Name of the data policy that draws from them.

    Raises:
        CombinationError: If the task's inputs are not images, or the policy needs the same samples unchanged.
    """
    if type(augmentation) is Augmentation:
        return batches
    name = type(augmentation).__name__
    if not getattr(task, "images", False):
        raise CombinationError(
            f"The augmentation {name} needs a task whose inputs are images and whose targets stay what they are when "
            f"these change, not {task.name}. Use augmentation=none; a task of your own says images = True."
        )
    if policy != "one":
        raise CombinationError(
            f"The augmentation {name} changes every step's samples, but data={policy} compares or accumulates the same "
            "samples over several steps. Use data=one, or augmentation=none."
        )
    return AugmentedBatches(batches, augmentation, data)


def _inside(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)


def _with_channels(images: Tensor) -> Tensor:
    return images.unsqueeze(1) if images.dim() == 3 else images
