"""The C++ kernel on each instruction set that this machine has, and life without a compiler."""

import dataclasses
import shutil
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.kernels import cpp, masked_linear, pack
from probcomp.kernels.activations import ACTIVATIONS
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
    layer = cpp.block_layer(p.val, p.index, n)
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


@pytest.mark.parametrize("isa", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_applied_in_the_kernel(name: str, isa: int) -> None:
    values = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([0.0, 1e4, -1e4, 1e-20])])
    one = cpp.dense_layer(torch.ones(1, 1))
    y = cpp.run_chain(values[:, None], cpp.chain([one], [None], [name]), isa).flatten()
    expected = ACTIVATIONS[name](values.double())
    assert (y - expected).abs().max() < 3e-6
    assert ((y - expected).abs() <= 3e-6 * expected.abs() + 5e-7).all()
    x = torch.tensor([[float("nan")], [float("inf")], [1.0]])
    y = cpp.run_chain(x, cpp.chain([one], [None], [name]), isa).flatten()
    assert y.isnan().tolist() == [True, False, False]
    assert y[1] == float("inf")


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_the_operator_passes_bias_and_activation_on(name: str) -> None:
    bias = torch.randn(64)
    p = pack(torch.randn(64, 64), torch.ones(64, 64, dtype=torch.bool), block=(32, 32),
             format="blocks", bias=bias)  # fmt: skip
    x = torch.randn(9, 64)
    y = masked_linear(x, p, activation=name, backend="cpp")
    expected = ACTIVATIONS[name](x @ p.dense().T + bias)
    assert torch.allclose(y, expected, atol=1e-4)
    other = dataclasses.replace(p, bias=bias + 1.0)  # the copy of the weight is kept, not this
    assert torch.allclose(masked_linear(x, other, backend="cpp"), x @ p.dense().T + bias + 1.0,
                          atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("isa", [0, 1, 2])
def test_a_chain_gives_the_same_bits_for_any_batch_and_number_of_threads(isa: int) -> None:
    """Many rows go through the chain in strips, few rows layer by layer: 2 threads use both."""
    rng = generator(0)
    sizes = [(300, 70), (96, 300), (600, 96), (10, 600)]
    weights = [torch.randn(size, generator=rng) / size[1] ** 0.5 for size in sizes]
    biases = [torch.randn(n, generator=rng) for n, _ in sizes]
    layers = [cpp.dense_layer(weight) for weight in weights]
    p = pack(weights[1], block_support((96, 300), (32, 32), 0.5), block=(32, 32), format="blocks")
    layers[1] = cpp.block_layer(p.val, p.index, 96)  # reads 20 zeros more
    acts = ["relu", "gelu", "silu", "none"]
    chain = cpp.chain(layers, biases, acts)
    x = torch.randn(150, 70, generator=rng)
    expected = x
    for weight, bias, act in zip([weights[0], p.dense(), *weights[2:]], biases, acts):
        expected = ACTIVATIONS[act](expected @ weight.T + bias)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        both = cpp.run_chain(x, chain, isa)
        few = cpp.run_chain(x[:17], chain, isa)
        torch.set_num_threads(1)
        alone = cpp.run_chain(x, chain, isa)
    finally:
        torch.set_num_threads(before)
    assert relative_error(both, expected) < FLOAT32
    assert torch.equal(both, alone)
    assert torch.equal(both[:17], few)


def test_inputs_of_any_stride_and_no_rows() -> None:
    layer = cpp.dense_layer(torch.randn(5, 12))
    chain = cpp.chain([layer], [torch.randn(10)[::2]], ["none"])
    wide = torch.randn(7, 24)
    for x in (wide[:, ::2], wide[:, :12], wide[:1, :12].expand(7, 12)):
        assert torch.equal(cpp.run_chain(x, chain), cpp.run_chain(x.clone(), chain))
    assert cpp.run_chain(wide[:0, :12], chain).shape == (0, 5)


def test_without_a_compiler_the_request_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(cpp, "_library", None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not cpp.available()
    assert cpp.instruction_set() == "not built"
    with pytest.raises(InputError, match="needs a C"):
        cpp.build()


@pytest.fixture
def nothing_built(monkeypatch, tmp_path):
    monkeypatch.setattr(cpp, "_library", None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    return tmp_path


def test_a_build_is_private_and_needs_nothing_but_a_compiler(nothing_built, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.cpp_extension", None)
    monkeypatch.setitem(sys.modules, "ninja", None)
    assert cpp.build() in ("portable", "AVX2", "AVX-512")
    (folder,) = nothing_built.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    (library,) = folder.iterdir()  # no temporary file is left
    assert library.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(cpp, "_library", None)
    assert cpp.available()
    library.chmod(0o722)  # others may write: not ours to run
    monkeypatch.setattr(cpp, "_library", None)
    assert not cpp.available()


def test_a_failed_build_gives_the_compilers_words(nothing_built, monkeypatch) -> None:
    monkeypatch.setattr(cpp, "_FLAGS", [*cpp._FLAGS, "-fno-such-flag-at-all"])
    with pytest.raises(InputError, match=r"did not build: .*no-such-flag"):
        cpp.build()
    assert not cpp.available()
    assert not list(nothing_built.glob("*/*"))


@pytest.mark.parametrize("rows", [1, 200])
def test_without_memory_for_hidden_values_it_raises(rows: int, monkeypatch) -> None:
    layers = [cpp.dense_layer(torch.randn(8, 10)), cpp.dense_layer(torch.randn(4, 8))]
    chain = cpp.chain(layers, [None, None], ["relu", "none"])
    chain.raw[0].N = 2**58
    with pytest.raises(MemoryError, match="hidden values"):
        cpp.run_chain(torch.randn(rows, 10), chain)


def _dense_chain(bias: torch.Tensor | None) -> cpp.Chain:
    return cpp.chain([cpp.dense_layer(torch.randn(8, 10))], [bias], ["none"])


@pytest.mark.parametrize("bias", [torch.zeros(8, dtype=torch.float64), torch.zeros(3)])
def test_a_bias_that_does_not_fit_is_refused(bias: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"a bias must be float32 \[8\]"):
        _dense_chain(bias)


@pytest.mark.parametrize("width", [6, 9, 11, 14])
def test_inputs_of_another_width_are_refused(width: int) -> None:
    with pytest.raises(InputError, match=r"x must be float32 \[M, 10\]"):
        cpp.run_chain(torch.randn(2, width), _dense_chain(None))


def test_inputs_and_weights_of_another_type_are_refused() -> None:
    with pytest.raises(InputError, match="x must be float32"):
        cpp.run_chain(torch.randn(2, 10, dtype=torch.float64), _dense_chain(None))
    with pytest.raises(InputError, match="takes float32 on a CPU"):
        cpp.dense_layer(torch.randn(8, 10, dtype=torch.float64))


def test_layers_that_do_not_follow_each_other_are_refused() -> None:
    layers = [cpp.dense_layer(torch.randn(8, 10)), cpp.dense_layer(torch.randn(4, 9))]
    with pytest.raises(InputError, match="reads 9 values, the one before gives 8"):
        cpp.chain(layers, [None, None], ["relu", "none"])


def test_a_hidden_kernel_is_not_there_for_a_while() -> None:
    before = cpp.available()
    with cpp.hidden():
        assert not cpp.available()
        assert not cpp.usable((32, 32), torch.float32, torch.device("cpu"))
        with cpp.hidden():
            pass
        assert not cpp.available()
    assert cpp.available() == before
