"""Advice in words, for a terminal."""

from typing import TYPE_CHECKING

from probcomp.regime.beside import measured

if TYPE_CHECKING:
    from probcomp.regime.advice import Advice


def headline(said: "Advice") -> str:
    """What to do, in one line."""
    if said.action == "undecided":
        what = f"undecided about {said.knob}"
    elif said.action == "keep":
        what = f"keep {said.knob} at {said.at[said.knob]:g}"
    else:
        what = f"{said.action} the temperature: {said.turn} {said.knob}"
    return f"{what}  (at {_load(said)})"


def details(said: "Advice") -> dict[str, str]:
    """Label to text, in the order of a report."""
    lines = {
        "probability": f"{_shares(said.probability)} (the temperature)",
        "regime": _shares(said.regime),
        "present": ", ".join(f"{name} {value:g}" for name, value in said.at.items()),
        "best": f"{said.knob} {said.best:.4g} (90 %: {span(said.best_interval)})",
        "gain": f"{said.gain_points:.2f} points of test error (90 %: {span(said.gain_interval)})",
        "error now": f"{said.error_points:.2f} % (90 %: {span(said.error_interval)})",
    }
    if said.beside:
        lines["others"] = "; ".join(f"{name}: {told}" for name, told in said.beside.items())
        lines["record"] = measured()
    if said.next is not None:
        where = ", ".join(f"{name} {value:.4g}" for name, value in said.next.settings.items())
        lines["next pilot"] = (
            f"{where}, {said.load_name} {said.next.load:g}: {said.next.decision_gain:.3f} nats "
            f"about the decision, {said.next.information:.2f} about the model, "
            f"cost {said.next.cost:.3g}"
        )
    return lines


def _load(said: "Advice") -> str:
    """The load; a density also as the sparsity, since one is often taken for the other."""
    text = f"{said.load_name} {said.load:g}"
    return f"{text}, sparsity {1 - said.load:g}" if said.load_name.lower() == "density" else text


def span(interval: tuple[float, float]) -> str:
    """An interval with three digits."""
    return f"{interval[0]:.3g} to {interval[1]:.3g}"


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
