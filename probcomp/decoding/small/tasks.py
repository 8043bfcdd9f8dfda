"""Three generated tasks of variable length whose answers can be checked exactly.

``add``     column sums with carries, then the total: serial depth one carry per column.
``json``    ``k=v`` pairs to a JSON record: copying, many tokens per forward.
``record``  a random record of increasing letters: the prompt fixes neither length nor content.

Prompts are split by a hash: one in ten is never trained on, half of those for calibrating and
tuning (``dev``) and half for what is reported (``test``). The ``record`` task has few prompts, so
there the test is about the law of the answers.

``python -m probcomp.decoding.small.tasks --out FILE`` writes dev examples for
``probcomp decode --calibrate FILE``.
"""

import argparse
import itertools
import json
import math
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from probcomp.errors import unknown
from probcomp.storage import write_text

STOP = 0.25  # chance that a record ends after an item: mean four items
MAX_ITEMS = 8


@dataclass(frozen=True)
class Example:
    """One prompt with an answer that is right for it."""

    task: str
    prompt: str
    answer: str


def _add(rng: random.Random) -> Example:
    digits = rng.randint(1, 3)
    a, b = (rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
    columns, carry, x, y = [], 0, a, b
    for _ in range(digits):
        total = x % 10 + y % 10 + carry
        columns.append(f"{total:02d}")
        carry, x, y = total // 10, x // 10, y // 10
    return Example("add", f"+{a}+{b}", ",".join(columns) + f"|{a + b}")


def _json(rng: random.Random) -> Example:
    keys = rng.sample("abcdefghijklmnopqrstuvwxyz", rng.randint(1, 3))
    values: list[int | str] = [
        rng.randrange(100) if rng.random() < 0.5 else rng.choice("abcdefghijklmnopqrstuvwxyz")
        for _ in keys
    ]
    prompt = "{" + ";".join(f"{key}={value}" for key, value in zip(keys, values))
    return Example("json", prompt, json.dumps(dict(zip(keys, values)), separators=(",", ":")))


def _record(rng: random.Random) -> Example:
    start = rng.randrange(10)
    letter, digit, items = start, rng.randrange(5), []
    for _ in range(MAX_ITEMS):
        items.append(f"{chr(97 + letter)}{digit}")
        if rng.random() < STOP:
            break
        letter += rng.randint(1, 2)
        digit = (digit + rng.choice((1, -1))) % 5
    return Example("record", f"?{chr(97 + start)}", ",".join(items))


_MAKERS: dict[str, Callable[[random.Random], Example]] = {
    "add": _add,
    "json": _json,
    "record": _record,
}
TASKS = tuple(_MAKERS)
PARTS = ("train", "dev", "test")


def part_of(prompt: str) -> str:
    """``train``, or for the tenth that is held out from training ``dev`` or ``test``."""
    value = zlib.crc32(prompt.encode())
    if value % 10:
        return "train"
    return "dev" if value % 20 else "test"


def make_examples(task: str, count: int, seed: int, part: str = "train") -> list[Example]:
    """``count`` examples of one task. Seeded; prompts of different parts never meet."""
    if task not in _MAKERS:
        raise unknown("task", task, _MAKERS)
    if part not in PARTS:
        raise unknown("part", part, PARTS)
    rng = random.Random(f"{task}-{seed}-{ {'train': False, 'test': True}.get(part, part) }")
    found: list[Example] = []
    while len(found) < count:
        example = _MAKERS[task](rng)
        if task == "record" or part_of(example.prompt) == part:
            found.append(example)
    return found


def is_valid(example: Example, answer: str) -> bool:
    """Whether an answer is right: equal where the prompt decides it, lawful for ``record``."""
    if example.task != "record":
        return answer == example.answer
    return record_log_prob(example.prompt, answer) > -math.inf


def is_well_formed(task: str, answer: str) -> bool:
    """Whether an answer has the shape of its task, right or wrong (parses as JSON, say)."""
    if task == "json":
        try:
            return isinstance(json.loads(answer), dict)
        except ValueError:
            return False
    if task == "add":
        columns, bar, total = answer.partition("|")
        return bool(bar) and total.isdigit() and all(map(str.isdigit, columns.split(",")))
    return all(
        len(item) == 2 and item[0].isalpha() and item[1].isdigit() for item in answer.split(",")
    )


def record_log_prob(prompt: str, answer: str) -> float:
    """Exact log probability (nats per answer) of a record under the law that generates them."""
    items = answer.split(",")
    if len(items) > MAX_ITEMS or not is_well_formed("record", answer):
        return -math.inf
    if items[0][0] != prompt[1] or int(items[0][1]) > 4:
        return -math.inf
    log_prob = -math.log(5)
    for before, after in itertools.pairwise(items):
        step = ord(after[0]) - ord(before[0])
        turn = (int(after[1]) - int(before[1])) % 5
        if step not in (1, 2) or turn not in (1, 4) or int(after[1]) > 4:
            return -math.inf
        log_prob += math.log1p(-STOP) - 2 * math.log(2)
    return log_prob + (math.log(STOP) if len(items) < MAX_ITEMS else 0.0)


def record_length_law() -> dict[int, float]:
    """P(answer length in characters) for ``record``: an item takes two, a comma one."""
    law = {3 * n - 1: STOP * (1 - STOP) ** (n - 1) for n in range(1, MAX_ITEMS)}
    law[3 * MAX_ITEMS - 1] = (1 - STOP) ** (MAX_ITEMS - 1)
    return law


def main() -> None:
    """Write dev examples as JSON lines."""
    parser = argparse.ArgumentParser(description="Write dev examples of the embedded tasks.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=80, help="examples of each task")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seed", type=int, default=301)
    options = parser.parse_args()
    lines = [
        json.dumps({"task": e.task, "prompt": e.prompt, "answer": e.answer})
        for task in options.tasks
        for e in make_examples(task, options.count, options.seed, "dev")
    ]
    write_text(options.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
