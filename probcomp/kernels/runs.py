"""Clustered runs: panels of rows that share short column segments, rows reordered to overlap."""

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import pad

from probcomp.kernels.packed import PackedWeight, check_index, check_pointers, require

SEGMENT = 16  # columns of a segment: 32 bytes of bfloat16, one sector of GPU memory


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RunWeight(PackedWeight):
    """Panels of ``BN`` rows; each stores the segments of 16 columns where any of its rows lives.

    ``val`` is ``[S, SEG, BN]`` (output rows innermost), ``seg`` ``[S]`` the first column of each
    segment, ``ptr`` ``[P + 1]`` the segments of each panel. ``order`` ``[N]`` lists the original
    row of each stored row, ``inverse`` undoes it. Folding the permutation into the next layer's
    columns makes it free; otherwise it is one gather of the output.
    """

    kind = "runs"

    val: Tensor
    ptr: Tensor
    seg: Tensor
    order: Tensor
    inverse: Tensor

    @property
    def panel(self) -> int:
        return self.val.shape[2]

    def validate(self) -> None:
        kind, (rows, columns) = self.kind, self.shape
        good = self.val.dim() == 3 and self.val.shape[1] == SEGMENT
        require(good, kind, f"val must be [S, {SEGMENT}, BN], got {list(self.val.shape)}")
        panels = -(-rows // self.panel)
        count = self.val.shape[0]
        check_pointers(kind, "ptr", self.ptr, panels, count)
        require(self.seg.dtype == torch.int32, kind, "seg must be int32")
        check_index(kind, "seg", self.seg, count, columns)
        require(bool((self.seg % SEGMENT == 0).all()), kind, f"seg must be multiples of {SEGMENT}")
        counts = self.ptr.diff().long()
        panel = torch.repeat_interleave(torch.arange(panels, device=counts.device), counts)
        rising = bool(((panel * columns + self.seg).diff() > 0).all())
        require(rising, kind, "seg must rise strictly within a panel")
        places = torch.arange(rows, device=self.order.device)
        for name in ("order", "inverse"):
            index = getattr(self, name)
            require(index.dtype == torch.int64, kind, f"{name} must be int64")
            check_index(kind, name, index, rows, rows)
        inverts = torch.equal(self.order[self.inverse], places)
        require(inverts, kind, "inverse must invert order")

    def dense(self) -> Tensor:
        columns = self.shape[1]
        panels = self.ptr.shape[0] - 1
        width = -(-columns // SEGMENT)
        counts = self.ptr.diff().long()
        owner = torch.repeat_interleave(torch.arange(panels, device=counts.device), counts)
        full = self.val.new_zeros(panels, width, SEGMENT, self.panel)
        full[owner, self.seg.long() // SEGMENT] = self.val
        stored = full.permute(0, 3, 1, 2).reshape(panels * self.panel, width * SEGMENT)
        return stored[self.inverse, :columns].contiguous()

    @property
    def stored(self) -> int:
        return self.val.numel()

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.val.dtype


def segment_mask(support: Tensor) -> Tensor:
    """Which segments of each row hold a live weight: bool ``[N, ceil(K / SEG)]``."""
    padded = pad(support, (0, -support.shape[1] % SEGMENT))
    return padded.view(support.shape[0], -1, SEGMENT).any(-1)


def cluster_rows(live: Tensor, panel: int) -> Tensor:
    """Order rows so that each panel's rows share segments; greedy and deterministic.

    A panel starts with the unplaced row that has most live segments and takes, one at a time, the
    row that adds the fewest new segments to the panel's union (ties: more overlap, then lower
    index). This is the row reordering that SMaT (arXiv 2408.11551) uses to fill dense tiles, in
    its simplest form. Cost: N^2 S / 1 bit operations, done as N matrix-vector products.

    Args:
        live: bool ``[N, S]`` from `segment_mask`.
        panel: Rows in a panel.

    Returns:
        int64 ``[N]``: the original row of each place.
    """
    rows = live.shape[0]
    weight = live.to(torch.float32)
    counts = weight.sum(1)
    free = torch.ones(rows, dtype=torch.bool, device=live.device)
    order: list[int] = []
    union = torch.zeros(live.shape[1], device=live.device)
    for place in range(rows):
        if place % panel == 0:
            score = counts
            union = torch.zeros_like(union)
        else:
            overlap = weight @ union
            # New segments count first; the overlap (below one row's width) breaks ties.
            score = -(counts - overlap) + overlap / (live.shape[1] + 1)
        pick = int(torch.where(free, score, float("-inf")).argmax())
        order.append(pick)
        free[pick] = False
        union = torch.maximum(union, weight[pick])
    return torch.tensor(order, device=live.device)


def pack_runs(
    weight: Tensor, support: Tensor, bias: Tensor | None, panel: int = 16, reorder: bool = True
) -> RunWeight:
    """Pack by panels of ``panel`` rows; ``fill`` says how much of what is stored is live.

    Without reordering this rarely pays: rows with independent bursts fill their union almost
    entirely. Look at ``fill`` and ``density`` of the result before using it.
    """
    rows, columns = weight.shape
    live = segment_mask(support)
    order = cluster_rows(live, panel) if reorder else torch.arange(rows, device=weight.device)
    panels = -(-rows // panel)
    folded = torch.where(support, weight, torch.zeros_like(weight))[order]
    folded = pad(folded, (0, -columns % SEGMENT, 0, panels * panel - rows))
    used = pad(live[order], (0, 0, 0, panels * panel - rows)).view(panels, panel, -1).any(1)
    tiles = folded.view(panels, panel, -1, SEGMENT).permute(0, 2, 3, 1)  # [P, S, SEG, BN]
    owner, segment = used.nonzero(as_tuple=True)
    zero = torch.zeros(1, dtype=torch.int64, device=weight.device)
    return RunWeight(
        shape=(rows, columns),
        bias=bias,
        live=int(support.sum()),
        val=tiles[owner, segment].contiguous(),
        ptr=torch.cat([zero, used.sum(1).cumsum(0)]).to(torch.int32),
        seg=(segment * SEGMENT).to(torch.int32),
        order=order,
        inverse=torch.argsort(order),
    )
