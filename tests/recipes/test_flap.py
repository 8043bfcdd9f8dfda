from pathlib import Path

import torch

from probcomp.data.batches import Batches
from probcomp.recipes import METHODS, compress
from probcomp.recipes.calibrating import calibrated
from probcomp.recipes.flap import FlapConfig, run
from probcomp.structure import load, silence
from tests.recipes.jobs import job
from tests.recipes.test_calibrating import convolution_job

ROUNDING = 1e-5  # float32 outputs of order one


def readout_means(given, model) -> dict[str, torch.Tensor]:
    """Mean output of each read-out over the calibration samples."""
    found = {}
    with calibrated(given, FlapConfig()) as seen:
        matrices = {r.parameter: r.matrix for reads in seen.reads.values() for r in reads}

    def hook(name):
        def keep(module, inputs, output):
            found[name] = matrices[name].outputs(output).flatten(0, 1).mean(0)

        return keep

    handles = [
        model.get_submodule(m.module).register_forward_hook(hook(n)) for n, m in matrices.items()
    ]
    with torch.no_grad():
        model(given.train[0])
    for handle in handles:
        handle.remove()
    return found


def test_the_first_read_out_keeps_its_mean():
    """Later ones see inputs that have changed, which the method leaves out of account."""
    given = job("params=0.5", config=FlapConfig(bias=True))
    outcome = run(given)
    dense, new = readout_means(given, given.model), readout_means(given, outcome.model)
    live = outcome.keep[given.units[1].name]
    assert torch.allclose(dense["two.weight"][live], new["two.weight"][live], atol=ROUNDING)
    plain = silence(given.structure, given.model, outcome.keep)
    off = readout_means(given, plain)["two.weight"] - dense["two.weight"]
    assert float(off[live].abs().max()) > 100 * ROUNDING  # without the bias it does not


def test_without_a_bias_only_the_mask_is_left():
    given = job("params=0.5", config=FlapConfig(bias=False))
    outcome = run(given)
    assert outcome.structure is None
    x = given.train[0]
    expected = silence(given.structure, given.model, outcome.keep)
    assert torch.equal(outcome.model(x), expected(x))


def test_read_outs_without_a_bias_get_one_and_keep_it(tmp_path: Path):
    given = convolution_job()
    outcome = run(given)
    assert outcome.structure is not None
    assert {"two.bias"} <= set(dict(outcome.model.named_parameters()))
    result = compress(
        given.model,
        given.train,
        budget="params=0.6",
        method="flap",
        progress=False,
        test=given.train,
    )
    x = Batches(given.train, shuffle=False).example(4)[0]
    result.save(tmp_path)
    assert torch.allclose(load(tmp_path / "model")(x), result.model(x), atol=ROUNDING)


def test_the_same_share_of_every_axis():
    given = job("params=0.5", config=FlapConfig(allocation="uniform"))
    outcome = METHODS["flap"].run(given)
    shares = [float(outcome.keep[a.name].double().mean()) for a in given.units]
    assert abs(shares[0] - shares[1]) <= 1.5 / 12  # within a unit of the smaller axis


def test_one_threshold_on_standardised_scores():
    """No unit that went has a higher score than one that stayed, on whichever axis."""
    given = job("params=0.5", config=FlapConfig())
    outcome = METHODS["flap"].run(given)
    with calibrated(given, FlapConfig()) as seen:
        scores, kept = [], []
        for axis in given.units:
            (read,) = seen.reads[axis.name]
            weight, x = seen.weights[read.parameter], seen.statistics[read.parameter]
            spread = x.gram.diagonal() / x.count - (x.sum / x.count).square()
            own = (spread * weight.square().sum(0))[read.columns[:, 0]]
            scores.append((own - own.mean()) / own.std())
            kept.append(outcome.keep[axis.name])
    score, keep = torch.cat(scores), torch.cat(kept)
    assert bool(keep.any())
    assert bool((~keep).any())
    # What the last removal freed beyond need is spent again, on units below the threshold too.
    swapped = int((score[keep] < score[~keep].max()).sum())
    assert swapped <= 1
