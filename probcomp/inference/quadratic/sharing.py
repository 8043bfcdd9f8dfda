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
    together = [prior + row for row in likelihood]  # of each cluster
    evidence = [row.logsumexp(0) for row in together]
    alone = torch.stack(evidence) + torch.tensor(concentration).log()
    total, count = torch.zeros_like(likelihood), sweeps if layers > 1 else 1
    for sweep in range(-burn if layers > 1 else 0, count):
        for layer in range(layers if layers > 1 else 0):
            left = next(n for n, c in enumerate(clusters) if layer in c)
            clusters[left] = [m for m in clusters[left] if m != layer]
            if clusters[left]:  # summed anew: a value that is excluded cannot be taken away again
                together[left] = prior + likelihood[clusters[left]].sum(0)
                evidence[left] = together[left].logsumexp(0)
            else:
                del clusters[left], together[left], evidence[left]
            with_it = [row + likelihood[layer] for row in together]
            joined = torch.stack([row.logsumexp(0) for row in with_it]) - torch.stack(evidence)
            sizes = torch.tensor([len(c) for c in clusters], dtype=prior.dtype)
            chance = torch.softmax(torch.cat([joined + sizes.log(), alone[layer, None]]), 0)
            chosen = int(torch.multinomial(chance, 1, generator=generator))
            if chosen < len(clusters):
                clusters[chosen].append(layer)
                together[chosen] = with_it[chosen]
            else:
                clusters.append([layer])
                together.append(prior + likelihood[layer])
                evidence.append(together[-1].logsumexp(0))
            evidence[chosen] = together[chosen].logsumexp(0)
        if sweep >= 0:
            for c, row in zip(clusters, together, strict=True):
                total[c] += torch.softmax(row, 0) / count
    return total
