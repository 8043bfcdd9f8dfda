"""The state of every row of a batch: one tensor a quantity, and the edits a canvas allows."""

import torch
from torch import Tensor

from probcomp.decoding.ledger import Ledger


class Rows:
    """All rows, finished ones too. Canvas tensors are [batch, capacity], the rest [batch].

    ``ids`` the canvas; ``age`` the forward a position was committed in (-1 never, 0 given);
    ``taken`` how often it was revoked; ``length`` the canvas in use; ``open`` whether the row may
    grow and stop early; ``begin``, ``end`` the current block; ``content`` the final length.
    """

    def __init__(
        self,
        ids: Tensor,
        length: Tensor,
        open_: Tensor,
        mask_id: int,
        *,
        ledger: Ledger,
        sizing: bool,
    ) -> None:
        batch = len(ids)
        self.mask_id = mask_id
        self.ids = ids.clone()
        self.age = torch.where(ids == mask_id, -1, 0)
        self.taken = torch.zeros_like(ids)
        self.calm = torch.zeros_like(ids)  # forwards in a row with little change (KLASS)
        self.cuts = torch.zeros_like(ids, dtype=torch.bool)
        self.length, self.open = length.clone(), open_.clone()
        self.sizing = open_ & sizing
        self.ledger = ledger

        def zeros() -> Tensor:
            return torch.zeros(batch, dtype=torch.long, device=ids.device)

        self.begin, self.end = zeros(), zeros()
        self.block_step, self.block_masks = zeros(), zeros()
        self.nfe, self.forwards, self.accepted = zeros(), zeros(), zeros()
        self.edits, self.extensions, self.contractions = zeros(), zeros(), zeros()
        self.revocations, self.insertions, self.border, self.repair = (zeros() for _ in range(4))
        self.committed, self.wrong, self.content = zeros(), zeros(), length.clone()
        self.pace = torch.full((batch,), 4.0, device=ids.device)  # tokens per forward, averaged
        self.done = torch.zeros(batch, dtype=torch.bool, device=ids.device)
        self.settled = torch.zeros_like(self.done)  # whether the end was drawn
        self.floor = zeros()  # ends at or before this were drawn against
        self.checked = torch.zeros_like(self.done)  # whether the block's border was verified
        # Mean entropy of what was undecided at the first commit (nats); gaps alone when filling in.
        self.doubt = torch.zeros(batch, dtype=torch.float64, device=ids.device)
        self.teacher_log_prob = torch.zeros(batch, dtype=torch.float64, device=ids.device)
        self.p_end: list[Tensor | None] = [None] * batch

    def place(self) -> Tensor:
        return torch.arange(self.ids.shape[1], device=self.ids.device)

    def reserve(self, capacity: int) -> None:
        """Make room for canvases of ``capacity``."""
        more = capacity - self.ids.shape[1]
        if more <= 0:
            return
        for name, value in (
            ("ids", self.mask_id),
            ("age", -1),
            ("taken", 0),
            ("calm", 0),
            ("cuts", False),
        ):
            setattr(
                self, name, torch.nn.functional.pad(getattr(self, name), (0, more), value=value)
            )

    def resize(self, rows: Tensor, change: Tensor) -> None:
        """Grow (masks at the end) or drop trailing positions. rows, change [n]."""
        before = self.length[rows]
        after = before + change
        self.reserve(int(after.max()) if len(after) else 0)
        place = self.place()
        fresh = place >= torch.minimum(before, after)[:, None]
        self._clear(rows, fresh)
        self.length[rows] = after
        self.edits[rows] += (change != 0).long()
        self.extensions[rows] += (change > 0).long()
        self.contractions[rows] += (change < 0).long()

    def append(self, rows: Tensor, token: int, count: int) -> None:
        """Committed tokens at the end of each canvas (DAEDAL's anchors)."""
        before = self.length[rows]
        self.reserve(int(before.max()) + count if len(rows) else 0)
        place = self.place()
        new = (place >= before[:, None]) & (place < before[:, None] + count)
        self.ids[rows] = torch.where(new, token, self.ids[rows])
        self.age[rows] = torch.where(new, 0, self.age[rows])
        self.length[rows] = before + count

    def insert(self, rows: Tensor, at: Tensor, count: int) -> None:
        """Replace position ``at`` [n] of each row by ``count`` masks; what follows moves right."""
        if not len(rows):
            return
        self.reserve(int(self.length[rows].max()) + count - 1)
        place = self.place()
        source = torch.where(place < at[:, None], place, place - (count - 1)).clamp(min=0)
        for name in ("ids", "age", "taken", "calm", "cuts"):
            value = getattr(self, name)
            value[rows] = value[rows].gather(1, source)
        self._clear(rows, (place >= at[:, None]) & (place < at[:, None] + count))
        self.length[rows] += count - 1
        self.insertions[rows] += 1

    def _clear(self, rows: Tensor, where: Tensor) -> None:
        self.ids[rows] = torch.where(where, self.mask_id, self.ids[rows])
        self.age[rows] = torch.where(where, -1, self.age[rows])
        self.taken[rows] = torch.where(where, 0, self.taken[rows])
        self.calm[rows] = torch.where(where, 0, self.calm[rows])

    def revoke(self, rows: Tensor, where: Tensor) -> None:
        """Mask committed positions again. where [n, width]."""
        where = torch.nn.functional.pad(where, (0, self.ids.shape[1] - where.shape[1]))
        self.ids[rows] = torch.where(where, self.mask_id, self.ids[rows])
        self.age[rows] = torch.where(where, -1, self.age[rows])
        self.taken[rows] += where.long()
        self.revocations[rows] += where.sum(1)
