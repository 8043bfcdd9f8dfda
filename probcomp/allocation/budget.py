"""What may remain of a model, named by its unit."""

import math
from dataclasses import dataclass, fields

from probcomp.errors import BudgetError, unknown


@dataclass(frozen=True)
class Budget:
    """What may remain after compression. Exactly one unit is named.

    A value in (0, 1] is the share of the dense model's count; above 1 it is an absolute count.

    Attributes:
        params: Stored values: non-zero parameters, biases and norms included.
        macs: Multiply-accumulates of one sample, with masked weights not counted.
        bits: Bits of the coded file that the network is written to, architecture included
            (`probcomp.recipes.coded`). It is never larger than asked, and at most 2 % smaller
            where its values allow. The dense count is that of its parameters in their own type.
        latency_ms: Milliseconds a batch; always absolute.
        prunable: Parameters that removable units own: the dense model's count less what is left
            when every unit is gone that may go. Embeddings, norms of the residual stream and
            output layers are not among them. Methods see the equivalent number of ``params``.

    Raises:
        BudgetError: No unit, more than one, a value that is not positive and finite, or a fraction
            above the whole.
    """

    params: float | None = None
    macs: float | None = None
    bits: float | None = None
    latency_ms: float | None = None
    prunable: float | None = None

    def __post_init__(self) -> None:
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        named = {unit: value for unit, value in named.items() if value is not None}
        if len(named) != 1:
            raise BudgetError(
                f"a budget names exactly one unit, got {sorted(named) or 'none'}; "
                "for example Budget(params=0.1)"
            )
        ((unit, value),) = named.items()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BudgetError(f"budget {unit} must be a number, got {value!r}")
        if not math.isfinite(value) or value <= 0:
            raise BudgetError(
                f"budget {unit}={value} is out of range: give a share in (0, 1], "
                "or an absolute count above 1"
            )

    @property
    def unit(self) -> str:
        """Name of the unit."""
        return next(f.name for f in fields(self) if getattr(self, f.name) is not None)

    @property
    def value(self) -> float:
        """The number given for the unit."""
        return float(getattr(self, self.unit))

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read ``"params=0.1"``, ``"macs=60%"`` or ``"bits=80000"``.

        Raises:
            BudgetError: Another form, an unknown unit, or a value out of range.
        """
        unit, equals, number = (part.strip() for part in text.partition("="))
        known = [f.name for f in fields(cls)]
        if not equals:
            raise BudgetError(f"budget {text!r} must have the form UNIT=VALUE, as in params=0.1")
        if unit not in known:
            raise BudgetError(str(unknown("budget unit", unit, known)))
        percent = number.endswith("%")
        try:
            value = float(number.rstrip("%").replace("_", ""))
        except ValueError:
            raise BudgetError(f"budget {text!r}: {number!r} is not a number") from None
        return cls(**{unit: value / 100 if percent else value})

    def amount(self, dense: float) -> float:
        """The absolute amount that may remain, given the dense model's count.

        Raises:
            BudgetError: An absolute count above the dense model's.
        """
        if self.unit == "latency_ms" or self.value > 1:
            if self.unit != "latency_ms" and self.value > dense:
                raise BudgetError(
                    f"budget {self.unit}={self.value:g} is more than the dense model's {dense:g}; "
                    "nothing would be removed"
                )
            return self.value
        return self.value * dense

    def __str__(self) -> str:
        return f"{self.unit}={self.value:g}"
