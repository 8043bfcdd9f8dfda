"""`advise`: from past runs to raise, lower or keep, with how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from probcomp.errors import InputError, unknown
from probcomp.regime.beside import Opinion, opinions
from probcomp.regime.checks import check_inside
from probcomp.regime.decision import ACTIONS, GAIN, best_actions, decide
from probcomp.regime.design import NextPilot, next_pilots, should_stop
from probcomp.regime.diagram import knob_levels, reference
from probcomp.regime.fit import RegimeModel
from probcomp.regime.knobs import Array, Knob
from probcomp.regime.table import RunTable, read_runs

LEVELS = 25


@dataclass(frozen=True)
class Advice:
    """What to do with one knob at one load, and how sure that is.

    Attributes:
        action: ``raise``, ``lower`` or ``keep`` the temperature; ``undecided`` where none has
            probability ``confidence``, or where the fit did not converge.
        turn: The same in terms of the knob's value: ``increase``, ``decrease``, ``keep``.
        probability: Of raise, lower, keep.
        knob: Its name; at: the setting the advice is for, by knob; load and load_name.
        best, best_interval: Knob value with the least expected error, 90 % interval.
        gain_points, gain_interval: Expected fall in test error, in points (per cent).
        error_points, error_interval: Expected test error at the present setting, in points.
        regime: Probability of I, II-A and II-B at the present setting.
        next: The pilot worth running next; None where the decision is sure, or where no pilot
            promises to settle it.
        next_batch: The pilots worth running next, whatever the decision: as many as ``batch``.
        confidence, least_gain_points: What was asked for: the least probability of an action, and
            the least gain worth a move, in points.
        converged, convergence: Whether the fit passed its gates, and in words.
        levels, along: Knob values, and P(raise, lower, keep) at each, [levels, 3].
        beside: What simpler advisers say to the same question, by name.
        notes: What was assumed when the runs were read.
        model: The fitted model.
    """

    action: str
    turn: str
    probability: dict[str, float]
    knob: str
    at: dict[str, float]
    load: float
    load_name: str
    best: float
    best_interval: tuple[float, float]
    gain_points: float
    gain_interval: tuple[float, float]
    error_points: float
    error_interval: tuple[float, float]
    regime: dict[str, float]
    next: NextPilot | None
    next_batch: tuple[NextPilot, ...]
    confidence: float
    least_gain_points: float
    converged: bool
    convergence: str
    levels: Array = field(repr=False)
    along: Array = field(repr=False)
    beside: dict[str, Opinion]
    notes: tuple[str, ...]
    model: RegimeModel = field(repr=False)

    def __str__(self) -> str:
        """The advice in words, as the command prints it."""
        from probcomp.regime.words import report

        return report(self)

    def to_json(self) -> dict[str, Any]:
        """Everything but the model, as plain values."""
        out = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "model"}
        out["next"] = None if self.next is None else asdict(self.next)
        out["next_batch"] = [asdict(pilot) for pilot in self.next_batch]
        out["beside"] = {name: asdict(opinion) for name, opinion in self.beside.items()}
        out["levels"], out["along"] = self.levels.tolist(), self.along.tolist()
        for name in ("best_interval", "gain_interval", "error_interval", "notes"):
            out[name] = list(out[name])
        return out


def advise(
    runs: RegimeModel | RunTable | Mapping[str, Any] | Path | str,
    *,
    density: float,
    knob: str | None = None,
    at: Mapping[str, float] | None = None,
    levels: Sequence[float] | None = None,
    knobs: Sequence[str | Knob] | None = None,
    load: str | None = None,
    where: Mapping[str, Any] | None = None,
    gain: float = GAIN,
    confidence: float = 0.8,
    candidates: Sequence[tuple[float, float]] | None = None,
    costs: Sequence[float] | None = None,
    batch: int = 1,
    draws: int | None = None,
    seed: int = 0,
) -> Advice:
    """Advise on one knob from runs at hand; nothing is trained.

    Args:
        runs: A table, a mapping of columns or a CSV file, see `read_runs`; or a fitted model.
        density: The load to advise at: density kept, or width, as the runs have it.
        knob: The knob to turn; the first of the runs by default.
        at: Present setting by knob. By default the coldest value of the knob among the runs (a
            full training), and the median of the others.
        levels: Values the knob may take; by default 25 between the least and the largest run, whole
            ones of epochs and of other knobs whose runs are, and of batch sizes those of the runs
            and the powers of two between them.
        where: Values of columns, in a table of several tasks: rows with others are left out.
        gain: Least fall in test error worth a move, as a fraction.
        confidence: Least probability of an action that is recommended.
        candidates: (knob value, load) of the pilots that might be run next, with the seconds that
            they take, ``costs``; by default levels of the knob at this load and at the quartiles of
            the runs' loads, at the median ``wall_s`` of the runs.
        batch: How many pilots to propose.
        draws: Warm-up steps and draws of each chain, for a quicker and rougher fit.

    Raises:
        InputError: for runs that do not suffice, a setting outside them, or an option that would be
            ignored: a fitted model has its runs and its knobs.
    """
    check_options(gain, confidence)
    _check_batch(batch, candidates, costs)
    if isinstance(runs, RegimeModel):
        asked = {"knobs": knobs, "load": load, "where": where, "draws": draws}
        needless = [name for name, value in asked.items() if value is not None]
        if needless:
            raise InputError(f"a fitted model is advised on; leave {', '.join(needless)} out.")
        model = runs
    else:
        length: dict[str, Any] = {} if draws is None else {"warmup": draws, "samples": draws}
        read = read_runs(runs, knobs=knobs, load=load, where=where)
        _check_asked(read, density, knob, at or {})  # before the minute that a fit takes
        model = RegimeModel.fit(read, seed=seed, **length)
    table = model.table
    _check_asked(table, density, knob, at or {})
    position = table.knob(knob)
    chosen = table.knobs[position]
    heat_of_runs = chosen.coordinate(table.settings[:, position])
    coldest = float(table.settings[np.argmin(heat_of_runs), position])
    present = reference(model, {chosen.name: coldest, **(at or {})})
    values, here = _levels(model, position, present[position], levels)
    settings = np.tile(present, (len(values), 1))
    settings[:, position] = values
    heat = chosen.coordinate(values)
    posterior = model.predict(settings, np.full(len(values), density))
    decision = decide(posterior.error, values, heat, here, gain)
    actions = best_actions(posterior.error, heat, here, gain)
    each = [decide(posterior.error, values, heat, i, gain) for i in range(len(values))]
    along = np.stack([decided.probability for decided in each])
    action = decision.action(confidence) if model.convergence.ok else "undecided"
    batch_next = _proposals(
        model,
        (posterior.by_regimes, actions),
        settings,
        position,
        density,
        candidates,
        costs,
        batch,
        seed,
    )
    sure = model.convergence.ok and (
        not batch_next or should_stop(decision.probability, batch_next[0].largest_gain)
    )
    error_low, error_high = posterior.interval()[:, here]
    return Advice(
        action=action,
        turn=_turn(action, chosen),
        probability=dict(zip(ACTIONS, map(float, decision.probability))),
        knob=chosen.name,
        at=dict(zip([k.name for k in table.knobs], map(float, present))),
        load=float(density),
        load_name=table.load_name,
        best=decision.best,
        best_interval=decision.interval,
        gain_points=100 * decision.gain,
        gain_interval=(100 * decision.gain_interval[0], 100 * decision.gain_interval[1]),
        error_points=100 * float(posterior.error[:, here].mean()),
        error_interval=(100 * float(error_low), 100 * float(error_high)),
        regime=dict(zip(("I", "II-A", "II-B"), map(float, posterior.regime[here]))),
        next=None if sure or not batch_next else batch_next[0],
        next_batch=tuple(batch_next),
        confidence=confidence,
        least_gain_points=100 * gain,
        converged=model.convergence.ok,
        convergence=str(model.convergence),
        levels=values,
        along=along,
        beside=opinions(model, position, settings, here, float(density), gain),
        notes=(*table.notes, *_between(table, float(density))),
        model=model,
    )


def check_options(gain: float, confidence: float) -> None:
    """Refuse a least gain or a confidence that no decision could be made with."""
    if not 0.5 <= confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie in [0.5, 1).")
    if not 0 < gain < 1:
        raise InputError(f"gain is {gain}; give a fraction in (0, 1); 0.003 is usual.")


def _check_batch(
    batch: int,
    candidates: Sequence[tuple[float, float]] | None,
    costs: Sequence[float] | None,
) -> None:
    """Refuse a batch of none, and costs that are not those of the candidates."""
    if batch < 1:
        raise InputError(f"batch is {batch}; at least one pilot is proposed.")
    given = 0 if candidates is None else len(candidates)
    if costs is not None and len(costs) != given:
        raise InputError(f"{len(costs)} costs for {given} candidates; give one for each.")


def _between(table: RunTable, load: float) -> tuple[str, ...]:
    """A note where no run has the load that was asked for."""
    below, above = table.load[table.load <= load], table.load[table.load >= load]
    if not (below.size and above.size) or np.isclose(table.load, load, rtol=1e-6).any():
        return ()
    return (
        f"no run has {table.load_name} {load:g}: the answer is drawn from those around it; the "
        f"nearest have {below.max():g} and {above.min():g}.",
    )


def _check_asked(
    table: RunTable, density: float, knob: str | None, at: Mapping[str, float]
) -> None:
    """Refuse a knob that is not among the runs, and a load or a setting outside them."""
    table.knob(knob)
    inside = {table.load_name: (float(density), table.load)}
    names = [one.name for one in table.knobs]
    for name, value in at.items():
        if name not in names:
            raise unknown("knob", name, names)
        inside[name] = (value, table.settings[:, names.index(name)])
    for name, (value, runs) in inside.items():
        check_inside(name, value, runs)


def _levels(
    model: RegimeModel, position: int, present: float, levels: Sequence[float] | None
) -> tuple[Array, int]:
    """Sorted values of the knob with the present one among them, and its index."""
    co, knob = model.coordinates, model.table.knobs[position]
    low, high = co.low[position], co.high[position]
    if levels is None:
        values = knob_levels(knob, model.table.settings[:, position], LEVELS)
    else:
        values = np.asarray(levels, float)
        if values.size < 2 or not np.all(np.isfinite(values)):
            raise InputError("levels: give at least two finite values for the knob.")
    check_inside(knob.name, [*values, present], np.array([low, high]))
    near = np.isclose(values, present, rtol=1e-9)
    values = np.unique(np.append(values[~near], present))
    return values, int(np.flatnonzero(values == present)[0])


def _proposals(
    model: RegimeModel,
    acting: tuple[Any, Array],
    settings: Array,
    position: int,
    density: float,
    candidates: Sequence[tuple[float, float]] | None,
    costs: Sequence[float] | None,
    batch: int,
    seed: int,
) -> list[NextPilot]:
    """The next pilots among the candidates, best first."""
    if candidates is None:
        quarters = np.quantile(model.table.load, [0.0, 0.25, 0.5, 0.75, 1.0], method="nearest")
        loads = np.unique([density, *quarters])
        where = np.repeat(settings[:: max(1, len(settings) // 9)], len(loads), axis=0)
        at_load = np.tile(loads, len(where) // len(loads))
    elif len(candidates) == 0:
        return []
    else:
        where = np.tile(settings[0], (len(candidates), 1))
        where[:, position], at_load = np.array(candidates, float).T
    cost = None if costs is None else np.asarray(costs, float)
    draws, actions = acting  # what a pilot tells about the parameters, only their draws can say
    return next_pilots(
        model, actions[: len(draws)], where, at_load, count=batch, cost=cost, draws=draws, seed=seed
    )


def _turn(action: str, knob: Knob) -> str:
    if action not in ("raise", "lower"):
        return action
    return "increase" if (action == "raise") == (knob.hotter == "up") else "decrease"
