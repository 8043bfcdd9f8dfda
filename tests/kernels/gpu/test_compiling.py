"""Reading a binary: what is looked for in its assembly."""

import pytest

from probcomp.kernels.gpu.compiling import SHARED_LIMIT, TARGETS, Compiled


def built(assembly: str) -> Compiled:
    return Compiled("sm_90", assembly, 1000, 0, 32, 0)


def test_matrix_instructions_of_every_vendor_are_told_apart() -> None:
    found = {
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16": {"wgmma.mma_async"},
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32": {"mma.sync"},
        "v_mfma_f32_32x32x8_bf16_1k a[0:15]": {"v_mfma"},
        "tcgen05.mma.cta_group::1.kind::f16": {"tcgen05.mma"},
        "fma.rn.f32 %f1, %f2, %f3, %f4;": set(),
    }
    for line, names in found.items():
        assert built(line).matrix_instructions == names


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("atom.global.add.f32 %f1, [%rd1], %f2;", 1),
        ("red.global.add.f32 [%rd1], %f2;", 1),
        ("global_atomic_add_f32 v0, v1, s[0:1]", 1),
        ("ds_add_f32 v0, v1", 1),
        ("ld.shared.v4.b32 {%r1}, [%r2];", 0),
        ("shfl.sync.bfly.b32 %r1, %r2, 1;", 0),
    ],
)
def test_atomics_are_counted(line: str, count: int) -> None:
    assert built(f"{line}\n{line}").atomics == 2 * count


def test_every_target_has_a_limit_of_shared_memory() -> None:
    assert TARGETS.keys() == SHARED_LIMIT.keys()
    assert SHARED_LIMIT["gfx942"] == 64 * 1024
