"""ArviZ data from our posteriors, under both generations of ArviZ.

ArviZ 0.x (Python 3.11) keeps groups in an ``InferenceData`` and takes them as keywords; ArviZ 1.x
returns an xarray ``DataTree`` and takes one nested dictionary. Nothing else in the package needs to
know which is installed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from probcomp.inference.posterior import Posterior


def from_groups(
    groups: Mapping[str, Mapping[str, np.ndarray]], *, attrs: Mapping[str, Any] | None = None
) -> Any:
    """Groups of named arrays as ArviZ data.

    Args:
        groups: Group name to variable name to array. Arrays in ``posterior`` have the leading
            dimensions ``[chain, draw]``; arrays in ``constant_data`` have none.
        attrs: Strings or numbers stored as attributes of the posterior group.
    """
    import arviz

    attrs = dict(attrs or {})
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(
            {name: dict(group) for name, group in groups.items()},
            attrs={"posterior": attrs} if attrs else None,
        )
    keywords: dict[str, Any] = {name: dict(group) for name, group in groups.items()}
    return arviz.from_dict(**keywords, posterior_attrs=attrs)


def posterior_to_arviz(posterior: Posterior, *, draws: int, chains: int, seed: int) -> Any:
    """Draws of every support in a `Posterior`; see `Posterior.to_arviz`.

    Variables: ``support/<parameter>`` and ``unit/<axis>`` (0 or 1) in ``posterior``;
    ``inclusion/<...>``, ``mean/<parameter>`` and ``variance/<parameter>`` in ``constant_data``.
    """
    rng = np.random.default_rng(seed)
    sampled: dict[str, np.ndarray] = {}
    constant: dict[str, np.ndarray] = {}
    groups = (("support", posterior.weights), ("unit", posterior.units))
    for label, entries in groups:
        for name, entry in entries.items():
            probability = entry.probability.detach().cpu().numpy()
            uniform = rng.random((chains, draws, *probability.shape), dtype=np.float32)
            sampled[f"{label}/{name}"] = (uniform < probability).astype(np.int8)
            constant[f"inclusion/{name}"] = probability
    for name, weight in posterior.weights.items():
        constant[f"mean/{name}"] = weight.mean.detach().cpu().numpy()
        constant[f"variance/{name}"] = weight.variance.detach().cpu().numpy()
    attrs = {k: v for k, v in posterior.meta.items() if isinstance(v, str | int | float)}
    return from_groups({"posterior": sampled, "constant_data": constant}, attrs=attrs)
