r"""One streaming pass: what the read-outs of a model see, as raw sums with their counts.

For a read-out with input rows :math:`x_t` (a token, or an output position of a convolution)

.. math:: A = \sum_t x_t x_t^T, \qquad s = \sum_t x_t, \qquad F = \sum_t \sum_r g_{tr} g_{tr}^T

where :math:`g_{tr}` is the gradient of a probe of the log-likelihood at the read-out's output
(`probcomp.evidence.fisher`). Padded positions do not count. Products are
in float32 or better, sums over batches in float64; scores divide.

Memory. ``A`` takes ``8 d_i^2`` bytes. ``limit`` bounds what is held at a time: more than it allows
is collected in several passes, each part put on disk in float32 and read back one read-out at a
time. A 7B Llama-2 configuration (d = 4096, 11008 feed-forward neurons, 32 blocks) has per block
``8 (4096^2 + 11008^2) = 1.10 GB`` of sums and, with the Fisher matrices of both read-outs,
``16 * 4096^2 = 0.27 GB`` more. With 13.5 GB of bfloat16 weights, 2.1 GB of activations (128
sequences of 2048 tokens, one block's input) and a limit of 6 GiB (four blocks a pass, eight
passes) this pass alone fits 24 GiB; the files take 22 GB. A recipe holds copies of the model too.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence.fisher import IGNORED
from probcomp.evidence.matrices import Matrix
from probcomp.evidence.products import SymmetricSum, at_least_single
from probcomp.storage import read_tensors, write_tensors

Run = Callable[[nn.Module, Any], Any]
"""``run(model, batch) -> outputs``."""
Probe = Callable[[Any, Any], Sequence[Tensor]]
"""``probe(outputs, batch) -> scalars`` whose gradients have the Fisher matrix as their mean."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What one read-out saw.

    Attributes:
        gram: ``sum_t x_t x_t^T``, [di, di], float64.
        sum: ``sum_t x_t``, [di], float64.
        count: Rows that the sums stand for: tokens, or output positions of a convolution.
        samples: Samples they came from.
        fisher: ``sum_t sum_r g g^T``, [do, do], float64; ``None`` without probes.
        probes: Probes a sample behind ``fisher``.
        probed: Rows behind ``fisher``; ``None`` for all of them.
    """

    gram: Tensor
    sum: Tensor
    count: int
    samples: int
    fisher: Tensor | None = None
    probes: int = 0
    probed: int | None = None

    @property
    def metric(self) -> Tensor | None:
        """``G = F / (probed * probes)``, [do, do]: nats per squared unit of output, for one row.

        ``1/2 tr(G dW A dW^T)`` is the loss increase of the calibration data in nats, under the
        Kronecker approximation that gradients and inputs are independent and rows do not interact
        (Martens and Grosse 2015, arXiv 1503.05671, equation 1 and section 3).
        """
        if self.fisher is None:
            return None
        probed = self.count if self.probed is None else self.probed
        return self.fisher / max(1, probed * self.probes)

    def __add__(self, other: "Statistics") -> "Statistics":
        """Statistics of both sets of samples together."""
        if self.probes != other.probes:
            raise InputError(f"cannot add statistics of {self.probes} and {other.probes} probes")
        both = self.fisher is not None and other.fisher is not None
        probed = [s.count if s.probed is None else s.probed for s in (self, other)]
        return Statistics(
            self.gram + other.gram,
            self.sum + other.sum,
            self.count + other.count,
            self.samples + other.samples,
            self.fisher + other.fisher if both else None,  # type: ignore[operator]
            self.probes,
            sum(probed),
        )


def collect(
    model: nn.Module,
    matrices: Mapping[str, Matrix],
    batches: Iterable[Any],
    run: Run,
    *,
    probe: Probe | None = None,
    every: int = 1,
    thin: int = 1,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, Statistics]:
    """Statistics of several read-outs, in one pass.

    Args:
        model: Put into evaluation mode for the pass; nothing of it is changed.
        matrices: Parameter name to how the weight is read (`Readout.parameter`, `.matrix`).
        batches: Dicts with an optional ``attention_mask``, or tuples.
        run: Runs the model on a batch.
        probe: With it, output gradients are collected too, one backward pass for each scalar.
        every: Only every n-th batch is probed; output gradients need fewer samples than inputs.
        thin: Only every n-th row of a batch enters the sums of inputs, and stands for n of them:
            neighbouring tokens or positions say much the same.
        on_batch: Called after each batch.

    Raises:
        InputError: A read-out's module was never called as a module, or values are not finite.
    """
    sums = {name: Sums(matrix, thin) for name, matrix in matrices.items()}
    modules = dict(model.named_modules())
    state = _State()
    samples = 0
    handles: list[Any] = []
    with evaluating(model):
        try:
            for sum_ in sums.values():
                hook = _hook(sum_, state)
                module = modules[sum_.matrix.module]
                # Before other hooks, which then see the output that goes on.
                handles.append(module.register_forward_hook(hook, prepend=True))
            for number, batch in enumerate(batches):
                probed = probe is not None and number % every == 0
                state.start(batch, probed)
                samples += batch_size(batch)
                with torch.set_grad_enabled(probed):
                    outputs = run(model, batch)
                if probe is not None and probed:
                    _backward(probe(outputs, batch), state)
                on_batch()
        finally:
            for handle in handles:
                handle.remove()
    return {name: sum_.result(name, samples) for name, sum_ in sums.items()}


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with no gradients at the parameters; both restored."""
    modes = {module: module.training for module in model.modules()}
    flags = {p: p.requires_grad for p in model.parameters()}
    model.eval()
    for p in flags:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for p, flag in flags.items():
            p.requires_grad_(flag)


def batch_size(batch: Any) -> int:
    """Samples of a batch: the length of its first tensor."""
    return len(next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0])


def row_mask(batch: Any, rows: Tensor, *, decoder: bool = False) -> Tensor | None:
    """Which rows [batch, positions, d] are not padding, or ``None`` where nothing says so.

    The attention mask applies to rows that stand for the tokens: [batch, length], or all of them
    in one flat list. Rows of a decoder behind an encoder (`Matrix.decoder`) have a mask of their
    own, or are those whose label is one.
    """
    if not isinstance(batch, Mapping):
        return None
    mask = batch.get("decoder_attention_mask" if decoder else "attention_mask")
    if decoder and mask is None and (labels := batch.get("labels")) is not None:
        mask = labels != IGNORED
    if mask is None or mask.dim() != 2:
        return None
    if mask.shape == rows.shape[:2]:
        return mask.bool()
    if mask.numel() == rows.shape[0] * rows.shape[1]:
        return mask.bool().reshape(rows.shape[:2])
    return None


class _State:
    """What the hooks of one pass share."""

    def __init__(self) -> None:
        self.batch: Any = None
        self.probed = False
        self.leaves: list[tuple[Sums, Tensor]] = []

    def start(self, batch: Any, probed: bool) -> None:
        self.batch, self.probed = batch, probed
        self.leaves.clear()


class Sums:
    """Running sums of one read-out."""

    def __init__(self, matrix: Matrix, thin: int) -> None:
        self.matrix, self.thin = matrix, thin
        self.gram: SymmetricSum | None = None
        self.sum: Tensor | None = None
        self.fisher: SymmetricSum | None = None
        self.count = self.probes = self.gradients = self.batches = 0

    def add(self, rows: Tensor, batch: Any) -> None:
        mask = row_mask(batch, rows, decoder=self.matrix.decoder)
        kept = rows.flatten(0, 1) if mask is None else rows[mask]
        kept = at_least_single(kept)
        self.count += len(kept)
        weight = 1.0
        if self.thin > 1 and len(kept):
            # Another first row in each batch: texts of like length would always lack the same ones.
            every = kept[self.batches % min(self.thin, len(kept)) :: self.thin]
            self.batches += 1
            weight = len(kept) / len(every)
            kept = every * weight**0.5
        if self.gram is None:
            self.gram = SymmetricSum(kept.shape[1])
        self.gram.add(kept)
        total = kept.sum(0).double().cpu() * weight**0.5  # pairwise: as exact as the products
        self.sum = total if self.sum is None else self.sum.add_(total)

    def add_gradient(self, rows: Tensor, batch: Any) -> None:
        mask = row_mask(batch, rows, decoder=self.matrix.decoder)
        kept = rows.flatten(0, 1) if mask is None else rows[mask]
        kept = at_least_single(kept)
        self.gradients += len(kept)
        if self.fisher is None:
            self.fisher = SymmetricSum(kept.shape[1])
        self.fisher.add(kept)

    def result(self, name: str, samples: int) -> Statistics:
        if self.gram is None or self.sum is None:
            raise InputError(
                f"{self.matrix.module} was never called as a module, so what {name} reads cannot "
                "be collected; leave its axis out (kinds=...)"
            )
        gram = self.gram.whole()
        if not torch.isfinite(gram).all():
            raise InputError(f"the inputs of {self.matrix.module} are not finite")
        probed = self.gradients // max(1, self.probes)
        fisher = None if self.fisher is None else self.fisher.whole()
        return Statistics(gram, self.sum, self.count, samples, fisher, self.probes, probed)


def _hook(sums: Sums, state: _State) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not inputs:
            raise InputError(
                f"{sums.matrix.module} is called by keyword, so what it reads cannot be collected; "
                "call it with its input as the first positional argument"
            )
        sums.add(sums.matrix.rows(module, inputs[0].detach()), state.batch)
        if not state.probed:
            return None
        # A leaf that adds nothing: the gradient at it is the gradient at the output, and no
        # gradient at a weight is ever computed.
        leaf = torch.zeros_like(output).requires_grad_()
        state.leaves.append((sums, leaf))
        return output + leaf

    return hook


def _backward(scalars: Sequence[Tensor], state: _State) -> None:
    leaves = [leaf for _, leaf in state.leaves]
    for index, scalar in enumerate(scalars):
        more = index + 1 < len(scalars)
        found = torch.autograd.grad(scalar, leaves, retain_graph=more, allow_unused=True)
        for (sums, leaf), gradient in zip(state.leaves, found):
            value = torch.zeros_like(leaf) if gradient is None else gradient
            sums.add_gradient(sums.matrix.outputs(value), state.batch)
            sums.probes = len(scalars)


class Store(Mapping[str, Statistics]):
    """Statistics by parameter name, in memory or in files that are read one at a time."""

    def __init__(self, folder: Path | None = None) -> None:
        self._held: dict[str, Statistics] = {}
        self._files: dict[str, tuple[Path, int, int, int, int | None]] = {}
        self._folder = folder

    def put(self, name: str, statistics: Statistics) -> None:
        if self._folder is None:
            self._held[name] = statistics
            return
        path = self._folder / f"{len(self._files)}.safetensors"
        tensors = {"gram": statistics.gram, "sum": statistics.sum}
        if statistics.fisher is not None:
            tensors["fisher"] = statistics.fisher
        write_tensors(path, {key: value.float() for key, value in tensors.items()})
        counts = (statistics.count, statistics.samples, statistics.probes, statistics.probed)
        self._files[name] = (path, *counts)

    def __getitem__(self, name: str) -> Statistics:
        if name in self._held:
            return self._held[name]
        path, count, samples, probes, probed = self._files[name]
        tensors = {key: value.double() for key, value in read_tensors(path).items()}
        fisher = tensors.get("fisher")
        return Statistics(tensors["gram"], tensors["sum"], count, samples, fisher, probes, probed)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._held, *self._files))

    def __len__(self) -> int:
        return len(self._held) + len(self._files)


def needed_bytes(matrix: Matrix, weight: Tensor, *, fisher: bool) -> int:
    """Bytes of the sums of one read-out."""
    outputs, inputs = matrix.of(weight).shape
    return 8 * (inputs * inputs + inputs + (outputs * outputs if fisher else 0))


def parts_within(sizes: Mapping[str, int], limit: int | None) -> list[list[str]]:
    """Consecutive names whose sizes together stay within ``limit`` bytes.

    Raises:
        InputError: One of them alone exceeds the limit.
    """
    if limit is None:
        return [list(sizes)] if sizes else []
    parts: list[list[str]] = []
    used = limit + 1
    for name, size in sizes.items():
        if size > limit:
            raise InputError(
                f"the statistics of {name} take {size:,} bytes, the memory limit is {limit:,}; "
                "raise the limit, or leave its axis out"
            )
        if used + size > limit:
            parts.append([])
            used = 0
        parts[-1].append(name)
        used += size
    return parts


@contextlib.contextmanager
def collect_within(
    model: nn.Module,
    matrices: Mapping[str, Matrix],
    batches: Callable[[], Iterable[Any]],
    run: Run,
    *,
    probe: Probe | None = None,
    every: int = 1,
    thin: int = 1,
    limit: int | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> Iterator[Store]:
    """`collect` in as many passes as a limit on the bytes of the sums asks for.

    Without a limit, or where all fits, everything stays in memory. Otherwise each pass is written
    to a temporary folder, which is removed at the end of the ``with`` block.

    Args:
        batches: Called at the start of each pass; must give the same batches.
        limit: Most bytes of sums held at a time.

    Raises:
        InputError: As `collect`; or one read-out alone exceeds the limit.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    sizes = {
        name: needed_bytes(matrix, weights[name], fisher=probe is not None)
        for name, matrix in matrices.items()
    }
    parts = parts_within(sizes, limit)
    with contextlib.ExitStack() as stack:
        folder = None
        if len(parts) > 1:
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix="probcomp-"))
            folder = Path(made)
        store = Store(folder)
        for part in parts:
            chosen = {name: matrices[name] for name in part}
            found = collect(
                model,
                chosen,
                batches(),
                run,
                probe=probe,
                every=every,
                thin=thin,
                on_batch=on_batch,
            )
            while found:
                store.put(*found.popitem())  # nothing of it is held during the next pass
        yield store
