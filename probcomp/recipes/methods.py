"""The methods by name, each with the record of its choices.

A method is one choice for each line of the pipeline (structure, evidence, prior, inference,
allocation, recovery) and nothing else in the package knows about a method as a whole. Tables and
compatibility checks are generated from these records. The fields follow the taxonomy of Cheng,
Zhang and Shi (2024), "A survey on deep neural network pruning", IEEE TPAMI.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from probcomp.registry import Registry

UNIT_KINDS = ("neuron", "channel", "head", "kv_group")
"""Axes whose units every method may remove: those that cost nothing but themselves."""
IN_PARAMS = ("prunable", "bits")
"""Budget units that the main job turns into a number of parameters before a method sees them."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One published method as a record of choices.

    Attributes:
        name: Name on the command line.
        title: One line in plain words.
        source: Authors, year, venue.
        run: ``run(job) -> Outcome``; see `probcomp.recipes.job`.
        evidence: What the data say about a support.
        prior: What was believed before; empty where there is no prior.
        inference: How the two are joined.
        allocation: How the budget is divided.
        recovery: What happens to the survivors.
        speedup: ``unstructured``, ``structured``, or both.
        when: ``during`` or ``after`` training.
        data: ``none``, ``calibration`` or ``training``.
        budgets: Budget units it knows; users may name others too, see `units`.
        probabilistic: Whether its output is a posterior; otherwise a score.
        own_rule: Whether it has a pruning rule of its own, so that no budget need be given.
        experts: Whether it can remove whole experts.
    """

    name: str
    title: str
    source: str
    run: Callable[[Any], Any]
    evidence: str
    prior: str
    inference: str
    allocation: str
    recovery: str
    speedup: str
    when: str
    data: str
    budgets: tuple[str, ...]
    probabilistic: bool
    own_rule: bool = False
    experts: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of axis whose units it removes where the user names none."""
        return (*UNIT_KINDS, "expert") if self.experts else UNIT_KINDS

    @property
    def units(self) -> tuple[str, ...]:
        """Budget units that users may name: those turned into ``params`` for it as well."""
        turned = IN_PARAMS if "params" in self.budgets else ()
        return tuple(dict.fromkeys((*self.budgets, *turned)))

    def record(self) -> dict[str, Any]:
        """The record without the function, as JSON values; ``budgets`` are those users may name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["run"]
        return values | {"budgets": list(self.units)}


METHODS: Registry[Method] = Registry("method")
METHODS.add("turbo-vbi", "probcomp.recipes.turbo_vbi:METHOD")
METHODS.add("turbo-vbi-post", "probcomp.recipes.post_training:METHOD")
METHODS.add("turbo-vbi-post-weights", "probcomp.recipes.post_weights:METHOD")
METHODS.add("magnitude", "probcomp.recipes.magnitude:METHOD")
METHODS.add("magnitude-units", "probcomp.recipes.magnitude_units:METHOD")
METHODS.add("wanda-sp", "probcomp.recipes.wanda_sp:METHOD")
METHODS.add("flap", "probcomp.recipes.flap:METHOD")
METHODS.add("obs", "probcomp.recipes.obs:METHOD")
METHODS.add("sparse-vd", "probcomp.recipes.variational:SPARSE_VD")
METHODS.add("bc-gnj", "probcomp.recipes.variational:BC_GNJ")
METHODS.add("bc-ghs", "probcomp.recipes.variational:BC_GHS")
METHODS.add("l0", "probcomp.recipes.variational:L0")
METHODS.add("sbp", "probcomp.recipes.variational:SBP")
METHODS.add("vibnet", "probcomp.recipes.variational:VIBNET")
METHODS.add("spike-slab-vb", "probcomp.recipes.variational:SPIKE_SLAB")
METHODS.add("iterative-magnitude", "probcomp.recipes.staged:ITERATIVE_MAGNITUDE")
METHODS.add("obd-staged", "probcomp.recipes.staged:OBD")
METHODS.add("obs-staged", "probcomp.recipes.staged:OBS")
METHODS.add("pdp", "probcomp.recipes.staged:PDP")
