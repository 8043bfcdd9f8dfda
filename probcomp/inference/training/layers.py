r"""Layers whose weights have a Gaussian posterior, in place of a model's own.

A Bayesian layer keeps its module object, its hooks and its state-dict names; it gains one
parameter, ``weight_log_sigma``, and draws noise in training mode. In evaluation mode it computes
with the posterior means.

Two ways to draw, both unbiased for the expected loss:

``outputs``
    Local reparameterisation (Kingma, Salimans and Welling 2015, eq. 6): a linear output is
    Gaussian with mean :math:`x\mu` and variance :math:`x^2\sigma^2`, so one number is drawn for
    each output and sample. Its gradient has the smaller variance, for a second product with
    :math:`x^2`. For a convolution the draws of different positions should be correlated, since
    they share the weights; this form has the right marginals and drops that correlation.
``weights``
    One draw :math:`w = \mu + \sigma\epsilon` for each weight and mini-batch (Blundell et al.
    2015, section 3.2). Exact for a convolution as well, at the cost of the weights alone.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference.training.own_weights import own_layers
from probcomp.kernels.reparameterised import fused_noise, noisy_linear

Draw = Literal["outputs", "weights"]

VARIANCE_FLOOR = 1e-10
"""Added to output variances: the square root has no finite slope at zero."""

SIGMA_RATIO = 0.1
"""Initial standard deviation over the root mean square of the layer's weights."""

LOG_SIGMA = "weight_log_sigma"


@dataclass
class Noise:
    """The source of noise that the layers of one model share.

    Attributes:
        generator: Random numbers; its state is part of a checkpoint.
        active: Whether layers in training mode draw at all.
        learn: Whether the gradient of the log sigmas is computed; it costs a third product.
    """

    generator: torch.Generator = field(default_factory=torch.Generator)
    active: bool = True
    learn: bool = True


class _AddNoise(torch.autograd.Function):
    """``mean + sqrt(variance + floor) * noise`` with the closed-form gradient.

    One saved tensor instead of the four that autograd would keep for a feature map.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
        deviation = (variance + VARIANCE_FLOOR).sqrt_()
        output = torch.addcmul(mean, deviation, noise)
        # d output / d variance = noise / (2 sqrt(variance))
        ctx.save_for_backward(noise.div(deviation).mul_(0.5))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0], gradients[0] * slope, None


class _Variance(torch.autograd.Function):
    """``exp(2 log_sigma)``; its gradient takes two passes over the weights instead of four."""

    @staticmethod
    def forward(ctx: Any, log_sigma: Tensor) -> Tensor:
        variance = log_sigma.mul(2).exp_()
        ctx.save_for_backward(variance)
        return variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (variance,) = ctx.saved_tensors
        return (gradients[0] * variance).mul_(2)


class _Draw(torch.autograd.Function):
    """``mean + exp(log_sigma) * noise``; the noise term itself is the gradient of log_sigma."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_sigma: Tensor, noise: Tensor) -> Tensor:
        scaled = log_sigma.exp().mul_(noise)
        ctx.save_for_backward(scaled)
        return mean + scaled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (scaled,) = ctx.saved_tensors
        return gradients[0], gradients[0] * scaled, None


def _normal(like: Tensor, noise: Noise) -> Tensor:
    return torch.empty_like(like).normal_(generator=noise.generator)


class _Bayesian:
    """What all Bayesian layers share; mixed in before the plain class."""

    plain: type[nn.Module]
    weight: nn.Parameter
    bias: nn.Parameter | None
    weight_log_sigma: nn.Parameter
    training: bool
    noise: Noise
    draw: Draw
    variance: Tensor | None
    """``sigma^2`` of the last forward pass, where it was needed; the divergence uses it again."""
    live: tuple[Tensor, Tensor] | None
    """Rows and columns (dimensions 0 and 1 of the weight) that are not zero throughout."""
    cuttable: bool
    """Whether dimensions 0 and 1 of the weight are all outputs and all inputs."""
    channel_dim: int
    """Dimension of the features in inputs and outputs, from the end."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's linear map with the given weight."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output: a draw in training mode, the posterior mean otherwise.

        The argument has its name in torch, by which a model may call its layers.
        """
        x = input
        noisy = self.training and self.noise.active
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        log_sigma: Tensor = self.weight_log_sigma
        if noisy and not self.noise.learn:
            log_sigma = log_sigma.detach()
        self.variance = None
        if self.live is None:
            return self._output(x, weight, bias, log_sigma if noisy else None)
        # What is zero throughout is left out of the products, and its outputs are zero.
        rows, columns = self.live
        x = x.index_select(self.channel_dim, columns)
        weight = weight.index_select(0, rows).index_select(1, columns)
        bias = None if bias is None else bias.index_select(0, rows)
        log_sigma = log_sigma.index_select(0, rows).index_select(1, columns)
        part = self._output(x, weight, bias, log_sigma if noisy else None)
        self.variance = None
        shape = list(part.shape)
        shape[self.channel_dim] = len(self.weight)
        return part.new_zeros(shape).index_copy(self.channel_dim, rows, part)

    def _output(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, log_sigma: Tensor | None
    ) -> Tensor:
        """The mean output, or a draw where there is a ``log_sigma``."""
        if log_sigma is None:
            return self.product(x, weight, bias)
        if self.draw == "weights":
            drawn = _Draw.apply(weight, log_sigma, _normal(weight, self.noise))
            return self.product(x, drawn, bias)
        mean = self.product(x, weight, bias)
        spread = _Variance.apply(log_sigma)
        self.variance = spread.detach()
        variance = self.product(x * x, spread, None)
        return _AddNoise.apply(mean, variance, _normal(mean, self.noise))


class BayesLinear(_Bayesian, nn.Linear):  # type: ignore[misc]
    """`torch.nn.Linear` with a Gaussian posterior over its weight."""

    plain = nn.Linear

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x, weight, bias)

    def _output(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, log_sigma: Tensor | None
    ) -> Tensor:
        if log_sigma is None or self.draw == "weights" or not fused_noise(x):
            return super()._output(x, weight, bias, log_sigma)
        # Few rows on a GPU: one kernel reads every weight once and draws the noise itself.
        spread = _Variance.apply(log_sigma)
        self.variance = spread.detach()
        source = self.noise.generator
        seed = int(torch.randint(2**31 - 1, (1,), generator=source, device=source.device))
        return noisy_linear(x, weight, spread, bias, seed=seed)


class BayesConv1d(_Bayesian, nn.Conv1d):  # type: ignore[misc]
    """`torch.nn.Conv1d` with a Gaussian posterior over its weight."""

    plain = nn.Conv1d

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


class BayesConv2d(_Bayesian, nn.Conv2d):  # type: ignore[misc]
    """`torch.nn.Conv2d` with a Gaussian posterior over its weight."""

    plain = nn.Conv2d

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


class BayesConv3d(_Bayesian, nn.Conv3d):  # type: ignore[misc]
    """`torch.nn.Conv3d` with a Gaussian posterior over its weight."""

    plain = nn.Conv3d

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


class _Transposed(_Bayesian):
    """A transposed convolution, its output size that of the stride (without ``output_size``)."""

    operator: Callable[..., Tensor]
    stride: Any
    padding: Any
    output_padding: Any
    groups: int
    dilation: Any

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shape = (self.output_padding, self.groups, self.dilation)
        return type(self).operator(x, weight, bias, self.stride, self.padding, *shape)


class BayesConvTranspose1d(_Transposed, nn.ConvTranspose1d):  # type: ignore[misc]
    """`torch.nn.ConvTranspose1d` with a Gaussian posterior over its weight."""

    plain = nn.ConvTranspose1d
    operator = staticmethod(nn.functional.conv_transpose1d)


class BayesConvTranspose2d(_Transposed, nn.ConvTranspose2d):  # type: ignore[misc]
    """`torch.nn.ConvTranspose2d` with a Gaussian posterior over its weight."""

    plain = nn.ConvTranspose2d
    operator = staticmethod(nn.functional.conv_transpose2d)


class BayesConvTranspose3d(_Transposed, nn.ConvTranspose3d):  # type: ignore[misc]
    """`torch.nn.ConvTranspose3d` with a Gaussian posterior over its weight."""

    plain = nn.ConvTranspose3d
    operator = staticmethod(nn.functional.conv_transpose3d)


_LINEAR = (BayesLinear,)
_CONVOLUTIONS = (BayesConv1d, BayesConv2d, BayesConv3d)
_OTHERS = (BayesConvTranspose1d, BayesConvTranspose2d, BayesConvTranspose3d)

_BAYESIAN: dict[type[nn.Module], type[_Bayesian]] = {
    kind.plain: kind for kind in (*_LINEAR, *_CONVOLUTIONS, *_OTHERS)
}


def _kind_of(module: nn.Module) -> type[_Bayesian] | None:
    """The Bayesian class for a module, or ``None``."""
    kind = type(module)
    if kind not in _BAYESIAN and is_gpt_linear(module) and kind.__name__ == "Conv1D":
        _BAYESIAN[kind] = _gpt_linear(kind)
    return _BAYESIAN.get(kind)


def is_gpt_linear(module: nn.Module) -> bool:
    """Whether a module is the linear layer of GPT-2, `transformers.pytorch_utils.Conv1D`.

    Its weight is [in, out]. Transformers is not imported for this: where there is such a module,
    it has been.
    """
    return any(
        kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"
        for kind in type(module).__mro__
    )


def _gpt_linear(conv1d: type[nn.Module]) -> type[_Bayesian]:
    class BayesGptLinear(_Bayesian, conv1d):  # type: ignore[misc, valid-type]
        """`transformers.pytorch_utils.Conv1D` with a Gaussian posterior over its weight."""

        plain = conv1d

        def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return nn.functional.linear(x, weight.T, bias)

    return BayesGptLinear


def bayesian_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of every Bayesian layer."""
    for name, module in model.named_modules():
        if isinstance(module, _Bayesian):
            yield name, module


def to_bayesian(
    model: nn.Module,
    noise: Noise,
    *,
    linear: Draw = "outputs",
    convolution: Draw = "weights",
    sigma_ratio: float = SIGMA_RATIO,
) -> list[str]:
    """Give the linear and convolution layers of ``model`` a Gaussian posterior, in place.

    Left as they are: subclasses of the plain layers (they may compute something else), layers whose
    weight another module shares (an output head tied to its embedding) or is frozen, and all other
    kinds, embeddings among them.

    Args:
        model: Changed in place.
        noise: Source of noise, shared by all layers.
        linear: How linear layers draw.
        convolution: How convolutions draw.
        sigma_ratio: Initial sigma over the root mean square of the layer's weight.

    Returns:
        Names of the layers that were changed.

    Raises:
        InputError: No layer could be changed, or a weight cannot be trained; see `own_layers`.
    """
    changed = []
    for name, module in own_layers(model, lambda m: _kind_of(m) is not None).items():
        kind = _kind_of(module)
        weight = module.weight.detach()
        log_sigma = math.log(sigma_ratio * max(float(weight.square().mean().sqrt()), 1e-8))
        module.__class__ = kind
        module.register_parameter(LOG_SIGMA, nn.Parameter(torch.full_like(weight, log_sigma)))
        module.variance = None
        module.noise = noise
        module.draw = linear if weight.dim() == 2 else convolution
        module.live = None
        module.channel_dim = 1 - weight.dim()
        module.cuttable = kind in _LINEAR or (kind in _CONVOLUTIONS and module.groups == 1)
        changed.append(name)
    if not changed:
        raise InputError(
            "the model has no trainable linear or convolution layer of its own: "
            f"found {sorted({type(m).__name__ for m in model.modules()})}"
        )
    return changed


def from_bayesian(model: nn.Module) -> nn.Module:
    """Undo `to_bayesian`: the plain classes again, with the posterior means as weights."""
    for _, module in list(bayesian_layers(model)):
        del module._parameters[LOG_SIGMA]
        for name in ("noise", "draw", "variance", "live", "cuttable", "channel_dim"):
            delattr(module, name)
        module.__class__ = module.plain
    return model
