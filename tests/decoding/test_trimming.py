"""A trimmed head on disk is refused when missing, damaged or of another draft; and the search."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from probcomp.decoding.trimming import load_head, save_kept, search_by_tpe
from probcomp.decoding.vocabulary import trim_vocabulary
from probcomp.errors import InputError

COST = {"base": 1000.0, "head": 5.0}


def zipf(size):
    return (1e6 / (torch.arange(size) + 1.0) ** 1.1).round()


def saved(tmp_path, seed=0):
    torch.manual_seed(seed)
    head = torch.nn.Linear(6, 40, bias=False)
    found = trim_vocabulary(zipf(40), **COST, always_keep=(39,))
    save_kept(tmp_path, head, found)
    return head, found


def test_round_trip(tmp_path):
    head, found = saved(tmp_path)
    again = load_head(tmp_path, head)
    assert again.kept.equal(found.kept)
    hidden = torch.randn(3, 6)
    torch.testing.assert_close(again(hidden)[:, found.kept], head(hidden)[:, found.kept])


def test_missing_damaged_and_foreign_are_refused(tmp_path):
    head = torch.nn.Linear(6, 40, bias=False)
    with pytest.raises(InputError, match="no trimmed head"):
        load_head(tmp_path, head)
    head, _ = saved(tmp_path)
    with pytest.raises(InputError, match="another head"):
        load_head(tmp_path, torch.nn.Linear(6, 40, bias=False))
    file = tmp_path / "trimmed_head.json"
    value = json.loads(file.read_text())
    value["kept"] = value["kept"][1:]
    file.write_text(json.dumps(value))
    with pytest.raises(InputError, match="damaged"):
        load_head(tmp_path, head)
    file.write_text("[]")
    with pytest.raises(InputError, match="format"):
        load_head(tmp_path, head)


def test_without_optuna_the_search_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="pip install optuna"):
        search_by_tpe(zipf(100), **COST)


def test_the_search_maximises_the_published_objective(monkeypatch):
    """A stand-in study that tries every k: what TPE approaches is the closed form."""

    class Study:
        def optimize(self, objective, n_trials):
            tried = []
            for k in range(50, 301):
                trial = SimpleNamespace(suggest_int=lambda name, low, high, k=k: k)
                tried.append((objective(trial), -k))
            self.best_value, best = max(tried)
            self.best_params = {"k": -best}

    module = SimpleNamespace(
        logging=SimpleNamespace(set_verbosity=lambda level: None, WARNING=30),
        samplers=SimpleNamespace(TPESampler=lambda seed: None),
        create_study=lambda direction, sampler: Study(),
    )
    monkeypatch.setitem(sys.modules, "optuna", module)
    counts = zipf(300)
    found = search_by_tpe(counts, **COST, alpha=0.8)
    assert found.kept.equal(trim_vocabulary(counts, **COST, alpha=0.8).kept)
    with pytest.raises(InputError, match="covers"):
        search_by_tpe(counts, **COST, min_coverage=1.1)


def test_real_tpe_comes_close_to_the_closed_form():
    pytest.importorskip("optuna")
    counts = zipf(2000)
    found = search_by_tpe(counts, **COST, trials=60)
    best = trim_vocabulary(counts, **COST)

    def utility(v):
        return 0.5 * v.coverage + 0.5 * v.reduction

    assert utility(found) > utility(best) - 0.01
