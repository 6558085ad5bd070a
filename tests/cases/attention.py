"""Attention and transformer layers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.base import Apply, Case


def _attention(**options: Any):
    model = Apply(lambda m, x: m.head(m.attention(x, x, x, **options)[0].mean(1)),
                  attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 2))  # fmt: skip
    return model, F.cross_entropy, torch.randn(3, 5, 4), torch.randint(0, 2, (3,))


def attention_causal():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return m.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    model = Apply(forward, qkv=nn.Linear(4, 12), out=nn.Linear(4, 2))
    return model, F.mse_loss, torch.randn(3, 5, 4), torch.randn(3, 5, 2)


def transformer_eval():
    model = nn.TransformerEncoderLayer(4, 2, dim_feedforward=4, batch_first=True, activation="gelu").eval()
    return model, F.mse_loss, torch.randn(3, 5, 4), torch.randn(3, 5, 4)


CASES: list[Case] = [
    *(Case(make.__name__, make) for make in (
        attention_causal, transformer_eval,
    )),
    Case("attention_weights", partial(_attention, need_weights=True)),
    Case("attention_fused", partial(_attention, need_weights=False)),
]  # fmt: skip
