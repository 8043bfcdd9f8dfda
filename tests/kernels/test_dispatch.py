"""The choice of a backend: request, environment, table, rule."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.kernels import cpp, dispatch, masked_linear, pack
from probcomp.kernels.dispatch import Problem, candidates, choose, m_bucket
from probcomp.kernels.tables import LIBRARY
from probcomp.kernels.tuning import problem_of
from probcomp.storage import read_json

CPU = torch.device("cpu")
SHIPPED = Path(dispatch.__file__).parent / "tables"


def problem(density=0.1, rows=16, block=(64, 32), kind="blocks", device=CPU, frozen=True, **other):
    dtype = other.get("dtype", torch.float32)
    return Problem(kind, device, dtype, (3072, 768), block, density, rows, frozen)


@pytest.fixture(autouse=True)
def no_tables(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setattr(cpp, "available", lambda: False)
    monkeypatch.setattr(dispatch.tables, "_SHIPPED", tmp_path)
    dispatch.forget_choices()
    yield
    dispatch.forget_choices()


def test_buckets_hold_up_to_their_name() -> None:
    pairs = {0: 1, 1: 1, 2: 16, 16: 16, 17: 64, 128: 256, 1024: 1024, 1025: 0}
    assert {rows: m_bucket(rows) for rows in pairs} == pairs


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
@pytest.mark.parametrize("kind", ["blocks", "runs", "nm", "int8", "compact"])
def test_dense_is_a_candidate_in_every_choice(kind: str, device: torch.device) -> None:
    assert candidates(problem(kind=kind, device=device))[0] == "dense"


def test_a_gpu_kernel_is_a_candidate_only_for_blocks_that_it_takes(monkeypatch) -> None:
    """A side that is no power of two does not compile, a small one fills no matrix unit."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(dispatch, "triton_installed", lambda: True)
    for kind in ("blocks", "int8", "runs"):
        for block, fits in (((16, 16), True), ((128, 64), True), ((24, 40), False),
                            ((8, 32), False), ((64, 8), False), ((256, 64), False)):  # fmt: skip
            asked = problem(kind=kind, block=block, device=cuda)
            assert ("triton" in candidates(asked)) == fits
            if not fits:
                assert choose(asked._replace(density=0.01)).backend != "triton"
                with pytest.raises(InputError, match="can run: dense"):
                    choose(asked, "triton")
    assert "triton" in candidates(problem(kind="nm", block=(2, 4), device=cuda))


def test_without_triton_a_gpu_runs_what_pytorch_has(monkeypatch) -> None:
    class Gpu(torch.Tensor):
        is_cuda = True

    x = torch.ones(2).as_subclass(Gpu)
    for installed in (True, False):
        monkeypatch.setattr(dispatch, "triton_installed", lambda i=installed: i)
        assert dispatch.on_triton(x) == installed
        assert not dispatch.on_triton(torch.ones(2))
        asked = problem(device=torch.device("cuda"))
        assert ("triton" in candidates(asked)) == installed


def test_a_dense_support_runs_dense_and_says_why() -> None:
    choice = choose(problem(density=0.95))
    assert choice.backend == "dense"
    assert "break-even" in choice.reason


@pytest.mark.parametrize("rows", [1, 16, 64, 128, 2048])
@pytest.mark.parametrize("density", [0.8, 1.0])
def test_blocks_that_were_asked_for_run_dense_above_break_even(
    density: float, rows: int, monkeypatch
) -> None:
    """A weight packed with ``block=`` by hand; the C++ kernel is there and would be slower."""
    monkeypatch.setattr(cpp, "available", lambda: True)
    support = torch.zeros(8, 8, dtype=torch.bool)
    support.view(-1)[: round(64 * density)] = True
    support = support.repeat_interleave(32, 0).repeat_interleave(32, 1)
    packed = pack(torch.randn(256, 256), support, block=(32, 32), format="blocks")
    assert packed.kind == "blocks"
    assert "cpp" in candidates(problem_of(packed, rows))
    chosen = choose(problem_of(packed, rows))
    assert chosen.backend == "dense"
    x = torch.randn(rows, 256)
    monkeypatch.setattr(cpp, "available", lambda: False)  # the choice stands; dense needs no build
    monkeypatch.setattr(cpp, "block_layer", lambda *_: pytest.fail("ran the sparse kernel"))
    dense = masked_linear(x, packed, backend="dense")
    assert torch.equal(masked_linear(x, packed, backend="auto"), dense)


def test_without_a_compiler_sparse_blocks_use_panels_and_training_gathers() -> None:
    for tall in (32, 64, 256):
        assert choose(problem(density=0.1, block=(tall, 32))).backend == "panels"
    assert choose(problem(density=0.08, frozen=False)).backend == "gather"
    assert choose(problem(density=0.3, block=(256, 64))).backend == "panels"
    assert choose(problem(density=0.5)).backend == "dense"
    assert choose(problem(density=0.1, block=(8, 32))).backend == "dense"


def test_int8_blocks_that_are_widened_first_leave_more_to_dense() -> None:
    able = ("dense", "gather")
    for kind, backend in (("runs", "gather"), ("int8", "dense")):
        assert dispatch._rule(problem(kind=kind, density=0.15), able, 1).backend == backend
        assert dispatch._rule(problem(kind=kind, density=0.1), able, 1).backend == "gather"


def test_training_expands_no_dense_weight_for_few_rows() -> None:
    for rows, limit in ((1, 0.9), (16, 0.9), (64, 0.2), (256, 0.2), (1024, 0.12)):
        asked = problem(rows=rows, frozen=False)
        assert choose(asked._replace(density=limit - 0.01)).backend == "gather"
        assert choose(asked._replace(density=limit + 0.01)).backend == "dense"
    assert choose(problem(rows=16, block=(16, 16), frozen=False)).backend == "dense"


def test_panels_break_even_where_they_were_measured_to() -> None:
    low, tall = problem(density=0.25, block=(32, 32)), problem(density=0.25, block=(256, 32))
    # On several threads the vendor's dense product gains more than its batched one.
    assert dispatch.break_even(low, "panels", 1) > 0.25 > dispatch.break_even(low, "panels", 2)
    assert dispatch.break_even(tall, "panels", 2) > 0.25


def test_sixteen_bits_leave_more_to_dense() -> None:
    """The vendor's dense product gains by them and its batched one does not."""
    low = problem(density=0.15, block=(64, 32), rows=128, dtype=torch.bfloat16)
    assert choose(low).backend == "panels"
    assert choose(low._replace(block=(32, 32))).backend == "panels"
    for other in (
        low._replace(rows=16), low._replace(rows=1), low._replace(density=0.3),
        low._replace(block=(16, 16)), low._replace(block=(32, 32), density=0.22),
        low._replace(dtype=torch.float16), low._replace(rows=1, density=0.01),
    ):  # fmt: skip
        assert choose(other).backend == "dense"
        assert choose(other._replace(dtype=torch.float64)).backend in ("panels", "dense")


@settings(max_examples=200)
@given(
    kind=st.sampled_from(["blocks", "int8", "runs", "nm", "compact"]),
    shape=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    block=st.tuples(st.integers(1, 300), st.integers(1, 300)), rows=st.integers(1, 5000),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    device=st.sampled_from([CPU, torch.device("cuda")]), compiled=st.booleans(),
    densities=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), threads=st.integers(1, 8),
)  # fmt: skip
def test_the_rule_on_any_problem(
    kind, shape, block, rows, dtype, device, compiled, densities, threads
) -> None:
    """Dense at full density and for tiny weights; nothing sparse at a density that is higher."""
    sparser, denser = (
        Problem(kind, device, dtype, shape, block, d, m_bucket(rows), True)
        for d in sorted(densities)
    )
    able = {"blocks": ("dense", "gather", "panels", "cpp"), "int8": ("dense", "gather"),
            "runs": ("dense", "gather")}.get(kind, ("dense",))  # fmt: skip
    if device != CPU:
        able = (*able, "triton") if kind != "compact" else able
    elif not compiled:
        able = tuple(name for name in able if name != "cpp")
    for asked in (sparser, denser):
        choice = dispatch._rule(asked, able, threads)
        assert choice.backend in able
        assert choice.reason
    if dispatch._rule(denser, able, threads).backend != "dense":
        assert dispatch._rule(sparser, able, threads).backend != "dense"
    assert dispatch._rule(denser._replace(density=1.0), able, threads).backend == "dense"
    tiny = sparser._replace(shape=(64, 64), rows=1)
    assert device != CPU or dispatch._rule(tiny, able, threads).backend == "dense"


def test_one_row_reads_half_of_a_weight_faster_where_panels_are_tall_enough() -> None:
    able = ("dense", "gather", "panels")
    for threads, fast in ((1, {64}), (2, set())):
        for tall in (16, 32, 64, 256):
            asked = problem(density=0.5, rows=1, block=(tall, 32))
            backend = "panels" if tall in fast else "dense"
            assert dispatch._rule(asked, able, threads).backend == backend
            sparser = asked._replace(density=0.3 if threads == 1 or tall > 16 else 0.1)
            assert dispatch._rule(sparser, able, threads).backend == "panels"


def test_small_weights_are_left_to_one_call_of_the_vendor() -> None:
    small = problem(density=0.05)._replace(shape=(128, 128))
    assert choose(small).backend == "dense"


def test_with_the_compiled_kernel_it_is_chosen(monkeypatch) -> None:
    monkeypatch.setattr(cpp, "available", lambda: True)
    assert choose(problem(density=0.5)).backend == "cpp"
    assert choose(problem(density=0.5, dtype=torch.float64)).backend != "cpp"


def test_a_small_product_is_left_to_the_vendor_even_where_the_kernel_is_built(monkeypatch) -> None:
    monkeypatch.setattr(cpp, "available", lambda: True)
    small, large = problem(density=0.2)._replace(shape=(128, 128)), problem(density=0.2)
    for rows, chosen in ((1, "dense"), (16, "dense"), (128, "cpp")):
        assert choose(small._replace(rows=rows)).backend == chosen
        assert choose(large._replace(rows=rows)).backend == "cpp"


def test_training_uses_only_what_needs_no_copy_of_the_weight(monkeypatch) -> None:
    monkeypatch.setattr(cpp, "available", lambda: True)
    assert set(candidates(problem(frozen=False))) == {"dense", "gather"}


def test_a_taller_block_breaks_even_at_a_higher_density_on_a_gpu() -> None:
    gpu = torch.device("cuda")
    limits = [
        dispatch.break_even(problem(rows=256, block=(tall, 32), device=gpu), "triton")
        for tall in (16, 32, 64, 128)
    ]
    assert limits == sorted(limits)
    assert limits[0] < limits[-1]


def test_the_environment_is_obeyed_and_an_argument_beats_it(monkeypatch) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, "gather")
    assert choose(problem(density=0.9)).backend == "gather"
    assert choose(problem(density=0.9), "dense").backend == "dense"
    monkeypatch.setenv(dispatch.VARIABLE, "gahter")
    with pytest.raises(InputError, match="gather"):
        choose(problem())


def test_a_backend_that_cannot_run_is_refused() -> None:
    with pytest.raises(InputError, match="can run: dense"):
        choose(problem(kind="nm"), "panels")


@pytest.mark.parametrize("compiled", [False, True])
def test_the_rule_is_not_slower_than_dense_in_any_case_that_was_measured(compiled: bool) -> None:
    """The tables that ship are the rule's evidence: it may miss a gain, not make a loss."""
    able = ("dense", "gather", "panels", *(["cpp"] if compiled else []))
    found = 0
    for path in SHIPPED.glob("*.json"):
        threads = 1 if path.stem.endswith("1-thread") else 2
        for key, shapes in read_json(path)["cases"].items():
            kind, _, block, rows, density = key.split("|")
            for shape, case in shapes.items():
                asked = Problem(
                    kind, CPU, torch.float32, _sides(shape), _sides(block), float(density[1:]),
                    int(rows[1:]), True,
                )  # fmt: skip
                times = dict(case["us"])
                library = times.pop(LIBRARY, times["dense"])
                dense = times["dense"] if compiled else library
                chosen = dispatch._rule(asked, able, threads).backend
                if chosen != "dense":
                    found += 1
                    assert times[chosen] <= 1.02 * dense, (path.name, key, shape)
    assert found > 100  # a rule that always says dense would pass without this


def _sides(text: str) -> tuple[int, int]:
    n, k = text.split("x")
    return int(n), int(k)
