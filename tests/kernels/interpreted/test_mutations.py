"""Each small mistake in a kernel must fail a test that is named here."""

import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from probcomp.kernels.gpu import (
    block_backward,
    block_forward,
    decode_statistics,
    launch,
    reparameterised,
)
from tests.kernels.interpreted import (
    test_block_linear,
    test_decode_statistics,
    test_reparameterised,
)


class Mutation(NamedTuple):
    """A mistake: one string of a kernel's module for another, and the test that must see it."""

    module: object
    right: str
    wrong: str
    caught_by: Callable[[], None]


def gradients() -> None:
    test_block_linear.test_gradients(test_block_linear.torch.float64, 17)


def forward() -> None:
    test_block_linear.test_forward_dtypes(test_block_linear.torch.float32, 33)


def parts() -> None:
    test_decode_statistics.test_parts_merge_to_the_whole(512, 1)


def hostile_rows() -> None:
    test_decode_statistics.test_hostile_rows(1.0)


def noise() -> None:
    test_reparameterised.test_noise_is_independent_across_tiles_and_columns_and_belongs_to_the_seed()


MUTATIONS = {
    "the column index in the order of rows": Mutation(
        block_backward, "r = tl.load(trow_ptr + i)", "r = tl.load(trow_ptr + e)", gradients
    ),
    "the last live block of a row left out": Mutation(
        block_forward, "in range(lo, hi):", "in range(lo, hi - 1):", forward
    ),
    "a step of the batch left out of the weight's gradient": Mutation(
        block_backward, "in range(first, tl.minimum(first + STEP, M), BM)",
        "in range(first, tl.minimum(first + STEP, M) - BM, BM)", gradients,
    ),
    "a later chunk takes a tie": Mutation(
        decode_statistics, "tl.where(b1 > m1, at, arg)", "tl.where(b1 >= m1, at, arg)", parts
    ),
    "no guard for a chunk of minus infinities": Mutation(
        decode_statistics, "base = tl.where(b1 == low, 0.0, b1)", "base = b1", parts
    ),
    "no guard for a banned token's entropy": Mutation(
        decode_statistics, "tl.where(weight > 0, shift * weight, 0.0)", "shift * weight",
        hostile_rows,
    ),
    "the same noise in every block row": Mutation(
        reparameterised, "quads + r * (BN // 4) + o_q", "quads + o_q", noise
    ),
}  # fmt: skip


def mutated(module, right: str, wrong: str, folder: Path):
    """The module again with the mistake; Triton reads the source of a kernel from its file."""
    source = Path(module.__file__).read_text()
    assert source.count(right) == 1, f"{right!r} is not in {module.__name__} once"
    path = folder / f"mutated_{module.__name__.rsplit('.', 1)[-1]}.py"
    path.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


@pytest.mark.parametrize("mistaken", [True, False])
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_caught(name: str, mistaken: bool, monkeypatch, tmp_path) -> None:
    """And the same module without the mistake, put in its place in the same way, passes."""
    module, right, wrong, caught_by = MUTATIONS[name]
    again = mutated(module, right, wrong if mistaken else right, tmp_path)
    monkeypatch.setitem(sys.modules, module.__name__, again)
    monkeypatch.setattr(launch, "block_forward", sys.modules[block_forward.__name__])
    if module is decode_statistics:
        monkeypatch.setattr(test_decode_statistics, "parts", again.parts)
    for attribute in ("launch_input", "launch_weight"):
        if hasattr(again, attribute):
            public = attribute.replace("launch_", "block_backward_")
            monkeypatch.setattr(launch, public, getattr(again, attribute))
    with pytest.raises(AssertionError) if mistaken else nullcontext():
        caught_by()
