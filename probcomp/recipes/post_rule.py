r"""Without a budget: the posterior decides, at price zero.

Every axis gets the posterior of expectation propagation over its units
(`probcomp.inference.quadratic.ep_group`): read-out weights of a kept unit have a Gaussian slab
whose precision is learnt, those of a removed one are zero, the likelihood is the quadratic of the
read-outs divided by a measured temperature, and the prior is the user's (even odds without one).
Units stay that are more likely needed than not. On teachers whose support is known these numbers
are calibrated, as the tests hold them to. On the network at hand one removal of each axis sets its
temperature and none tests it, so ``calibrated`` is false in the posterior's ``meta``, reports call
them scores, and a note says why; others say where the iteration has not settled, or an axis would
lose more units than it can.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from probcomp.inference.posterior import UnitPosterior
from probcomp.inference.quadratic import GroupFactor, ep_group
from probcomp.recipes.post_allocate import Context
from probcomp.recipes.post_evidence import Evidence
from probcomp.recipes.post_temper import Tempering
from probcomp.recipes.post_units import Judged

TRIED = 0.3
"""Share of an axis that goes in the removal that its temperature is measured on."""
ITERATIONS = 40

UNCHECKED = (
    "Numbers of units are those of the posterior at price zero, not checked on this network: one "
    "removal of each axis sets its temperature, and none tests it."
)


def by_posterior(
    context: Context, judged: Mapping[str, Judged], evidence: Evidence
) -> tuple[dict[str, Tensor], dict[str, UnitPosterior], dict[str, float], list[str]]:
    """Units that stay, their probabilities, the temperature of each axis, and notes."""
    job, config = context.job, context.config
    keep, units, temperatures = {}, {}, {}
    notes = [UNCHECKED]
    for name, j in judged.items():
        tempering = Tempering()
        gone = min(max(1, round(TRIED * j.axis.size)), len(j.order))
        if config.rounds and gone:
            changes = context.removal(j, j.keep(gone), evidence.statistics)
            tempering.add(float(j.loss[gone]), evidence.meter.increase(changes))
        temperatures[name] = tempering.temperature(float(j.loss[gone]))
        parts = context.factors(j.reads, evidence.statistics)
        cooled = [GroupFactor(f.quadratic.tempered(temperatures[name]), f.columns) for f in parts]
        found = ep_group(cooled, prior=job.prior, iterations=ITERATIONS)
        if not found.converged:
            notes.append(
                f"The probabilities of {name} have not settled: in the last of {found.iterations} "
                f"iterations one moved by {found.change:.2g}. They may be off by more than that."
            )
        stays = found.probability > 0.5
        if int(stays.sum()) < j.axis.min_keep:
            notes.append(
                f"{int(stays.sum())} units of {name} are more likely needed than not; the "
                f"{j.axis.min_keep} likeliest stay, the fewest that it can have."
            )
            best = found.log_odds.topk(j.axis.min_keep).indices
            stays = torch.zeros_like(stays).index_fill_(0, best, True)
        keep[name] = stays
        units[name] = UnitPosterior(found.log_odds, found.probability)
    return keep, units, temperatures, notes
