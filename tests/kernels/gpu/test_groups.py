"""What a launch of the N:M kernel passes."""

import torch

from probcomp.kernels.gpu import groups
from probcomp.kernels.nm import pack_nm
from tests.kernels.gpu.recorder import covered, record


def test_values_and_codes_are_passed_with_their_widths(monkeypatch) -> None:
    seen = record(monkeypatch, groups, "group_gemv")
    for kept, group, bits in ((2, 4, 2), (1, 4, 2), (4, 8, 4)):
        support = (torch.arange(64) % group < kept).expand(37, 64)
        packed = pack_nm(torch.randn(37, 64), support, None, (kept, group))
        y = groups.launch(torch.randn(3, 64), packed.val, packed.code, kept, group)
        assert y.shape == (3, 37)
        assert seen.grid[0] == 3
        assert covered(seen.grid[1], groups.TALL, 37)
        assert seen.sent["KEPT"] == 64 * kept // group
        assert seen.sent["CODES"] == packed.code.shape[1] == 64 * kept // group * bits // 8
        assert (seen.sent["KEEP"], seen.sent["GROUP"], seen.sent["BITS"]) == (kept, group, bits)
