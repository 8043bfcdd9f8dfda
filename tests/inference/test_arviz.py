import numpy as np

from tests.inference.test_posterior import small_posterior


def test_inference_data_holds_draws_and_moments():
    posterior = small_posterior()
    data = posterior.to_arviz(draws=400, chains=3, seed=1)
    draws = data["posterior"]["support/net.fc.weight"]
    assert draws.shape == (3, 400, 3, 4)
    assert set(np.unique(draws)) <= {0, 1}
    probability = posterior.weights["net.fc.weight"].probability.numpy()
    # 12 frequencies over 1200 draws, each within 5 standard errors of at most 0.5/sqrt(1200)
    assert np.abs(draws.mean(("chain", "draw")).values - probability).max() < 5 * 0.5 / 1200**0.5
    assert np.allclose(data["constant_data"]["inclusion/net.fc.weight"], probability)
    assert data["posterior"]["unit/net/fc neuron"].shape == (3, 400, 3)
    assert data["posterior"].attrs["method"] == "x"


def test_arviz_reads_it():
    """Independent draws: ESS near the number of draws and R-hat near one, by ArviZ's own count."""
    import arviz

    data = small_posterior().to_arviz(draws=500, chains=4, seed=2)
    ess = arviz.ess(data, var_names=["support/net.fc.weight"])["support/net.fc.weight"]
    assert float(ess.min()) > 1000  # of 2000
    rhat = arviz.rhat(data, var_names=["support/net.fc.weight"])["support/net.fc.weight"]
    assert float(rhat.max()) < 1.02
