"""Feed-forward layers: linear, convolutions, norms, embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.base import Apply, Case, features, mlp


def mlp_tanh():
    return mlp(), F.cross_entropy, *features()


def mlp_relu_mse():
    return mlp(activation=nn.ReLU), F.mse_loss, torch.randn(6, 3), torch.randn(6, 3)


def bce():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Flatten(0))
    return model, F.binary_cross_entropy_with_logits, torch.randn(6, 3), torch.rand(6)


def nll_sum():
    model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 3), nn.LogSoftmax(1))
    return model, nn.NLLLoss(reduction="sum"), *features()


def linear_loss():
    return mlp(), lambda outputs: outputs.sum(), torch.randn(4, 3), None


def cnn_max_pool():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    return model, F.cross_entropy, torch.randn(4, 1, 6, 6), torch.randint(0, 3, (4,))


def _convolution(layer: nn.Module, *shape: int, frozen: bool = False):
    # Two in a row, so that a derivative in the input is needed as well.
    first = nn.Conv1d(1, 2, 1) if len(shape) == 1 else nn.Conv2d(1, 2, 1) if len(shape) == 2 else nn.Conv3d(1, 2, 1)
    layer.weight.requires_grad_(not frozen)
    x = torch.randn(3, 1, *shape)
    model = nn.Sequential(first, nn.Tanh(), layer, nn.Sigmoid())
    return model, F.mse_loss, x, torch.randn_like(model(x))


def convolution_called_by_name():
    model = Apply(lambda m, x: F.conv2d(input=torch.tanh(m.a(x)), weight=m.b.weight, stride=2),
                  a=nn.Conv2d(1, 2, 2), b=nn.Conv2d(2, 3, 2, bias=False))  # fmt: skip
    return model, lambda z: z.square().exp().mean(), torch.randn(3, 1, 5, 5), None


def convolution_of_one_image():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 2, 2))
    return model, lambda z: z.square().exp().mean(), torch.randn(1, 4, 4), None


def layer_norm():
    return mlp(nn.LayerNorm(4)), F.cross_entropy, *features()


def rms_norm():
    return mlp(nn.RMSNorm(4)), F.cross_entropy, *features()


def group_norm():
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))
    return model, F.cross_entropy, torch.randn(4, 1, 3, 3), torch.randint(0, 3, (4,))


def embedding():
    model = nn.Sequential(nn.Embedding(7, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 4))
    return model, F.cross_entropy, torch.randint(0, 7, (5, 2)), torch.randint(0, 4, (5,))


CASES: list[Case] = [
    *(Case(make.__name__, make) for make in (
        mlp_tanh, mlp_relu_mse, bce, nll_sum, linear_loss, cnn_max_pool, convolution_called_by_name,
        convolution_of_one_image, layer_norm, rms_norm, group_norm, embedding,
    )),
    Case("conv1d", lambda: _convolution(nn.Conv1d(2, 4, 3, 2, 2, 2, groups=2, bias=False), 6)),
    Case("conv1d_same", lambda: _convolution(nn.Conv1d(2, 2, 3, padding="same"), 5)),
    Case("conv2d_strided", lambda: _convolution(nn.Conv2d(2, 3, (3, 2), (2, 1), (1, 0)), 4, 3)),
    Case("conv2d_circular", lambda: _convolution(nn.Conv2d(2, 1, 3, padding=1, padding_mode="circular"), 3, 3)),
    Case("conv2d_frozen", lambda: _convolution(nn.Conv2d(2, 3, 2), 3, 3, frozen=True)),
    Case("conv2d_transposed", lambda: _convolution(nn.ConvTranspose2d(2, 2, 2, stride=2), 2, 3)),
    Case("conv3d", lambda: _convolution(nn.Conv3d(2, 2, 2, padding=1), 2, 2, 2)),
]  # fmt: skip
