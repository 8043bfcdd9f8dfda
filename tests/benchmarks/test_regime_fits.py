"""Fits that are kept are read again only for what they were made from."""

from dataclasses import replace

import numpy as np


def test_saved_fits_are_read_again_only_for_the_table_they_were_made_of(
    module, tmp_path, monkeypatch
):
    from probcomp.regime.sampler import Convergence
    from probcomp.regime.table import read_runs
    from probcomp.regime.toys import sk_table

    kept = module("_regime_fits")
    made = []

    class Model:
        draws = np.zeros((4, 3))
        convergence = Convergence(1.0, 300.0, 0, 4)

        def __init__(self, table, *rest):
            self.table = table

        def with_processes(self):
            return self

        @classmethod
        def fit(cls, table, seed):
            made.append(seed)
            return cls(table)

    monkeypatch.setattr(kept, "RegimeModel", Model)
    values = np.geomspace(0.5, 2.2, 4)
    table = read_runs(sk_table(values, values)[0])
    fits = kept.Fits(tmp_path)
    for _ in range(2):
        fits.fit(table, "one")
    assert made == [0]
    other = replace(table, error=table.error + 1e-9 * (np.arange(len(table)) == 3))
    fits.fit(other, "one")
    fits.fit(other, "one")
    assert made == [0, 0]
    fits.fit(other, "one", 5)
    monkeypatch.setattr(kept.sampler, "ROUNDS", 2)
    fits.fit(other, "one", 5)
    assert made == [0, 0, 5, 5]
    monkeypatch.setitem(kept.PRIOR, "noise", (3, -1.0, 0.9, True))
    fits.fit(other, "one", 5)
    monkeypatch.setattr(kept, "BEND", 3.0)
    for _ in range(2):
        fits.fit(other, "one", 5)
    assert made == [0, 0, 5, 5, 5, 5]
    path = tmp_path / "one.npz"
    np.savez(path, **{k: v for k, v in np.load(path).items() if k != "of"})  # of an older run
    fits.fit(other, "one", 5)
    assert len(made) == 7


def test_the_length_of_chains_is_part_of_what_a_fit_is_made_from(module, monkeypatch):
    from probcomp.regime.table import read_runs
    from probcomp.regime.toys import sk_table

    kept, keys = module("_regime_fits"), set()
    table = read_runs(sk_table([0.5, 1.0, 2.0], [0.5, 1.0, 2.0])[0])
    for fit in (lambda table, samples=700: None, lambda table, samples=350: None):
        monkeypatch.setattr(kept.RegimeModel, "fit", fit)
        keys |= {kept.checksum(table, 0), kept.checksum(table, 0)}
    assert len(keys) == 2
