"""Statistics of two processes equal those of one."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from probcomp.evidence.collect import Statistics, collect
from probcomp.evidence.distributed import add_across, share_of
from probcomp.evidence.matrices import matrix_of

ROUNDING = 1e-12  # float64 sums in another order


def job() -> tuple[nn.Module, list[tuple[torch.Tensor, ...]]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    batches = [(torch.randn(n, 5, dtype=torch.float64),) for n in (4, 3, 6, 2, 5)]
    return model, batches


def statistics(batches) -> dict[str, Statistics]:
    model, _ = job()
    matrix = matrix_of(model[2], "2")
    return collect(
        model, {"2.weight": matrix}, batches, lambda m, b: m(b[0]),
        probe=lambda y, b: [y.sum()],
    )  # fmt: skip


def worker(out: str) -> None:
    torch.distributed.init_process_group("gloo")
    found = add_across(statistics(share_of(job()[1])))["2.weight"]
    rank = torch.distributed.get_rank()
    torch.save(
        {"gram": found.gram, "sum": found.sum, "fisher": found.fisher,
         "counts": torch.tensor([found.count, found.samples])}, f"{out}/{rank}.pt",
    )  # fmt: skip
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(Path(__file__).resolve()), str(tmp_path)],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    alone = statistics(job()[1])["2.weight"]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in ("gram", "sum", "fisher"):
            want = getattr(alone, name)
            assert torch.allclose(found[name], want, rtol=ROUNDING, atol=ROUNDING)
        assert found["counts"].tolist() == [alone.count, alone.samples]


def test_without_a_group_nothing_changes() -> None:
    assert list(share_of([1, 2, 3])) == [1, 2, 3]
    own = statistics(job()[1])
    assert add_across(own) == own


if __name__ == "__main__":
    worker(sys.argv[1])
