"""Brute force over ends and cut sets, in plain Python: the reference for the exact posteriors."""

import itertools
import math
import random

import torch


def enumerate_structures(weights, boundary, log_d, log_longer, segment=None):
    """Z, p_end, p_boundary, p_first, p_last and the best (end, cuts) of one row, by enumeration.

    ``weights`` [width + 1] is log pi_k + rho Lambda_k for k = 1..width + 1.
    """
    width, longest = len(boundary), len(log_d)
    total, best = 0.0, (-math.inf, None)
    p_end, p_boundary = [0.0] * (width + 1), [0.0] * width
    p_first, p_last = [0.0] * longest, 0.0
    for k in range(1, width + 2):
        content = k - 1
        for size in range(content + 1):
            for cuts in itertools.combinations(range(1, content + 1), size):
                log_w, previous, ok = float(weights[k - 1]), 0, True
                for cut in cuts:
                    length = cut - previous
                    if length > longest:
                        ok = False
                        break
                    log_w += float(log_d[length - 1]) + float(boundary[cut - 1])
                    if segment is not None:
                        log_w += float(segment[cut - 1, length - 1])
                    previous = cut
                rest = content - previous
                if not ok or rest > longest:
                    continue
                if rest:
                    log_w += float(log_longer[rest - 1])
                    if segment is not None:
                        log_w += float(segment[content - 1, rest - 1])
                weight = math.exp(log_w) if log_w > -700 else 0.0
                total += weight
                p_end[k - 1] += weight
                for cut in cuts:
                    p_boundary[cut - 1] += weight
                if cuts:
                    p_first[cuts[0] - 1] += weight
                else:
                    p_last += weight
                if log_w > best[0]:
                    best = (log_w, (k, cuts))
    return {
        "log_z": math.log(total),
        "p_end": torch.tensor(p_end, dtype=torch.float64) / total,
        "p_boundary": torch.tensor(p_boundary, dtype=torch.float64) / total,
        "p_first": torch.tensor(p_first, dtype=torch.float64) / total,
        "p_last": p_last / total,
        "best": best[1],
    }


def subsets(items):
    """Every subset of a list, the empty one included."""
    items = list(items)
    return itertools.chain.from_iterable(
        itertools.combinations(items, n) for n in range(len(items) + 1)
    )


def random_rows(seed, *shape):
    """Standard normal float64 tensor from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffled(seed, items):
    """A seeded permutation of a list."""
    items = list(items)
    random.Random(seed).shuffle(items)
    return items
