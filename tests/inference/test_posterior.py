import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.posterior import Posterior, UnitPosterior, WeightPosterior
from probcomp.storage import write_json


def small_posterior() -> Posterior:
    generator = torch.Generator().manual_seed(0)
    log_odds = torch.randn(3, 4, generator=generator)
    weight = WeightPosterior(log_odds, log_odds.sigmoid(), log_odds * 2, log_odds.exp())
    unit = UnitPosterior(log_odds[:, 0], log_odds[:, 0].sigmoid())
    return Posterior({"net.fc.weight": weight}, {"net/fc neuron": unit}, {"method": "x", "seed": 0})


def test_round_trip(tmp_path):
    posterior = small_posterior()
    posterior.save(tmp_path)
    loaded = Posterior.load(tmp_path)
    assert loaded.meta == posterior.meta
    for group in ("weights", "units"):
        saved, read = getattr(posterior, group), getattr(loaded, group)
        assert set(saved) == set(read)
        for name in saved:
            for key, value in vars(saved[name]).items():
                assert torch.equal(value, getattr(read[name], key)), (name, key)


def test_samples_follow_the_marginals():
    posterior = small_posterior()
    name = "net.fc.weight"
    draws = torch.stack([posterior.sample_supports(seed=i)[name] for i in range(2000)]).float()
    probability = posterior.weights[name].probability
    # 12 frequencies, each within 4.5 standard errors: fails by chance once in about 12,000 seeds.
    error = (draws.mean(0) - probability).abs() / (probability * (1 - probability) / 2000).sqrt()
    assert error.max() < 4.5
    assert torch.equal(
        posterior.sample_supports(seed=1)[name], posterior.sample_supports(seed=1)[name]
    )
    assert posterior.expected_kept() == pytest.approx(float(probability.sum()), rel=1e-6)


def test_refuses_what_it_did_not_write(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        Posterior.load(tmp_path)
    small_posterior().save(tmp_path)
    write_json(tmp_path / "posterior.json", {"format": "other"})
    with pytest.raises(InputError, match="is not a probcomp-posterior-1 file"):
        Posterior.load(tmp_path)
    small_posterior().save(tmp_path)
    (tmp_path / "posterior.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="not a readable safetensors"):
        Posterior.load(tmp_path)
