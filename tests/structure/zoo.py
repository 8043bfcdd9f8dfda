"""One table of tiny networks with random weights: what the structure tests run on.

Only this file knows architectures by name. Widths are small and mutually unlike, so that a
coincidence (heads == layers == length) cannot hide a wrong pairing. Expected axes are counted from
the configuration by hand, not from the tracer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import nets

Inputs = tuple[Tensor, ...] | dict[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """A network and what must be found in it.

    ``expect`` maps an axis kind to the sorted sizes of the axes of that kind that must be found
    and be free to cut. ``branches`` counts removable residual branches.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    expect: dict[str, tuple[int, ...]]
    first: tuple[int, int] = (2, 7)
    second: tuple[int, int] = (3, 5)
    branches: int = 0
    float32: bool = False  # the float64 kernels are missing (grouped expert products)
    holdout: bool = False  # never used while the tracer was written
    huggingface: bool = False
    # What shrink must reach. "module": a real module for every axis alone but head_dim (one
    # attribute sizes all of a head). "mixed": Python code with literals forbids it for some axes.
    surgery: str = "module"
    blocked: tuple[str, ...] = ()  # kinds that are blocked, for the reason in why_blocked
    why_blocked: str = ""

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The network in double precision where its kernels exist."""
        return self.build() if self.float32 else self.build().to(dtype)

    def example(self, which: str = "first", dtype: torch.dtype = torch.float64) -> Inputs:
        """Example inputs of the first or the second size, in the precision of `model`."""
        made = self.inputs(*getattr(self, which))

        def cast(t: Tensor) -> Tensor:
            return t.to(dtype) if t.is_floating_point() and not self.float32 else t

        if isinstance(made, dict):
            return {name: cast(t) for name, t in made.items()}
        return tuple(map(cast, made))


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights of order one, norms and statistics included, so that exactness has power."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for name, p in model.named_parameters():
            last = name.rsplit(".", 1)[-1]
            if last in ("A_log", "dt_bias"):
                p.add_(0.1 * normal(p.shape))
            elif p.dim() >= 2:
                fan_in = p[0].numel() if p.dim() != 3 else p.shape[-1]
                p.copy_(normal(p.shape) * fan_in**-0.5)
            elif "bias" in last:  # shifted up, so that no rectified unit is dead on all inputs
                p.copy_(0.3 + 0.3 * normal(p.shape))
            else:
                p.copy_(1 + 0.3 * normal(p.shape))
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(0.3 * normal(b.shape))
            elif name.endswith("running_var"):
                b.copy_(torch.exp(0.3 * normal(b.shape)))
    return model.eval()


def images(channels: int = 3, key: str | None = None, side: int | None = None):
    """Inputs of images; ``side`` fixes their size where the network does."""

    def make(batch: int, length: int) -> Inputs:
        edge = side or length
        generator = torch.Generator().manual_seed(batch * 100 + edge)
        x = torch.randn(batch, channels, edge, edge, generator=generator)
        return {key: x} if key else (x,)

    return make


def vectors(width: int, sequence: bool = False):
    def make(batch: int, length: int) -> Inputs:
        generator = torch.Generator().manual_seed(batch * 100 + length)
        shape = (batch, length, width) if sequence else (batch, width)
        return (torch.randn(shape, generator=generator),)

    return make


VOCABULARY = 61


def tokens(mask: bool = True, decoder: int = 0):
    """Token ids with a padded attention mask; ``decoder`` adds decoder ids that much shorter."""

    def make(batch: int, length: int) -> Inputs:
        generator = torch.Generator().manual_seed(batch * 100 + length)

        def ids(n: int) -> Tensor:
            return torch.randint(5, VOCABULARY, (batch, n), generator=generator)

        inputs = {"input_ids": ids(length)}
        if mask:
            inputs["attention_mask"] = torch.ones(batch, length, dtype=torch.long)
            inputs["attention_mask"][-1, -2:] = 0
        if decoder:
            inputs["decoder_input_ids"] = ids(length - decoder)
        return inputs

    return make


def _hf(model: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        configuration = getattr(transformers, config)(**settings)
        torch.manual_seed(0)
        return randomise(getattr(transformers, model)(configuration))

    return build


def _net(factory: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return randomise(factory())

    return build


# Decoder-only language models: 6 heads on 3 key-value heads of size 8: attention is 48 wide while
# the residual is 36 wide (some configurations insist on a multiple of the heads).
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 36,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"kv_group": (3, 3), "query_in_group": (2, 2), "neuron": (56, 56), "residual": (36,)}
# Rotary tables tie the q/k sizes of all layers into one axis of rotating pairs.
ROTARY = {"head_dim": (4, 8, 8)}
ENCODER = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
}
# Without rotary tables each layer has its own q/k and its own v sizes.
ENCODER_AXES = {"head": (6, 6), "head_dim": (8, 8, 8, 8), "residual": (48,)}
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "num_labels": 3}
VISION = {"image_size": 12, "patch_size": 4, "num_labels": 3}
MOE = {**DECODER, "num_experts_per_tok": 2}

NETS = [
    Entry("mlp", _net(nets.MLP), vectors(9), {"neuron": (16, 24)}),
    Entry(
        "lenet5",
        _net(nets.LeNet5),
        images(1, side=28),
        {"channel": (6, 16), "neuron": (21, 30)},
    ),
    Entry(
        "vgg",
        _net(nets.VGG),
        images(),
        {"channel": (8, 12, 14, 18), "neuron": (22,)},
        first=(2, 19),
        second=(3, 24),
    ),
    Entry(
        "resnet_basic",
        _net(nets.resnet_basic),
        images(),
        {"channel": (8, 8, 8, 12, 12, 12)},
        first=(2, 9),
        second=(3, 13),
        branches=3,
    ),
    Entry(
        "resnet_bottleneck",
        _net(nets.resnet_bottleneck),
        images(),
        {"channel": (6, 6, 6, 6, 8, 12, 12, 12, 12, 16, 20)},
        first=(2, 9),
        second=(3, 13),
        branches=2,
    ),
    Entry(
        "mobilenetv2",
        _net(nets.MobileNetV2),
        images(),
        {"channel": (6, 8, 10, 16, 18, 18, 20)},
        first=(2, 17),
        second=(3, 23),
        branches=2,
    ),
    Entry(
        "shufflenetv2",
        _net(nets.ShuffleNetV2),
        images(),
        # the shuffle ties both halves of a unit's output, and the next split cuts them in two
        {"channel": (4, 4, 8, 8, 8, 18)},
        first=(2, 11),
        second=(3, 11),
        surgery="mixed",  # `chunk` makes equal halves only
    ),
    Entry(
        "densenet",
        _net(nets.DenseNet),
        images(),
        {"channel": (6, 6, 6, 8)},
        first=(2, 7),
        second=(3, 9),
    ),
    Entry(
        "transposed",
        _net(nets.UpNet),
        images(),
        {"channel": (2, 3, 4, 10)},
        first=(2, 8),
        second=(3, 12),
    ),
]

TRANSFORMERS = [
    Entry(
        "convnext",
        _hf(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            num_stages=2,
            hidden_sizes=[10, 14],
            depths=[1, 2],
            layer_scale_init_value=1.0,
            num_labels=3,
        ),
        images(key="pixel_values"),
        {"neuron": (40, 56, 56), "residual": (10, 14)},
        first=(2, 32),
        second=(3, 40),
        branches=3,
        huggingface=True,
    ),
    Entry(
        "vit",
        _hf("ViTForImageClassification", "ViTConfig", **ENCODER, **VISION),
        images(key="pixel_values", side=12),
        {**ENCODER_AXES, "neuron": (56, 56)},
        branches=4,
        huggingface=True,
    ),
    Entry(
        "swin",
        _hf(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=24,
            patch_size=3,
            embed_dim=12,
            depths=[2, 1],
            num_heads=[3, 6],
            window_size=2,
            mlp_ratio=3.0,
            num_labels=3,
        ),
        images(key="pixel_values", side=24),
        {"head": (3, 3, 6), "head_dim": (4,) * 6, "neuron": (36, 36, 72), "residual": (12, 24)},
        branches=6,
        huggingface=True,
    ),
    Entry(
        "bert",
        _hf("BertForSequenceClassification", "BertConfig", **ENCODER, **TEXT),
        tokens(),
        {**ENCODER_AXES, "neuron": (48, 56, 56)},
        branches=4,
        huggingface=True,
    ),
    Entry(
        "distilbert",
        _hf(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            dim=48,
            hidden_dim=56,
            n_layers=2,
            n_heads=6,
            **TEXT,
        ),
        tokens(),
        {**ENCODER_AXES, "neuron": (48, 56, 56)},
        branches=4,
        huggingface=True,
    ),
    Entry(
        "gpt2",
        _hf(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=VOCABULARY,
            n_embd=48,
            n_head=6,
            n_layer=2,
            n_inner=56,
            n_positions=40,
            bos_token_id=1,
            eos_token_id=2,
        ),
        tokens(),
        {**ENCODER_AXES, "neuron": (56, 56)},
        branches=4,
        huggingface=True,
    ),
    Entry(
        "opt",
        _hf(
            "OPTForCausalLM",
            "OPTConfig",
            vocab_size=VOCABULARY,
            hidden_size=48,
            ffn_dim=56,
            num_hidden_layers=2,
            num_attention_heads=6,
            word_embed_proj_dim=48,
            max_position_embeddings=40,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        tokens(),
        {**ENCODER_AXES, "neuron": (56, 56)},
        branches=4,
        huggingface=True,
    ),
    Entry(
        "llama",
        _hf("LlamaForCausalLM", "LlamaConfig", **DECODER),
        tokens(),
        {**GROUPED, **ROTARY},
        branches=4,
        huggingface=True,
    ),
    Entry(
        "llama_one_kv",
        _hf("LlamaForCausalLM", "LlamaConfig", **{**DECODER, "num_key_value_heads": 1}),
        tokens(),
        {"head": (6, 6), "neuron": (56, 56), "residual": (36,), **ROTARY},
        branches=4,
        huggingface=True,
    ),
    Entry(
        "qwen3",
        _hf("Qwen3ForCausalLM", "Qwen3Config", **DECODER),
        tokens(),
        {**GROUPED, **ROTARY},
        branches=4,
        huggingface=True,
    ),
    Entry(
        "gemma",
        _hf("GemmaForCausalLM", "GemmaConfig", **DECODER),
        tokens(),
        {**GROUPED, **ROTARY},
        branches=4,
        huggingface=True,
    ),
    Entry(
        "phi3",
        _hf("Phi3ForCausalLM", "Phi3Config", **DECODER),
        tokens(),
        {**GROUPED, **ROTARY},
        branches=4,
        huggingface=True,
    ),
    Entry(
        "mixtral",
        _hf("MixtralForCausalLM", "MixtralConfig", **MOE, num_local_experts=5),
        tokens(),
        {**GROUPED, **ROTARY, "expert": (5, 5)},
        branches=4,
        float32=True,
        huggingface=True,
    ),
    Entry(
        "qwen3_moe",
        _hf(
            "Qwen3MoeForCausalLM",
            "Qwen3MoeConfig",
            **MOE,
            num_experts=5,
            moe_intermediate_size=32,
            decoder_sparse_step=1,
            norm_topk_prob=True,
        ),
        tokens(),
        {**GROUPED, **ROTARY, "expert": (5, 5), "neuron": (32, 32)},
        branches=4,
        float32=True,
        huggingface=True,
    ),
    Entry(
        "t5",
        _hf(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=VOCABULARY,
            d_model=40,
            d_kv=8,
            d_ff=56,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=6,
            relative_attention_num_buckets=9,
            relative_attention_max_distance=20,
            decoder_start_token_id=0,
        ),
        tokens(decoder=1),
        # One bias table per stack ties the self-attention heads of its layers, and one zero bias
        # made by the first cross-attention is handed on to the others.
        {"head": (6, 6, 6), "head_dim": (8,) * 12, "neuron": (56,) * 4},
        branches=10,
        huggingface=True,
        blocked=("residual",),
        why_blocked="the encoder state is an output, and the shared embedding ties both stacks",
    ),
    Entry(
        "mamba",
        _hf(
            "MambaForCausalLM",
            "MambaConfig",
            vocab_size=VOCABULARY,
            hidden_size=20,
            state_size=6,
            num_hidden_layers=2,
            time_step_rank=3,
            expand=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        tokens(mask=False),
        {"channel": (40, 40), "neuron": (3, 3, 6, 6), "residual": (20,)},
        second=(3, 7),  # the scan over time is unrolled by export, so the length stays
        branches=2,
        huggingface=True,
    ),
]
