import dataclasses
import functools

import pytest
import torch
from torch import nn

from probcomp.allocation import Budget
from probcomp.allocation.counts import weight_macs
from probcomp.errors import InputError
from probcomp.priors import Independent
from probcomp.recipes import METHODS, compress
from probcomp.recipes.calibrating import CalibrationConfig, calibrated, kept_columns, with_weights
from probcomp.recipes.compress import removable
from probcomp.recipes.job import Job
from probcomp.recipes.task import Task
from probcomp.recipes.wanda_sp import WandaConfig
from probcomp.structure import Structure, silence, trace
from tests.recipes.jobs import job
from tests.recipes.nets import clouds, trained

NAMES = ("magnitude-units", "wanda-sp", "flap", "obs")
ROUNDING = 1e-5  # float32 forward passes


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 6, 3, stride=2, bias=False)
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.two(torch.relu(self.norm(self.one(x)))))
        return self.last(x.mean((2, 3)))


@functools.cache
def traced() -> tuple[Convolutions, torch.Tensor, Structure]:
    torch.manual_seed(0)
    model = Convolutions().eval()
    x = torch.randn(24, 2, 9, 9) + 0.5
    return model, x, trace(model, (x[:2],))


def convolution_job(**changes) -> Job:
    model, x, structure = traced()
    given = {
        "model": model,
        "task": Task(),
        "train": (x, torch.arange(24) % 3),
        "structure": structure,
        "units": removable(structure, ("channel", "neuron")),
        "budget": Budget(params=0.6),
        "uses": weight_macs(model, lambda m: m(x[:2]), 2),
    }
    return Job(**(given | changes))


@pytest.mark.parametrize("name", NAMES)
def test_each_method_ends_in_a_silenced_model(name: str):
    given = convolution_job()
    before = {n: p.clone() for n, p in given.model.named_parameters()}
    outcome = METHODS[name].run(given)
    structure = outcome.structure or given.structure
    x = given.train[0]
    again = silence(structure, outcome.model, outcome.keep)
    assert torch.equal(outcome.model(x), again(x))  # removed units are zero already
    assert any(not mask.all() for mask in outcome.keep.values())
    assert all(torch.equal(p, before[n]) for n, p in given.model.named_parameters())
    repeat = METHODS[name].run(given)
    assert all(torch.equal(repeat.keep[n], mask) for n, mask in outcome.keep.items())


@pytest.mark.parametrize("name", NAMES)
def test_each_method_compresses(name: str):
    result = compress(trained(), clouds(), budget="params=0.6", method=name, progress=False)
    (line,) = result.report.budget
    assert 0.5 < line.achieved <= 0.6
    assert result.report.compressed.params == line.kept  # nothing is masked, all is cut


@pytest.mark.parametrize("name", NAMES)
def test_settings_and_priors_of_others_are_refused(name: str):
    with pytest.raises(InputError, match="no prior"):
        METHODS[name].run(job("params=0.5", prior=Independent(0.5)))
    with pytest.raises(InputError, match="config must be"):
        METHODS[name].run(job("params=0.5", config="fast"))


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_allocation_is_refused(name: str):
    module = __import__(METHODS[name].run.__module__, fromlist=["run"])
    (kind,) = (
        value
        for value in vars(module).values()
        if dataclasses.is_dataclass(value)
        and value.__module__ == module.__name__
        and "allocation" in {f.name for f in dataclasses.fields(value)}
    )
    with pytest.raises(InputError, match="allocation must be one of"):
        kind(allocation="best")


def test_bad_calibration_settings():
    for settings in ({"batch_size": 0}, {"limit": 0}):
        with pytest.raises(InputError, match="must be"):
            CalibrationConfig(**settings)


def test_a_memory_limit_changes_nothing():
    whole = METHODS["obs"].run(convolution_job())
    from probcomp.recipes.obs import ObsConfig

    # the widest read-out alone: 8 * (72^2 + 72) bytes
    tight = METHODS["obs"].run(convolution_job(config=ObsConfig(limit=42_048)))
    for name, mask in whole.keep.items():
        assert torch.equal(mask, tight.keep[name])


def test_one_pass_serves_several_methods():
    given = convolution_job()
    with calibrated(given, WandaConfig()) as seen:
        again = METHODS["wanda-sp"].run(
            convolution_job(config=WandaConfig(statistics=seen.statistics), train=())
        )
        some = {"two.weight": seen.statistics["two.weight"]}
    for name, mask in METHODS["wanda-sp"].run(given).keep.items():
        assert torch.equal(mask, again.keep[name])
    with pytest.raises(InputError, match=r"lack last\.weight"):
        METHODS["wanda-sp"].run(convolution_job(config=WandaConfig(statistics=some)))


def test_columns_and_new_weights_go_back_to_their_places():
    given = convolution_job()
    with calibrated(given, WandaConfig()) as seen:
        keep = {a.name: torch.arange(a.size) != 2 for a in seen.axes}
        kept = kept_columns(seen, keep)
        assert (~kept["two.weight"]).nonzero().flatten().tolist() == list(range(18, 27))
        assert (~kept["last.weight"]).nonzero().flatten().tolist() == [2]
        doubled = with_weights(given, seen, {n: 2 * w for n, w in seen.weights.items()})
        for name, value in dict(given.model.named_parameters()).items():
            factor = 2 if name in seen.weights else 1
            assert torch.equal(dict(doubled.named_parameters())[name], factor * value)


def test_a_model_without_read_outs_is_refused():
    given = job("params=0.5")
    with (
        pytest.raises(InputError, match="read by a linear layer"),
        calibrated(dataclasses.replace(given, units=()), WandaConfig()),
    ):
        pass
