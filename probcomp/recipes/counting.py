"""Multiply-accumulates of the models of a job, and in words what is not among them."""

from torch import nn

from probcomp.allocation.counts import Macs, macs_of
from probcomp.data.batches import Batches
from probcomp.recipes.task import Task, Tensors

FEW, MORE = 2, 64
"""Samples to count on, and where some part of the model did not run on these."""
SAID = 0.05
"""Share of all products from which on those without a weight are spoken of."""
NAMED = 3


def macs_on(model: nn.Module, task: Task, data: Tensors) -> Macs:
    """Count on the first samples; on more of them where some matrix is read by none of these."""
    batches = Batches(data, shuffle=False)

    def on(samples: int) -> Macs:
        batch = batches.example(samples)
        return macs_of(model, lambda m: task.run(m, batch), samples)

    found = on(min(FEW, batches.samples))
    return on(min(MORE, batches.samples)) if found.idle else found


def macs_notes(dense: Macs, small: Macs, whole: float, rest: float) -> tuple[str, ...]:
    """What the counts leave out.

    Args:
        dense: Counts of the dense model.
        small: Those of the compressed model.
        whole: Multiply-accumulates of the dense model with weights.
        rest: Those of the compressed model.
    """
    notes = []
    if dense.others > SAID * (dense.others + whole):
        notes.append(
            "Multiplications are counted where a weight takes part. Products without one "
            f"(attention) come on top, for a sample: {dense.others:,.0f} in the dense model beside "
            f"{whole:,.0f}, {small.others:,.0f} in the compressed one beside {rest:,.0f}."
        )
    if dense.unseen:
        words = [f"{name} (read by {', '.join(by)})" for name, by in dense.unseen.items()]
        notes.append(f"Multiplications with {_some(words)} are not counted: no matrix products.")
    if dense.idle:
        notes.append(
            f"No sample of those counted on reaches {_some(list(dense.idle))}, which therefore "
            "count no multiplications."
        )
    return tuple(notes)


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
