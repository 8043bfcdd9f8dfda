"""A Markov chain with an absorbing end: every conditional marginal is exact.

Symbols 0..V-1 are content, V is EOS and V + 1 the mask. Marginals given any visible tokens come
from forward-backward in float64, O(n V^2). (Replacing the network by exact posteriors of a known
chain follows arXiv 2602.19619.)
"""

import torch
from torch import Tensor

from probcomp.decoding.adapters.callable import CallableAdapter


class MarkovOracle:
    """P(first symbol), transitions between symbols, and a chance to end before each position."""

    def __init__(self, initial: Tensor, transition: Tensor, hazard: float) -> None:
        symbols = len(initial)
        self.symbols, self.hazard = symbols, hazard
        self.eos_id, self.mask_id = symbols, symbols + 1
        self.vocab_size = symbols + 2
        begin = torch.cat((initial.double() * (1 - hazard), torch.tensor([hazard]).double()))
        step = torch.zeros(symbols + 1, symbols + 1, dtype=torch.float64)
        step[:symbols, :symbols] = transition.double() * (1 - hazard)
        step[:symbols, symbols] = hazard
        step[symbols, symbols] = 1.0
        self.begin, self.step = begin, step

    @classmethod
    def random(
        cls, symbols: int, hazard: float, seed: int, concentration: float = 0.3
    ) -> "MarkovOracle":
        """Dirichlet rows: small concentrations give a chain with strong dependence."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch._standard_gamma(
            torch.full((symbols + 1, symbols), concentration, dtype=torch.float64), generator
        ).clamp(min=1e-12)
        rows = rows / rows.sum(1, keepdim=True)
        return cls(rows[0], rows[1:], hazard)

    def _messages(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled forward and backward messages [batch, n, V + 1], and log P(visible) [batch]."""
        batch, n = ids.shape
        size = self.symbols + 1
        visible = torch.nn.functional.one_hot(ids.clamp(max=self.eos_id), size).double()
        evidence = torch.where((ids == self.mask_id)[..., None], 1.0, visible)
        forward = torch.empty(batch, n, size, dtype=torch.float64)
        log_p = torch.zeros(batch, dtype=torch.float64)
        message = self.begin.expand(batch, -1)
        for i in range(n):
            message = message * evidence[:, i]
            scale = message.sum(1, keepdim=True)
            log_p = log_p + scale[:, 0].log()
            message = message / scale.clamp(min=1e-300)
            forward[:, i] = message
            message = message @ self.step
        backward = torch.ones(batch, n, size, dtype=torch.float64)
        for i in range(n - 2, -1, -1):
            message = (evidence[:, i + 1] * backward[:, i + 1]) @ self.step.T
            backward[:, i] = message / message.sum(1, keepdim=True).clamp(min=1e-300)
        return forward, backward, log_p

    def marginals(self, ids: Tensor) -> Tensor:
        """P(x_i | visible), float64 [batch, n, V + 1]; ids [batch, n] with masks."""
        forward, backward, _ = self._messages(ids)
        joint = forward * backward
        return joint / joint.sum(-1, keepdim=True).clamp(min=1e-300)

    def log_prob(self, ids: Tensor) -> Tensor:
        """log P of what is visible (nats per row), -inf where impossible. [batch]."""
        return self._messages(ids)[2]

    def most_likely(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The best completion of what is visible, by Viterbi: (texts [batch, n], log P [batch]).

        No decoder can write a likelier text, so log P less that of its own is its MAP gap (nats).
        """
        n, size = ids.shape[1], self.symbols + 1
        visible = torch.nn.functional.one_hot(ids.clamp(max=self.eos_id), size).bool()
        possible = (ids == self.mask_id)[..., None] | visible
        evidence = torch.where(possible, 0.0, -torch.inf).double()
        best = self.begin.log() + evidence[:, 0]
        back = []
        for i in range(1, n):
            value, before = (best[:, :, None] + self.step.log()).max(1)
            back.append(before)
            best = value + evidence[:, i]
        score, state = best.max(1)
        found = [state]
        for before in reversed(back):
            state = before.gather(1, state[:, None])[:, 0]
            found.append(state)
        return torch.stack(found[::-1], dim=1), score

    def pair_information(self, ids: Tensor) -> Tensor:
        """I(X_i; X_j | visible) for neighbours-in-order i < j of one row, nats [n, n]."""
        n = ids.shape[1]
        single = self.marginals(ids)[0]
        information = torch.zeros(n, n, dtype=torch.float64)
        for i in range(n):
            for value in range(self.symbols + 1):
                if single[i, value] <= 0:
                    continue
                fixed = ids.clone()
                fixed[0, i] = value
                after = self.marginals(fixed)[0]
                ratio = (after.clamp(min=1e-300) / single.clamp(min=1e-300)).log()
                information[i] += single[i, value] * (after * ratio).sum(1)
        information.fill_diagonal_(0.0)
        return information

    def sample(self, rows: int, n: int, seed: int) -> Tensor:
        """Texts of the law, filled with EOS after the end. int64 [rows, n]."""
        generator = torch.Generator().manual_seed(seed)
        state = torch.multinomial(self.begin.expand(rows, -1), 1, generator=generator)[:, 0]
        found = [state]
        for _ in range(n - 1):
            state = torch.multinomial(self.step[state], 1, generator=generator)[:, 0]
            found.append(state)
        return torch.stack(found, dim=1)

    def adapter(self) -> CallableAdapter:
        """The oracle as a denoiser for the loop, for canvases without a prompt."""

        def logits(ids: Tensor, key_mask: Tensor) -> Tensor:
            # What a row does not have is unknown, not a text of pad tokens.
            ids = torch.where(key_mask.bool(), ids, self.mask_id)
            found = self.marginals(ids).clamp(min=1e-300).log()
            return torch.nn.functional.pad(found, (0, 1), value=-torch.inf)

        return CallableAdapter(
            logits, mask_id=self.mask_id, eos_ids=self.eos_id, vocab_size=self.vocab_size
        )
