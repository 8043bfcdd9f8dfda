"""`decode`: flexible-length generation with a masked diffusion model, in Hugging Face idiom."""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from probcomp.decoding.adapters.base import Adapter
from probcomp.decoding.adapters.resolve import as_adapter
from probcomp.decoding.calibrating.record import calibration_for
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.loop import Decoder, Processor, Step
from probcomp.decoding.noise import row_seeds
from probcomp.decoding.output import DecodeOutput
from probcomp.decoding.presets import presets
from probcomp.decoding.rows import Rows
from probcomp.decoding.streaming import stream_to
from probcomp.errors import InputError


def decode(
    model: Any = None,
    tokenizer: Any = None,
    *,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    prompt: str | Sequence[str] | None = None,
    preset: str | None = None,
    generation_config: DecodingConfig | None = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    streamer: Any = None,
    seed: int = 0,
    num_return_sequences: int = 1,
    history: bool = False,
    calibration: Any = None,
    **options: Any,
) -> DecodeOutput:
    """Generate with a masked diffusion language model, without being told the length.

    Mask tokens inside the prompt are filled in (the part from the first of them on keeps its
    length); a prompt without one is continued until it ends.

    Draws (a temperature above 0) follow the model's law up to what tokens of one forward share,
    which ``gamma`` bounds in pairs. A calibration chooses it so that a forward saved costs no more
    than 0.1 nats of log q (`probcomp.decoding.calibrating.sweep`). It may also take noise from the
    marginals (``token_noise``) and draw content in the forward that draws the end
    (``draw_commits``): exact where content does not depend on the end but for lying before it, and
    off by their mutual information where it does. Set them to 0 and False for the model's own law.

    Args:
        model: a denoiser with an adapter, an `Adapter`, or None for the embedded model.
        tokenizer: read for the ids of mask, end and padding, and to turn ``prompt`` into ids.
        input_ids: prompts [batch, n], left-padded, with ``attention_mask`` [batch, n].
        prompt: texts, in place of ``input_ids``.
        preset: a name of `probcomp.decoding.presets`; the model's own default when None.
        generation_config: a `DecodingConfig`, in place of a preset.
        logits_processor: Transformers processors that look at one prefix at a time (bad words,
            suppression, top-k, grammar), or a function (ids [batch, n], logits [batch, window,
            vocabulary]) -> logits.
        stopping_criteria: Transformers criteria, asked about each finished prefix.
        streamer: gets ``put`` for finished tokens, ``put_draft`` for the canvas, and ``end``.
        seed: decides every draw, row by row.
        num_return_sequences: answers per prompt.
        history: keep a `Step` for each forward in the output.
        calibration: a `Calibration`, its file, or False for none; by default the file beside the
            model, where there is one. It fits the model's own configuration and ``bayes``;
            other presets and a ``generation_config`` are taken as they are.
        **options: single values of the configuration, over it.

    Raises:
        InputError: for an unknown option, an empty prompt, a mask of wrong shape, a prompt that
            leaves no room in the context, a model without a mask token, or a calibration of other
            weights.
    """
    adapter, tokenizer, default = as_adapter(model, tokenizer)
    if preset is not None and generation_config is not None:
        raise InputError("give a preset or a generation_config, not both")
    own = generation_config is None and preset in (None, "bayes")
    config = generation_config or (default if own else presets[preset or "bayes"])
    if calibration not in (None, True, False) and not own:
        raise InputError("a calibration fits the bayes configuration, not a preset of its own")
    if own:
        fitted = calibration_for(model if model is not None else adapter, calibration)
        config = config if fitted is None else fitted.apply(config)
    config = config.replace(**options)
    if adapter.block_multiple and config.block_multiple is None:
        config = config.replace(block_multiple=adapter.block_multiple)
    if input_ids is None:
        input_ids, attention_mask = _encode(tokenizer, prompt)
    elif prompt is not None:
        raise InputError("give input_ids or a prompt, not both")
    input_ids, keys = _checked(input_ids, attention_mask)
    if num_return_sequences < 1:
        raise InputError(f"num_return_sequences is 1 or more, got {num_return_sequences}")
    input_ids = input_ids.repeat_interleave(num_return_sequences, 0)
    keys = keys.repeat_interleave(num_return_sequences, 0)
    config = _within_context(adapter, config, keys)
    context, context_mask, rows = _split(adapter, config, input_ids, keys)
    steps: list[Step] = []
    observers: list[Callable[[Step], object]] = [steps.append] if history else []
    if streamer is not None:
        observers.append(stream_to(streamer, rows, config))
    Decoder(adapter, config).run(
        context,
        context_mask,
        rows,
        row_seeds(seed, len(rows.ids)).to(input_ids.device),
        processor=_processor(logits_processor, context.shape[1]),
        stopper=_stopper(stopping_criteria, context, context_mask),
        observer=(lambda step: [see(step) for see in observers]) if observers else None,
    )
    if streamer is not None:
        streamer.end()
    return _collect(adapter, tokenizer, config, input_ids, keys, context_mask, rows, steps)


def _encode(tokenizer: Any, prompt: str | Sequence[str] | None) -> tuple[Tensor, Tensor]:
    if prompt is None:
        raise InputError("decoding needs input_ids or a prompt")
    if tokenizer is None:
        raise InputError("a text prompt needs a tokenizer; pass one, or pass input_ids")
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not texts or not all(texts):
        raise InputError("the prompt is empty; give at least one character")
    side = getattr(tokenizer, "padding_side", "left")
    try:
        if side != "left":
            tokenizer.padding_side = "left"
        found = tokenizer(texts, return_tensors="pt", padding=len(texts) > 1)
    finally:
        if side != "left":
            tokenizer.padding_side = side  # the caller's object, as it was
    return found["input_ids"], found["attention_mask"]


def _checked(ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if ids.dim() != 2 or ids.is_floating_point():
        raise InputError(f"input_ids are integers [batch, n], got {ids.dtype} {list(ids.shape)}")
    if mask is None:
        mask = torch.ones_like(ids)
    if mask.shape != ids.shape:
        raise InputError(
            f"attention_mask must have the shape of input_ids {list(ids.shape)}, "
            f"got {list(mask.shape)}"
        )
    keys = mask.bool()
    if ids.shape[0] == 0 or not bool(keys.any(1).all()):
        raise InputError("a prompt is empty; every row needs at least one token")
    if bool((keys[:, :-1] & ~keys[:, 1:]).any()):
        raise InputError("prompts are padded on the left; this mask has padding after a token")
    return ids, keys


def _within_context(adapter: Adapter, config: DecodingConfig, keys: Tensor) -> DecodingConfig:
    longest = min(config.max_new_tokens, adapter.longest_canvas or config.max_new_tokens)
    if adapter.context is not None:
        room = adapter.context - int(keys.sum(1).max())
        if room < 1:
            raise InputError(
                f"the prompt has {int(keys.sum(1).max())} tokens and the context "
                f"{adapter.context}; shorten the prompt"
            )
        longest = min(longest, room)
    return config.replace(
        max_new_tokens=longest, initial_length=min(config.initial_length, longest)
    )


def _split(
    adapter: Adapter, config: DecodingConfig, ids: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor, Rows]:
    """Context (left-padded) and canvas of each row; a canvas starts at the first mask, if any."""
    size = config.max_new_tokens if config.sizing == "none" else config.initial_length
    most = config.max_new_tokens
    contexts, canvases, open_ = [], [], []
    for row, real in zip(ids, keys):
        tokens = row[real]
        masks = (tokens == adapter.mask_id).nonzero()[:, 0]
        first = int(masks[0]) if len(masks) else len(tokens)
        contexts.append(tokens[:first])
        open_.append(not len(masks))
        if config.sizing == "append" and config.block_multiple:
            # Trained blocks are counted from the prompt's first token: fill up the one begun.
            size = min(config.block_multiple - first % config.block_multiple, most)
        canvases.append(tokens[first:] if len(masks) else tokens.new_full((size,), adapter.mask_id))
    left = max(map(len, contexts))
    right = max(map(len, canvases))
    context = ids.new_full((len(ids), left), adapter.pad_id)
    context_mask = torch.zeros_like(context, dtype=torch.bool)
    canvas = ids.new_full((len(ids), right), adapter.mask_id)
    for i, (before, after) in enumerate(zip(contexts, canvases)):
        context[i, left - len(before) :] = before
        context_mask[i, left - len(before) :] = True
        canvas[i, : len(after)] = after
    rows = Rows(
        canvas,
        torch.tensor([len(c) for c in canvases], device=ids.device),
        torch.tensor(open_, device=ids.device),
        adapter.mask_id,
        ledger=Ledger.open(len(ids), config.error_total, config.error_step),
        sizing=config.sizes_first,
    )
    return context, context_mask, rows


def _processor(given: Any, start: int) -> Processor | None:
    """Transformers processors see one prefix and its scores: one call a position."""
    if given is None:
        return None
    transformers = sys.modules.get("transformers")
    kinds = (transformers.LogitsProcessor, transformers.LogitsProcessorList) if transformers else ()
    if not isinstance(given, (*kinds, list)):
        return given
    calls: list[Any] = given if isinstance(given, list) else [given]

    def run(ids: Tensor, logits: Tensor) -> Tensor:
        columns = []
        for i in range(logits.shape[1]):
            scores = logits[:, i]
            for call in calls:
                scores = call(ids[:, : start + i], scores)
            columns.append(scores)
        return torch.stack(columns, dim=1)

    return run


def _stopper(
    given: Any, context: Tensor, context_mask: Tensor
) -> Callable[[int, Tensor], bool] | None:
    if given is None:
        return None
    criteria = given if isinstance(given, list) else [given]
    for one in criteria:
        if len(inspect.signature(one.__call__).parameters) < 2:
            raise InputError("a stopping criterion takes (input_ids, scores), as in Transformers")

    def ask(row: int, prefix: Tensor) -> bool:
        ids = torch.cat((context[row][context_mask[row]], prefix))[None]
        scores = ids.new_zeros((1, 0), dtype=torch.float32)
        return any(bool(torch.as_tensor(one(ids, scores)).any()) for one in criteria)

    return ask


def _collect(
    adapter: Adapter,
    tokenizer: Any,
    config: DecodingConfig,
    ids: Tensor,
    keys: Tensor,
    context_mask: Tensor,
    rows: Rows,
    steps: list[Step],
) -> DecodeOutput:
    answers, sequences, boundaries = [], [], []
    for i in range(len(ids)):
        n = int(rows.content[i])
        answers.append(rows.ids[i, :n].clone())
        before = ids[i][keys[i]][: int(context_mask[i].sum())]
        sequences.append(torch.cat((before, answers[-1])))
        cuts = rows.cuts[i, :n].nonzero()[:, 0] + 1
        boundaries.append(cuts.tolist())
    width = max(map(len, sequences))
    padded = ids.new_full((len(ids), width), adapter.pad_id)
    for i, row in enumerate(sequences):
        padded[i, : len(row)] = row
    texts = None
    if tokenizer is not None:
        shown = [s if not bool(o) else a for s, a, o in zip(sequences, answers, rows.open)]
        texts = tokenizer.batch_decode(shown, skip_special_tokens=True)
    return DecodeOutput(
        sequences=padded,
        nfe=rows.nfe.tolist(),
        num_new_tokens=[len(a) for a in answers],
        canvas=rows.length.tolist(),
        expected_errors=rows.ledger.spent.tolist(),
        extensions=rows.extensions.tolist(),
        contractions=rows.contractions.tolist(),
        revocations=rows.revocations.tolist(),
        insertions=rows.insertions.tolist(),
        boundaries=boundaries,
        end_posterior=rows.p_end,
        answers=answers,
        config=config,
        texts=texts,
        history=steps,
    )
