"""Numbers as a reader wants them, and the sentences that a report begins with."""

import math
from collections.abc import Sequence

from probcomp.evaluation.estimate import Estimate
from probcomp.evaluation.regularity import LayerRegularity, Regularity
from probcomp.report.summary import Report

ABSENT = "–"


def count(value: float | None) -> str:
    """1234567 as ``1,234,567``."""
    return ABSENT if value is None else f"{value:,.0f}"


def times(ratio: float | None) -> str:
    """A ratio with three digits: ``10.2x``, ``3.41x``."""
    if ratio is None or not math.isfinite(ratio):
        return ABSENT
    digits = 2 if ratio < 9.995 else 1 if ratio < 99.95 else 0
    return f"{ratio:.{digits}f}×"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of one in percent."""
    if share is None or not math.isfinite(share):
        return ABSENT
    return f"{100 * share:.{digits}f}\u00a0%"


def chance(level: float) -> str:
    """An interval's probability: ``95 %``."""
    return f"{100 * level:g}\u00a0%"


def points(difference: float) -> str:
    """A signed difference of shares in percentage points: ``+0.3``, ``−1.2``, ``0.0``."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def size(octets: float) -> str:
    """Bytes in decimal units: ``23.1 kB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if octets < 999.5 or unit == "GB":
            return f"{octets:.0f} B" if unit == "B" else f"{octets:.3g} {unit}"
        octets /= 1000
    raise AssertionError


def number(value: float | None, digits: int = 1) -> str:
    """A plain number with fixed digits, or a dash."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:,.{digits}f}".replace("-", "−")


def seconds(value: float) -> str:
    """A duration: ``0.4 s``, ``75 s``, ``12 min``."""
    return f"{value / 60:.0f} min" if value >= 120 else f"{value:.{0 if value >= 10 else 1}f} s"


def interval(estimate: Estimate, scale: float = 100.0, digits: int = 1) -> str:
    """The interval alone: ``95.4 to 98.7``."""
    low, high = (f"{scale * v:.{digits}f}".replace("-", "−") for v in (estimate.low, estimate.high))
    return f"{low} to {high}"


def shape(sides: Sequence[int] | None) -> str:
    """``300 × 64``, or ``removed``."""
    if sides is None:
        return "removed"
    return " × ".join(str(side) for side in sides) or "1"


def moment(iso: str) -> str:
    """``2026-01-31T12:30:00+00:00`` as ``2026-01-31 12:30 UTC``."""
    return f"{iso[:16].replace('T', ' ')} UTC" if iso.endswith("+00:00") else iso


def inclusion(report: Report) -> str:
    """What the numbers of the supports may be called: a probability only where it is calibrated."""
    return "inclusion probability" if report.calibrated else "inclusion score"


def short(loss: str) -> str:
    """The name of a loss for a narrow place: up to its first comma or bracket."""
    return loss.partition(",")[0].partition(" (")[0]


def per(report: Report) -> str:
    """What the loss is counted in, and for what: ``nats per token``."""
    return f"{report.loss_name} per {report.nll_unit}"


def headline(report: Report) -> str:
    """What came out, in one sentence."""
    smaller = f"{times(report.ratios.get('nonzero'))} fewer non-zero parameters"
    if report.accuracy is not None:
        before, after = report.accuracy.dense.value, report.accuracy.compressed.value
        return f"{smaller} at {percent(after)} accuracy (dense: {percent(before)})."
    if report.cosine is not None:
        return (
            f"{smaller}; outputs keep a mean cosine of {report.cosine.value:.3f} to those of the "
            "dense model."
        )
    if report.nll is not None:
        before, after = report.nll.dense.value, report.nll.compressed.value
        return (
            f"{smaller} at a {short(report.loss)} of {after:.3f} {per(report)} "
            f"(dense: {before:.3f})."
        )
    return f"{smaller}."


def explanation(report: Report) -> str:
    """The sentence below the headline: counts and intervals."""
    dense, small, ratios = report.dense, report.compressed, report.ratios
    zeros = small.params - small.nonzero
    text = (
        f"Of {count(dense.nonzero)} parameters {count(small.nonzero)} remain. Whole units were cut "
        f"out, so the new tensors hold {count(small.params)} numbers "
        f"({times(ratios.get('params'))} fewer); {count(zeros)} of these are zeros."
    )
    if small.params == small.nonzero:
        text = (
            f"Of {count(dense.nonzero)} parameters {count(small.nonzero)} remain, all of them in "
            "smaller tensors: whole units were cut out, and nothing that is left is zero."
        )
    elif small.params == dense.params:
        text = (
            f"Of {count(dense.nonzero)} parameters {count(small.nonzero)} remain. No whole unit "
            "was cut out: all of the saving is zeros inside tensors of the old size."
        )
    if report.cosine is not None:
        c = report.cosine
        text += (
            f" Over {count(c.n)} held-out samples the mean cosine is {c.value:.4f} "
            f"({chance(c.level)} interval {interval(c, 1, 4)})."
        )
    if report.accuracy is None:
        return text
    after, lost = report.accuracy.compressed, report.accuracy.difference
    verdict = ", so these samples cannot tell it from none" if lost.low <= 0 <= lost.high else ""
    return (
        f"{text} The compressed model gets {percent(after.value)} of {count(after.n)} test samples "
        f"right: a difference of {points(lost.value)} points to the dense model "
        f"({chance(lost.level)} interval {interval(lost)}{verdict})."
    )


def budget_sentence(report: Report) -> str:
    """Requested and achieved, one clause per budgeted quantity."""
    clauses = []
    names = {
        "params": "parameters",
        "macs": "multiplications",
        "bits": "bits of the coded file",
        "prunable": "parameters that removable units own",
    }
    for line in report.budget:
        unit = names.get(line.unit, line.unit)
        if line.unit == "latency_ms":
            clauses.append(f"asked for {line.requested:g} ms, got {line.achieved:.3g} ms")
        elif line.requested <= 1:
            clauses.append(
                f"asked for at most {percent(line.requested)} of the {unit}, got "
                f"{percent(line.achieved, 2)}"
            )
        else:
            clauses.append(
                f"asked for at most {count(line.requested)} {unit}, got {count(line.achieved)}"
            )
        clauses[-1] += f" ({line.note.rstrip('.')})" if line.note else ""
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def prediction_sentence(report: Report) -> str:
    """Predicted beside measured loss increase, or an empty string."""
    if report.prediction is None or report.nll is None:
        return ""
    change = report.nll.difference
    text = (
        f"Loss increase, {per(report)}, predicted before the refit: "
        f"{report.prediction.increase:.3g}; measured after it, on held-out data: "
        f"{change.value:.3g} ({change.low:.3g} to {change.high:.3g})."
    )
    heat = sorted(report.prediction.temperatures.values())
    if heat:
        text += (
            f" Temperatures (predicted over measured increase of sampled removals, by which "
            f"predictions were corrected): {heat[0]:.2g} to {heat[-1]:.2g}."
        )
    return text


def coded_sentence(report: Report) -> str:
    """The size of the file, and what is lost by it, or an empty string."""
    coded = report.coded
    if coded is None:
        return ""
    weights = sum(math.prod(layer.before) for layer in report.layers)
    each = f", {8 * coded.bytes / weights:.2g} bits for each parameter of the dense model"
    text = (
        f"The whole network in one file: {size(coded.bytes)} against {size(coded.dense_bytes)}, "
        f"{times(coded.ratio)} smaller{each if weights else ''}. It was read back bit for bit"
    )
    if coded.accuracy is not None:
        a = coded.accuracy
        return (
            f"{text}: {percent(a.compressed.value)} accuracy, {points(a.difference.value)} points "
            f"to the dense model ({interval(a.difference)})."
        )
    if coded.nll is not None:
        after = coded.nll.compressed.value
        return f"{text}: {short(report.loss)} {after:.3f} {per(report)}."
    return f"{text}."


def regularity_sentence(layers: Sequence[LayerRegularity]) -> str:
    """Totals over layers against magnitude pruning, or an empty string without a comparison."""
    pairs = [(layer.ours, layer.magnitude) for layer in layers if layer.magnitude is not None]
    if not pairs:
        return ""

    def total(name: str, which: int) -> float:
        return sum(getattr(pair[which], name) for pair in pairs)

    ours, theirs = total("clusters", 0), total("clusters", 1)
    full, full_theirs = (_fill([pair[i] for pair in pairs]) for i in (0, 1))
    bits, bits_theirs = total("code_bits", 0), total("code_bits", 1)
    return (
        f"With the same number of non-zeros in each layer, these masks form {count(ours)} clusters "
        f"where magnitude pruning forms {count(theirs)}; their occupied 4 × 4 blocks are "
        f"{percent(full, 0)} full against {percent(full_theirs, 0)}, and describing where the "
        f"non-zeros are takes {size(bits / 8)} against {size(bits_theirs / 8)}."
    )


def _fill(masks: Sequence[Regularity]) -> float | None:
    """Fill of occupied 4 x 4 blocks over several masks."""
    area = sum(m.nonzero / m.blocks[0].fill for m in masks if m.blocks[0].fill)
    return sum(m.nonzero for m in masks) / area if area else None
