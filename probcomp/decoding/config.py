"""Every choice of a decoder in one frozen record: one name a question, checked as a whole."""

import dataclasses
import itertools
import math
from dataclasses import dataclass, fields
from typing import Any

from probcomp.errors import InputError, unknown

CHOICES = {
    "sizing": ("none", "utility", "append", "poisson", "daedal", "rho_eos"),
    "lookahead": ("myopic", "dp"),
    "end_model": ("cdf", "hmm"),
    "blocks": ("none", "fixed", "posterior", "delimiter"),
    "block_prior": ("nb", "geometric", "crp"),
    "order": ("ltr", "gibbs"),
    "rule": (
        "auto",
        "budget",
        "entropy",
        "threshold",
        "factor",
        "coupled",
        "joint",
        "pairwise",
        "quota",
        "stable",
        "capped",
    ),
    "verify": ("none", "odds", "wino"),
    "stop": ("none", "eos", "posterior"),
}


@dataclass(frozen=True)
class DecodingConfig:
    """The choices of `probcomp.decode`; presets are values of it (`probcomp.decoding.presets`)."""

    # How long: the window and its growth.
    max_new_tokens: int = 1024
    initial_length: int = 64
    sizing: str = "utility"
    extend_actions: tuple[int, ...] = (8, 16, 32, 64, 128)
    lookahead: str = "myopic"
    cost_truncation: float = 1.0  # per answer that is cut
    cost_position: float = 2e-5  # per position and forward
    contract: bool = True
    max_edits: int = 64
    structure_every: int = 4  # forwards between looks at the window inside a block
    # Where it ends.
    length_mean: float = 200.0
    length_shape: float = 2.0
    hazard: tuple[float, ...] | None = None  # a fitted hazard per position, over the two above
    end_model: str = "hmm"
    end_temper: float = 0.25
    end_platt: tuple[float, float] = (0.0, 1.0)
    beyond: bool = True  # correct the mass beyond the window by the tail mean
    tail_window: int = 32
    tail_truncated: tuple[float, float] = (1.0, 2.0)
    tail_fits: tuple[float, float] = (8.0, 1.0)
    end_noise: float = 0.0  # of the EOS marginals (cdf), fitted
    end_tilt: float = 0.0  # nats per token against long answers, fitted
    end_share: tuple[tuple[float, float], ...] = ()  # (entropy, share of the prior), fitted
    draw_end: bool = False  # when sampling: draw the end first, then the content before it
    # Content is drawn in that same forward, as if it did not depend on the end but for lying
    # before it. Where it does, a token drawn there follows p(x | x is no end), not p(x | E): the
    # law of the text is then off by their mutual information. Calibration switches this on where
    # dev answers lose less log q by it than the forwards it saves are worth (0.1 nats each).
    draw_commits: bool = False
    stop: str = "posterior"
    stop_mass: float = 0.98
    # Where the blocks are, and which comes next.
    blocks: str = "posterior"
    block_length: int = 32
    block_multiple: int | None = None
    block_prior: str = "nb"
    block_mean: float = 24.0
    block_shape: float = 4.0
    block_min: int = 4
    block_max: int = 64
    block_threshold: float = 0.3
    carry: bool = True  # go on into the next block in the forward that commits one as a whole
    boundary_weights: tuple[float, float, float, float, float] = (-1.0, 1.0, 0.5, 0.5, 2.0)
    delimiters: tuple[tuple[int, float], ...] = ()  # (token id, weight)
    delimiter_share: float = 0.25  # AdaBlock: how far ahead to look, of the canvas
    order: str = "ltr"
    order_temperature: float = 0.0
    order_entropy: float = 1.0
    order_context: float = 1.0
    order_candidates: int = 4
    # What may be committed now.
    # budget when greedy; when sampling, pairwise with a measured coupling, else joint
    rule: str = "auto"
    error_step: float = 0.1  # expected wrong tokens per forward
    error_total: float = 2.0  # expected wrong tokens per answer
    confidence_temperature: float = 1.0
    error_curve: tuple[tuple[float, float], ...] = ()  # (confidence, chance to be wrong), fitted
    # The same in rows of less mean entropy (nats) than this before anything was decided.
    error_curve_sure: tuple[tuple[float, float], ...] = ()
    sure_entropy: float = 0.0
    gamma: float = 0.35  # nats per forward
    coupling_length: float = 4.0
    coupling_profile: tuple[float, ...] = ()  # measured, at gaps 1, 2, ...; over the length
    markov_cut: bool = False
    threshold: float = 0.9
    factor: float = 1.0
    steps: int = 32  # forwards per block of the quota rules
    stable_kl: float = 0.015
    stable_history: int = 2
    cap_share: float = 0.7
    cap_range: tuple[int, int] = (5, 20)
    # Taking back and putting in.
    verify: str = "none"
    margin: float = 0.15
    below: float = 0.9
    revoke_most: int = 2
    border: int = 0  # half width of the zone that is verified at a block border
    insert: bool = False  # DAEDAL's mask insertion
    # Sampling.
    temperature: float = 0.0
    token_noise: float = 0.0  # of the tokens' marginals when drawn from, fitted

    def __post_init__(self) -> None:
        problems = []
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                problems.append(f"{name} is one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problems.append(f"{name} is a whole number above 0, got {value!r}")
        for name in _SHARES:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                problems.append(f"{name} lies in [0, 1], got {value!r}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                problems.append(f"{name} is above 0, got {value!r}")
        for name in ("end_noise", "token_noise", "sure_entropy"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                problems.append(f"{name} is a finite number, 0 or above, got {value!r}")
        if not self.temperature >= 0:
            problems.append(f"temperature is 0 (greedy) or above, got {self.temperature!r}")
        if self.border < 0 or not isinstance(self.border, int):
            problems.append(f"border is a whole number, 0 for none, got {self.border!r}")
        if not problems and self.block_min > self.block_max:
            problems.append(f"block_min {self.block_min} is above block_max {self.block_max}")
        if not all(isinstance(n, int) and n > 0 for n in self.extend_actions):
            problems.append(f"extend_actions are whole numbers above 0, got {self.extend_actions}")
        for name in ("end_share", "error_curve", "error_curve_sure"):
            knots = getattr(self, name)
            if any(len(k) != 2 or not 0 <= k[1] <= 1 for k in knots) or any(
                a[0] >= b[0] for a, b in itertools.pairwise(knots)
            ):
                problems.append(f"{name} holds pairs (rising value, chance), got {knots}")
        if not all(value >= 0 for value in self.coupling_profile):
            problems.append(f"coupling_profile is 0 or above, got {self.coupling_profile}")
        if problems:
            raise InputError("decoding configuration: " + "; ".join(problems))

    @property
    def commit_rule(self) -> str:
        """The rule with ``auto`` resolved."""
        if self.rule != "auto":
            return self.rule
        if self.temperature > 0:
            return "pairwise" if self.coupling_profile else "joint"
        return "budget"

    @property
    def draws_end(self) -> bool:
        """Whether a row's end is drawn before its content."""
        return self.draw_end and self.temperature > 0 and self.stop != "none"

    @property
    def carries(self) -> bool:
        """Whether a forward may go on into the next block. Not where blocks are looked at again
        when they are finished, nor where a model was trained to see finished blocks only."""
        again = self.border > 0 or self.verify != "none" or self.insert
        return self.carry and self.blocks != "none" and not again and self.block_multiple is None

    @property
    def sizes_first(self) -> bool:
        """Whether a row looks at its canvas before it commits anything."""
        return self.sizing in ("utility", "daedal") or self.draws_end

    def replace(self, **changes: Any) -> "DecodingConfig":
        """A copy with some values changed. Unknown names raise `InputError`, with near names."""
        names = [field.name for field in fields(self)]
        for name in changes:
            if name not in names:
                raise unknown("decoding option", name, names)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, tagged with the class name."""
        return {"_cls_name": type(self).__name__, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DecodingConfig":
        """The inverse of `to_dict`; lists become tuples."""
        plain = {name: _tuples(value) for name, value in values.items() if name != "_cls_name"}
        return cls().replace(**plain)


_COUNTS = (
    "max_new_tokens",
    "initial_length",
    "max_edits",
    "structure_every",
    "tail_window",
    "block_length",
    "block_min",
    "block_max",
    "order_candidates",
    "steps",
    "stable_history",
    "revoke_most",
)
_SHARES = ("end_temper", "stop_mass", "block_threshold", "threshold", "below", "delimiter_share")
_POSITIVE = (
    "cost_truncation",
    "cost_position",
    "length_mean",
    "length_shape",
    "block_mean",
    "block_shape",
    "confidence_temperature",
    "error_step",
    "error_total",
    "gamma",
    "coupling_length",
    "factor",
    "stable_kl",
)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
