"""`MaskedLinear`: a linear layer over a packed weight, trainable under its mask."""

from typing import Any

from torch import Tensor, nn

from probcomp.errors import InputError, unknown
from probcomp.kernels.activations import activation_function
from probcomp.kernels.blocks import BlockWeight
from probcomp.kernels.compact import CompactWeight
from probcomp.kernels.dispatch import BACKENDS
from probcomp.kernels.linear import apply_packed, sizes_of
from probcomp.kernels.packed import PackedWeight
from probcomp.kernels.packing import pack
from probcomp.kernels.ready import Calls, call_again


class MaskedLinear(nn.Module):
    """``nn.Linear`` whose weight is packed; only live weights are stored, moved and trained.

    The values are a parameter where the format has a gradient (blocks, compact), so an optimizer's
    state scales with the live blocks; everything else is a buffer. The bias is a parameter. Write
    to parameters under `torch.no_grad`, not in place through ``.data``: see `masked_linear`.

    Args:
        packed: From `pack`.
        activation: Applied to the output.
        backend: As in `masked_linear`.

    Raises:
        InputError: Not a packed weight, or an unknown activation or backend.
    """

    def __init__(
        self, packed: PackedWeight, *, activation: str = "none", backend: str = "auto"
    ) -> None:
        super().__init__()
        if not isinstance(packed, PackedWeight):
            raise InputError(f"MaskedLinear takes a packed weight, got {type(packed).__name__}")
        activation_function(activation)
        if backend not in BACKENDS:
            raise unknown("kernel backend", backend, BACKENDS)
        self.out_features, self.in_features = packed.shape
        self.activation, self.backend = activation, backend
        self.live = packed.live
        self._kind, self._sizes = type(packed), sizes_of(packed)
        # An exact type: an int8 weight is a kind of blocks, and has no gradient.
        trainable = {BlockWeight: "val", CompactWeight: "weight"}.get(type(packed))
        self._names = tuple(packed.tensors())
        self._owner = "_buffers" if trainable is None else "_parameters"
        self._calls = Calls()
        for name, tensor in packed.tensors().items():
            if name in (trainable, "bias"):
                self.register_parameter(name, nn.Parameter(tensor.clone()))
            else:
                self.register_buffer(name, tensor)

    @classmethod
    def from_posterior(
        cls,
        layer: nn.Linear,
        posterior: Any,
        *,
        threshold: float = 0.5,
        block: tuple[int, int] | str = "auto",
        format: str = "auto",
        **options: Any,
    ) -> "MaskedLinear":
        """Pack a layer by the posterior inclusion probabilities of its weights.

        Args:
            layer: The dense layer.
            posterior: Probabilities ``[N, K]``, or an object whose ``probability`` holds them (one
                entry of ``Posterior.weights``).
            threshold: Weights with a probability of at least this live, 0 to 1.
            block, format: As in `pack`.
            **options: ``activation`` and ``backend``.

        Raises:
            InputError: Not a linear layer, or no probabilities that fit it.
        """
        if not isinstance(layer, nn.Linear):
            raise InputError(f"from_posterior takes an nn.Linear, got {type(layer).__name__}")
        probability = getattr(posterior, "probability", posterior)
        if not isinstance(probability, Tensor) or probability.shape != layer.weight.shape:
            raise InputError(
                "the posterior must hold a tensor of probabilities of shape "
                f"{list(layer.weight.shape)}"
            )
        if not bool(((probability >= 0) & (probability <= 1)).all()):  # a NaN is not, either
            raise InputError(
                "the posterior holds numbers outside 0 to 1: these are no probabilities"
            )
        if not 0.0 <= threshold <= 1.0:
            raise InputError(f"threshold must be a probability, got {threshold}")
        support = probability.to(layer.weight.device) >= threshold
        packed = pack(layer.weight, support, block=block, format=format, bias=layer.bias)
        return cls(packed, **options)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing_keys: Any,
        unexpected_keys: Any, error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Indices that are loaded are checked, since no product checks them."""
        before = {name: b.clone() for name, b in self._buffers.items() if b is not None}
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        try:
            if not any(getattr(self, name).is_meta for name in self._names):
                self.packed()
        except InputError as error:
            error_msgs.append(f"{prefix.rstrip('.') or 'MaskedLinear'}: {error}")
            self._buffers.update(before)

    @property
    def kind(self) -> type[PackedWeight]:
        """The format of the weight."""
        return self._kind

    def packed(self) -> PackedWeight:
        """The packed weight, checked, sharing this module's tensors."""
        n, k = self.out_features, self.in_features
        sizes = {name: size for name, size in self._sizes.items() if name not in ("N", "K")}
        tensors = {name: getattr(self, name).detach() for name in self._names}
        fields = {"bias": None, "shape": (n, k), "live": self.live, **sizes, **tensors}
        return self._kind(**fields)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., K]`` to ``[..., N]``."""
        shape = (self.out_features, self.in_features)
        held, calls = getattr(self, self._owner), self._calls
        value, bias = held.get(self._kind.value_name), self._parameters.get("bias")
        if value is not None:
            scale = self._buffers.get("scale")
            y = call_again(calls, x, value, bias, scale, self.activation, self.backend, shape)
            if y is not None:
                return y
        tensors = {name: getattr(self, name) for name in self._names}
        how = (self.activation, self.backend)
        return apply_packed(x, self._kind, tensors, self._sizes, *how, calls)

    def extra_repr(self) -> str:
        stored = getattr(self, "weight" if issubclass(self._kind, CompactWeight) else "val")
        share = stored.numel() / (self.out_features * self.in_features)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"format={self._kind.kind}, stored={share:.3f}"
        )
