"""The C++ kernel on each instruction set that this machine has, and life without a compiler."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.kernels import cpp, masked_linear, pack
from tests.kernels.supports import block_support, generator, relative_error

FLOAT32 = 2e-6


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    cpp.build()


@settings(max_examples=40)
@given(
    n=st.integers(1, 150),
    k=st.integers(1, 70),
    m=st.sampled_from([1, 2, 5, 6, 7, 12, 13, 47, 48, 49, 97]),
    bn=st.sampled_from([16, 32, 48, 64, 128]),
    bk=st.sampled_from([1, 7, 16, 32]),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    isa=st.sampled_from([0, 1, 2]),
    biased=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_every_tile_shape_is_the_masked_product(
    n, k, m, bn, bk, density, isa, biased, seed
) -> None:
    weight = torch.randn(n, k, generator=generator(seed))
    support = block_support((n, k), (bn, bk), density, seed + 1)
    bias = torch.randn(n, generator=generator(seed + 2)) if biased else None
    p = pack(weight, support, block=(bn, bk), format="blocks", bias=bias)
    x = torch.randn(m, k, generator=generator(seed + 3))
    width = (p.ccol.shape[0] - 1) * bk
    layer = cpp.block_layer(p.val, p.crow, p.col, p.row_order, n, width)
    y = cpp.run_chain(x, cpp.chain([layer], [bias], ["none"]), isa)
    expected = x.double() @ p.dense().double().T + (0 if bias is None else bias.double())
    assert (y - expected).norm() <= FLOAT32 * (1 + expected.norm())


def test_rows_alone_and_in_a_batch_give_the_same_bits() -> None:
    p = pack(
        torch.randn(128, 64),
        block_support((128, 64), (64, 32), 0.5),
        block=(64, 32),
        format="blocks",
    )
    x = torch.randn(60, 64)
    batch = masked_linear(x, p, backend="cpp")
    assert torch.equal(batch, masked_linear(x, p, backend="cpp"))
    alone = torch.cat([masked_linear(row[None], p, backend="cpp") for row in x])
    assert torch.equal(batch, alone)


def test_the_kept_copy_follows_a_write_to_the_weight() -> None:
    p = pack(
        torch.randn(64, 64), torch.ones(64, 64, dtype=torch.bool), block=(32, 32), format="blocks"
    )
    x = torch.randn(3, 64)
    before = masked_linear(x, p, backend="cpp")
    p.val.mul_(2.0)
    assert relative_error(masked_linear(x, p, backend="cpp"), 2 * before) < FLOAT32


def test_relu_is_applied_in_the_kernel() -> None:
    p = pack(
        torch.randn(64, 64), torch.ones(64, 64, dtype=torch.bool), block=(32, 32), format="blocks"
    )
    x = torch.randn(9, 64)
    y = masked_linear(x, p, activation="relu", backend="cpp")
    assert torch.equal(y, torch.relu(masked_linear(x, p, backend="cpp")))


def test_without_a_compiler_the_request_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(cpp, "_library", None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not cpp.available()
    assert cpp.instruction_set() == "not built"
    with pytest.raises(InputError, match="needs a C"):
        cpp.build()
