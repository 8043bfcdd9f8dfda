"""Masks: exact counts, the layers that are left alone, and methods of the package."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probcomp.errors import InputError
from probcomp.regime.pruning import (
    density_of,
    load_rule,
    magnitude_masks,
    make_masks,
    prunable_weights,
)
from tests.regime import tiny_task


def test_the_last_layer_norms_and_biases_are_left_alone():
    model = tiny_task.build()
    assert list(prunable_weights(model)) == ["0.weight", "4.weight"]
    assert list(prunable_weights(model, ["7.weight"])) == ["7.weight"]
    with pytest.raises(InputError, match="unknown prunable parameter"):
        prunable_weights(model, ["8.weight"])
    with pytest.raises(InputError, match="besides the last"):
        prunable_weights(nn.Linear(2, 2))


@given(
    density=st.floats(0.01, 1.0),
    rule=st.sampled_from(["uniform", "global"]),
    seed=st.integers(0, 9),
)
def test_the_largest_are_kept_and_the_count_is_exact(density, rule, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "a": torch.randn(7, 5, generator=generator).round(decimals=1),  # ties
        "b": 3 * torch.randn(4, 3, 2, generator=generator),
    }
    masks = magnitude_masks(weights, density, rule)
    groups = [["a"], ["b"]] if rule == "uniform" else [["a", "b"]]
    for names in groups:
        size = torch.cat([weights[name].abs().flatten() for name in names])
        kept = torch.cat([masks[name].flatten() for name in names])
        assert int(kept.sum()) == max(1, round(density * len(size)))
        if not kept.all():
            assert size[kept].min() >= size[~kept].max()


@pytest.mark.parametrize("bad", [0.0, 1.1, -0.2])
def test_densities_outside_the_unit_interval_are_refused(bad):
    with pytest.raises(InputError, match="density"):
        magnitude_masks({"a": torch.ones(2, 2)}, bad, "uniform")


def every_other(model, task, density, seed):
    """A rule of one's own."""
    return {
        name: torch.arange(w.numel()).view_as(w) % 2 for name, w in prunable_weights(model).items()
    }


def test_a_rule_is_found_at_its_address_and_gives_booleans():
    task = tiny_task.task()
    model = task.fresh(0)
    masks = make_masks(model, task, 0.4, f"{__name__}:every_other", seed=0)
    assert {mask.dtype for mask in masks.values()} == {torch.bool}
    assert density_of(model, masks, task) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def rule(:", "raised SyntaxError"),
        ("1 / 0", "raised ZeroDivisionError"),
        ("rule = 3", "of type int, not a function"),
    ],
)
def test_rules_that_cannot_be_read_are_refused_in_one_line(text, words, tmp_path, monkeypatch):
    (tmp_path / "a_rule.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "a_rule", raising=False)
    with pytest.raises(InputError, match=words) as caught:
        load_rule("a_rule:rule")
    assert "\n" not in str(caught.value)


def test_unknown_rules_are_refused_with_the_known_ones():
    task = tiny_task.task()
    with pytest.raises(InputError, match=r"unknown pruning method.*uniform"):
        make_masks(task.fresh(0), task, 0.4, "by-feel", seed=0)
    for address in ("nowhere_at_all:rule", f"{__name__}:nothing", ":"):
        with pytest.raises(InputError, match="no pruning rule"):
            make_masks(task.fresh(0), task, 0.4, address, seed=0)
    with pytest.raises(InputError, match="unknown pruning rule"):
        magnitude_masks({"a": torch.ones(2, 2)}, 0.4, "by-feel")


@pytest.mark.parametrize("rule", ["uniform", "global"])
def test_masks_lie_where_the_weights_are(rule):
    """New tensors of no stated device lie elsewhere here, as they do for a network on a GPU."""
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4.0)}
    expected = magnitude_masks(weights, 0.5, rule)
    with torch.device("meta"):
        found = magnitude_masks(weights, 0.5, rule)
    assert all(torch.equal(found[name], expected[name]) for name in weights)
