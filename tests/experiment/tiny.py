"""A task that trains in milliseconds and can be told to go wrong; also given to the command line as a plugin."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hybridopt.core import option
from hybridopt.tasks import Split, Splits, Target, Task, TaskConfig, register


@register("tiny")
class Tiny(Task):
    """Regression with BatchNorm and dropout, so that buffers and random numbers take part."""

    name = "tiny"
    summary = "a few samples, for tests"
    targets = (Target("train_loss", 0.1, "min"), Target("validation_error", 0.0, "min"))

    @dataclass
    class Config(TaskConfig):
        batch_size: int = option(16, ge=1)
        epochs: float = option(3.0, gt=0)
        samples: int = option(48, ge=4)
        dropout: float = option(0.2, ge=0, lt=1)
        poison: str = option("", choices=["", "kill", "error", "nan", "slow", "exit"])
        after: int = option(10, ge=0, help="evaluations of the loss before the poison works")
        antidote: str = option("", help="a file; while it exists, the poison does not work")

    def build_splits(self, seed: int) -> Splits:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(self.config.samples + 24, 3, generator=generator)
        targets = torch.sin(inputs.sum(1, keepdim=True))
        n = self.config.samples
        return Splits(
            *(Split(inputs[part], targets[part]) for part in (slice(0, n), slice(n, n + 12), slice(n + 12, None)))
        )

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(self.config.dropout), nn.Linear(8, 1)
        )

    calls = 0

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.mse_loss(outputs, targets)
        if not torch.is_grad_enabled():
            return loss
        self.calls += 1
        if self.config.poison and self.calls > self.config.after and not Path(self.config.antidote or "/-").exists():
            if self.config.poison == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.config.poison == "exit":
                os._exit(3)
            elif self.config.poison == "error":
                raise RuntimeError("poisoned")
            elif self.config.poison == "slow":
                time.sleep(0.02)
            else:
                return loss * float("nan")
        return loss

    def trivial_loss(self, splits: Splits) -> float:
        return float(splits.train.targets.var())

    def metrics(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        return {"error": float((outputs - targets).abs().mean())}
