"""Order parameters of pairs of trained networks: connectivity, similarity, agreement, divergence.

All are measured on evaluation-mode models; a loader is any iterable of ``(inputs, targets)`` that
can be read more than once, in a fixed order and without augmentation, on the device of the models.
A network gives its logits, or an object that holds them as ``.logits``.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from probcomp.errors import DivergenceError, InputError, unknown
from probcomp.progress import progress

Loader = Iterable[tuple[Tensor, Tensor]]
_SHUFFLED = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """What a network says of a batch: its output, or the ``.logits`` of one that is an object."""
    return tensor_of(model(inputs), "network")


def tensor_of(said: Any, what: str) -> Tensor:
    """The tensor in what a module has returned; ``what`` names the module in an error."""
    if isinstance(said, Tensor):
        return said
    said = getattr(said, "logits", said)
    if not isinstance(said, Tensor):
        raise InputError(
            f"the {what} gives a {type(said).__name__}; a tensor is needed, or an object whose "
            "'logits' are one. Wrap it in a module that returns the tensor."
        )
    return said


def cka(x: Tensor, y: Tensor, *, form: str = "feature") -> float:
    """Linear centred kernel alignment, in [0, 1]; 1 for outputs equal up to rotation and scale.

    ``|X'Y|_F^2 / (|X'X|_F |Y'Y|_F)`` with centred columns (Kornblith et al. 2019, eq. 4); the Gram
    form ``<K, L> / (|K| |L|)``, ``K = H X X' H``, is the same number.

    Args:
        x, y: Outputs of two networks on the same samples, [samples, features].
        form: ``"feature"`` costs features^2 memory, ``"gram"`` samples^2.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise InputError(f"got outputs {tuple(x.shape)} and {tuple(y.shape)}; need [samples, k].")
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise InputError(
            "the outputs hold NaN or infinite values; the network has diverged, or its inputs "
            "hold NaN."
        )
    if form not in ("feature", "gram"):
        raise InputError(f"form is {form!r}; it must be 'feature' or 'gram'.")
    x, y = (v.double() - v.double().mean(0) for v in (x, y))
    if form == "feature":
        cross, left, right = (x.T @ y).square().sum(), (x.T @ x).norm(), (y.T @ y).norm()
    else:
        k, m = x @ x.T, y @ y.T
        cross, left, right = (k * m).sum(), k.norm(), m.norm()
    if left == 0 or right == 0:
        raise InputError("an output is the same for every sample; its similarity is not defined.")
    return float(cross / (left * right))


def agreement(x: Tensor, y: Tensor) -> float:
    """Share of samples on which two networks predict the same class; logits [samples, classes]."""
    x, y = _same_logits(x, y)
    return float((x.argmax(1) == y.argmax(1)).double().mean())


def jensen_shannon(x: Tensor, y: Tensor) -> float:
    """Mean Jensen-Shannon divergence of two networks' predictions, in nats: 0 to ln 2.

    ``(KL(p | m) + KL(q | m)) / 2`` with ``m = (p + q) / 2``, p and q the softmax of the logits
    ``x``, ``y`` [samples, classes], averaged over samples (Lin 1991). Symmetric; 0 where
    the predictions are the same, ln 2 where no class has a chance under both.
    """
    log_p, log_q = (v.double().log_softmax(1) for v in _same_logits(x, y))
    log_m = torch.logaddexp(log_p, log_q) - np.log(2)
    # 0 log 0 = 0: a class of probability zero has a difference of logarithms that is not finite.
    parts = [torch.where(v.exp() > 0, v.exp() * (v - log_m), 0.0) for v in (log_p, log_q)]
    return float((parts[0] + parts[1]).sum(1).mean() / 2)


def logit_cosine(x: Tensor, y: Tensor) -> float:
    """Mean cosine between the logits of two networks on the same samples, in [-1, 1]; no unit.

    ``x'y / (|x| |y|)`` for each row of [samples, classes]: 1 where one network's logits are a
    positive multiple of the other's. Unlike predictions, it moves with a constant added to all
    classes.
    """
    x, y = (v.double() for v in _same_logits(x, y))
    lengths = x.norm(dim=1) * y.norm(dim=1)
    if not bool((lengths > 0).all()):
        raise InputError("the logits of a sample are all zero; their direction is not defined.")
    return float(((x * y).sum(1) / lengths).mean())


def _same_logits(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both, refused where they do not match, are empty or hold NaN."""
    if x.shape != y.shape:
        raise InputError(f"got logits {tuple(x.shape)} and {tuple(y.shape)}; they must match.")
    if x.ndim != 2 or x.numel() == 0:
        raise InputError(f"got logits {tuple(x.shape)}; need [samples, classes], one each or more.")
    if bool(x.isnan().any() or y.isnan().any()):
        raise InputError("the logits hold NaN; the network has diverged, or its inputs hold NaN.")
    return x, y


@torch.no_grad()
def outputs_of(model: nn.Module, loader: Loader, kind: str = "logits") -> Tensor:
    """Outputs on every sample of a loader, [samples, k], for `cka` and `agreement`.

    Taken in evaluation mode; the model is left in the mode it was in.

    Args:
        kind: ``"logits"``, ``"softmax"``, or the name of a module whose output is wanted
            (features; flattened to one row a sample).

    Raises:
        InputError: a loader that shuffles, so that rows of two networks are of other samples.
    """
    _refuse_shuffled(loader)
    modules = dict(model.named_modules())
    if kind not in ("logits", "softmax") and kind not in modules:
        raise unknown("layer", kind, ["logits", "softmax", *filter(None, modules)])
    caught: list[Tensor] = []
    hook = None
    if kind in modules:
        hook = modules[kind].register_forward_hook(
            lambda m, i, out: caught.append(tensor_of(out, f"layer {kind!r}").flatten(1))
        )
    try:
        with _evaluating(model):
            for inputs, _ in loader:
                if hook is not None:
                    model(inputs)
                    continue
                logits = logits_of(model, inputs)
                caught.append(logits.softmax(-1) if kind == "softmax" else logits)
    finally:
        if hook is not None:
            hook.remove()
    if not caught:
        raise InputError("the loader gave no batch; if it is a generator, pass a list instead.")
    return torch.cat(caught)


def _refuse_shuffled(loader: Loader) -> None:
    if not isinstance(loader, DataLoader):
        return
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    if any(isinstance(s, _SHUFFLED) or getattr(s, "shuffle", False) is True for s in samplers):
        raise InputError(
            "the loader shuffles: each pass has another order, and outputs of two networks would "
            "be compared on different samples. Make one with shuffle=False."
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards the mode in which each module was."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def linear_connectivity(
    first: nn.Module, second: nn.Module, loader: Loader, *, points: int = 11
) -> tuple[float, np.ndarray]:
    """Linear mode connectivity, a fraction of the train error; negative at a barrier.

    ``mc = (E(0) + E(1)) / 2 - E(t*)`` with t* the point of the straight path where the two differ
    most (Yang et al. 2021, eq. 1). Batch-norm statistics are estimated anew at every point with one
    pass over the loader: those averaged between the ends belong to neither network.

    Returns:
        mc, and the error at each of ``points`` equally spaced points of the path.

    Raises:
        DivergenceError: a network of the path gives logits that are not finite.
    """
    a, b = first.state_dict(), second.state_dict()
    if a.keys() != b.keys() or any(a[k].shape != b[k].shape for k in a):
        raise InputError("the two networks differ in their parameters; they must share one shape.")
    if points < 3:
        raise InputError(f"points is {points}; at least three are needed.")
    model = copy.deepcopy(first)
    errors = np.empty(points)
    with torch.no_grad(), progress("mode connectivity", points) as advance:
        for i, t in enumerate(np.linspace(0, 1, points)):
            mixed = {
                k: torch.lerp(a[k], b[k], float(t)) if a[k].is_floating_point() else a[k] for k in a
            }
            model.load_state_dict(mixed)
            refresh_batch_norm(model, loader)
            errors[i] = classification_error(model, loader)
            advance(f"error {errors[i]:.3f}")
    return connectivity_of(errors), errors


def connectivity_of(errors: np.ndarray) -> float:
    """Mean of both ends minus the point of the path that differs most from it."""
    ends = (errors[0] + errors[-1]) / 2
    return float(ends - errors[np.argmax(np.abs(ends - errors))])


def refresh_batch_norm(model: nn.Module, loader: Loader) -> None:
    """Estimate batch-norm statistics anew: the average over one pass, each batch with its size.

    Changes the statistics of ``model`` and leaves it in evaluation mode.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    model.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    with torch.no_grad():
        for inputs, _ in loader:
            for norm in norms:
                norm.momentum = len(inputs) / (seen + len(inputs))
            model(inputs)
            seen += len(inputs)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()


def classification_error(model: nn.Module, loader: Loader) -> float:
    """Share of the loader's samples that the model, in the mode it is in, classifies wrongly.

    Raises:
        DivergenceError: logits that are not finite, of which ``argmax`` would say class 0.
    """
    wrong = seen = 0
    for inputs, targets in loader:
        logits = logits_of(model, inputs)
        if not bool(logits.isfinite().all()):
            raise DivergenceError(
                "the logits hold NaN or infinite values: the network has diverged (lower the lr "
                "it is trained with), or its inputs hold NaN."
            )
        wrong += int((logits.argmax(1) != targets).sum())
        seen += len(targets)
    if seen == 0:
        raise InputError("the loader gave no batch; if it is a generator, pass a list instead.")
    return wrong / seen
