"""Models that take derivatives, vectorize or work in complex numbers themselves, and gradients that are not dense."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.cases.base import Apply, Case, features, mlp


def energy():
    # A force field: the output is a derivative in the input.
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(m.a(x).sum(), x, create_graph=True)[0]

    return Apply(forward, a=mlp()), F.mse_loss, torch.randn(5, 3), torch.randn(5, 3)


def energy_by_functorch():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(lambda y: m.a(y).sum()))(x)

    return Apply(forward, a=mlp()), F.mse_loss, torch.randn(5, 3), torch.randn(5, 3)


def vmapped_convolution():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return torch.func.vmap(lambda image: m.b(F.silu(m.a(image[None])).flatten()))(x)

    model = Apply(forward, a=nn.Conv2d(1, 2, 2), b=nn.Linear(8, 3))
    return model, F.cross_entropy, torch.randn(4, 1, 3, 3), torch.randint(0, 3, (4,))


class Filter(nn.Module):
    """A filter in Fourier space, whose pairs begin at an odd place in the flat vector."""

    def __init__(self, as_complex: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale, self.filter = nn.Parameter(torch.ones(1)), nn.Parameter(torch.randn(3, 2))
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 3)
        self.as_complex = as_complex

    def forward(self, x: Tensor) -> Tensor:
        z = torch.fft.rfft(self.scale * self.a(x)) * self.as_complex(self.filter)
        return self.b(torch.tanh(torch.fft.irfft(z, n=4)))


def complex_pairs(as_complex: Callable[[Tensor], Tensor] = torch.view_as_complex):
    return Filter(as_complex), F.cross_entropy, *features()


def complex_pairs_written_out():
    # The view asks of its cotangents, too, that they begin at even places.
    return complex_pairs(lambda pairs: torch.complex(pairs[:, 0], pairs[:, 1]))


def sparse_embedding(sparse: bool = True):
    model = nn.Sequential(nn.Embedding(7, 3, sparse=sparse), nn.Tanh(), nn.Flatten(), nn.Linear(6, 4))
    return model, F.cross_entropy, torch.randint(0, 7, (5, 2)), torch.randint(0, 4, (5,))


def checkpointed():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(checkpoint(m.a, x, use_reentrant=False))

    return Apply(forward, a=mlp(), b=nn.Linear(3, 3)), F.cross_entropy, *features()


def in_place():
    model = nn.Sequential(
        nn.Linear(3, 4), nn.SiLU(inplace=True), nn.Linear(4, 4), nn.ELU(inplace=True), nn.Linear(4, 3)
    )
    return model, F.cross_entropy, *features()


CASES: list[Case] = [
    *(Case(make.__name__, make) for make in (
        energy, energy_by_functorch, vmapped_convolution, in_place, checkpointed,
    )),
    Case("complex_pairs", complex_pairs, written_out=complex_pairs_written_out),
    Case("sparse_embedding", sparse_embedding, written_out=partial(sparse_embedding, sparse=False)),
]  # fmt: skip
