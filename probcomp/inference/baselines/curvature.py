r"""Second-order statistics of layers: what OBD and OBS know of the loss.

For a linear layer ``y = W x`` the Fisher information of its weights is approximated by
:math:`G \otimes A` with :math:`A = E[x x^T]` and :math:`G = E[g g^T]`, where ``g`` is the
gradient by ``y`` (K-FAC: Martens and Grosse 2015, eq. 10). For a convolution ``A`` is summed over
positions and ``G`` averaged over them (Grosse and Martens 2016, section 3.1); so it is for a layer
that is called several times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference.matrices import Matrix
from probcomp.inference.training.weights import BatchSource, Loss, rows

Resample = Callable[[nn.Module, Any, torch.Generator], Any]
"""``resample(model, batch, generator)``: the batch with targets drawn from the model, as the Fisher
information needs them. The identity gives the empirical Fisher."""


@dataclass(frozen=True)
class Curvature:
    """Kronecker factors of one layer, for each sample.

    Attributes:
        inputs: ``A``, [inputs, inputs]; inputs of a convolution are channels times kernel.
        outputs: ``G``, [outputs, outputs].
    """

    inputs: Tensor
    outputs: Tensor

    def damped(self, damping: float) -> tuple[Tensor, Tensor]:
        """Both factors with ``damping`` times their mean diagonal added."""
        return _damp(self.inputs, damping), _damp(self.outputs, damping)


def curvatures(
    model: nn.Module,
    batches: BatchSource,
    loss: Loss,
    layers: Sequence[str],
    *,
    samples: int = 2048,
    epoch: int = 0,
    resample: Resample | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Curvature]:
    """Factors of the named layers, from the first ``samples`` samples of an epoch.

    Args:
        model: In evaluation mode during the pass; not changed.
        batches: The data.
        loss: Mean negative log-likelihood of a batch, nats for each sample.
        layers: Names of linear layers and ungrouped convolutions.
        samples: Samples to use, rounded up to whole batches.
        epoch: Which epoch's batches.
        resample: See `Resample`; by default the data's own targets.
        generator: Of the drawn targets.
    """
    generator = generator or torch.Generator().manual_seed(0)
    gathered: dict[str, list[Tensor]] = {}

    def watch(view: Matrix) -> Any:
        def after(
            module: Any, given: tuple[Any, ...], named: dict[str, Any], output: Tensor
        ) -> None:
            if output.requires_grad:  # not while targets are drawn
                x = (given[0] if given else named["input"]).detach()
                output.register_hook(lambda g: _add(gathered, view, module, x, g.detach()))

        return after

    modules = {name: model.get_submodule(name) for name in layers}
    views = {name: _view(name, module) for name, module in modules.items()}
    handles = [
        m.register_forward_hook(watch(views[name]), with_kwargs=True) for name, m in modules.items()
    ]
    training = model.training
    model.eval()
    done = 0
    try:
        for batch in batches(epoch):
            batch = resample(model, batch, generator) if resample is not None else batch
            # The loss is a mean: times its samples, output gradients are those of each sample.
            (loss(model, batch) * rows(batch)).backward()
            done += rows(batch)
            if done >= samples:
                break
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
        model.train(training)
    return {
        f"{name}.weight".lstrip("."): Curvature(a / done, g / seen)
        for name, (a, g, seen) in gathered.items()
    }


def obd_saliency(weight: Tensor, curvature: Curvature) -> Tensor:
    r"""``1/2 h w^2`` with the diagonal ``h = G_oo A_ii``; LeCun, Denker and Solla (1990), eq. 5."""
    h = curvature.outputs.diagonal()[:, None] * curvature.inputs.diagonal()[None]
    return 0.5 * h.reshape(weight.shape) * weight.square()


def obs_saliency(weight: Tensor, curvature: Curvature, damping: float) -> Tensor:
    r"""``w^2 / (2 [H^{-1}])`` with ``H = G x A``; Hassibi and Stork (1993), eq. 5.

    .. math:: [H^{-1}]_{oi, oi} = [G^{-1}]_{oo} [A^{-1}]_{ii}
    """
    a, g = curvature.damped(damping)
    inverse = _inverse_diagonal(g)[:, None] * _inverse_diagonal(a)[None]
    return 0.5 * weight.square() / inverse.reshape(weight.shape)


def compensate(weight: Tensor, mask: Tensor, curvature: Curvature, damping: float) -> Tensor:
    r"""The kept weights at the minimum of the layer's quadratic loss, the others at zero.

    Row by row: :math:`w_S = A_{SS}^{-1} (A w)_S`. This is the update of optimal brain surgeon (eq.
    5) for all removed weights of a row at once; rows are taken apart, that is ``G`` is diagonal.
    """
    a, _ = curvature.damped(damping)
    rows, kept = weight.reshape(len(weight), -1), mask.reshape(len(mask), -1)
    target = rows @ a
    new = torch.zeros_like(rows)
    for i in range(len(rows)):
        here = kept[i].nonzero().flatten()
        if len(here) == len(a):
            new[i] = rows[i]
        elif len(here):
            factor = torch.linalg.cholesky(a[here][:, here])
            new[i, here] = torch.cholesky_solve(target[i, here][:, None], factor)[:, 0]
    return new.reshape(weight.shape)


def _add(
    gathered: dict[str, list[Tensor]], view: Matrix, module: Any, x: Tensor, g: Tensor
) -> None:
    """Add a batch's rows: of inputs [batch, positions, di], of output gradients alike."""
    inputs, gradients = view.rows(module, x), view.outputs(g)
    positions = inputs.shape[1]
    inputs, gradients = inputs.flatten(0, 1), gradients.flatten(0, 1)
    # A summed over positions, G averaged over them: each position is counted once. So it is where a
    # layer is called several times, or sees the positions of all samples as rows of a batch.
    new = [inputs.T @ inputs, gradients.T @ gradients / positions, inputs.new_tensor(x.shape[0])]
    old = gathered.get(view.module)
    gathered[view.module] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]


def _view(name: str, module: nn.Module) -> Matrix:
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return Matrix(name, "linear")
    if module.groups != 1:
        raise InputError(
            f"curvature of layer {name!r} is not known: it is a convolution in {module.groups} "
            "groups; use another method, or magnitude"
        )
    return Matrix(name, "conv", module.weight[0, 0].numel())


def _damp(factor: Tensor, damping: float) -> Tensor:
    mean = float(factor.diagonal().mean()) or 1.0
    return factor + damping * mean * torch.eye(len(factor), dtype=factor.dtype)


def _inverse_diagonal(factor: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(factor.double())).diagonal().float()
