"""Laws with a known optimal decoding, small enough to write down.

``tabular``      a random joint of a few tokens: everything by brute force
``xor_blocks``   three bits whose sum is even: no pair depends, every triple does
``brackets``     balanced bracket words of random length: what parallel commits make invalid
``records``      small JSON-like records, keys in order, values free
``sudoku``       the 288 grids of 4 x 4 Sudoku
``segments``     blocks with a deterministic course inside and a fresh start at each border
``fitting``      a chain as a model sees it that was trained on canvases that fit: P(. | E <= W)
"""

import itertools

import torch

from probcomp.decoding.oracles.enumerated import EnumeratedOracle
from probcomp.decoding.oracles.markov import MarkovOracle


def tabular(tokens: int, symbols: int, seed: int) -> EnumeratedOracle:
    """A random joint: Dirichlet(0.3) weights over all texts of ``tokens`` symbols."""
    generator = torch.Generator().manual_seed(seed)
    texts = list(itertools.product(range(symbols), repeat=tokens))
    shape = torch.full((len(texts),), 0.3, dtype=torch.float64)
    return EnumeratedOracle(texts, symbols, torch._standard_gamma(shape, generator))


def xor_blocks(blocks: int) -> EnumeratedOracle:
    """``blocks`` triples of bits with an even sum each, uniform."""
    even = [bits for bits in itertools.product((0, 1), repeat=3) if sum(bits) % 2 == 0]
    texts = [sum(choice, ()) for choice in itertools.product(even, repeat=blocks)]
    return EnumeratedOracle(texts, 2)


def brackets(pairs: int, stop: float = 0.4) -> EnumeratedOracle:
    """Balanced words of 1..``pairs`` pairs of 0 and 1; the number of pairs stops at random."""
    texts: list[tuple[int, ...]] = []
    weights: list[float] = []
    for n in range(1, pairs + 1):
        words = [w for w in itertools.product((0, 1), repeat=2 * n) if balanced(w)]
        mass = stop * (1 - stop) ** (n - 1) if n < pairs else (1 - stop) ** (pairs - 1)
        texts += words
        weights += [mass / len(words)] * len(words)
    return EnumeratedOracle(texts, 2, torch.tensor(weights, dtype=torch.float64))


def balanced(word: tuple[int, ...]) -> bool:
    """Whether 0 opens, 1 closes, and all that opens is closed in order."""
    depth = 0
    for symbol in word:
        depth += 1 if symbol == 0 else -1
        if depth < 0:
            return False
    return depth == 0


def records(keys: int = 3, values: int = 3) -> EnumeratedOracle:
    """Records {k v, k v, ...}: rising keys from ``keys``, any of ``values`` values.

    Symbols: 0 opens, 1 closes, 2 separates, then keys, then values.
    """
    texts = []
    for count in range(1, keys + 1):
        for chosen in itertools.combinations(range(3, 3 + keys), count):
            for filled in itertools.product(range(3 + keys, 3 + keys + values), repeat=count):
                text = [0]
                for key, value in zip(chosen, filled):
                    text += [key, value, 2]
                texts.append((*text[:-1], 1))
    return EnumeratedOracle(texts, 3 + keys + values)


def sudoku() -> EnumeratedOracle:
    """All 4 x 4 grids, row by row, uniform."""
    rows = list(itertools.permutations(range(4)))
    found = []
    for a, b in itertools.product(rows, repeat=2):
        if any(x == y for x, y in zip(a, b)) or {*a[:2]} & {*b[:2]}:
            continue
        for c, d in itertools.product(rows, repeat=2):
            grid = (*a, *b, *c, *d)
            if lawful(grid):
                found.append(grid)
    return EnumeratedOracle(found, 4)


def lawful(grid: tuple[int, ...]) -> bool:
    """Whether every row, column and box of a 4 x 4 grid holds four different digits."""
    return all(len({grid[i] for i in unit}) == 4 for unit in UNITS)


UNITS = (
    *(tuple(range(4 * r, 4 * r + 4)) for r in range(4)),
    *(tuple(range(c, 16, 4)) for c in range(4)),
    *(tuple(4 * r + c for r in (y, y + 1) for c in (x, x + 1)) for y in (0, 2) for x in (0, 2)),
)


def segments(symbols: int, border: float, hazard: float) -> MarkovOracle:
    """x_{i+1} = x_i + 1 (mod symbols) inside a block, a fresh uniform symbol at each border.

    Borders come with chance ``border``; they show where a symbol does not follow its predecessor.
    """
    follow = torch.eye(symbols, dtype=torch.float64).roll(1, dims=1)
    uniform = torch.full((symbols, symbols), 1.0 / symbols, dtype=torch.float64)
    return MarkovOracle(uniform[0], (1 - border) * follow + border * uniform, hazard)


def fitting(chain: MarkovOracle, width: int) -> EnumeratedOracle:
    """The chain given that its end lies within ``width``: small symbol counts and widths only."""
    texts, weights = [], []
    for n in range(width):
        for text in itertools.product(range(chain.symbols), repeat=n):
            ids = torch.full((1, width), chain.eos_id)
            ids[0, :n] = torch.tensor(text, dtype=torch.long)
            texts.append(text)
            weights.append(float(chain.log_prob(ids).exp()))
    return EnumeratedOracle(texts, chain.symbols, torch.tensor(weights).double(), width)
