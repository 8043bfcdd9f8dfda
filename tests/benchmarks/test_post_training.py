"""The benchmark of units removed after training: its bookkeeping, and a small run of it all."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from probcomp.evidence.fisher import Categorical

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Import a part of the benchmark, as the script itself does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def row(name: str, method: str, seed: int, loss: float) -> dict:
    keys = {"network": "minilm", "removed": 0.3, "seed": seed}
    return {**keys, "row": name, "method": method, "ablation": False, "loss_increase": loss}


ROWS = [
    row("turbo-vbi-post", "turbo-vbi-post", 0, 0.10),
    row("turbo-vbi-post", "turbo-vbi-post", 1, 0.12),
    row("OBS, uniform", "obs", 0, 0.15),
    row("OBS, uniform", "obs", 1, 0.13),
    row("OBS, relative", "obs", 0, 0.20),
]


def test_differences_are_taken_within_seeds(module):
    lines = {line["row"]: line for line in module("post_training").summary(ROWS)}
    assert lines["OBS, uniform"]["more_than_ours"] == pytest.approx((0.05 + 0.01) / 2)
    assert lines["OBS, uniform"]["more_than_ours_least"] == pytest.approx(0.01)
    assert lines["OBS, relative"]["more_than_ours"] == pytest.approx(0.10)
    assert "more_than_ours_least" not in lines["OBS, relative"]  # one seed
    assert "more_than_ours" not in lines["turbo-vbi-post"]


def test_later_seeds_run_each_methods_best_allocation(module, tmp_path):
    bench = module("post_training")
    record = bench.Record(tmp_path / "r.json", {}, "command")
    record.value["rows"] = ROWS
    names = [r.name for r in bench.strongest(bench.baselines(), record, "minilm", 0.3, 0)]
    assert names == ["OBS, uniform"]


def test_a_run_goes_on_where_the_sizes_are_the_same(module, tmp_path):
    bench = module("post_training")
    path = tmp_path / "r.json"
    first = bench.Record(path, {"minilm": {"sizes": [1, 2]}}, "command")
    first.add("rows", ROWS[0])
    again = bench.Record(path, {"minilm": {"sizes": [1, 2]}}, "command")
    assert again.has("rows", network="minilm", seed=0, row="turbo-vbi-post")
    other = bench.Record(path, {"minilm": {"sizes": [3, 4]}}, "command")
    assert not other.value["rows"]


def test_networks_left_out_of_a_run_keep_their_rows_and_the_notes(module, tmp_path):
    bench = module("post_training")
    path = tmp_path / "r.json"
    settings = {n: {"sizes": [1, 2]} for n in ("minilm", "resnet32")}
    first = bench.Record(path, settings, "all of it")
    first.value["notes"] = ["a note"]
    first.describe("minilm", {"prunable": 3})
    first.add("rows", ROWS[0])
    later = bench.Record(path, settings, "the other alone")
    later.describe("resnet32", {"prunable": 4})
    later.add("rows", {**ROWS[0], "network": "resnet32"})
    value = json.loads(path.read_text())
    assert [r["network"] for r in value["rows"]] == ["minilm", "resnet32"]
    assert value["notes"] == ["a note"]
    assert value["networks"] == {
        "minilm": {"prunable": 3, "command": "all of it"},
        "resnet32": {"prunable": 4, "command": "the other alone"},
    }


def test_rows_that_are_run_again_take_the_place_of_the_old_ones(module, tmp_path):
    bench = module("post_training")
    path, settings = tmp_path / "r.json", {"minilm": {"sizes": [1, 2]}}
    first = bench.Record(path, settings, "whole")
    for one in ROWS:
        first.add("rows", one)
    again = bench.Record(path, settings, 'whole --rows "turbo-vbi-post"')
    again.describe("minilm", {"dense": 1})
    again.add("rows", row("turbo-vbi-post", "turbo-vbi-post", 1, 0.5))
    found = bench.read_json(path)
    assert [r["loss_increase"] for r in found["rows"]] == [0.10, 0.5, 0.15, 0.13, 0.20]
    facts = {"command": "whole", "again": 'whole --rows "turbo-vbi-post"', "dense": 1}
    assert found["networks"]["minilm"] == facts
    assert found["command"] == "whole"


def test_batch_norms_are_reestimated_on_the_given_samples(module):
    rows = module("_post_rows")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)).eval()
    x = torch.randn(64, 2, 4, 4)
    new = rows.reestimated(model, (x, torch.zeros(64)))
    with torch.no_grad():
        inner = model[0](x)
        out = new(x)
    assert torch.allclose(new[1].running_mean, inner.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert not torch.equal(model[1].running_mean, new[1].running_mean)
    assert new[1].momentum == model[1].momentum
    assert not any(m.training for m in new.modules())


@pytest.mark.parametrize("right", [True, False])
def test_batch_norms_are_reestimated_where_that_helps_on_the_other_half(module, right: bool):
    """The threshold lies at 3, where the norm puts its mean; the inputs' own mean is 4, or 3."""
    rows = module("_post_rows")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator) + (4.0 if right else 3.0)
    y = (x[:, 0] > 3.0).long()
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-9.0, 0.0], [9.0, 0.0]]))
        model[1].bias.zero_()
        model[0].running_mean.fill_(3.0 if right else 0.0)
    network = SimpleNamespace(likelihood=Categorical())
    found, what = rows.settled_norms(network, model, (x, y))
    assert what == ("as the method left them" if right else "re-estimated")
    assert (found is model) == right


def test_windows_are_seeded_and_shifted_by_one(module):
    networks = module("_post_networks")
    ids = torch.arange(1000)
    x, y = networks.text_windows(ids, 5, seed=3)
    assert x.shape == (5, networks.WINDOW)
    assert torch.equal(y, x + 1)
    assert torch.equal(x, networks.text_windows(ids, 5, seed=3)[0])
    assert not torch.equal(x, networks.text_windows(ids, 5, seed=4)[0])


def test_masks_are_chosen_by_their_predictions(module):
    found = module("_post_predictions")
    axes = tuple(SimpleNamespace(name=n, size=20, min_keep=1) for n in "ab")

    def removed(keep) -> float:
        return float(sum((~k).sum() for k in keep.values()))

    masks, others = found.chosen_masks(axes, removed, (2.0, 4.0), 12, seed=3)
    assert len(masks) == 12
    assert others > 0
    assert all(2 <= predicted <= 4 for _, _, predicted in masks)
    assert all(removed(keep) == predicted for _, keep, predicted in masks)
    all_, none = found.chosen_masks(axes, removed, (0.0, 99.0), 12, seed=3)
    assert none == 0
    assert [share for share, _, _ in all_] == [found.SHARES[n // 2 % 4] for n in range(12)]
    few, tried = found.chosen_masks(axes, removed, (99.0, 100.0), 2, seed=3)
    assert (few, tried) == ([], 2 * found.MOST_DRAWS)


def test_a_law_of_half_the_masks_is_judged_by_the_others(module):
    """Measured is 3 q^2 for what is fitted, and 1.2 times that for what judges it."""
    found = module("_post_predictions")
    points = [
        {"untempered": q, "measured": (3.0 if n % 2 == 0 else 3.6) * q**2, "fitted": n % 2 == 0}
        for n, q in enumerate([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    ]
    judged = found.judged(points)
    assert judged["power"] == pytest.approx(2.0)
    assert judged["slope"] == pytest.approx(1.2)
    assert judged["slope_through_zero"] == pytest.approx(1.2)
    assert judged["slope_error"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_a_small_run_of_it_all(real_data: Path, tmp_path: Path):
    out = tmp_path / "result.json"
    command = [sys.executable, str(FOLDER / "post_training.py"), "--quick", "--seeds", "1"]
    command += ["--networks", "resnet20", "char-llama", "--no-ablations"]
    command += ["--data", str(real_data), "--cache", str(tmp_path), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=280)
    result = json.loads(out.read_text())
    assert {r["network"] for r in result["rows"]} == {"resnet20", "char-llama"}
    assert {r["method"] for r in result["rows"]} == {
        "turbo-vbi-post",
        "magnitude-units",
        "wanda-sp",
        "flap",
        "obs",
    }
    for r in result["rows"]:
        assert abs(r["removed_achieved"] - r["removed"]) < 0.05  # within a unit of these networks
    assert len(result["predictions"]) == 2
