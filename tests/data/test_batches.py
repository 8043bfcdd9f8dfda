import pytest
import torch

from probcomp.data.batches import Batches, trimmed
from probcomp.errors import InputError


def test_an_epoch_is_a_seeded_permutation():
    x, y = torch.arange(10.0), torch.arange(10)
    batches = Batches((x, y), batch_size=4, seed=3)
    epoch = list(batches(0))
    assert [len(b[0]) for b in epoch] == [4, 4, 2]
    assert len(batches) == 3
    seen = torch.cat([b[1] for b in epoch])
    assert sorted(seen.tolist()) == list(range(10))
    assert torch.equal(torch.cat([b[0] for b in epoch]), seen.float())
    again = torch.cat([b[1] for b in Batches((x, y), batch_size=4, seed=3)(0)])
    assert torch.equal(seen, again)
    assert not torch.equal(seen, torch.cat([b[1] for b in batches(1)]))
    assert not torch.equal(seen, torch.cat([b[1] for b in Batches((x, y), 4, seed=4)(0)]))


def test_epochs_of_neighbouring_seeds_differ():
    x = torch.arange(50)
    assert not torch.equal(
        next(iter(Batches((x, x), 50, seed=0)(1)))[0], next(iter(Batches((x, x), 50, seed=1)(0)))[0]
    )


@pytest.mark.parametrize(
    ("samples", "size", "sizes"), [(9, 4, [4, 5]), (1, 4, [1]), (5, 1, [1] * 5), (10, 4, [4, 4, 2])]
)
def test_a_batch_norm_never_trains_on_one_sample_left_over(samples, size, sizes):
    x = torch.arange(samples)
    batches = Batches((x, x), size)
    assert [len(b[0]) for b in batches(0)] == sizes
    assert len(batches) == len(sizes)
    assert sorted(torch.cat([b[0] for b in batches(1)]).tolist()) == x.tolist()
    in_order = Batches((x, x), size, shuffle=False)
    assert len(in_order) == len(list(in_order(0))) == -(-samples // size)


def test_dicts_and_no_shuffle():
    data = {"input_ids": torch.arange(6).view(3, 2), "labels": torch.arange(3)}
    batches = Batches(data, batch_size=2, shuffle=False)
    first, second = batches(0)
    assert torch.equal(first["labels"], torch.tensor([0, 1]))
    assert torch.equal(second["input_ids"], torch.tensor([[4, 5]]))
    assert torch.equal(batches.example(1)["labels"], torch.tensor([0]))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ((), "must be"),
        ((torch.ones(3), torch.ones(4)), "equally many"),
        ((torch.ones(0), torch.ones(0)), "no samples"),
        ((torch.tensor([1.0, float("nan")]), torch.ones(2)), r"data\[0\] holds NaN"),
        ({"x": torch.tensor([float("inf")])}, "x holds NaN or infinite"),
    ],
)
def test_refuses(data, says):
    with pytest.raises(InputError, match=says):
        Batches(data)
    with pytest.raises(InputError, match="batch_size"):
        Batches((torch.ones(1), torch.ones(1)), 0)


def test_padding_in_common_is_cut_off() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    ids = torch.arange(8).view(2, 4)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    found = trimmed(batch)
    assert {name: value.shape[1] for name, value in found.items()} == dict.fromkeys(batch, 3)
    assert torch.equal(found["input_ids"], ids[:, 1:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_longer_than_the_longest_input_keep_their_ends(side: str) -> None:
    """Inputs and targets of an encoder-decoder, padded to one width."""
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    mask = mask.flip(1) if side == "left" else mask
    labels = torch.tensor([[5, 6, 7, 8, -100], [5, 6, -100, -100, -100]])
    ids = torch.ones(2, 5, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    assert trimmed(batch) is batch
    more = batch | {"decoder_input_ids": ids, "decoder_attention_mask": labels.ne(-100).long()}
    found = trimmed(more)
    assert {name: value.shape[1] for name, value in found.items()} == {
        "input_ids": 3,
        "attention_mask": 3,
        "labels": 5,
        "decoder_input_ids": 5,
        "decoder_attention_mask": 5,
    }
