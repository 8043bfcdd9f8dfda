"""Each kernel compiled for GPUs that are not here, and what the binaries must and must not hold."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("an interpreting process can not compile", allow_module_level=True)

import torch

from probcomp.kernels import tiles
from probcomp.kernels.gpu import block_forward
from probcomp.kernels.gpu.compiling import SHARED_LIMIT, Compiled, compile_kernel
from probcomp.kernels.gpu.runtime import stages_on
from probcomp.kernels.tiles import Launch
from tests.kernels.compile_cases import Case, cases

LARGEST = 300_000  # bytes: a bigger binary has unrolled something it should not
SIXTEEN = cases("bf16")
CPU = torch.device("cpu")
# One of each kernel, on the two NVIDIA generations that differ most and on AMD; the rest is slow.
QUICK = [
    "forward-64x32-M4096", "forward-128x64-M4096", "forward-16x16-M16", "gemv", "backward-input",
    "backward-weight", "decode", "int8", "forward-sum", "gated-M64", "runs-M64",
    "reparameterised-M32x64", "attention-64x64-D64-sparse", "groups", "chain-512x1", "chain-64x16",
]  # fmt: skip


@pytest.fixture(autouse=True)
def fusion_as_asked(monkeypatch) -> None:
    """Triton 3.9 warns that the default of fusion will change; the launches pass it explicitly."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")


def build(case: Case, target: str) -> Compiled:
    return compile_kernel(
        case.kernel, target, case.types, case.constants, warps=case.warps,
        stages=stages_on(target.startswith("gfx"), case.stages), unaligned=case.unaligned,
    )  # fmt: skip


def check(case: Case, target: str) -> None:
    built = build(case, target)
    assert built.shared <= SHARED_LIMIT[target]
    assert built.binary_bytes < LARGEST
    assert built.atomics == 0
    if built.stack is not None:
        assert built.stack <= case.stack, "spills to memory"
    if "PREC" in case.constants:
        assert built.matrix_instructions, "no matrix instruction"
    if target == "sm_90" and case.wgmma:
        assert "wgmma.mma_async" in built.matrix_instructions
    if target in ("sm_80", "sm_90") and case.pipelined:
        assert built.count(r"cp\.async|cp\.async\.bulk") > 0, "loads do not run ahead"


@pytest.mark.parametrize("name", QUICK)
def test_bfloat16_on_hopper(name: str) -> None:
    check(SIXTEEN[name], "sm_90")


@pytest.mark.parametrize("name", ["forward-128x64-M4096", "decode"])
def test_bfloat16_on_amd(name: str) -> None:
    check(SIXTEEN[name], "gfx942")


PHILOX = r"-766435501|3528531795|-845247145|3449720151"
"""The two multipliers of the counter-based generator, as PTX writes them."""


def test_only_the_sampled_layer_draws() -> None:
    """Evaluation multiplies by the mean weight, whose kernel holds no random numbers."""
    sampled = build(SIXTEEN["reparameterised-M32x64"], "sm_90")
    assert sampled.count(PHILOX) > 0
    for name in ("forward-64x32-M4096", "gemv"):
        assert build(SIXTEEN[name], "sm_90").count(PHILOX) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SIXTEEN))
@pytest.mark.parametrize("target", sorted(SHARED_LIMIT))
def test_every_configuration_and_target(name: str, target: str) -> None:
    check(SIXTEEN[name], target)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_float16_on_hopper(name: str) -> None:
    check(cases("fp16")[name], "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_float32_compiles_and_fits(name: str, target: str) -> None:
    built = build(cases("fp32")[name], target)
    assert built.shared <= SHARED_LIMIT[target]
    assert built.atomics == 0


def check_tile(block: tuple[int, int], tile: tiles.Tile, target: str) -> None:
    """The estimate that the tuner filters by, against the compiled kernel; no spills."""
    case = SIXTEEN[f"forward-{block[0]}x{block[1]}-M4096"]
    built = compile_kernel(
        case.kernel, target, case.types, {**case.constants, "BM": tile.rows}, warps=tile.warps,
        stages=tile.stages, unaligned=case.unaligned,
    )  # fmt: skip
    launch = Launch("block_forward", CPU, torch.bfloat16, block, (4096, 4096), 0.5, 4096)
    most = tiles.shared_bytes(launch, tile)
    assert built.shared <= most
    if block[0] * block[1] >= 1024:  # eight warps do not copy a smaller block ahead
        buffer = 2 * (tile.rows + block[0]) * block[1]
        assert built.shared >= most - buffer - 4
        wgmma = "wgmma.mma_async" in built.matrix_instructions
        assert target != "sm_90" or not wgmma or built.shared == most
    if built.stack is not None:
        assert built.stack == 0, "spills to memory"


@pytest.mark.parametrize(
    ("block", "tile", "target"),
    [
        ((64, 32), (64, 4, 7), "sm_90"), ((64, 32), (128, 4, 3), "sm_90"),
        ((32, 32), (16, 4, 5), "sm_90"), ((64, 32), (64, 4, 5), "sm_80"),
    ],
)  # fmt: skip
def test_the_estimate_of_shared_memory_is_what_was_compiled(block, tile, target) -> None:
    check_tile(block, tiles.Tile(*tile), target)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "rows"), [((128, 64), 4096), ((64, 32), 4096), ((64, 32), 16), ((16, 16), 4096)]
)
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_every_candidate_of_the_tuner_compiles_and_fits(target, rows, block, monkeypatch) -> None:
    monkeypatch.setattr(tiles, "SHARED", SHARED_LIMIT[target])
    launch = Launch("block_forward", CPU, torch.bfloat16, block, (4096, 4096), 0.5, rows)
    for tile in tiles.candidates(launch, tiles.Tile(*block_forward.tile(rows, block))):
        check_tile(block, tile, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_eight_bit_blocks_fit_as_estimated(target: str) -> None:
    case = SIXTEEN["int8"]
    launch = Launch("block_forward", CPU, torch.int8, (64, 32), (4096, 4096), 0.5, 4096)
    tile = tiles.Tile(case.constants["BM"], case.warps, case.stages)
    assert build(case, target).shared <= tiles.shared_bytes(launch, tile)


@pytest.mark.slow
def test_more_stages_hold_more_buffers_behind_an_index_load() -> None:
    case = SIXTEEN["forward-64x64-M4096"]
    shared = {}
    for stages in (3, 5, 7):
        shared[stages] = compile_kernel(
            case.kernel, "sm_90", case.types, case.constants, warps=4, stages=stages,
            unaligned=case.unaligned,
        ).shared  # fmt: skip
    assert shared[3] < shared[5] < shared[7]
