"""Advice in words, for a terminal and a page: what to do, why, how sure that is, and what next."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from probcomp.regime.beside import measured

if TYPE_CHECKING:
    from probcomp.regime.advice import Advice
    from probcomp.regime.design import NextPilot

REGIMES = {"I": "cut off from one another", "II-A": "connected, unlike", "II-B": "connected, alike"}
"""What retrained networks are to one another in each regime."""

ALONE = {"I": ("raise",), "II-A": ("lower",), "II-B": ("keep", "lower")}
"""What each regime by itself speaks for (Zhou et al. 2023, ICML): heat connects, cold aligns."""


def headline(said: "Advice") -> str:
    """What to do, in one line."""
    now = said.at[said.knob]
    if said.action == "undecided":
        what = f"undecided about {said.knob}, now {now:g}"
    elif said.action == "keep":
        what = f"keep {said.knob} at {now:g}"
    else:
        what = f"{said.action} the temperature: {said.turn} {said.knob}"
        # The likeliest side need not hold the setting that is best on average.
        if said.best != now and (said.best > now) == (said.turn == "increase"):
            what += f" from {now:g} to about {said.best:.3g}"
    return f"{what}  (at {_load(said)})"


def why(said: "Advice") -> str:
    """What the action rests on, or what keeps it undecided."""
    if not said.converged:
        return "the sampler did not converge, so that no probability can be trusted"
    likeliest = max(said.probability, key=lambda name: said.probability[name])
    share = f"{said.probability[likeliest]:.0%}"
    asked, least = f"{said.confidence:.0%}", f"{said.least_gain_points:g}"
    if said.action == "keep":
        return (
            f"keep has probability {share} ({asked} asked): no other setting is likely to gain the "
            f"{least} points that make a move worth it"
        )
    if said.action != "undecided":
        return (
            f"{said.action} has probability {share} ({asked} asked): {said.gain_points:.2f} points "
            f"less error are expected, {least} make a move worth it"
        )
    low, high = said.gain_interval
    if low < said.least_gain_points < high:
        doubt = (
            f"going to {said.best:.3g} may gain {low:.2f} to {high:.2f} points, and {least} make a "
            "move worth it"
        )
    else:
        doubt = f"the best {said.knob} may lie from {span(said.best_interval)}"
    return (
        f"{likeliest} is likeliest with {share} ({asked} asked): {doubt}; the runs do not tell "
        "which it is"
    )


def what_next(said: "Advice") -> str:
    """The step after this advice."""
    if not said.converged:
        return (
            "add runs (other seeds, settings between those that are there) and ask again; another "
            "seed of the sampler may do, too"
        )
    if said.next is not None:
        act = "act on this, or " if said.action != "undecided" else ""
        return f"{act}run the next pilot, add its row to the runs, and ask again"
    if said.action == "undecided":
        near = dict.fromkeys(f"{value:.3g}" for value in (said.at[said.knob], said.best))
        loss = f"staying is expected to cost {max(said.gain_points, 0.0):.2f} points"
        return (
            f"no single run promises to settle it; {loss}: accept that, or add several runs of "
            f"other seeds at {said.knob} {' and '.join(near)}, {said.load_name} {said.load:g}"
        )
    return "no further run is needed; measure the result on samples that no run was judged by"


def report(said: "Advice", more: Mapping[str, str] | None = None) -> str:
    """All of it in lines, with ``more`` labels and texts before the notes."""
    lines = [headline(said)]
    if not said.converged:
        lines.append(f"{said.convergence}; the numbers below are not to be relied on")
    labels = {**details(said), **(more or {})}
    lines += [f"  {label:<12}{text}" for label, text in labels.items()]
    return "\n".join([*lines, *(f"  note: {text}" for text in said.notes)])


def details(said: "Advice") -> dict[str, str]:
    """Label to text, in the order of a report."""
    knob = said.model.table.knobs[said.model.table.knob(said.knob)]
    up, down = ("increase", "decrease") if knob.hotter == "up" else ("decrease", "increase")
    means = {"raise": f" ({up} {said.knob})", "lower": f" ({down} {said.knob})", "keep": ""}
    lines = {
        "why": why(said),
        "probability": ", ".join(
            f"{name} {share:.0%}{means[name]}" for name, share in said.probability.items()
        )
        + " (the temperature)",
        "regime": ", ".join(f"{n} {p:.0%} ({REGIMES[n]})" for n, p in said.regime.items())
        + _otherwise(said),
        "present": ", ".join(f"{name} {value:g}" for name, value in said.at.items()),
        "best": f"{said.knob} {said.best:.4g} (90 %: {span(said.best_interval)})",
        "gain": f"{said.gain_points:.2f} points of test error (90 %: {span(said.gain_interval)})",
        "error now": f"{said.error_points:.2f} % (90 %: {span(said.error_interval)})",
    }
    if said.beside:
        lines["others"] = "; ".join(f"{name}: {told}" for name, told in said.beside.items())
        lines["record"] = measured()
    table = said.model.table
    lines["runs"] = f"{len(table)} of {table.cells.max() + 1} settings; fit {said.convergence}"
    if len(said.next_batch) > 1:
        lines["next pilots"] = "; ".join(_pilot(said, pilot) for pilot in said.next_batch)
    elif said.next is not None:
        lines["next pilot"] = _pilot(said, said.next)
    lines["what next"] = what_next(said)
    return lines


def _otherwise(said: "Advice") -> str:
    """A word where the advice moves the knob against what the likeliest regime speaks for."""
    likeliest = max(said.regime, key=lambda name: said.regime[name])
    alone = ALONE[likeliest]
    if said.action in ("keep", "undecided", *alone) or said.regime[likeliest] < 0.5:
        return ""
    return f"; {likeliest} alone would say {' or '.join(alone)}: here the errors decide"


def _pilot(said: "Advice", pilot: "NextPilot") -> str:
    """Where it is, what it is expected to tell, and what it takes where that is known."""
    where = ", ".join(f"{name} {value:.4g}" for name, value in pilot.settings.items())
    if said.next is None or pilot.by == "information":  # none is to settle the decision
        tells = f"expected to tell {pilot.information:.2f} nats about the model"
    else:
        shares = np.array([share for share in said.probability.values() if share > 0])
        doubt = max(-float((shares * np.log(shares)).sum()), 1e-9)
        settles = min(max(pilot.decision_gain, 0.0) / doubt, 1.0)
        tells = f"expected to settle {settles:.0%} of the doubt about the decision"
    cost = f", about {pilot.cost:.3g} s" if pilot.cost_unit == "seconds" else ""
    return f"{where}, {said.load_name} {pilot.load:g} ({tells}{cost})"


def _load(said: "Advice") -> str:
    """The load; a density also as the sparsity, since one is often taken for the other."""
    text = f"{said.load_name} {said.load:g}"
    return f"{text}, sparsity {1 - said.load:g}" if said.load_name.lower() == "density" else text


def span(interval: tuple[float, float]) -> str:
    """An interval with three digits."""
    return f"{interval[0]:.3g} to {interval[1]:.3g}"
