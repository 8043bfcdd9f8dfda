"""Networks nobody tuned on, and toy topologies that once broke other tools."""

from . import nets
from .zoo import (
    DECODER,
    ENCODER,
    ENCODER_AXES,
    GROUPED,
    NETS,
    ROTARY,
    TEXT,
    TRANSFORMERS,
    VISION,
    VOCABULARY,
    Entry,
    _hf,
    _net,
    images,
    tokens,
    vectors,
)

TOYS = [
    Entry(
        "grouped",
        _net(lambda: nets.resnet_bottleneck(groups=3)),
        images(),
        # each grouped convolution leaves groups (3) and channels within a group on both sides
        {"channel": (2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 8, 16, 20)},
        first=(2, 9),
        second=(3, 13),
        branches=2,
    ),
    Entry("shared_twice", _net(nets.SharedTwice), vectors(7), {"neuron": (12, 20)}),
    Entry("tied", _net(nets.TiedAutoencoder), vectors(9), {"neuron": (14,)}),
    Entry(
        "concat_split",
        _net(nets.ConcatSplit),
        vectors(7),
        {"neuron": (2, 4, 10)},
        surgery="mixed",
    ),
    Entry(
        "shuffle_literal",
        _net(nets.ShuffleToy),
        images(),
        # 16 channels are read as (2, 8) by the shuffle and as (2, 4, 2) by the groups after it
        {"channel": (2, 2, 4, 12)},
        first=(2, 5),
        second=(3, 5),
        surgery="mixed",
    ),
    Entry(
        "one_attribute",
        _net(nets.OneAttribute),
        vectors(20, sequence=True),
        {"head": (4,), "head_dim": (6, 6)},
        branches=1,
    ),
    Entry(
        "batchnorm_residual",
        _net(nets.BatchNormResidual),
        vectors(6),
        {"neuron": (10, 13, 13)},
        first=(4, 1),
        second=(3, 1),
        branches=2,
    ),
]

HOLDOUT = [
    Entry(
        "unet",
        _net(nets.UNet),
        images(),
        # 3 groups, and 4 channels within each (whose number the group statistic counts)
        {"channel": (3, 4, 6, 8, 9)},
        first=(2, 8),
        second=(3, 12),
        holdout=True,
    ),
    Entry(
        "roberta",
        _hf("RobertaForSequenceClassification", "RobertaConfig", **ENCODER, **TEXT),
        tokens(),
        {**ENCODER_AXES, "neuron": (48, 56, 56)},
        branches=4,
        holdout=True,
        huggingface=True,
    ),
    Entry(
        "deit",
        _hf("DeiTForImageClassification", "DeiTConfig", **ENCODER, **VISION),
        images(key="pixel_values", side=12),
        {**ENCODER_AXES, "neuron": (56, 56)},
        branches=4,
        holdout=True,
        huggingface=True,
    ),
    Entry(
        "mistral",
        _hf("MistralForCausalLM", "MistralConfig", **DECODER, sliding_window=None),
        tokens(),
        {**GROUPED, **ROTARY},
        branches=4,
        holdout=True,
        huggingface=True,
    ),
    Entry(
        "gpt_neox",
        _hf(
            "GPTNeoXForCausalLM",
            "GPTNeoXConfig",
            vocab_size=VOCABULARY,
            **ENCODER,
            max_position_embeddings=40,
            rotary_pct=0.5,
            bos_token_id=1,
            eos_token_id=2,
        ),
        tokens(),
        # half of each head rotates: its pairs are one axis over all layers, the rest is per layer
        {"head": (6, 6), "head_dim": (2, 4, 4, 8, 8), "neuron": (56, 56), "residual": (48,)},
        branches=4,
        holdout=True,
        huggingface=True,
    ),
    Entry(
        "hf_resnet",
        _hf(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=6,
            hidden_sizes=[8, 12],
            depths=[1, 2],
            num_labels=3,
            layer_type="basic",
        ),
        images(key="pixel_values"),
        {"channel": (6, 8, 8, 12, 12, 12)},
        first=(2, 33),
        second=(3, 40),
        branches=1,
        holdout=True,
        huggingface=True,
    ),
    Entry(
        "regnet",
        _hf(
            "RegNetForImageClassification",
            "RegNetConfig",
            embedding_size=6,
            hidden_sizes=[8, 12],
            depths=[1, 2],
            groups_width=4,
            num_labels=3,
        ),
        images(key="pixel_values"),
        # stem 6, stages 8 and 12; per block the groups (2, 3, 3), 4 channels in and out of each
        # group, and the squeezed width (6, 8, 12 quartered)
        {"channel": (2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 6, 8, 12)},
        first=(2, 17),
        second=(3, 24),
        branches=1,
        holdout=True,
        huggingface=True,
    ),
    Entry(
        "hf_mobilenetv2",
        _hf(
            "MobileNetV2ForImageClassification",
            "MobileNetV2Config",
            depth_multiplier=0.1,
            expand_ratio=2.0,
            finegrained_output=False,
            num_labels=3,
        ),
        images(key="pixel_values"),
        # widths are a tenth, rounded to 8, 16 or 32: stem and stages 1-4 have 8, stages 5-7 have
        # 16, 16, 32; ten blocks expand 8 channels to 16, six expand 16 to 32; the last has 128
        {"channel": (8,) * 5 + (16,) * 12 + (32,) * 7 + (128,)},
        first=(2, 33),
        second=(3, 33),  # it computes padding in Python, so a graph is fixed to one extent
        branches=10,
        holdout=True,
        huggingface=True,
    ),
]

ZOO = {entry.name: entry for entry in [*NETS, *TRANSFORMERS, *TOYS, *HOLDOUT]}
