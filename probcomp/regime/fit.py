"""`RegimeModel`: fit a run table, predict any setting, draw the phase diagram."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probcomp.errors import InputError
from probcomp.regime.coordinates import BARRIER_FLOOR, Coordinates
from probcomp.regime.diagram import PhaseDiagram, phase_diagram
from probcomp.regime.gp import GaussianProcess, Processes, draws
from probcomp.regime.knobs import Array, Knob
from probcomp.regime.linear import Linear
from probcomp.regime.sampler import (
    Convergence,
    model_data,
    physical_knobs,
    pointwise_log_likelihood,
    posterior_parameters,
    posterior_surfaces,
    sample,
    schedule_ratios,
)
from probcomp.regime.seeds import common_share, seeds_seen
from probcomp.regime.stacking import (
    groups_of,
    process_scores,
    regime_scores,
    stacking_weight,
)
from probcomp.regime.table import RunTable, read_runs

RESIDUAL_SCALE = 0.3
"""Prior scale of the residual process, in standard deviations of the log error."""

LOAD_SLOPE, KNOB_SLOPE = 0.6, 0.3
"""Prior standard deviations of the slopes of the process that knows no regimes: what the regime
model's prior has for load and temperature (`probcomp.regime.model.means`), without the signs. With
none it falls back to the mean of all runs outside of them, and between loads that lie far apart."""

NUGGET = 0.1
"""Guess at what cells vary by beside their seeds, where repeated runs tell the seeds' part."""

LEAST_REPEATS = 3
"""Runs beyond the first of their cell below which nothing is said of the spread over seeds."""


@dataclass(frozen=True)
class Prediction:
    """Posterior of settings that were not run; every field has one entry a setting.

    Attributes:
        error: Draws of the expected test error (fraction), [draws, settings]; those of the regime
            model first, then those of the process it is stacked with. Where three runs or more
            repeat another it is the mean over seeds, which lies above the typical run.
        observed: Draws of the error one run would show (with noise), [draws, settings].
        regime: Probability of I, II-A, II-B, [settings, 3].
        connectivity: Posterior mean of the mode connectivity (fraction, <= 0), [settings].
        similarity: Posterior mean of CKA, [settings].
        converged: Whether the fit passed its gates; the numbers are not to be used if not.
        by_regimes: Which draws of the regime model come first in ``error``; the others are draws
            of the process it is stacked with.
    """

    error: Array
    observed: Array
    regime: Array
    connectivity: Array
    similarity: Array
    converged: bool
    by_regimes: NDArray[np.int64]

    def interval(self, probability: float = 0.9, *, observed: bool = False) -> Array:
        """Central interval of the error, [2, settings]."""
        tail = (1 - probability) / 2
        return np.quantile(self.observed if observed else self.error, [tail, 1 - tail], axis=0)


@dataclass(frozen=True)
class RegimeModel:
    """The fitted model: draws of the soft-gated regime model, and a process on its residual.

    ``ln error = regime mean + f``, f a Matern-5/2 process fitted to what the regimes leave over:
    little with few pilots, an interpolation with many. Predictions of the error mix it with a
    process that knows no regimes, ``share`` of the draws being the regime model's
    (`probcomp.regime.stacking`).
    """

    table: RunTable
    coordinates: Coordinates
    mcmc: Any
    convergence: Convergence
    residual: Processes | None
    seed: int
    process: GaussianProcess | None = None
    share: float = 1.0

    @classmethod
    def fit(
        cls,
        table: RunTable | Mapping[str, Any] | Path | str,
        *,
        knobs: Sequence[str | Knob] | None = None,
        load: str | None = None,
        where: Mapping[str, Any] | None = None,
        residual: bool = True,
        barrier_floor: float = BARRIER_FLOOR,
        seed: int = 0,
        warmup: int = 500,
        samples: int = 700,
    ) -> "RegimeModel":
        """Sample the posterior with NUTS, four chains of ``samples`` draws.

        Chains that have not mixed go on, to four times ``samples`` at most; time and memory of
        predictions grow with the draws.

        Args:
            table: Runs; see `read_runs` for what is read and refused, for ``knobs``, ``load`` and
                ``where``.
            residual: False leaves both processes out: the bare regime model.
            barrier_floor: About twice the standard error of a measured barrier (a share of the
                train set); more where the table has a column ``lmc_se`` that says more.
            warmup: Steps of adaptation a chain; doubled once, with the draws, if more than 1 % of
                the trajectories diverge.
            samples: Draws a chain at the first look at R-hat and effective size; see
                `sampler.sample_until_converged` for what follows where they fail.
        """
        runs = read_runs(table, knobs=knobs, load=load, where=where)
        coordinates = Coordinates.of(runs, barrier_floor)
        data, _ = model_data(runs, coordinates)
        mcmc, convergence = sample(
            data, physical_knobs(runs), seed=seed, warmup=warmup, draws=samples
        )
        fitted = cls(runs, coordinates, mcmc, convergence, None, seed)
        return fitted.with_processes() if residual else fitted

    @classmethod
    def of_draws(
        cls, table: RunTable | Mapping[str, Any], mcmc: Any, convergence: Convergence
    ) -> "RegimeModel":
        """The bare model of draws made earlier; ``mcmc`` has the sampler's two ``get_`` methods."""
        runs = read_runs(table)
        return cls(runs, Coordinates.of(runs), mcmc, convergence, None, 0)

    def with_processes(self) -> "RegimeModel":
        """These draws, with a process on what they leave over, and stacked with another.

        The residual's process is fitted with the parameters integrated out: what the regimes have
        already bent to follow would otherwise be missing from it. Its own amplitude, lengths and
        noise are integrated out as well: what the regimes leave over is little, and a few cells do
        not tell how little. Both know how far the mean of each cell is off by its seeds and its
        measurement; the rest of their noise is their own.
        """
        from probcomp.regime.model import noise_scale

        data, _ = model_data(self.table, self.coordinates)
        surfaces = self.surfaces(data["x"], data["c"])
        theta = {name: values[:, None] for name, values in self.parameters.items()}
        variance = (np.asarray(noise_scale(theta, data)) ** 2).mean(0)
        known, guess = self._cell_noise(data)
        linear = Linear.of(self.draws, surfaces["mean"], variance)
        # A barrier below the least seen is as good as the mean, where that is lower still.
        z = np.where(data["floored"], np.minimum(data["z"], surfaces["mean"].mean(0)), data["z"])
        expected, spread = linear.error_given_others(z)
        inputs = np.column_stack([data["x"], surfaces["t"].mean(0)])
        residual = Processes.fit(
            inputs, z[:, 0] - expected, amplitude_scale=RESIDUAL_SCALE,
            noise_guess=guess, known=known, extra=spread,
        )  # fmt: skip
        process = GaussianProcess.fit(
            np.column_stack([data["x"], data["c"]]), z[:, 0], noise_guess=guess, known=known,
            slopes=np.array([LOAD_SLOPE, *[KNOB_SLOPE] * data["c"].shape[1]]),
        )  # fmt: skip
        groups = groups_of(data["x"])
        share = stacking_weight(
            regime_scores(linear, residual, z, groups), process_scores(process, z[:, 0], groups)
        )
        return replace(self, residual=residual, process=process, share=share)

    def _cell_noise(self, data: Mapping[str, Any]) -> tuple[Array, float]:
        """Variance that the mean of each cell has by itself, [cells], and a guess at the rest.

        Of the error. Without repeats nothing is known but what was stated, and the guess is all of
        the noise that the regime model finds. Geometric means over draws: few repeats leave the
        spread over seeds a long tail.
        """
        own = data["measured"][:, 0]
        if not self.repeats:
            return own, float(np.median(self.parameters["noise"][:, 0]))
        spread = np.exp(2 * np.log(self.seeds(data["x"])).mean(0))
        return own + spread / data["replicates"], NUGGET

    def log_likelihood(self) -> Array:
        """Log density of each channel of each cell under each draw, [draws, cells, 3]."""
        data, _ = model_data(self.table, self.coordinates)
        return pointwise_log_likelihood(self.draws, data, physical_knobs(self.table))

    @property
    def draws(self) -> Array:
        """Parameter vectors, [draws, size]."""
        return np.asarray(self.mcmc.get_samples()["u"])

    @cached_property
    def parameters(self) -> dict[str, Array]:
        """Named parameters of each draw (standardised units)."""
        return posterior_parameters(self.draws, physical_knobs(self.table))

    def surfaces(self, x: Array, c: Array, most: int | None = None) -> dict[str, Array]:
        """Regime probabilities, channel means and temperature of each draw, or of ``most``."""
        u = self.draws[self.thinned(most)]
        return posterior_surfaces(
            u, physical_knobs(self.table), schedule_ratios(self.coordinates), x, c
        )

    def thinned(self, most: int | None) -> NDArray[np.int64]:
        """Rows of the draws: evenly spaced, at most ``most``."""
        count = len(self.draws)
        return np.linspace(0, count - 1, min(most or count, count)).astype(int)

    def predict(self, settings: Mapping[str, ArrayLike] | ArrayLike, load: ArrayLike) -> Prediction:
        """Posterior at ``settings`` ([rows, knobs] or values by knob name) and ``load`` [rows]."""
        values, loads = self.points(settings, load)
        x, c = self.coordinates.load(loads), self.coordinates.settings(values)
        surfaces = self.surfaces(x, c)
        z = surfaces["mean"]
        generator = np.random.default_rng(self.seed)
        error, variance = self._stacked(z[:, :, 0], x, surfaces["t"].mean(0), generator)
        # In a stream of its own: what is drawn beside it stays what it was.
        common = np.random.default_rng((self.seed, 1))
        error = error + self.common_shift(np.arange(len(error)), len(error), x, common)
        noisy = error + np.sqrt(variance) * generator.standard_normal(error.shape)
        rows = np.arange(len(error))
        if self.process is not None:
            rows = np.linspace(0, len(error) - 1, round(self.share * len(error))).astype(int)
            other = self._of_process(np.column_stack([x, c]), len(error) - len(rows), generator)
            other = other + self.common_shift(rows[:0], len(other), x, common)
            spread = np.sqrt(self.process.noise**2 + self._of_a_run(x).mean(0))
            error = np.concatenate([error[rows], other])
            noisy = np.concatenate(
                [noisy[rows], other + spread * generator.standard_normal(other.shape)]
            )
        co = self.coordinates
        return Prediction(
            co.error(error + self.mean_over_seeds(rows, len(error), x)),
            co.error(noisy),
            surfaces["p"].mean(0),
            co.barrier(z[:, :, 1]).mean(0),
            co.similarity(z[:, :, 2]).mean(0),
            self.convergence.ok,
            rows,
        )

    @property
    def repeats(self) -> bool:
        """Whether any cell was run more than once."""
        return bool(len(self.table) > self.table.cells.max() + 1)

    def seeds(self, x: Array) -> Array:
        """Standard deviation over seeds of ln(error), standardised, at loads, [draws, settings]."""
        from probcomp.regime.model import seed_scale

        theta = {name: values[:, None] for name, values in self.parameters.items()}
        return np.asarray(seed_scale(theta, x))[:, :, 0]

    def mean_over_seeds(self, rows: NDArray[np.int64], count: int, x: Array) -> Array:
        """What the mean of repeated runs adds to the mean of their logarithms, [count, settings].

        Runs that differ by seeds with a standard deviation s in ln(error) have the mean
        ``exp(mu + s^2 / 2)``, not ``exp(mu)``. Zero where fewer than ``LEAST_REPEATS`` runs repeat
        another: a row is then taken for the mean that is wanted, since s would be its prior's, with
        a long tail. Draws beyond ``rows`` are the process's, with the mean of s^2.
        """
        return self.coordinates.z_scale[0] * self._seed_variance(rows, count, x) / 2

    def common_shift(
        self, rows: NDArray[np.int64], count: int, x: Array, generator: np.random.Generator
    ) -> Array:
        """Draws of how far the seeds that were run lie off all seeds, in step, [count, settings].

        See `probcomp.regime.seeds`; arguments as of `mean_over_seeds`.
        """
        scale = np.sqrt(self._seed_variance(rows, count, x))
        if not scale.any():
            return scale
        table, cells = self.table, self.table.cells
        z = self.coordinates.observables(table)[:, 0]
        off = z - (np.bincount(cells, z) / np.bincount(cells))[cells]
        typical = np.sqrt((self.seeds(self.coordinates.load(table.load)) ** 2).mean(0))
        rho = common_share(off / typical, table.seed, count, generator)
        far = np.sqrt(rho / seeds_seen(table.seed, cells)) * generator.standard_normal(count)
        return far[:, None] * scale

    def _seed_variance(self, rows: NDArray[np.int64], count: int, x: Array) -> Array:
        """Variance over seeds of ln(error), standardised, of draws as in `mean_over_seeds`."""
        if len(self.table) - (self.table.cells.max() + 1) < LEAST_REPEATS:
            return np.zeros((count, len(x)))
        square = self.seeds(x) ** 2
        out = np.tile(square.mean(0), (count, 1))
        out[: len(rows)] = square[rows]
        return out

    def _of_a_run(self, x: Array) -> Array:
        """Variance of a run beside the misfit or the processes' own noise, [draws, settings].

        Over seeds, where repeats tell it (what a measurement is off by is in that, too); else the
        mean of what the table states of its measurements.
        """
        if self.repeats:
            return self.seeds(x) ** 2
        data, _ = model_data(self.table, self.coordinates)
        return np.full((len(self.draws), len(x)), data["measured"][:, 0].mean())

    def by_process(self, settings: Array, load: float, count: int) -> Array:
        """Draws of the error from the process that knows no regimes alone, [count, settings].

        ``settings`` [rows, knobs]; of the same mean over seeds as `Prediction.error`.
        """
        values, loads = self.points(settings, load)
        x, c = self.coordinates.load(loads), self.coordinates.settings(values)
        z = self._of_process(np.column_stack([x, c]), count, np.random.default_rng(self.seed))
        none = np.zeros(0, int)
        return self.coordinates.error(z + self.mean_over_seeds(none, count, x))

    def _of_process(self, inputs: Array, count: int, generator: np.random.Generator) -> Array:
        """Draws of the error channel from the process that knows no regimes."""
        if self.process is None:
            raise InputError("this model was fitted without a process.")
        data, _ = model_data(self.table, self.coordinates)
        weights, cover = self.process.condition(inputs)
        return draws(weights @ data["z"][:, 0], cover, count, generator)

    def _stacked(
        self, regime: Array, x: Array, t: Array, generator: np.random.Generator
    ) -> tuple[Array, Array]:
        """Draws of the error channel with the residual process added, and the variance of a run."""
        if self.residual is None:
            return regime, self.parameters["noise"][:, :1] ** 2 + self._of_a_run(x)
        data, _ = model_data(self.table, self.coordinates)
        at_runs = self.surfaces(data["x"], data["c"])["mean"][:, :, 0]
        f = self.residual.draws(np.column_stack([x, t]), data["z"][:, 0] - at_runs, generator)
        return regime + f, self.residual.noise(len(f)) ** 2 + self._of_a_run(x)

    def points(
        self, settings: Mapping[str, ArrayLike] | ArrayLike, load: ArrayLike
    ) -> tuple[Array, Array]:
        """Settings [rows, knobs] and loads [rows] from any accepted form, broadcast together."""
        if isinstance(settings, Mapping):
            names = [knob.name for knob in self.table.knobs]
            if set(settings) != set(names):
                raise InputError(
                    f"settings name {', '.join(map(str, settings))}; expected {', '.join(names)}."
                )
            *columns, loads = np.broadcast_arrays(
                *[np.atleast_1d(np.asarray(settings[name], float)) for name in names],
                np.atleast_1d(np.asarray(load, float)),
            )
            values = np.column_stack(columns)
        else:
            values = np.atleast_2d(np.asarray(settings, float))
            if values.shape[1:] != (len(self.table.knobs),):
                form = ", ".join(f"'{knob.name}': [...]" for knob in self.table.knobs)
                raise InputError(
                    f"settings have the shape {list(np.shape(settings))}; expected {{{form}}} or "
                    f"an array [rows, {len(self.table.knobs)}] with a column for each knob."
                )
            loads = np.broadcast_to(np.asarray(load, float), (len(values),))
        if not (np.all(np.isfinite(loads)) and np.all(loads > 0)):
            raise InputError(f"{self.table.load_name} must be positive and finite.")
        return values, np.asarray(loads)

    def phase_diagram(
        self, knob: str | None = None, *, at: Mapping[str, float] | None = None, size: int = 30
    ) -> PhaseDiagram:
        """The regimes over one knob and the load, other knobs at ``at`` (or their medians)."""
        return phase_diagram(self, knob, at=at, size=size)
