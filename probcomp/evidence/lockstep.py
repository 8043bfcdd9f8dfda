r"""All batches walk through a model together, and stop at each read-out.

The batches' forward passes run in threads of their own, one at a time and in a fixed order: a
thread goes on until its read-out has arrived (`probcomp.evidence.watch`) and hands back. When every
batch is there, the read-out's weights are settled from what all of them saw, its outputs are
computed anew, and all go on. So read-outs are refitted in order on the pruned prefix in a single
pass. What is alive of a forward pass is held for all batches at once.

The targets of that refit come from the dense model, recorded in one pass before (`Targets`): with
the dense output ``y``, the stream ``r`` that it is added to, the batch norm's scale ``c`` in
between, and primes for the pruned model,

.. math:: y_t + (r_t - r'_t) / c - W_K x'_{tK}

is what the read-out, with its dense weights on the kept inputs, leaves to be made up for. The last
term comes from sums alone, so linear read-outs are not run before they are settled.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence.collect import Run, batch_size, evaluating
from probcomp.evidence.matrices import Matrix
from probcomp.evidence.prefix import add_moments, live_rows, through
from probcomp.evidence.products import MomentSums, at_least_single
from probcomp.evidence.thin import Thin, gathered, plain
from probcomp.evidence.watch import Arrival, OutOfStep, Watch, watched
from probcomp.recovery.ridge import Moments


def stream(arrival: Arrival, matrix: Matrix) -> Tensor:
    """``y + r / c`` of an arrival, [batch, positions, do]."""
    return at_least_single(matrix.outputs(arrival.output.detach())) + offset(arrival, matrix)


def offset(arrival: Arrival, matrix: Matrix) -> Tensor | float:
    """``r / c`` of an arrival; zero where its output is added to nothing."""
    if arrival.residual is None:
        return 0.0
    return through(at_least_single(matrix.outputs(arrival.residual.detach())), arrival.scale)


class Targets:
    """What the dense model's read-outs give out, by batch; recorded while passes run.

    Args:
        matrices: The read-outs.
        residual: Whether the stream that outputs are added to belongs to the target.
    """

    def __init__(self, matrices: Mapping[str, Matrix], *, residual: bool = True) -> None:
        self.matrices, self.residual = matrices, residual
        self.batches: list[Any] = []
        self.values: list[dict[str, Tensor]] = []
        self.complete = True

    def recording(self, watching: Callable[[Callable[[Arrival], None]], Watch], run: Run) -> Run:
        """``run``, with what it shows recorded."""

        def recorded(model: nn.Module, batch: Any) -> Any:
            values: dict[str, Tensor] = {}

            def arrive(arrival: Arrival) -> None:
                values[arrival.name] = stream(arrival, self.matrices[arrival.name])

            self.batches.append(batch)
            self.values.append(values)
            with watching(arrive) as watch:
                watch.lost = self._give_up
                outputs = run(model, batch)
            watch.ended(outputs)
            if not self.complete:
                self.values.clear()
            return outputs

        return recorded

    def _give_up(self, name: str) -> None:
        self.complete = False


class Walker:
    """A forward pass in a thread of its own, which goes on only when told to."""

    def __init__(self, work: Callable[["Walker"], None]) -> None:
        self.at: Arrival | None = None
        self._error: BaseException | None = None
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._cancelled = False
        self._modes = _modes()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def resume(self) -> Arrival | None:
        """Run until the next arrival; ``None`` at the end. Errors of the pass are raised here."""
        self.at = None
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error
        return self.at

    def stop(self, arrival: Arrival) -> None:
        """From within: hand back, and wait."""
        self.at = arrival
        self._back.release()
        self._go.acquire()
        if self._cancelled:
            raise _Cancelled

    def cancel(self) -> None:
        """End a pass that has not run to its end."""
        if self._thread.is_alive():
            self._cancelled = True
            self._go.release()
            self._thread.join()

    def _run(self, work: Callable[["Walker"], None]) -> None:
        self._go.acquire()
        try:
            if not self._cancelled:
                with contextlib.ExitStack() as modes:
                    for mode in self._modes:
                        modes.enter_context(mode())
                    work(self)
        except _Cancelled:
            pass
        except BaseException as error:  # raised again by `resume`
            self._error = error
        self._back.release()


def _modes() -> list[Callable[[], contextlib.AbstractContextManager[Any]]]:
    """PyTorch's modes of this thread, to be entered in another."""
    modes: list[Callable[[], contextlib.AbstractContextManager[Any]]] = [
        functools.partial(torch.inference_mode, torch.is_inference_mode_enabled()),
        functools.partial(torch.set_grad_enabled, torch.is_grad_enabled()),
    ]
    for kind in ("cpu", "cuda", "xpu", "mps"):
        if torch.is_autocast_enabled(kind):
            # Weights that were cast before they are settled must not be used again.
            dtype = torch.get_autocast_dtype(kind)
            modes.append(functools.partial(torch.autocast, kind, dtype, cache_enabled=False))
    if torch.cuda.is_initialized():
        modes.append(functools.partial(torch.cuda.stream, torch.cuda.current_stream()))
    if (device := torch.get_default_device()).type != "cpu":
        modes.append(functools.partial(torch.device, device))
    return modes


class _Cancelled(BaseException):
    """The walk was given up."""


def walk(
    pruned: nn.Module,
    targets: Targets,
    kept: Mapping[str, Tensor],
    run: Run,
    settle: Callable[[str, tuple[Moments, Moments]], None],
    *,
    skip: int = 0,
    whole: Collection[str] = (),
) -> None:
    """Settle every read-out in the order of the forward pass, each on the prefix before it.

    Args:
        pruned: The model with removed units at zero; `settle` changes its read-outs.
        targets: What the dense model gave out, on the same batches.
        kept: Read-out parameter to the columns that stay, boolean [di]. Those without any pass.
        run: Runs the model on a batch.
        settle: Given a name and the moments of kept inputs and target, for even and odd samples,
            writes the read-out's final weights.
        skip: Of every so many neighbouring rows one is left out of the moments; 0 for none.
        whole: Paths of modules that are run as they are: routers, whose scores are watched.

    Raises:
        OutOfStep: Batches stop at different read-outs. What was settled until then is final.
        InputError: No batch, or a read-out that no batch reached.
    """
    matrices = targets.matrices
    if not targets.complete:
        raise OutOfStep("the dense model")
    with (
        evaluating(pruned),
        torch.no_grad(),
        watched(pruned, matrices, residual=targets.residual) as watching,
        _thinned(pruned, [m.module for m in matrices.values()], whole) as again,
    ):

        def work(batch: Any) -> Callable[[Walker], None]:
            def forward(walker: Walker) -> None:
                def arrive(arrival: Arrival) -> None:
                    walker.stop(arrival)
                    arrival.again(again(arrival.module))

                with watching(arrive) as watch:
                    outputs = run(pruned, batch)
                watch.ended(outputs)

            return forward

        walkers = [Walker(work(batch)) for batch in targets.batches]
        try:
            settled: set[str] = set()
            while True:
                arrivals = [walker.resume() for walker in walkers]
                there = [a for a in arrivals if a is not None]
                if len({a.name for a in there}) > 1 or len(there) not in (0, len(arrivals)):
                    raise OutOfStep(", ".join(sorted({a.name for a in there})))
                if not there:
                    break
                name = there[0].name
                if bool(kept[name].any()):
                    settle(name, _moments(name, there, targets, kept[name], skip))
                settled.add(name)
        finally:
            for walker in walkers:
                walker.cancel()
    if missing := sorted(set(matrices) - settled):
        raise InputError(f"{', '.join(missing)}: no rows reached these read-outs")


def _moments(
    name: str, arrivals: Sequence[Arrival], targets: Targets, kept: Tensor, skip: int
) -> tuple[Moments, Moments]:
    matrix, module = targets.matrices[name], arrivals[0].module
    weight = at_least_single(matrix.of(module.get_parameter("weight").detach()))
    bias = module.bias.detach() if isinstance(module.bias, Tensor) else 0.0
    live = live_rows(matrix, module, kept)
    folds = [MomentSums(int(kept.sum()), len(weight), weight.device) for _ in range(2)]
    stays = kept.nonzero().flatten().to(weight.device)
    first = 0
    for arrival, batch, values in zip(arrivals, targets.batches, targets.values, strict=True):
        rows = gathered(at_least_single(matrix.rows(module, arrival.inputs[0])), stays)
        wanted = (values.pop(name) - offset(arrival, matrix) - bias) * live
        add_moments(folds, rows, wanted, batch, first, skip, decoder=matrix.decoder)
        first += batch_size(batch)
    inner = (weight[:, kept] * live[:, None]).double()
    even, odd = (fold.whole().beyond(inner) for fold in folds)
    return even, odd


@contextlib.contextmanager
def _thinned(
    model: nn.Module, reads: Collection[str], whole: Collection[str]
) -> Iterator[Callable[[nn.Module], Callable[..., Tensor] | None]]:
    """Linear layers that leave out what is zero, and read-outs that only give out placeholders.

    Gives what computes the output of a read-out when its weights are settled.
    """
    thin = Thin()

    def blank(module: nn.Linear) -> Callable[[Tensor], Tensor]:
        return lambda x: x.new_empty(*x.shape[:-1], module.out_features)

    modules = dict(model.named_modules())
    idle = {modules[name] for name in reads}
    chosen = [m for name, m in modules.items() if plain(m) and name not in whole]
    for module in chosen:
        assert isinstance(module, nn.Linear)
        forward = blank(module) if module in idle else functools.partial(thin, module)
        module.forward = forward  # type: ignore[assignment]
    patched = set(chosen)
    try:
        yield lambda module: thin if module in patched else None
    finally:
        for module in chosen:
            del module.forward
