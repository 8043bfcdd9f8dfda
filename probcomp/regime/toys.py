"""Systems whose phase boundaries are known in closed form: what the regime model is tested on.

All integrals are over the standard normal density, written Dz. ``Q(t) = erfc(t / sqrt 2) / 2`` is
its upper tail. A cell of such a system has a load (bias, density of weights), a temperature, and
the three observables of a pruned network: error, connectivity (negative at a barrier), similarity.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, linprog
from scipy.special import erf, erfc
from scipy.stats import binom

from probcomp.errors import ConvergenceError, InputError

Array = NDArray[np.float64]

# Nodes of every Dz integral; tanh and sech are resolved to 1e-9 down to temperature 0.02.
_Z = np.linspace(-9.0, 9.0, 7201)
_DZ = np.exp(-0.5 * _Z**2) / np.sqrt(2 * np.pi) * (_Z[1] - _Z[0])


def upper_tail(t: ArrayLike) -> Array:
    """Q(t), the chance that a standard normal exceeds t."""
    return 0.5 * erfc(np.asarray(t, float) / np.sqrt(2))


def kept_energy(t: ArrayLike) -> Array:
    """Share of the squared weight kept when standard normal weights below t in size are cut.

    ``h(t) = 2 [t phi(t) + Q(t)] = erfc(t / sqrt 2) + t sqrt(2 / pi) exp(-t^2 / 2)``
    """
    t = np.asarray(t, float)
    return erfc(t / np.sqrt(2)) + t * np.sqrt(2 / np.pi) * np.exp(-0.5 * t**2)


def _threshold(density: float) -> float:
    """t with 2 Q(t) = density."""
    if not 0 < density <= 1:
        raise InputError(f"density is {density}; it must lie in (0, 1].")
    return float(brentq(lambda t: 2 * upper_tail(t) - density, 0.0, 40.0)) if density < 1 else 0.0


# --- Sherrington-Kirkpatrick spin glass with a ferromagnetic bias ---------------------------------


@dataclass(frozen=True)
class SKState:
    """Replica-symmetric state: magnetisation, overlap and the Almeida-Thouless eigenvalue."""

    m: float
    q: float
    stability: float

    @property
    def error(self) -> float:
        """Share of spins off the pattern, (1 - m) / 2."""
        return (1 - self.m) / 2

    @property
    def connectivity(self) -> float:
        """Zero where one valley holds the whole state; minus the instability otherwise (<= 0)."""
        return min(0.0, self.stability)

    @property
    def similarity(self) -> float:
        """m^2, the overlap of two independent samples along the pattern."""
        return self.m**2

    @property
    def regime(self) -> str:
        """``I`` spin glass, ``II-A`` paramagnet, ``II-B`` ferromagnet."""
        if self.stability < 0:
            return "I"
        return "II-B" if self.m > 1e-3 else "II-A"


def sk_state(bias: float, temperature: float, *, tolerance: float = 1e-9) -> SKState:
    """Solve ``m = int Dz tanh b(J0 m + sqrt q z)``, ``q = int Dz tanh^2(.)`` with b = 1 / T.

    ``stability = 1 - b^2 int Dz sech^4(.)`` (de Almeida and Thouless 1978). Coupling variance 1.

    Raises:
        ConvergenceError: when the iteration has not settled, as on a boundary.
    """
    if not (temperature >= 0.05 and np.isfinite(bias)):
        raise InputError(f"bias {bias}, temperature {temperature}: need a temperature >= 0.05.")
    beta, m, q = 1 / temperature, 1.0, 1.0
    for _ in range(20_000):
        tanh = np.tanh(beta * (bias * m + np.sqrt(max(q, 0.0)) * _Z))
        new_m, new_q = float(_DZ @ tanh), float(_DZ @ tanh**2)
        step = abs(new_m - m) + abs(new_q - q)
        m, q = new_m, new_q
        if step < tolerance:
            break
    else:
        raise ConvergenceError(f"no fixed point at bias {bias}, temperature {temperature}.")
    sech4 = (1 - np.tanh(beta * (bias * m + np.sqrt(q) * _Z)) ** 2) ** 2
    return SKState(m, q, float(1 - beta**2 * (_DZ @ sech4)))


def sk_bias_boundary(temperature: float) -> float:
    """The bias above which the state is magnetised: ``T`` if T >= 1, else ``T / (1 - q_SG(T))``.

    Replica symmetric below T = 1 (it tends to sqrt(pi / 2) at T = 0; Parisi's answer is 1).
    """
    if temperature >= 1:
        return temperature
    return temperature / (1 - sk_state(0.0, temperature).q)


def sk_table(
    biases: ArrayLike, temperatures: ArrayLike, *, noise: float = 0.02, seed: int = 0
) -> tuple[dict[str, Array], list[str]]:
    """Noisy observables on a grid, as columns of a run table, and the true regime of each row.

    The load is the bias; ``noise`` is the standard deviation added to each of the observables,
    which are then clipped to their ranges; columns ``_se`` state it.
    """
    generator = np.random.default_rng(seed)
    cells = [(j, t) for t in np.asarray(temperatures, float) for j in np.asarray(biases, float)]
    # Exactly on a boundary the iteration settles like 1 / n^(3/2); noise hides the rest.
    states = [sk_state(j, t, tolerance=1e-5) for j, t in cells]
    shape = len(states)
    values = {
        name: np.array([getattr(state, name) for state in states]) + noise * draw
        for name, draw in zip(
            ("error", "connectivity", "similarity"), generator.standard_normal((3, shape))
        )
    }
    columns = {
        "load": np.array([j for j, _ in cells]),
        "temperature": np.array([t for _, t in cells]),
        "test_error": np.clip(values["error"], 2e-3, 0.999),
        "lmc": np.clip(values["connectivity"], -0.999, 0.0),
        "cka": np.clip(values["similarity"], 0.0, 0.999),
        **{f"{name}_se": np.full(shape, noise) for name in ("test_error", "lmc", "cka")},
    }
    return columns, [state.regime for state in states]


# --- Hopfield networks ----------------------------------------------------------------------------


def diluted_hopfield_gain(load: float, temperature: float) -> float:
    """Slope of the retrieval map at zero overlap; retrieval exists iff it exceeds 1.

    ``f(a, T) = b int Dz sech^2(b sqrt(a) z)``, integrated in u = b sqrt(a) z so that T = 0 is
    regular (Derrida, Gardner and Zippelius 1987; load a = patterns per connection).
    """
    if load <= 0 or temperature < 0:
        raise InputError(f"load {load} must be positive and temperature {temperature} >= 0.")
    u = np.linspace(-20.0, 20.0, 8001)
    density = np.exp(-0.5 * (u * temperature) ** 2 / load) / np.sqrt(2 * np.pi)
    return float(np.sum(density / np.cosh(u) ** 2) * (u[1] - u[0]) / np.sqrt(load))


def diluted_hopfield_critical_temperature(load: float) -> float:
    """T_c(a): the temperature below which a pattern is retrieved; 0 beyond a = 2 / pi."""
    if diluted_hopfield_gain(load, 0.0) <= 1:
        return 0.0
    return float(brentq(lambda t: diluted_hopfield_gain(load, t) - 1, 1e-6, 1.0))


def diluted_hopfield_overlap(
    load: float, temperature: float, *, size: int = 3000, degree: int = 60, seed: int = 0
) -> float:
    """Simulated overlap with a stored pattern: directed random graph, Glauber half-updates."""
    generator = np.random.default_rng(seed)
    patterns = generator.choice([-1.0, 1.0], size=(round(load * degree), size))
    inputs = generator.integers(0, size, size=(size, degree))
    weights = np.einsum("pi,pik->ik", patterns, patterns[:, inputs]) / degree
    spins, overlaps = patterns[0].copy(), []
    for step in range(160):
        field = np.einsum("ik,ik->i", weights, spins[inputs])
        up = 1 / (1 + np.exp(np.clip(-2 * field / temperature, -500, 500)))
        fresh = np.where(generator.random(size) < up, 1.0, -1.0)
        spins = np.where(generator.random(size) < 0.5, fresh, spins)
        if step >= 100:
            overlaps.append(spins @ patterns[0] / size)
    return float(np.mean(overlaps))


def hopfield_spin_glass_line(load: float) -> float:
    """T_g = 1 + sqrt(alpha), in units of the coupling: below it a Hopfield network is a spin glass.

    alpha, the ``load``, is patterns per neuron of the full network. Between this line and that of
    retrieval no pattern is a stable state (Amit, Gutfreund and Sompolinsky 1987): the overlap q of
    two states, ``q = int Dz tanh^2(b sqrt(alpha r) z)`` with ``r = q / (1 - b (1 - q))^2``, grows
    from zero there.
    """
    if not load >= 0:
        raise InputError(f"load is {load}; it must be at least 0.")
    return 1 + float(np.sqrt(load))


def effective_density(density: float, rule: str) -> float:
    """Share of signal energy kept: ``c`` for a random mask, ``h(t)`` with c = 2Q(t) by size."""
    if rule not in ("random", "magnitude"):
        raise InputError(f"rule is {rule!r}; it must be 'random' or 'magnitude'.")
    return density if rule == "random" else float(kept_energy(_threshold(density)))


def pruned_hopfield_capacity(density: float, rule: str = "magnitude") -> float:
    """Largest patterns per neuron retrieved at T = 0 when a share ``density`` of couplings stays.

    ``m = erf(m / sqrt(2 s^2))``, ``s^2 = a r + a (1 - c) / c``, ``r = (1 - C)^-2``,
    ``C = sqrt(2 / (pi s^2)) exp(-m^2 / 2 s^2)`` with c the effective density (Sompolinsky 1986).
    With y = m / s every unknown is a function of y, so the capacity is a maximum over y.
    """
    kept = effective_density(density, rule)
    y = np.linspace(0.2, 6.0, 20_001)
    m = erf(y / np.sqrt(2))
    s = m / y
    response = np.sqrt(2 / np.pi) / s * np.exp(-0.5 * y**2)
    alpha = s**2 / ((1 - response) ** -2 + (1 - kept) / kept)
    return float(np.max(np.where(response < 1, alpha, 0.0)))


def pruned_hopfield_overlap(
    load: float, density: float, rule: str = "magnitude", *, size: int = 2000, seed: int = 0
) -> float:
    """Simulated zero-temperature overlap after pruning the Hebb couplings symmetrically."""
    effective_density(density, rule)
    generator = np.random.default_rng(seed)
    patterns = generator.choice(np.array([-1, 1], np.float32), size=(round(load * size), size))
    couplings = (patterns.T @ patterns) / np.float32(size)
    np.fill_diagonal(couplings, 0)
    # A little symmetric noise breaks the ties of the integer-valued couplings.
    ties = generator.random((size, size), dtype=np.float32)
    ties = np.maximum(ties, ties.T)
    score = np.abs(couplings) * size + 0.5 * ties if rule == "magnitude" else ties
    upper = score[np.triu_indices(size, 1)]
    cut = np.quantile(upper, 1 - density) if density < 1 else -1.0
    couplings *= score >= cut
    spins = patterns[0].copy()
    for _ in range(60):
        before = spins.copy()
        for chunk in np.array_split(generator.permutation(size), 4):
            field = couplings[chunk] @ spins
            spins[chunk] = np.where(field == 0, spins[chunk], np.sign(field))
        if np.array_equal(before, spins):
            break
    return float(spins @ patterns[0] / size)


# --- Perceptron with a mask -----------------------------------------------------------------------


def perceptron_separable(patterns: int, kept: int) -> float:
    """Chance that random labels of ``patterns`` points in ``kept`` dimensions are separable.

    ``2^(1-P) sum_{k<n} C(P-1, k)``, exact (Cover 1965); one half at P = 2 n.
    """
    if patterns < 1 or kept < 1:
        raise InputError(f"got {patterns} patterns and {kept} kept inputs; need at least one.")
    return float(binom.cdf(kept - 1, patterns - 1, 0.5))


def perceptron_capacity(density: float, mask: str = "learnt") -> float:
    """Most patterns per input that a perceptron with a share ``density`` of its weights can learn.

    ``2 c`` where the mask is drawn at ``random`` (Cover 1965), ``2 h(t)`` with ``c = 2 Q(t)`` where
    it is ``learnt``, chosen with the weights (Bouten et al. 1990). The latter is
    replica symmetric, and so an upper bound. No unit; both are 2 for the full perceptron.
    """
    if mask not in ("random", "learnt"):
        raise InputError(f"mask is {mask!r}; it must be 'random' or 'learnt'.")
    threshold = _threshold(density)  # checks the density
    return 2 * density if mask == "random" else 2 * float(kept_energy(threshold))


def perceptron_trial(patterns: int, kept: int, *, seed: int = 0) -> bool:
    """One draw of points and labels, decided by a linear programme."""
    points = np.random.default_rng(seed).standard_normal((patterns, kept))
    solved = linprog(
        np.zeros(kept), A_ub=-points, b_ub=-np.ones(patterns), bounds=(None, None), method="highs"
    )
    return solved.status == 0
