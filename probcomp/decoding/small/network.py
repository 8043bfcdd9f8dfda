"""The embedded masked-diffusion model: a bidirectional transformer under half a million parameters.

Pre-norm blocks with rotary positions. Positions count visible keys only, so left padding moves
nothing. ``attention`` may be a key mask [batch, keys] or a full mask [batch, queries, keys].
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class SmallConfig:
    """Sizes of the embedded model."""

    vocab_size: int = 51
    width: int = 96
    layers: int = 4
    heads: int = 4
    context: int = 160
    rope_base: float = 100.0
    mask_token_id: int = 2
    eos_token_id: int = 1
    pad_token_id: int = 0
    model_type: str = "probcomp-small"


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotary positions. x [batch, heads, n, size], angle [batch, 1, n, size / 2]."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and around a skip."""

    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, angle: Tensor, mask: Tensor) -> Tensor:
        batch, n, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, n, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(_rotate(q, angle), _rotate(k, angle), v, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(batch, n, width))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))


class SmallDenoiser(nn.Module):
    """ids [batch, n] -> logits [batch, n, vocabulary] at every position.

    ``folder`` is where the weights were read from: a calibration is looked for there.
    """

    folder: Path | None = None

    def __init__(self, config: SmallConfig | None = None) -> None:
        super().__init__()
        self.config = config or SmallConfig()
        self.embed = nn.Embedding(self.config.vocab_size, self.config.width)
        self.blocks = nn.ModuleList(Block(self.config) for _ in range(self.config.layers))
        self.norm = nn.LayerNorm(self.config.width)
        nn.init.normal_(self.embed.weight, std=0.02 * self.config.width**0.5)
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(
                    parameter, std=0.1 / (self.config.width * self.config.layers) ** 0.5
                )

    def forward(
        self, input_ids: Tensor, attention: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        """Logits. A query that may see no key sees itself, so padding never yields NaN."""
        n = input_ids.shape[1]
        mask = attention.bool()
        if mask.dim() == 2:
            if position_ids is None:
                position_ids = (mask.long().cumsum(1) - 1).clamp(min=0)
            mask = mask[:, None, :].expand(-1, n, -1)
        if position_ids is None:
            raise ValueError("a full attention mask needs position_ids")
        mask = mask | torch.eye(n, dtype=torch.bool, device=mask.device)
        size = self.config.width // self.config.heads
        frequency = self.config.rope_base ** (
            -torch.arange(0, size, 2, device=input_ids.device) / size
        )
        angle = (position_ids[:, None, :, None] * frequency).to(self.embed.weight.dtype)
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x, angle, mask[:, None])
        return F.linear(self.norm(x), self.embed.weight) / self.config.width**0.5
