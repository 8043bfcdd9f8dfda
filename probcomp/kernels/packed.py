"""What every packed weight is: plain tensors, checked when built, saved with a format version."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.kernels.ready import Calls
from probcomp.storage import read_tensors, write_tensors

if TYPE_CHECKING:
    from probcomp.kernels.planning import Plan

FORMAT_VERSION = 1
_HEADER = "probcomp.header"
_KINDS: dict[str, type["PackedWeight"]] = {}


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PackedWeight:
    """A masked weight ``[N, K]`` (as in ``nn.Linear``) stored without what the mask removed.

    Subclasses add the tensors of their format. A packed weight is only data: it is read by the
    operators of `probcomp.kernels.library`, which do no index checks of their own, so every index
    is checked here.

    Attributes:
        shape: ``(N, K)`` of the weight before packing.
        bias: ``[N]`` or None.
        live: Number of entries of the weight that the support keeps.
    """

    kind: ClassVar[str] = ""
    value_name: ClassVar[str] = "val"  # the tensor that holds the weight's values
    calls: ClassVar[Calls]  # no field: each weight has its own, and a copy starts anew

    shape: tuple[int, int]
    bias: Tensor | None
    live: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("kind"):
            _KINDS[cls.kind] = cls

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise InputError(f"{self.kind}: shape must be (N, K) with both positive: {self.shape}")
        if self.bias is not None and tuple(self.bias.shape) != (self.shape[0],):
            raise InputError(
                f"{self.kind}: bias has shape {list(self.bias.shape)}, expected [{self.shape[0]}]"
            )
        self.validate()
        object.__setattr__(self, "calls", Calls())

    def validate(self) -> None:
        """Raise `InputError` where a tensor of the format does not fit the others."""

    def dense(self) -> Tensor:
        """The masked weight ``[N, K]``, zeros where the support removed it."""
        raise NotImplementedError

    @property
    def stored(self) -> int:
        """Number of weight values that the format holds, dead ones inside its blocks included."""
        raise NotImplementedError

    @property
    def density(self) -> float:
        """Stored values over ``N K``: what a kernel reads, relative to dense."""
        return self.stored / (self.shape[0] * self.shape[1])

    @property
    def fill(self) -> float:
        """Live values over stored values: 1 when the format wastes nothing."""
        return self.live / self.stored if self.stored else 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, index and bias included.

        A run in inference keeps copies of the weight beside them, in the order that a backend
        reads: one for each backend that some batch size chose, of a dense product up to two.
        """
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    @property
    def weight_dtype(self) -> torch.dtype:
        """The floating dtype that inputs must have (outside autocast)."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors().values())).device

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the format by field name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Any:
        """A copy on another device, or with floating tensors in another dtype."""
        moved: dict[str, Any] = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in self.tensors().items()
        }
        return dataclasses.replace(self, **moved)

    def save(self, path: Path | str) -> None:
        """Write one safetensors file; the header (kind, shapes, version) is a byte tensor in it."""
        scalars = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not isinstance(getattr(self, field.name), Tensor)
        }
        header = {"format_version": FORMAT_VERSION, "kind": self.kind, "fields": scalars}
        raw = torch.frombuffer(bytearray(json.dumps(header).encode()), dtype=torch.uint8)
        write_tensors(path, {_HEADER: raw, **self.tensors()})

    @staticmethod
    def load(path: Path | str) -> "PackedWeight":
        """Read a file that `save` wrote; every check of a new packed weight is made again."""
        tensors = read_tensors(path)
        if _HEADER not in tensors:
            raise InputError(f"{path} is not a packed weight: it has no {_HEADER!r} entry")
        try:
            header = json.loads(bytes(tensors.pop(_HEADER).tolist()))
            version, kind, fields = header["format_version"], header["kind"], header["fields"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: the header of the packed weight is broken") from error
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path} has packed format version {version}, this build reads {FORMAT_VERSION}; "
                "pack the weight again"
            )
        if kind not in _KINDS:
            raise InputError(f"{path}: unknown packed kind {kind!r}, known: {sorted(_KINDS)}")
        for name, value in fields.items():
            fields[name] = tuple(value) if isinstance(value, list) else value
        try:
            return _KINDS[kind](**{**fields, **tensors})
        except TypeError as error:
            raise InputError(f"{path}: the fields do not fit kind {kind!r}: {error}") from error

    def plan(
        self,
        M: Sequence[int] = (1, 16, 128, 2048),
        *,
        device: torch.device | str | None = None,
        measure: bool = False,
    ) -> "Plan":
        """Which backend would run at each batch size, and why; see `probcomp.kernels.planning`."""
        from probcomp.kernels.planning import plan

        return plan(self, M, device=device, measure=measure)

    def __repr__(self) -> str:
        n, k = self.shape
        return (
            f"{type(self).__name__}({n}x{k}, density={self.density:.3f}, fill={self.fill:.3f}, "
            f"{self.nbytes} bytes)"
        )


def require(condition: bool, kind: str, message: str) -> None:
    """Raise `InputError` with the name of the format unless ``condition`` holds."""
    if not condition:
        raise InputError(f"packed {kind}: {message}")


def check_pointers(kind: str, name: str, pointers: Tensor, rows: int, entries: int) -> None:
    """Check a compressed-row pointer tensor: ``rows + 1`` rising values from 0 to ``entries``."""
    require(pointers.dtype == torch.int32, kind, f"{name} must be int32, got {pointers.dtype}")
    require(
        tuple(pointers.shape) == (rows + 1,),
        kind,
        f"{name} has shape {list(pointers.shape)}, expected [{rows + 1}]",
    )
    steps = pointers.diff()
    good = int(pointers[0]) == 0 and int(pointers[-1]) == entries and bool((steps >= 0).all())
    require(good, kind, f"{name} must rise from 0 to {entries}")


def check_index(kind: str, name: str, index: Tensor, length: int, limit: int) -> None:
    """Check an index tensor: its length, and every value in ``[0, limit)``."""
    require(
        tuple(index.shape) == (length,),
        kind,
        f"{name} has shape {list(index.shape)}, expected [{length}]",
    )
    inside = index.numel() == 0 or (int(index.min()) >= 0 and int(index.max()) < limit)
    require(inside, kind, f"{name} must lie in [0, {limit})")
