from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from probcomp.allocation.counts import check_finite, macs_of, weight_macs
from probcomp.errors import InputError
from probcomp.models import LeNet5, LeNet300100
from probcomp.structure import trace
from tests.recipes.mixtures import language_model, tokens


def test_macs_of_weights_add_up_to_the_flop_counter():
    """Two operations a multiply-accumulate in PyTorch's own counter, an independent count."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(6, 3, 2, stride=2),
        nn.Flatten(2),
        nn.Linear(100, 5),
    )
    x = torch.randn(3, 2, 14, 14)
    macs = weight_macs(model, lambda m: m(x), samples=3)
    weights = dict(model.named_parameters())
    total = sum(count * weights[name].numel() for name, count in macs.items())
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert total * 3 * 2 == counter.get_total_flops()
    assert set(macs) == {f"{i}.weight" for i in (0, 1, 2, 4)}


class Encoder(nn.Module):
    """A transformer of torch's own, which runs no projection of attention as a module."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


IDS = torch.arange(2 * 9).reshape(2, 9) % 40
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network(name: str) -> tuple[nn.Module, dict[str, Tensor] | tuple[Tensor, ...]]:
    """A small untrained network of a family, with an input of two samples."""
    import transformers as hf

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    text: dict[str, Any] = {**sizes, "intermediate_size": 24, "vocab_size": 40}
    nets: dict[str, Any] = {
        "mlp": lambda: (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
                        (torch.ones(2, 6),)),
        "cnn": lambda: (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
                                      nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1),
                                      nn.Flatten(), nn.Linear(576, 5)), (IMAGES,)),
        "encoder": lambda: (Encoder(), (torch.randn(2, 7, 16),)),
        "bert": lambda: (hf.BertModel(hf.BertConfig(**text)), {"input_ids": IDS}),
        "gpt2": lambda: (hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=2, n_head=4,
                                                          vocab_size=40)), {"input_ids": IDS}),
        "llama": lambda: (hf.LlamaForCausalLM(hf.LlamaConfig(**text, num_key_value_heads=2)),
                          {"input_ids": IDS}),
        "t5": lambda: (hf.T5ForConditionalGeneration(hf.T5Config(
            d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, vocab_size=40)),
            {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}),
        "vit": lambda: (hf.ViTModel(hf.ViTConfig(**sizes, intermediate_size=24, image_size=16,
                                                 patch_size=4)), (IMAGES,)),
        "mixtral": lambda: (language_model("mixtral"), {"input_ids": IDS}),
    }  # fmt: skip
    model, inputs = nets[name]()
    return model.eval(), inputs


def call(model: nn.Module, inputs: dict[str, Tensor] | tuple[Tensor, ...]) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


FAMILIES = ("mlp", "cnn", "encoder", "bert", "gpt2", "llama", "t5", "vit", "mixtral")


@pytest.mark.parametrize("family", FAMILIES)
def test_all_products_are_those_of_the_flop_counter(family: str) -> None:
    model, inputs = network(family)
    found = macs_of(model, lambda m: call(m, inputs), samples=2)
    if family == "mixtral":  # the counter does not know grouped products
        model.set_experts_implementation("eager")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call(model, inputs)
    if family == "mixtral":
        model.set_experts_implementation("grouped_mm")
    assert (found.of(model) + found.others) * 2 * 2 == pytest.approx(counter.get_total_flops())
    assert not found.unseen
    assert (found.others > 0) == (family not in ("mlp", "cnn"))
    # No matrix goes uncounted, but for tables.
    tables = ("embed", "wpe", "wte", "shared", "bias", "token", "position")
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not any(word in name for word in tables):
            assert found.uses[name] > 0, name


@pytest.mark.parametrize(
    "family",
    [f if f in FAMILIES[:3] else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES],
)
def test_the_structure_counts_the_same(family: str) -> None:
    """Costs of axes are for the example inputs, all samples of them."""
    model, inputs = network(family)
    found = macs_of(model, lambda m: call(m, inputs), samples=2)
    assert trace(model, inputs).cost().macs == pytest.approx(2 * (found.of(model) + found.others))


def test_recurrent_and_bilinear_layers_are_counted() -> None:
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        macs = macs_of(kind(4, 5, batch_first=True), lambda m: m(torch.ones(2, 3, 4)), 2)
        assert macs.uses == {"weight_ih_l0": 3, "weight_hh_l0": 3}
    macs = macs_of(nn.Bilinear(3, 4, 5), lambda m: m(torch.ones(2, 3), torch.ones(2, 4)), 2)
    assert macs.uses == {"weight": 1}


def test_a_head_tied_to_the_embedding_counts_where_it_multiplies() -> None:
    model, inputs = network("gpt2")
    macs = weight_macs(model, lambda m: call(m, inputs), 2)
    assert macs["transformer.wte.weight"] == 9
    assert "transformer.wpe.weight" not in macs


def test_weights_are_known_in_another_type_and_under_a_mask() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 6))
            self.register_buffer("mask", torch.ones(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return x.double() @ (self.weight * self.mask).double().t()

    assert weight_macs(Masked(), lambda m: m(torch.ones(2, 3, 6)), 2) == {"weight": 3}


def test_what_multiplies_element_by_element_is_named() -> None:
    class Elementwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 6))
            self.table = nn.Parameter(torch.ones(6, 6))
            self.scale = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            x = x * self.scale + self.table[0]
            return (x[:, None] * self.weight).sum(-1)

    macs = macs_of(Elementwise(), lambda m: m(torch.ones(2, 6)), 2)
    assert macs.uses == {}
    assert set(macs.unseen) == {"weight"}


def test_modules_keep_their_modes() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    model[1].eval()
    weight_macs(model, lambda m: m(torch.ones(2, 4)), 2)
    assert model[0].training
    assert not model[1].training


def test_counts_of_the_recorded_networks() -> None:
    """What the ratios of multiplications in the recorded benchmarks are of."""
    for model, shape, total in (
        (LeNet300100(), (2, 784), 266_200),
        (LeNet5(), (2, 1, 28, 28), 2_293_000),
    ):
        x = torch.zeros(shape)
        assert macs_of(model, lambda m, x=x: m(x), 2).of(model) == total


def test_a_shared_layer_counts_each_use():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert weight_macs(model, lambda m: m(torch.ones(5, 4)), samples=5) == {"0.weight": 2.0}


def test_check_finite_names_the_tensor():
    with pytest.raises(InputError, match=r"parameter b holds NaN"):
        check_finite([("a", torch.ones(1)), ("b", torch.tensor([float("nan")]))], "parameter")


def test_experts_in_one_tensor_are_counted_by_the_rows_that_are_sent_to_them() -> None:
    model, ids = language_model("mixtral"), tokens(4, 8)["input_ids"]
    macs = weight_macs(model, lambda m: m(input_ids=ids), samples=4)
    for layer in range(2):
        for part in ("gate_up_proj", "down_proj"):
            used = macs[f"model.layers.{layer}.mlp.experts.{part}"]
            assert used == 8 * 2 / 4  # positions of a sample, two of four experts each
