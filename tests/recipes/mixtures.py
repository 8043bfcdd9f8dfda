"""Small mixtures of experts, written by hand and of transformers."""

import functools
from typing import Any

import torch
from torch import Tensor, nn


class Mixture(nn.Module):
    """Experts in one tensor; ``chosen`` of them for each row, their gates summing to one.

    Expert 0 is never chosen; experts 1 and 2 are the same, with nearly the same router rows.
    """

    def __init__(self, experts: int = 5, chosen: int = 1, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.chosen = chosen
        self.router = nn.Linear(6, experts)
        self.up = nn.Parameter(torch.randn(experts, 6, 8))
        self.down = nn.Parameter(torch.randn(experts, 8, 6))
        self.read = nn.Linear(6, 7)
        self.head = nn.Linear(7, 4)
        with torch.no_grad():
            self.router.bias[0] = -100
            self.up[2], self.down[2] = self.up[1], self.down[1]
            self.router.weight[2] = self.router.weight[1]
            self.router.weight[1, 0] += 1e-2
            self.router.bias[2] = self.router.bias[1]

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        best, chosen = scores.topk(self.chosen, -1)
        gates = torch.zeros_like(scores).scatter(-1, chosen, best.softmax(-1))
        hidden = torch.tanh(torch.einsum("bi,eih->beh", x, self.up))
        mixed = torch.einsum("be,beh,eho->bo", gates, hidden, self.down)
        return self.head(torch.relu(self.read(x + mixed)))


class Listed(nn.Module):
    """Experts that are modules in a list, which no cut can renumber."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.router = nn.Linear(6, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(3)
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        best, chosen = self.router(x).topk(2, -1)
        gates = best.softmax(-1)
        for number, expert in enumerate(self.experts):
            x = x + (gates * (chosen == number)).sum(-1, keepdim=True) * expert(x)
        return self.head(x)


SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}


@functools.cache
def language_model(family: str) -> Any:
    """An untrained Mixtral, or a Qwen2-MoE with a shared expert."""
    import transformers as hf

    torch.manual_seed(0)
    if family == "mixtral":
        return hf.MixtralForCausalLM(
            hf.MixtralConfig(**SIZES, intermediate_size=16, num_local_experts=4)
        ).eval()
    return hf.Qwen2MoeForCausalLM(
        hf.Qwen2MoeConfig(
            **SIZES,
            intermediate_size=16,
            num_experts=4,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
        )
    ).eval()


def tokens(count: int = 24, length: int = 8) -> dict[str, Tensor]:
    ids = torch.randint(40, (count, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids}
