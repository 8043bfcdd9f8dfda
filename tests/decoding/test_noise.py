import torch

from probcomp.decoding.noise import row_seeds, uniform


def test_numbers_are_uniform_and_uncorrelated():
    u = uniform(row_seeds(0, 200), torch.zeros(200, dtype=torch.long), 200).flatten()
    assert u.dtype == torch.float64
    assert 0 <= float(u.min()) < 1e-3
    assert 1 - 1e-3 < float(u.max()) < 1
    counts = torch.histc(u, 20, 0, 1)
    # Chi-squared with 19 degrees of freedom: 0.999 quantile 43.8.
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 43.8
    # 40,000 pairs: four standard errors of a correlation of 0.
    pairs = torch.stack((u[:-1], u[1:]))
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 4 / 200


def test_a_row_draws_the_same_alone_and_in_any_batch():
    seeds, at = row_seeds(7, 5), torch.tensor([3, 1, 4, 1, 5])
    whole = uniform(seeds, at, 12)
    for i in (4, 0, 2):
        assert uniform(seeds[i : i + 1], at[i : i + 1], 8)[0].equal(whole[i, :8])


def test_seeds_rows_forwards_and_places_all_count():
    assert len(set(row_seeds(0, 1000).tolist())) == 1000
    assert not row_seeds(0, 3).equal(row_seeds(1, 3))
    one = row_seeds(0, 1)
    a, b = (uniform(one, torch.tensor([f]), 4) for f in (1, -1))
    assert not a.equal(b)
    assert len(set(a[0].tolist())) == 4


def test_it_is_the_splitmix_finaliser():
    """Against the algorithm in Python's integers, modulo 2^64."""
    size = 1 << 64

    def mix(z):
        z = (z + 0x9E3779B97F4A7C15) % size
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % size
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % size
        return z ^ (z >> 31)

    seed, forward = -12345, 6
    found = uniform(torch.tensor([seed]), torch.tensor([forward]), 3)[0].tolist()
    for place, value in enumerate(found):
        z = mix((mix((mix(seed % size) + forward) % size) + place) % size)
        assert value == (z >> 11) * 2.0**-53
