"""Lattices: the transfer matrix where one side is short, else loopy belief propagation."""

from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.lattice_exact import solve_exact
from probcomp.inference.lattice_loopy import solve_loopy
from probcomp.inference.solver import Marginals, Options, solve
from probcomp.priors.lattice import Lattice
from probcomp.priors.transfer import MAX_WIDTH


@solve.register
def solve_lattice(prior: Lattice, evidence: Tensor, options: Options) -> Marginals:
    """Exact up to 12 sites across unless ``method`` says otherwise."""
    narrow = min(evidence.shape[-2:]) <= MAX_WIDTH
    if options.method == "exact" and not narrow:
        raise InputError(
            f"exact marginals need a lattice of at most {MAX_WIDTH} sites across, got "
            f"{evidence.shape[-2]} x {evidence.shape[-1]}; use method='loopy'"
        )
    if narrow and options.method != "loopy":
        return solve_exact(prior, evidence, options)
    return solve_loopy(prior, evidence, options)
