"""Who calls the kernels: lattices and chains on a GPU (a stand-in here), decoding everywhere."""

import torch

from probcomp.decoding import features
from probcomp.inference import lattice_loopy
from probcomp.inference.solver import Options
from probcomp.kernels import (
    chain_messages,
    chains,
    decode_stats,
    dispatch,
    gated_mlp_hidden,
    live_attention,
    noisy_linear,
)
from probcomp.priors import Lattice


class Gpu(torch.Tensor):
    """A CPU tensor that says it is on a GPU."""

    is_cuda = True  # type: ignore[assignment]


def test_chains_on_a_gpu_run_in_the_kernel(monkeypatch) -> None:
    base = torch.randn(5, 3)
    seen = []

    def kernel(flat, coupling, reverse):
        seen.append((tuple(flat.shape), tuple(coupling.shape), reverse))
        return torch.Tensor(chains._steps(torch.Tensor(flat), torch.Tensor(coupling), reverse))

    monkeypatch.setattr(chains, "chain_sweep", kernel)
    want = chain_messages(base, 0.7, reverse=True)
    assert seen == []
    got = chain_messages(base.as_subclass(Gpu), 0.7, reverse=True)
    assert seen == [((5, 3), (3,), True)]
    assert torch.equal(torch.Tensor(got), want)
    learnt = base.clone().requires_grad_()
    chain_messages(learnt.as_subclass(Gpu), 0.7)  # the kernel has no gradient
    assert len(seen) == 1


def test_without_triton_everything_still_runs_on_a_gpu(monkeypatch) -> None:
    """Each operator that has a kernel of its own; one that were launched would fail here."""
    monkeypatch.setattr(dispatch, "triton_installed", lambda: False)

    def gpu(*shape):
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).as_subclass(Gpu)

    with torch.no_grad():
        assert chain_messages(gpu(5, 3), 0.7).shape == (5, 3)
        assert decode_stats(gpu(2, 11)).top1.shape == (2,)
        assert gated_mlp_hidden(gpu(2, 4), gpu(6, 4), gpu(6, 4)).shape == (2, 6)
        assert live_attention(gpu(1, 2, 5, 4), gpu(1, 2, 5, 4), gpu(1, 2, 5, 4)).shape[1] == 2
        assert noisy_linear(gpu(2, 4), gpu(6, 4), gpu(6, 4).square(), None, seed=0).shape == (2, 6)


def test_wide_lattices_on_a_gpu_sweep_whole_rows_and_columns(monkeypatch) -> None:
    calls = []
    real = lattice_loopy.run_rows_and_columns

    def sweep(base, coupling, options):
        calls.append(tuple(base.shape))
        return real(torch.Tensor(base), coupling, options)

    monkeypatch.setattr(lattice_loopy, "run_rows_and_columns", sweep)
    prior = Lattice(field=-1.0, coupling=0.8)
    evidence = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    options = Options(tolerance=1e-6, max_iterations=2000)
    on_cpu = lattice_loopy.solve_loopy(prior, evidence, options)
    assert calls == []
    on_gpu = lattice_loopy.solve_loopy(prior, evidence.as_subclass(Gpu), options)
    assert calls == [(20, 30)]
    difference = torch.Tensor(on_gpu.probability) - on_cpu.probability
    assert difference.abs().max() < 1e-3


def test_decoding_reads_its_statistics_in_one_pass(monkeypatch) -> None:
    seen = []
    real = features.decode_stats

    def spy(logits, **options):
        seen.append((tuple(logits.shape), options["eos_ids"]))
        return real(logits, **options)

    monkeypatch.setattr(features, "decode_stats", spy)
    logits = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(0))
    found = features.read_features(logits, [3])
    assert seen == [((2, 5, 11), [3])]
    assert torch.equal(found.top, logits.argmax(-1))
    assert torch.allclose(found.eos, logits.softmax(-1)[..., 3])
