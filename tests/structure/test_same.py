"""Is a model that was read back the same model?"""

import copy

import pytest
import torch
from transformers import BertConfig, BertModel

from probcomp.structure.same import NotStock, check_same

CONFIG = BertConfig(
    vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=24, max_position_embeddings=12,
)  # fmt: skip


@pytest.fixture
def pair() -> tuple[BertModel, BertModel]:
    torch.manual_seed(0)
    model = BertModel(CONFIG).eval()
    return model, copy.deepcopy(model)


def test_a_copy_is_the_same(pair) -> None:
    check_same(*pair)


def test_another_value_is_named(pair) -> None:
    with torch.no_grad():
        pair[1].encoder.layer[1].output.dense.bias[0] += 1
    with pytest.raises(NotStock, match=r"layer\.1\.output\.dense\.bias would come back with"):
        check_same(*pair)


def test_another_module_is_named(pair) -> None:
    pair[1].encoder.layer[0].output.dense = torch.nn.Identity()
    with pytest.raises(NotStock, match="would come back as another module"):
        check_same(*pair)
    more = copy.deepcopy(pair[0])
    more.extra = torch.nn.Identity()
    with pytest.raises(NotStock, match="extra would appear in addition"):
        check_same(pair[0], more)


def test_another_number_that_matters_is_named(pair) -> None:
    pair[1].embeddings.LayerNorm.eps = 1e-3
    with pytest.raises(NotStock, match=r"LayerNorm\.eps would come back as 0\.001"):
        check_same(*pair)


def test_an_integer_that_changes_no_output_may_differ(pair) -> None:
    """A width that only describes: the outputs are compared, bit for bit."""
    pair[1].encoder.layer[0].intermediate.dense.out_features = 7
    check_same(*pair)


def test_an_integer_that_changes_outputs_is_told(pair) -> None:
    layer = pair[1].encoder.layer[0].attention.self
    layer.attention_head_size, layer.num_attention_heads = 16, 1
    with pytest.raises(NotStock, match=r"and the outputs would differ|could not be run"):
        check_same(*pair)
