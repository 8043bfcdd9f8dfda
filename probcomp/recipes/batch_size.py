"""How many samples a batch has when a method trains."""

import math

BATCH_SIZE = 64
LARGEST_BATCH = 256
BATCHES_PER_EPOCH = 256
"""Batches grow with the data, as a power of two, towards this many an epoch."""


def batch_size(samples: int) -> int:
    """Samples a batch: more where there are many, since settings count batches, not epochs."""
    power = 2 ** round(math.log2(max(samples / BATCHES_PER_EPOCH, 1)))
    return min(max(power, BATCH_SIZE), LARGEST_BATCH)
