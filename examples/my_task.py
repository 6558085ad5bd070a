"""A task of one's own: hybridopt run --plugin examples/my_task.py task=spirals (see docs/own_task.md)."""

from dataclasses import dataclass

import torch

from hybridopt.core import option
from hybridopt.tasks import Split, Splits, Target, Task, TaskConfig, register
from hybridopt.tasks.metrics import classification_metrics


@register("spirals")
class Spirals(Task):
    name = "spirals"
    summary = "two interleaved spirals, a small tanh network"
    targets = (Target("validation_accuracy", 0.95, "max"), Target("train_loss", 0.1, "min"))

    @dataclass
    class Config(TaskConfig):
        hidden: int = option(16, ge=1, search=[8, 16, 32], help="width of both hidden layers")

    def build_splits(self, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(2, (900,), generator=generator)
        radius = 1 + 3 * torch.rand(900, generator=generator)
        angle = 2 * radius + torch.pi * labels + 0.1 * torch.randn(900, generator=generator)
        points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1) / 2
        return Splits(*(Split(*pair) for pair in zip(points.split(300), labels.split(300), strict=True)))

    def build_model(self):
        width, nn = self.config.hidden, torch.nn
        return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))

    def loss(self, outputs, targets):
        return torch.nn.functional.cross_entropy(outputs, targets)

    def metrics(self, outputs, targets):
        return classification_metrics(outputs.argmax(dim=1), targets, 2)
