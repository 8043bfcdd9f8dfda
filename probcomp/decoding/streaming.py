"""Streaming: finished text as it becomes final, and the canvas as it moves."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.loop import Step
from probcomp.decoding.rows import Rows
from probcomp.errors import InputError


def stream_to(streamer: Any, rows: Rows, config: DecodingConfig) -> Callable[[Step], None]:
    """An observer that feeds a Transformers streamer: ``put`` new final tokens of the one row.

    A token is final once everything before it is committed, or, where the configuration may
    revise tokens, once the row is done. ``put_draft`` (where the streamer has it) gets the whole
    canvas after each forward.
    """
    if len(rows.ids) != 1:
        raise InputError(f"a streamer follows one row, got a batch of {len(rows.ids)}")
    revises = config.verify != "none" or config.border > 0 or config.insert
    sent = 0

    def watch(step: Step) -> None:
        nonlocal sent
        if hasattr(streamer, "put_draft"):
            streamer.put_draft(rows.ids[0, : int(rows.length[0])])
        done = bool(rows.done[0])
        if revises and not done:
            return
        stop = int(rows.content[0]) if done else _prefix(rows)
        if stop > sent:
            streamer.put(rows.ids[0, sent:stop])
            sent = stop

    return watch


def _prefix(rows: Rows) -> int:
    ids: Tensor = rows.ids[0, : int(rows.length[0])]
    masked = (ids == rows.mask_id).nonzero()
    return int(masked[0]) if len(masked) else len(ids)
