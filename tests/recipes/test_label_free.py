"""Tasks found for data without targets."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence.fisher import IGNORED, Categorical, Gaussian
from probcomp.recipes.label_free import is_causal, label_free, reads_causally

SMALL = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 20, "max_position_embeddings": 32,
}  # fmt: skip


def made(kind: str) -> Any:
    import transformers

    torch.manual_seed(0)
    if kind == "causal":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).eval()
    config = transformers.BertConfig(**SMALL, initializer_range=0.2)
    classes = {
        "masked": transformers.BertForMaskedLM,
        "classifier": transformers.BertForSequenceClassification,
        "encoder": transformers.BertModel,
    }
    return classes[kind](config).eval()


def texts(count: int = 6) -> dict[str, Tensor]:
    ids = torch.randint(50, (count, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", ["causal", "masked", "classifier", "encoder"])
def test_every_kind_of_text_model_gets_a_task_and_a_finite_loss(kind: str) -> None:
    model, data = made(kind), texts()
    found = label_free(model, data, texts(4), seed=0)
    likelihood = found.task.likelihood
    expected = {
        "causal": Categorical(shift=True, unit="token"),
        "masked": Categorical(unit="token"),
        "classifier": Categorical(soft=True),
    }
    if kind == "encoder":
        assert isinstance(likelihood, Gaussian)
        assert found.task.pooled
    else:
        assert likelihood == expected[kind]
    assert isinstance(found.train, dict)
    labels = found.train["labels"]
    if kind in ("causal", "masked"):
        assert bool((labels[0, 5:] == IGNORED).all())
        assert int((labels == IGNORED).sum()) == 2
    if kind == "causal":
        real = data["attention_mask"].bool()
        assert torch.equal(labels[real], data["input_ids"][real])
    with torch.no_grad():
        loss = found.task.loss(model, found.train)
    assert torch.isfinite(loss)
    if kind in ("encoder", "classifier"):  # the dense model agrees with itself
        assert float(loss) == pytest.approx(0, abs=1e-6)
    assert found.words.startswith("Without targets")


def test_pooling_leaves_padding_out() -> None:
    model, data = made("encoder"), texts()
    found = label_free(model, data, texts(4), seed=0)
    with torch.no_grad():
        hidden = model(**data).last_hidden_state
    torch.testing.assert_close(found.train["labels"][0], hidden[0, :5].mean(0))


def test_the_deviation_makes_one_coordinate_vary_by_one() -> None:
    model, x = nn.Linear(3, 4), torch.randn(200, 3)
    found = label_free(model, (x,), (x[:5],), seed=0)
    assert isinstance(found.task.likelihood, Gaussian)
    with torch.no_grad():
        variance = model(x).var(0, correction=0).mean()
    assert found.task.likelihood.deviation == pytest.approx(float(variance.sqrt()), rel=1e-5)


def test_causality_is_tried_and_not_read_off_a_name() -> None:
    ids = texts()["input_ids"][:2]
    assert is_causal(made("causal"), ids)
    assert not is_causal(made("masked"), ids)
    assert reads_causally(made("causal"), 50)
    assert not reads_causally(made("masked"), 50)
    assert not reads_causally(made("encoder"), 50)


def test_data_that_do_not_fit_the_model_are_named() -> None:
    with pytest.raises(InputError, match="does not run on the data"):
        label_free(nn.Linear(3, 2), (torch.randn(4, 5),), (torch.randn(4, 5),), seed=0)


def test_outputs_that_do_not_vary_are_refused() -> None:
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    with pytest.raises(InputError, match="do not vary"):
        label_free(model, (torch.randn(4, 3),), (torch.randn(4, 3),), seed=0)
