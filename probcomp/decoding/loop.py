"""The one loop: forward, look at ends and blocks, commit, take back, stop. Per row, in a batch.

Each pass gives every unfinished row one forward. Given the logits and the seeds, all decisions
are deterministic, and a row decides the same alone and in any batch. Every forward of a row that
is not sizing its canvas commits at least one token, and sizing, revocation, insertion and repair
are each bounded, so the loop ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from probcomp.decoding import sizing
from probcomp.decoding.adapters.base import Adapter
from probcomp.decoding.blocking import carry_on, choose_blocks
from probcomp.decoding.bound import Bound
from probcomp.decoding.committing import commit_set, errors
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.denoising import denoised
from probcomp.decoding.ending import draw_ends, without_ends
from probcomp.decoding.looking import look, track_change
from probcomp.decoding.rows import Rows
from probcomp.decoding.taking import insert_masks, repair_border, shadow_positions, verify
from probcomp.decoding.view import View, first_of

Processor = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """One forward as an observer sees it. ``rows`` [n] are the batch rows it was for; ``commit``
    and ``revoked`` [n, width]; ``begin``, ``end``, ``length`` (before edits) and ``change`` [n];
    ``p_end`` [n, width + 1] or None; ``ids`` [n, width] after the forward's decisions; ``token``
    [n, width] the candidates, of probability ``confidence`` each; ``doubt`` [n] the rows'."""

    rows: Tensor
    forward: Tensor
    commit: Tensor
    revoked: Tensor
    begin: Tensor
    end: Tensor
    length: Tensor
    change: Tensor
    p_end: Tensor | None
    ids: Tensor
    token: Tensor
    confidence: Tensor
    doubt: Tensor


class Decoder:
    """A configuration bound to a denoiser; `run` takes rows from masks to text."""

    def __init__(self, adapter: Adapter, config: DecodingConfig) -> None:
        self.adapter, self.config = adapter, config
        self.bound = Bound(adapter, config)
        self.eos, self.log_survival = self.bound.eos, self.bound.log_survival

    @torch.no_grad()
    def run(
        self,
        context: Tensor,
        context_mask: Tensor,
        rows: Rows,
        seeds: Tensor,
        *,
        teacher: Tensor | None = None,
        processor: Processor | None = None,
        stopper: Callable[[int, Tensor], bool] | None = None,
        observer: Callable[[Step], object] | None = None,
    ) -> Rows:
        """Decode until every row is done.

        Args:
            context: prompts, left-padded, [batch, prompt]; ``context_mask`` says what is real.
            seeds: one int64 seed per row.
            teacher: true canvases [batch, width]. The loop commits the truth in place of its own
                candidates, and counts where they differ (`Rows.wrong`) and log q of the truth.
            processor: (ids so far, logits) -> logits, applied before anything is read off them.
            stopper: (row, its finished prefix) -> whether to stop there.
            observer: called with a `Step` after each forward.
        """
        previous: Tensor | None = None  # full-batch log marginals, kept only for KLASS
        rows.done |= (rows.length == 0) | ~(
            (rows.ids == rows.mask_id) & (rows.place() < rows.length[:, None])
        ).any(1)
        while not bool(rows.done.all()):
            index = (~rows.done).nonzero()[:, 0]
            width = int(rows.length[index].max())
            ids = rows.ids[index, :width]
            valid = torch.arange(width, device=ids.device) < rows.length[index, None]
            ids = torch.where(valid, ids, self.adapter.pad_id)
            shadow = shadow_positions(self.bound, rows, index, ids, valid)
            output = self.adapter.forward(
                torch.cat((context[index], ids), dim=1),
                torch.cat((context_mask[index].bool(), valid), dim=1),
                context.shape[1],
                shadow,
            )
            logits = output.logits
            if processor is not None:
                logits = processor(torch.cat((context[index], ids), dim=1), logits)
            raw, logits = logits, self._clean(rows, index, logits)
            rows.nfe[index] += output.cost
            rows.forwards[index] += 1
            if self.config.commit_rule == "stable":
                previous = track_change(self.bound, rows, index, logits, previous)
            view = look(self.bound, rows, index, ids, valid, logits, seeds)
            self._decide(rows, view, raw, logits, seeds, shadow, output.shadow, teacher, observer)
            if stopper is not None:
                self._ask_to_stop(rows, index, stopper)
        return rows

    def _ask_to_stop(
        self, rows: Rows, index: Tensor, stopper: Callable[[int, Tensor], bool]
    ) -> None:
        """Close rows whose finished prefix satisfies a stopping criterion of the caller."""
        masked = rows.ids[index] == rows.mask_id
        ready = first_of(masked, rows.length[index])
        for row, prefix in zip(index.tolist(), ready.tolist()):
            if not bool(rows.done[row]) and stopper(row, rows.ids[row, :prefix]):
                rows.done[row] = True
                rows.content[row] = prefix

    def _decide(
        self,
        rows: Rows,
        view: View,
        raw: Tensor,
        logits: Tensor,
        seeds: Tensor,
        shadow: Tensor | None,
        seen: Tensor | None,
        teacher: Tensor | None,
        observer: Callable[[Step], object] | None,
    ) -> None:
        index, config = view.index, self.config
        top_is_eos = torch.isin(view.features.top, self.eos.to(view.ids.device))
        change = torch.zeros_like(view.length)
        held = rows.sizing[index].clone()
        said, drawn = view, change
        if bool(held.any()) and config.draws_end:
            change = draw_ends(self.bound, rows, view, seeds, held, teacher)
            rows.sizing[index] = held & ~rows.settled[index]
            if config.draw_commits:
                now = held & rows.settled[index]
                drawn, change = torch.where(now, change, 0), torch.where(now, 0, change)
                rows.resize(index[now], drawn[now])
                logits = self._clean(rows, index, raw)
                view = self._again(rows, view, logits, seeds)
                held = held & ~now
        elif bool(held.any()):
            change = torch.where(held, self._first_size(rows, view, top_is_eos), 0)
            over = held & ((change == 0) | (rows.edits[index] >= config.max_edits))
            change = torch.where(over, 0, change)
            # A canvas shrinks once: growing and shrinking in turn would never end.
            rows.sizing[index[over | (held & (change < 0))]] = False
            if config.sizing == "daedal":
                rows.append(index[over], self.adapter.eos_ids[0], sizing.DAEDAL_ANCHORS)
            else:
                # The forward that ends the sizing also commits, and so does one that only drops
                # filler: its marginals hold for what stays.
                held = held & (change > 0)
        choose_blocks(self.bound, rows, view, seeds, ~held)
        begin, end = rows.begin[index], rows.end[index]
        fresh = rows.committed[index] == 0
        rows.doubt[index] = torch.where(fresh, view.doubt(), rows.doubt[index])
        revoked = repair_border(self.bound, rows, view, shadow, seen)
        going = ~held & ~(rows.repair[index] < 0)
        eligible = view.pending & view.inside(begin, end) & going[:, None]
        commit = self._commit_set(rows, view, eligible, begin, end)
        if config.carries:
            commit = carry_on(
                self.bound,
                rows,
                view,
                seeds,
                eligible,
                commit,
                partial(self._commit_set, rows, view),
            )
            end = torch.maximum(end, rows.end[index])
        if config.verify != "none" and seen is not None and shadow is not None:
            revoked = revoked | verify(self.bound, rows, view, shadow, seen, commit)
        self._apply(rows, view, logits, commit, teacher)
        if bool(revoked.any()):
            rows.revoke(index, revoked)
        if config.insert:
            insert_masks(self.bound, rows, view, top_is_eos, going, begin, end)
        settled = going & (change == 0)
        change = torch.where(settled, self._regrow(rows, view, top_is_eos, change), change)
        if bool((change != 0).any()):
            rows.resize(index, change)
            if config.sizing == "utility":  # rho-EOS keeps its block where it was
                rows.end[index] = torch.minimum(rows.end[index], rows.length[index])
        # A text that was drawn empty needs no forward to fill it.
        self._finish(rows, view, held & ~rows.settled[index], begin)
        if observer is not None:
            n = rows.ids.shape[1]
            observer(
                Step(
                    index.clone(),
                    rows.forwards[index],
                    commit,
                    revoked,
                    begin.clone(),
                    end.clone(),
                    said.length.clone(),
                    drawn + change,
                    said.p_end,
                    rows.ids[index, :n].clone(),
                    view.features.token,
                    view.features.confidence,
                    rows.doubt[index],
                )
            )

    def _clean(self, rows: Rows, index: Tensor, logits: Tensor) -> Tensor:
        """Logits without ends that were decided against, and when drawing without noise."""
        logits = without_ends(self.bound, rows, index, logits)
        drawing = self.config.temperature > 0
        return denoised(logits, self.config.token_noise if drawing else 0.0, self.eos)

    def _again(self, rows: Rows, view: View, logits: Tensor, seeds: Tensor) -> View:
        """The same forward read again, after ends were drawn and canvases cut behind them."""
        index = view.index
        valid = view.place < rows.length[index, None]
        ids = torch.where(valid, rows.ids[index, : view.width], self.adapter.pad_id)
        return look(self.bound, rows, index, ids, valid, logits, seeds)

    def _first_size(self, rows: Rows, view: View, top_is_eos: Tensor) -> Tensor:
        """Change of the canvas before anything is committed; 0 ends the sizing."""
        config = self.config
        if config.sizing == "daedal":
            return sizing.by_daedal(view, top_is_eos, config.max_new_tokens)
        return sizing.by_utility(
            config,
            view,
            sizing.beyond_of(view),
            self.log_survival.to(view.length.device),
            rows.pace[view.index],
            may_shrink=config.contract,
        )

    def _regrow(self, rows: Rows, view: View, top_is_eos: Tensor, change: Tensor) -> Tensor:
        """Changes while decoding: rho-EOS each forward, others at block starts or when full."""
        config, index = self.config, view.index
        if config.sizing in ("none", "daedal"):
            return change
        may = rows.open[index] & (rows.edits[index] < config.max_edits)
        if config.sizing == "rho_eos":
            return torch.where(may, sizing.by_rho(view, top_is_eos, config.max_new_tokens), change)
        ids = rows.ids[index, : view.width]
        masked = ids == rows.mask_id
        ends = torch.isin(ids, self.eos.to(view.ids.device)) & view.valid
        no_end = ~ends.any(1)
        full = ~(masked & view.valid).any(1) & no_end & (view.length < config.max_new_tokens)
        if config.sizing == "append":
            grow = (config.max_new_tokens - view.length).clamp(
                max=config.block_multiple or config.block_length
            )
            return torch.where(may & full, grow, change)
        if config.sizing == "poisson":
            grow = sizing.by_poisson(view, self.adapter.vocab_size, config.max_new_tokens)
            return torch.where(may & full, grow, change)
        # Where the end is sure, what is left of the chance that it lies beyond buys nothing.
        may = may & (view.tail >= view.length)
        look = (rows.block_step[index] - 1) % config.structure_every == 0
        beyond = torch.where(full, 1.0, sizing.beyond_of(view))
        found = sizing.by_utility(
            config,
            view,
            beyond,
            self.log_survival.to(view.length.device),
            rows.pace[index],
            may_shrink=False,
        )
        change = torch.where(may & (look | full) & no_end, found, change)
        if config.contract:
            known = sizing.behind_end(
                rows.ids[index, : view.width] == rows.mask_id, ends, view.length
            )
            change = torch.where(rows.open[index] & (known < 0), known, change)
        return change

    def _commit_set(
        self, rows: Rows, view: View, eligible: Tensor, begin: Tensor, end: Tensor
    ) -> Tensor:
        config, index = self.config, view.index
        masks, step = rows.block_masks[index], rows.block_step[index] - 1
        quota = masks // config.steps + (step < masks % config.steps).long()
        allowance = rows.ledger.allowance(
            index, eligible.sum(1), torch.maximum(view.expected_content(), eligible.sum(1).double())
        )
        commit = commit_set(
            config,
            view.features,
            eligible,
            view.masked,
            view.valid & ~view.masked & ~view.eos_committed,
            doubt=rows.doubt[index],
            allowance=allowance,
            quota=quota.clamp(min=1),
            calm=rows.calm[index, : view.width],
            begin=begin,
            end=end,
        )
        last = (rows.repair[index] == 1)[:, None]  # the last forward a repair may take
        return torch.where(last, eligible, commit)

    def _apply(
        self, rows: Rows, view: View, logits: Tensor, commit: Tensor, teacher: Tensor | None
    ) -> None:
        index, width, f = view.index, view.width, view.features
        token = f.token
        if teacher is not None:
            truth = teacher[index, :width]
            rows.wrong[index] += ((token != truth) & commit).sum(1)
            log_q = logits.double().log_softmax(-1).gather(-1, truth[..., None])[..., 0]
            rows.teacher_log_prob[index] += torch.where(commit, log_q, 0.0).sum(1)
            token = truth
        rows.ids[index, :width] = torch.where(commit, token, rows.ids[index, :width])
        age = torch.where(commit, rows.forwards[index, None], rows.age[index, :width])
        rows.age[index, :width] = age
        error = errors(self.config, f.confidence, rows.doubt[index])
        rows.ledger = rows.ledger.spend(index, error, commit)
        count = commit.sum(1)
        rows.committed[index] += count
        pace = 0.8 * rows.pace[index] + 0.2 * count
        rows.pace[index] = torch.where(count > 0, pace, rows.pace[index])
        rows.accepted[index] = torch.where(count > 0, count, rows.accepted[index])
        rows.repair[index] = (rows.repair[index] - (count > 0).long()).clamp(min=0)

    def _finish(self, rows: Rows, view: View, held: Tensor, begin: Tensor) -> None:
        """Close rows whose text is complete, and note borders that are ready for a check."""
        index, config = view.index, self.config
        rows.repair[index] = torch.where(
            rows.repair[index] < 0, -rows.repair[index], rows.repair[index]
        )
        ids, length = rows.ids[index], rows.length[index]
        place = rows.place()
        valid = place < length[:, None]
        eos = valid & torch.isin(ids, self.eos.to(ids.device))
        tail = torch.where(length > view.length, length, torch.minimum(view.tail, length))
        if config.stop != "none":
            early = torch.minimum(tail, first_of(eos, length))
            tail = torch.where(rows.open[index], early, tail)
        pending = valid & (ids == rows.mask_id) & (place < tail[:, None])
        if config.border > 0 and config.verify == "none":
            inside = (place >= begin[:, None]) & (place < rows.end[index, None])
            closed = ~held & ~(pending & inside).any(1) & (begin > 0) & (rows.repair[index] == 0)
            closed = closed & ~rows.checked[index]
            rows.border[index] = torch.where(closed, begin, rows.border[index])
        done = ~held & ~pending.any(1) & (rows.border[index] == 0)
        rows.done[index] = done
        for i in done.nonzero()[:, 0].tolist():
            row = int(index[i])
            end = int(tail[i])
            if bool(rows.open[row]):
                end = min(end, int(first_of(eos[i : i + 1], length[i : i + 1])))
            rows.content[row] = end
            if config.contract and config.sizing == "utility" and bool(rows.open[row]):
                # A finished text needs its canvas up to its end alone.
                rows.length[row] = min(int(rows.length[row]), end + 1)
            if view.p_end is not None:
                rows.p_end[row] = view.p_end[i, : int(view.length[i]) + 1].clone()
