"""What a launch of the clustered-run kernel passes."""

import torch

from probcomp.kernels import pack
from probcomp.kernels.gpu import runs
from tests.kernels.gpu.recorder import covered, record
from tests.kernels.supports import bursts


def test_panels_and_padded_columns(monkeypatch) -> None:
    seen = record(monkeypatch, runs, "run_forward")
    packed = pack(torch.randn(70, 150), bursts(70, 150, patterns=4), format="runs")
    _, width, panel = packed.val.shape
    for rows, tall in ((3, 16), (50, 64)):
        y = runs.launch(torch.randn(rows, 150), packed.val, packed.ptr, packed.seg)
        panels = packed.ptr.shape[0] - 1
        assert y.shape == (rows, panels * panel)  # in stored order, padding included
        assert seen.grid == (1, panels)
        assert covered(1, seen.sent["BM"], rows)
        assert seen.sent["BM"] == tall
        assert seen.sent["x_ptr"].shape == (rows, 160)  # whole segments of 16
        assert (seen.sent["SEG"], seen.sent["BN"]) == (width, panel)
    assert int(packed.seg.max()) + width <= 160  # so that no segment reads beyond
