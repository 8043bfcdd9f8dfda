"""Convolutions, pooling and resampling: channels carry units, spatial extents do not."""

from probcomp.structure.rules.base import Op, Result, Typed, rule
from probcomp.structure.terms import Prod, RadixError, Term, fixed, norm, size, split_prod

SPATIAL = "it is a spatial extent"


@rule("conv1d", "conv2d", "conv3d")
def convolution(op: Op) -> Result:
    """``input [B, C, *space]``, ``weight [O, C / groups, *kernel]``."""
    return _convolve(op, op.dims("weight")[0], op.dims("weight")[1], transposed=False)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(op: Op) -> Result:
    """``input [B, C, *space]``, ``weight [C, O / groups, *kernel]``."""
    return _convolve(op, op.dims("weight")[0], op.dims("weight")[1], transposed=True)


@rule("convolution", "_convolution")
def any_convolution(op: Op) -> Result:
    w = op.dims("weight")
    return _convolve(op, w[0], w[1], transposed=bool(op["transposed"]))


def _convolve(op: Op, first: Term, second: Term, *, transposed: bool) -> list[Term]:
    x, w = op.dims("input"), op.dims("weight")
    space = len(w) - 2
    at = len(x) - space - 1  # the channel dimension; an unbatched input has at == 0
    groups = op.number("groups", 1)
    for term in w[2:]:
        op.block(term, "it is a kernel extent")
    for term in x[at + 1 :]:
        op.block(term, SPATIAL)
    if groups == 1:
        entering, leaving = (first, second) if transposed else (second, first)
        op.unify(x[at], entering)
    else:
        group, per_group = split_prod(x[at], groups, op.site)
        if transposed:
            op.unify(norm(Prod((group, per_group))), first)
            leaving = norm(Prod((group, second)))
        else:
            other, _ = split_prod(first, groups, op.site)
            op.unify(per_group, second)
            op.unify(group, other)
            leaving = norm(first)
        op.argument("groups", group)
    if op.has("bias"):
        op.unify(op.dims("bias")[0], leaving)
    op.mark(x[at], "conv")
    op.mark(leaving, "conv")
    return [*x[:at], norm(leaving), *_space(op, space)]


def _space(op: Op, count: int) -> list[Term]:
    return [op.blocked(n, SPATIAL) for n in op.shape[len(op.shape) - count :]]


@rule(
    *(
        f"{kind}_pool{n}d"
        for kind in ("avg", "max", "adaptive_avg", "lp")
        for n in (1, 2, 3)
    ),
)  # fmt: skip
def pool(op: Op) -> Result:
    return _channels_kept(op, _space_dims(op))


@rule(
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    *(f"adaptive_max_pool{n}d" for n in (1, 2, 3)),
)
def pool_with_indices(op: Op) -> Result:
    count = _space_dims(op)
    head = Typed(tuple(_channels_kept(op, count)))
    return [head, head]


def _space_dims(op: Op) -> int:
    """Number of spatial dimensions, from the ``1d`` in the operator's name."""
    return next(n for n in (1, 2, 3) if f"{n}d" in op.instr.op)


def _channels_kept(op: Op, count: int) -> list[Term]:
    name = "self" if "self" in op.instr.arguments else "input"
    x = op.dims(name)
    for term in x[len(x) - count :]:
        op.block(term, SPATIAL)
    value = op.instr.value[0] if isinstance(op.instr.value, (list, tuple)) else op.instr.value
    shape = value.shape[len(value.shape) - count :]
    return [*x[: len(x) - count], *(op.blocked(op.integer(n), SPATIAL) for n in shape)]


@rule(
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
    "upsample_trilinear3d",
)
def upsample(op: Op) -> Result:
    return _channels_kept(op, _space_dims(op))


@rule("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflect(op: Op) -> Result:
    return _channels_kept(op, _space_dims(op))


@rule("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replicate(op: Op) -> Result:
    return _channels_kept(op, _space_dims(op))


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sample(op: Op) -> Result:
    x, grid = op.dims("input"), op.dims("grid")
    op.unify(x[0], grid[0])
    for term in (*x[2:], *grid[1:]):
        op.block(term, SPATIAL)
    return [*x[:2], *grid[1:-1]]


@rule("pixel_shuffle")
def pixel_shuffle(op: Op) -> Result:
    """``[..., C * r * r, H, W]`` to ``[..., C, H * r, W * r]``."""
    x = op.dims("self")
    channel, inner = split_prod(x[-3], size(x[-3]) // op.number("upscale_factor") ** 2, op.site)
    for term in (inner, *x[-2:]):
        op.block(term, SPATIAL)
    return [*x[:-3], channel, *_space(op, 2)]


@rule("pixel_unshuffle")
def pixel_unshuffle(op: Op) -> Result:
    x = op.dims("self")
    for term in x[-2:]:
        op.block(term, SPATIAL)
    inner = fixed(op.number("downscale_factor") ** 2)
    return [*x[:-3], norm(Prod((x[-3], inner))), *_space(op, 2)]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(op: Op) -> Result:
    x = op.dims("self")
    if len(x) < 3:
        raise RadixError("a channel shuffle needs a channel dimension")
    group, inner = split_prod(x[1], op.number("groups"), op.site)
    op.argument("groups", group)
    return [x[0], norm(Prod((inner, group))), *x[2:]]


@rule("im2col")
def im2col(op: Op) -> Result:
    """``[..., C, H, W]`` to ``[..., C * kernel, windows]``."""
    x = op.dims("self")
    for term in x[-2:]:
        op.block(term, SPATIAL)
    kernel = fixed(op.shape[-2] // size(x[-3]))
    return [*x[:-3], norm(Prod((x[-3], kernel))), op.blocked(op.shape[-1], SPATIAL)]


@rule("unfold")
def unfold(op: Op) -> Result:
    """Sliding windows over one dimension, which becomes two."""
    x = op.dims("self")
    at = op.axis("dimension")
    op.block(x[at], "windows slide over it")
    x[at] = op.blocked(op.shape[at], "it numbers windows")
    return [*x, op.blocked(op.shape[-1], "windows slide over it")]
