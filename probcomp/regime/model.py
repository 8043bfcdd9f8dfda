"""The soft-gated regime model: two latent surfaces, three regimes, three observed channels.

Symbols: x load and t temperature (standardised, t rises with heat),

    C(t, x) = log(exp(s_x (x - x0)) / 2 + exp(s_t (t - t0)) / 2)      connected if dense or hot
    S(t, x) = s_S ((x - x0) - kappa (t - t0))                         similar if dense and cold
    p_I = 1 - sigma(C),  p_IIA = sigma(C) (1 - sigma(S)),  p_IIB = sigma(C) sigma(S)
    mean_d = sum_k p_k (b0_dk + bx_dk x + bt_dk t)

The shape is that of the Sherrington-Kirkpatrick diagram with a ferromagnetic bias (spin glass,
paramagnet, ferromagnet meet in one point); the regimes are those of Zhou et al. 2023 (ICML, "A
Three-regime Model of Network Pruning"). The order constraints identify the regimes: a barrier
stands in I only, dissimilar outputs in II-A more than in II-B, heat lowers the error in I and
raises it in II-A. Without them chains settle on different labellings.

Every parameter is a transform of one standard normal number (positive ones are log-normal), so
the sampler sees a single vector: small to compile and well scaled.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from probcomp.regime.coordinates import warp

REGIMES = ("I", "II-A", "II-B")

Theta = Mapping[str, Any]
Data = Mapping[str, Any]

# name: (how many, centre, spread, log scale); the centre of a log scale is the prior median's log.
PRIOR: dict[str, tuple[int, float, float, bool]] = {
    "x0": (1, 0.0, 0.7, False),
    "t0": (1, 0.0, 0.7, False),
    "s_x": (1, 2.0, 0.6, True),
    "s_t": (1, 2.0, 0.6, True),
    "kappa": (1, -0.7, 0.5, True),
    "s_S": (1, 1.0, 0.5, True),
    "rise_I": (1, 0.4, 0.5, True),
    "rise_S": (1, -0.8, 0.7, True),
    "cool_I": (1, -1.3, 0.7, True),
    "heat_A": (1, -1.3, 0.7, True),
    "noise": (3, -1.7, 0.6, True),
    "seed_noise": (3, -1.7, 0.8, True),
    "warp": (1, -0.7, 0.7, True),
    # Columns of `channels`, already in units of their prior standard deviation.
    "error": (7, 0.0, 1.0, False),
    "barrier": (7, 0.0, 1.0, False),
    "dissimilarity": (8, 0.0, 1.0, False),
}
FIXED_SIZE = sum(count for count, *_ in PRIOR.values())


def parameters(u: Any, physical: tuple[bool, ...]) -> dict[str, Any]:
    """Parameters of a standard normal vector ``u`` [size]; see `PRIOR`.

    With several knobs, each has a weight: log-normal, near one where ``physical``.
    """
    theta, start = {}, 0
    for name, (count, centre, spread, positive) in PRIOR.items():
        value = centre + spread * u[start : start + count]
        value = jnp.exp(value) if positive else value
        theta[name] = value[0] if count == 1 else value
        start += count
    if len(physical) > 1:
        centres = jnp.array([0.0 if exact else -0.5 for exact in physical])
        spreads = jnp.array([0.3 if exact else 0.8 for exact in physical])
        theta["w"] = jnp.exp(centres + spreads * u[start:])
    return theta


def size(knobs: int) -> int:
    """Length of the parameter vector."""
    return FIXED_SIZE + (knobs if knobs > 1 else 0)


def temperature(theta: Theta, c: Any, ratios: tuple[float, ...]) -> Any:
    """t of knob coordinates ``c`` [rows, knobs]; ``ratios`` > 0 mark knobs on a schedule."""
    columns = [
        warp(c[:, k], ratio, theta["warp"], jnp) if ratio > 0 else c[:, k]
        for k, ratio in enumerate(ratios)
    ]
    if len(columns) == 1:
        return columns[0]
    return jnp.stack(columns, 1) @ theta["w"]


def regimes(theta: Theta, x: Any, t: Any) -> Any:
    """(p_I, p_IIA, p_IIB), [rows, 3]."""
    dx, dt = x - theta["x0"], t - theta["t0"]
    surface = jnp.logaddexp(theta["s_x"] * dx, theta["s_t"] * dt) - jnp.log(2.0)
    connected = jax.nn.sigmoid(surface)
    similar = jax.nn.sigmoid(theta["s_S"] * (dx - theta["kappa"] * dt))
    return jnp.stack([1 - connected, connected * (1 - similar), connected * similar], -1)


def means(theta: Theta, x: Any, t: Any) -> tuple[Any, Any]:
    """Regime probabilities [rows, 3] and means of the three channels [rows, 3].

    The mean of a channel is a fixed part plus ``columns @ coefficients`` with standard normal
    coefficients: the columns carry the prior standard deviations of b0 (1; steps between regimes
    .5), bx (.5 around -.6) and bt (.3; .15 for the error in II-B).
    """
    p = regimes(theta, x, t)
    one, px, pt = jnp.ones_like(x)[:, None], 0.5 * p * x[:, None], 0.3 * p * t[:, None]
    slope = -0.6 * x
    heat = (theta["heat_A"] * p[:, 1] - theta["cool_I"] * p[:, 0]) * t
    error = jnp.concatenate([one, 0.5 * p[:, :2], px, 0.5 * pt[:, 2:]], 1)
    barrier = jnp.concatenate([one, px, pt], 1)
    unlike = jnp.concatenate([one, 0.5 * p[:, :1], px, pt], 1)
    return p, jnp.stack(
        [
            slope + heat + error @ theta["error"],
            slope + theta["rise_I"] * p[:, 0] + barrier @ theta["barrier"],
            # The level is that of the dissimilar regimes: with the similar one's, level and step
            # would have to move together along a curve, on which the sampler diverges.
            slope - theta["rise_S"] * p[:, 2] + unlike @ theta["dissimilarity"],
        ],
        -1,
    )


def noise_scale(theta: Theta, data: Data) -> Any:
    """Standard deviation of each observed cell mean, [rows, 3]."""
    seed = jnp.where(data["dof"] > 0, theta["seed_noise"] ** 2, 0.0)
    return jnp.sqrt(theta["noise"] ** 2 + seed / data["replicates"][:, None])


def log_normal_tail(v: Any) -> Any:
    """log Phi(v) by a cubic logistic, within 2e-4 in Phi; cheap to compile and to differentiate."""
    v = jnp.maximum(v, -12.0)
    return jax.nn.log_sigmoid(v * (1.5976 + 0.070565 * v**2))


def log_likelihood(theta: Theta, data: Data, ratios: tuple[float, ...]) -> Any:
    """Log density of each cell and channel, [rows, 3]; padding rows give zero.

    Where the barrier lies below its floor the channel gives ``log Phi((floor - mean) / sd)``.
    """
    _, mean = means(theta, data["x"], temperature(theta, data["c"], ratios))
    scale = noise_scale(theta, data)
    point = -0.5 * ((data["z"] - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)
    below = log_normal_tail((data["censor"] - mean) / scale)
    return jnp.where(data["valid"], jnp.where(data["floored"], below, point), 0.0)


def spread_log_likelihood(theta: Theta, data: Data) -> Any:
    """Sum of squares within cells, ``SS ~ seed_noise^2 chi^2(dof)``, up to a constant.

    With the cell means, whose variance is ``noise^2 + seed_noise^2 / replicates``, this is the
    exact likelihood of balanced normal replicates.
    """
    scale = theta["seed_noise"]
    value = -data["dof"] * jnp.log(scale) - 0.5 * data["within"] / scale**2
    return jnp.where(data["dof"] > 0, value, 0.0).sum()


def regime_model(data: Data, physical: tuple[bool, ...], ratios: tuple[float, ...]) -> None:
    """The NumPyro model of one table."""
    standard = dist.Normal(0.0, 1.0).expand([size(len(physical))]).to_event(1)
    theta = parameters(numpyro.sample("u", standard), physical)
    numpyro.factor("cells", log_likelihood(theta, data, ratios).sum())
    numpyro.factor("replicates", spread_log_likelihood(theta, data))
