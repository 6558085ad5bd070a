"""A task that can be done in lanes, trains in milliseconds and can be told to go wrong; also used as a plugin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hybridopt.core import option
from hybridopt.tasks import Split, Splits, Target, Task, TaskConfig, register


@register("smooth")
class Smooth(Task):
    """Regression by a small network without buffers or random numbers."""

    name = "smooth"
    summary = "a few samples and a plain network, for tests"
    targets = (Target("train_loss", 0.2, "min"), Target("validation_error", 0.0, "min"))

    @dataclass
    class Config(TaskConfig):
        batch_size: int = option(16, ge=1)
        epochs: float = option(3.0, gt=0)
        kind: str = option(
            "plain", choices=["plain", "frozen", "unused", "norm", "dropout", "noisy_loss", "table", "lstm"]
        )
        intolerant: bool = option(False, help="whether metrics of large outputs are an error")

    def build_splits(self, seed: int) -> Splits:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(72, 3, generator=generator)
        targets = torch.sin(inputs.sum(1, keepdim=True))
        return Splits(*(Split(inputs[part], targets[part]) for part in (slice(0, 48), slice(48, 60), slice(60, None))))

    def build_model(self) -> nn.Module:
        kind = self.config.kind
        if kind == "lstm":
            return Recurrent()
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        if kind == "frozen":
            model[0].bias.requires_grad_(False)
        if kind == "unused":
            model.register_parameter("unused", nn.Parameter(torch.zeros(2)))
        if kind == "table":
            model.register_buffer("table", torch.randn(2))
        if kind == "norm":
            model.insert(1, nn.BatchNorm1d(8))
        if kind == "dropout":
            model.insert(1, nn.Dropout(0.5))
        return model

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.mse_loss(outputs, targets)
        return loss * (1 + torch.rand(())) if self.config.kind == "noisy_loss" else loss

    def trivial_loss(self, splits: Splits) -> float:
        return float(splits.train.targets.var())

    def metrics(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        if self.config.intolerant and outputs.abs().max() > 1e3:
            raise ArithmeticError("these metrics cannot be computed")
        return {"error": float((outputs - targets).abs().mean())}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 4, batch_first=True)
        self.out = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x[..., None])[0][:, -1])
