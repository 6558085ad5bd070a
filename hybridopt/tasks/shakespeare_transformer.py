"""A character language model: a small pre-norm transformer on tiny Shakespeare."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridopt.core import ConfigError, option
from hybridopt.tasks.base import Target
from hybridopt.tasks.language import SYMBOLS, CharacterModel, LanguageConfig


@dataclass
class TransformerConfig(LanguageConfig):
    """Options of `ShakespeareTransformer`.

    Args:
        heads: Attention heads; they divide `hidden`.
    """

    heads: int = option(4, ge=1, help="attention heads; they divide hidden")


class ShakespeareTransformer(CharacterModel):
    """Two pre-norm transformer blocks of width 128 with 4 heads and GELU, learned positions, no dropout.

    After Vaswani et al. (NeurIPS 2017) with the layer norms in front (Xiong et al., ICML 2020).
    """

    name = "shakespeare_transformer"
    summary = "character language model: 2-layer transformer on tiny Shakespeare (fetched, 1 MB)"
    targets = (
        Target("validation_loss", 2.0, "min"),
        Target("train_loss", 1.9, "min"),
    )
    Config = TransformerConfig
    config: TransformerConfig

    def build_model(self) -> nn.Module:
        """Returns the network from symbols to logits at every place.

        Raises:
            ConfigError: If the heads do not divide the width.
        """
        config = self.config
        if config.hidden % config.heads:
            raise ConfigError(f"{self.name}: heads={config.heads} must divide hidden={config.hidden}.")
        return _Transformer(config.hidden, config.layers, config.heads, config.length)


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, width)
        self.position = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, SYMBOLS)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, symbols: Tensor) -> Tensor:
        x = self.embedding(symbols) + self.position[: symbols.shape[1]]
        return self.readout(self.norm(self.blocks(x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        split = self.queries_keys_values(self.attention_norm(x)).view(samples, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).reshape(samples, length, width))
        return x + self.mlp(self.mlp_norm(x))
