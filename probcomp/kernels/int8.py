"""Eight-bit blocks: the blocks of `BlockWeight` rounded to int8 with one scale per block row."""

import dataclasses

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.kernels.blocks import BlockWeight
from probcomp.kernels.packed import require


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Int8Weight(BlockWeight):
    """Blocks ``val`` (int8) with ``scale`` ``[nnz, BN]``: the weight is ``val * scale``.

    For inference only: rounded weights have no gradient.
    """

    kind = "int8"

    scale: Tensor

    def validate(self) -> None:
        super().validate()
        require(self.val.dtype == torch.int8, self.kind, f"val must be int8, got {self.val.dtype}")
        right = self.scale.shape == self.val.shape[:2]
        require(right, self.kind, f"scale must have shape {list(self.val.shape[:2])}")
        finite = bool(torch.isfinite(self.scale).all()) and bool((self.scale > 0).all())
        require(finite, self.kind, "scale must be positive and finite")

    def values(self) -> Tensor:
        """The dequantised blocks ``[nnz, BN, BK]``."""
        return self.val.to(self.scale.dtype) * self.scale.unsqueeze(-1)

    def dense(self) -> Tensor:
        return self.as_float().dense()

    def as_float(self) -> BlockWeight:
        """The same blocks dequantised, as a `BlockWeight`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(BlockWeight)}
        return BlockWeight(**{**fields, "val": self.values()})

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.scale.dtype


def quantise(packed: BlockWeight) -> Int8Weight:
    r"""Round the blocks to int8, symmetric, one scale per row of each block.

    scale = max_k |w_k| / 127, so the rounding error of an entry is at most scale / 2.

    Args:
        packed: Floating blocks from ``pack(..., format="blocks")``.

    Raises:
        InputError: No blocks, or a value is not finite.
    """
    if type(packed) is not BlockWeight:
        raise InputError(f"quantise takes floating blocks, got {type(packed).__name__}")
    if not bool(torch.isfinite(packed.val).all()):
        raise InputError("int8 blocks: the weight has values that are not finite")
    peak = packed.val.abs().amax(-1)
    scale = torch.where(peak > 0, peak / 127.0, torch.ones_like(peak))
    rounded = (packed.val / scale.unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8)
    fields = {f.name: getattr(packed, f.name) for f in dataclasses.fields(BlockWeight)}
    return Int8Weight(**{**fields, "val": rounded, "scale": scale})
