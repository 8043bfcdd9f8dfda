import torch
from torch import nn

from probcomp.recipes.fisher_targets import fisher_targets
from probcomp.recipes.task import Task


def drawn(outputs: torch.Tensor, targets: torch.Tensor, seed: int = 0) -> torch.Tensor:
    resample = fisher_targets(Task())
    assert resample is not None
    inputs, found = resample(nn.Identity(), (outputs, targets), torch.Generator().manual_seed(seed))
    assert inputs is outputs
    return found


def test_classes_come_from_the_softmax() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    found = drawn(logits, torch.zeros(20_000, dtype=torch.long))
    shares = found.bincount(minlength=3) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.015)


def test_real_targets_have_unit_variance_around_the_outputs() -> None:
    outputs = torch.linspace(-5, 5, 20_000, dtype=torch.float64)[:, None]
    found = drawn(outputs, torch.zeros(20_000, 1))
    assert found.dtype == torch.float64
    assert abs(float((found - outputs).mean())) < 0.03
    assert abs(float((found - outputs).std()) - 1) < 0.02


def test_draws_of_a_generator_go_to_the_device_of_the_outputs() -> None:
    outputs = torch.zeros(4, 3, device="meta")  # stands for any device but the generator's
    assert drawn(outputs, torch.zeros(4, 3, device="meta")).device.type == "meta"


def test_where_the_density_is_not_known_targets_are_the_data_s() -> None:
    assert fisher_targets(Task(criterion=lambda outputs, targets: outputs.mean())) is None
    resample = fisher_targets(Task())
    assert resample is not None
    generator = torch.Generator().manual_seed(0)
    batch = {"x": torch.zeros(2, 3), "labels": torch.zeros(2, dtype=torch.long)}
    assert resample(nn.Identity(), batch, generator) is batch
    positions = torch.zeros(2, 5, dtype=torch.long)
    assert resample(nn.Identity(), (torch.zeros(2, 3, 5), positions), generator)[1] is positions
