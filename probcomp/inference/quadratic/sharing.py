r"""Which layers share the value of a hyper-parameter: a Dirichlet process over a table.

.. math:: P(l \in C) \propto \begin{cases} |C|\, Z(C \cup l) / Z(C) & \text{a cluster of others} \\
          c\, Z(\{l\}) & \text{its own} \end{cases},\qquad
          Z(C) = \sum_h p_0(h) \prod_{l \in C} p(D_l \mid h)

Neal (2000), "Markov chain sampling methods for Dirichlet process mixture models", Algorithm 3.
"""

import torch
from torch import Tensor

BURN, SWEEPS = 50, 200


def share_values(
    likelihood: Tensor,
    prior: Tensor,
    *,
    concentration: float = 1.0,
    burn: int = BURN,
    sweeps: int = SWEEPS,
    seed: int = 0,
) -> Tensor:
    """Posterior of each layer's value ``q_l(h)``, ``[layers, values]``; exact for one layer.

    Args:
        likelihood: ``ln p(D_l | h)``, ``[layers, values]``, nats; minus infinity where a value is
            excluded. Each layer has one that is not.
        prior: ``ln p_0(h)``, ``[values]``.
        concentration: ``c``; the higher, the fewer layers share.
        burn: Sweeps before those that count.
        sweeps: Sweeps that are averaged.
        seed: Seed of the draws.
    """
    layers = len(likelihood)
    generator = torch.Generator().manual_seed(seed)
    clusters = [[layer] for layer in range(layers)]
    total, count = torch.zeros_like(likelihood), sweeps if layers > 1 else 1
    for sweep in range(-burn if layers > 1 else 0, count):
        for layer in range(layers if layers > 1 else 0):
            clusters = [[m for m in c if m != layer] for c in clusters]
            clusters = [c for c in clusters if c]
            without = torch.stack([prior + likelihood[c].sum(0) for c in clusters])
            joined = (without + likelihood[layer]).logsumexp(1) - without.logsumexp(1)
            sizes = torch.tensor([len(c) for c in clusters], dtype=prior.dtype)
            own = (prior + likelihood[layer]).logsumexp(0) + torch.tensor(concentration).log()
            chance = torch.softmax(torch.cat([joined + sizes.log(), own[None].to(joined)]), 0)
            chosen = int(torch.multinomial(chance, 1, generator=generator))
            if chosen < len(clusters):
                clusters[chosen].append(layer)
            else:
                clusters.append([layer])
        if sweep >= 0:
            for c in clusters:
                total[c] += torch.softmax(prior + likelihood[c].sum(0), 0) / count
    return total
