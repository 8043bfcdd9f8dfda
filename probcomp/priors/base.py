"""What every support prior is, and the checks they share."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from probcomp.errors import InputError

Parameter = float | Tensor


class SupportPrior(ABC):
    """A belief about binary supports: which of them are on before any data are seen.

    Subclasses are frozen dataclasses that hold parameters and no sizes: a size comes with the
    support, or with the log-odds given to ``probcomp.inference.marginals``. The last
    ``event_dim`` dimensions of a support belong to one draw; everything before them is batch.
    Parameters are floats, or tensors that broadcast as each class says.
    """

    event_dim: ClassVar[int] = 1
    fixes_count: ClassVar[bool] = False
    """Whether the prior itself says how many supports are on, whatever evidence and price."""
    batch_parameters: ClassVar[tuple[str, ...]] = ()
    """Fields whose tensors have the batch's shape; others broadcast against the whole support."""

    @abstractmethod
    def log_prob(self, support: Tensor) -> Tensor:
        """Normalised log probability in nats.

        Args:
            support: Zeros and ones, ``[*batch, *event]``, of any dtype.

        Returns:
            ``[*batch]``, in the support's dtype if that is floating, else in torch's default.
        """

    @abstractmethod
    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        """Boolean draws of shape ``[*batch, *event]``, independent over the batch."""

    def check_fit(self, shape: Sequence[int]) -> None:
        """Refuse a support's shape that parameters given as tensors do not broadcast to."""
        batch = torch.Size(shape[: len(shape) - self.event_dim])
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if not isinstance(value, Tensor):
                continue
            target = batch if field.name in self.batch_parameters else torch.Size(shape)
            try:
                fits = torch.broadcast_shapes(value.shape, target) == target
            except RuntimeError:
                fits = False
            if not fits:
                what = "batch" if field.name in self.batch_parameters else "support"
                raise InputError(
                    f"{type(self).__name__}: {field.name} of shape {tuple(value.shape)} does not "
                    f"broadcast to the {what}'s shape {tuple(target)}"
                )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        """Field values with tensors as hashable content, so that equality never is a tensor."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))  # type: ignore[arg-type]
        return (type(self).__name__, *map(_content, values))


def _content(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.dim() == 0:
            return value.item()
        return (tuple(value.shape), tuple(value.detach().flatten().tolist()))
    return value


def check_probability(owner: str, name: str, value: Any, *, closed: str = "") -> None:
    """Refuse a value outside (0, 1). ``closed`` holds "0" and "1" where the ends are allowed."""
    tensor = _as_number(owner, name, value)
    low = tensor >= 0 if "0" in closed else tensor > 0
    high = tensor <= 1 if "1" in closed else tensor < 1
    if not bool((low & high).all()):
        interval = f"{'[' if '0' in closed else '('}0, 1{']' if '1' in closed else ')'}"
        raise InputError(
            f"{owner}: {name} is a probability in {interval}, got {_show(value)}; "
            "give a probability, not log-odds or a percentage"
        )


def check_finite(owner: str, name: str, value: Any) -> None:
    """Refuse what is not a finite number or a tensor of them."""
    if not bool(torch.isfinite(_as_number(owner, name, value)).all()):
        raise InputError(f"{owner}: {name} must be finite, got {_show(value)}")


def check_positive(owner: str, name: str, value: Any) -> None:
    """Refuse what is not a positive finite number or a tensor of them."""
    tensor = _as_number(owner, name, value)
    if not bool((torch.isfinite(tensor) & (tensor > 0)).all()):
        raise InputError(f"{owner}: {name} must be positive and finite, got {_show(value)}")


def check_count(owner: str, name: str, value: Any, *, least: int) -> None:
    """Refuse what is not an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{owner}: {name} must be an integer of at least {least}, got {value!r}")


def _as_number(owner: str, name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise InputError(
                f"{owner}: {name} must be a floating tensor, got dtype {value.dtype}; "
                "convert it with .double() or .float()"
            )
        return value.detach()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{owner}: {name} must be a number or a tensor, got {value!r}")
    return torch.tensor(float(value), dtype=torch.float64)


def _show(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() > 1:
        return f"a tensor with values in [{value.min().item():g}, {value.max().item():g}]"
    return f"{float(value):g}"


def as_support(prior: SupportPrior, support: Tensor) -> Tensor:
    """The support as a floating tensor, refused unless it holds zeros and ones only."""
    name = type(prior).__name__
    if not isinstance(support, Tensor):
        raise InputError(f"{name}: a support is a tensor, got {type(support).__name__}")
    check_dims(prior, support.shape)
    values = support if support.is_floating_point() else support.to(torch.get_default_dtype())
    if not bool(((values == 0) | (values == 1)).all()):
        raise InputError(
            f"{name}: a support holds zeros and ones only; round or threshold it first"
        )
    return values


def check_dims(prior: SupportPrior, shape: Sequence[int]) -> None:
    """Refuse a shape with too few dimensions, an empty event, or one that parameters do not fit."""
    if len(shape) < prior.event_dim or 0 in tuple(shape)[len(shape) - prior.event_dim :]:
        raise InputError(
            f"{type(prior).__name__}: expected a shape with at least {prior.event_dim} non-empty "
            f"dimension{'s' if prior.event_dim > 1 else ''}, got {tuple(shape)}"
        )
    prior.check_fit(shape)


def as_tensor(value: Parameter, like: Tensor) -> Tensor:
    """A parameter in the dtype and on the device of ``like``."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def over_batch(value: Parameter, like: Tensor, event_dim: int) -> Tensor:
    """A batch-shaped parameter with ``event_dim`` ones appended, so that it meets ``like``."""
    tensor = as_tensor(value, like)
    return tensor.reshape(*tensor.shape, *([1] * event_dim)) if tensor.dim() else tensor


def uniform(
    shape: Sequence[int], generator: torch.Generator | None, *parameters: Parameter
) -> Tensor:
    """Uniform draws in float64 on the device of the generator, else of the first tensor."""
    if generator is not None:
        device = generator.device
    else:
        device = next((p.device for p in parameters if isinstance(p, Tensor)), torch.device("cpu"))
    return torch.rand(tuple(shape), generator=generator, dtype=torch.float64, device=device)


def logit(value: Tensor) -> Tensor:
    """``log p - log(1 - p)``, accurate near both ends."""
    return value.log() - torch.log1p(-value)


def softplus(value: Tensor) -> Tensor:
    """``log(1 + e^x)`` to full precision; torch's own drops ``e^-x`` above 20, 2e-9 in float64."""
    return -torch.nn.functional.logsigmoid(-value)


def is_plain(value: Parameter) -> bool:
    """Whether a parameter is one number without gradient, so that results may be cached."""
    return not isinstance(value, Tensor) or (value.numel() == 1 and not value.requires_grad)


def log_binomial(n: int, k: int) -> float:
    """``log C(n, k)`` in nats."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
