"""Decoders on exact laws and on denoisers of bounded depth, for `benchmarks/decoding.py`."""

import torch

from probcomp.decoding import Decoder, decode, presets
from probcomp.decoding.calibrating.coupling import fit_coupling
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.noise import row_seeds
from probcomp.decoding.oracles.embedded import record_oracle
from probcomp.decoding.oracles.laws import brackets, lawful, records, sudoku
from probcomp.decoding.oracles.shallow import chain_text, shallow_chain, shallow_sudoku
from probcomp.decoding.rows import Rows
from probcomp.decoding.small.load import small_config
from probcomp.decoding.small.tasks import is_valid, make_examples
from probcomp.decoding.small.tokenizer import CharacterTokenizer


def oracle_run(adapter, config, width, rows, canvas=None):
    """Decode on an oracle without a prompt, or fill the masks of ``canvas`` [rows, width]."""
    ids = torch.full((rows, width), adapter.mask_id) if canvas is None else canvas
    state = Rows(
        ids,
        torch.full((rows,), width),
        torch.full((rows,), canvas is None),
        adapter.mask_id,
        ledger=Ledger.open(rows, config.error_total, config.error_step),
        sizing=config.sizes_first and canvas is None,
    )
    empty = torch.zeros(rows, 0, dtype=torch.long)
    Decoder(adapter, config).run(empty, empty, state, row_seeds(0, rows))
    return state


def drawn_records(rows: int = 300) -> list[dict]:
    """Records of the embedded task drawn from their exact law: what the schedule alone costs."""
    oracle, tokenizer = record_oracle(), CharacterTokenizer()
    pairs = [
        (tokenizer.encode(e.prompt), tokenizer.encode(e.answer))
        for e in make_examples("record", 120, 1, "dev")
    ]
    profile = fit_coupling(oracle, pairs, 32, 0)
    examples = make_examples("record", rows, 5, "test")
    ours = small_config().replace(
        initial_length=24, temperature=1.0, coupling_profile=profile, draw_end=True
    )
    decoders = {
        "one_by_one": ours.replace(rule="budget", error_step=1e-9),
        **{
            f"bayes gamma {g}{', end apart' if apart else ''}": ours.replace(
                gamma=g, draw_commits=not apart
            )
            for apart in (True, False)
            for g in (0.02, 0.05, 0.1, 0.2, 0.3)
        },
    }
    found = []
    for name, config in decoders.items():
        output = decode(
            oracle, tokenizer, prompt=[e.prompt for e in examples], generation_config=config
        )
        right = sum(is_valid(e, t) for e, t in zip(examples, output.texts))
        found.append(
            {
                "task": "embedded records",
                "decoder": name,
                "valid": round(right / rows, 4),
                "forwards": round(sum(output.nfe) / rows, 3),
                "tokens_per_forward": round(sum(output.num_new_tokens) / sum(output.nfe), 3),
            }
        )
    return found


def oracles(rows: int = 100) -> list[dict]:
    """Decoders on exact laws (drawn, temperature 1) and on denoisers of bounded depth (greedy)."""
    exact = {"end_model": "cdf", "beyond": False, "sizing": "none", "blocks": "none"}
    found = []
    for task, law in (("brackets", brackets(5)), ("records", records())):
        lawful_texts = {tuple(t) for t in law.texts.tolist()}
        lengths = (law.texts != law.eos_id).sum(1)
        mass = torch.zeros(law.width + 1, dtype=torch.float64)
        mass.index_add_(0, lengths, law.weights)
        bayes = DecodingConfig(**exact, temperature=1.0, max_new_tokens=law.width)
        decoders = {
            "one_by_one": bayes.replace(rule="budget", error_step=1e-9),
            "bayes": bayes,
            "bayes_drawn_end": bayes.replace(draw_end=True),
            "coupled": bayes.replace(rule="coupled"),
            **{
                name: presets[name].replace(temperature=1.0, max_new_tokens=law.width)
                for name in ("serial", "fixed", "eb", "klass")
            },
        }
        for name, config in decoders.items():
            state = oracle_run(law.adapter(), config, law.width, rows)
            texts, seen = [], torch.zeros_like(mass)
            for i in range(rows):
                n = int(state.content[i])
                end = [law.eos_id] * (law.width - n)
                text = state.ids[i, :n].tolist()
                n = text.index(law.eos_id) if law.eos_id in text else n
                seen[n] += 1 / rows
                texts.append(tuple(text + end))
            found.append(
                {
                    "task": task,
                    "decoder": name,
                    "valid": sum(t in lawful_texts for t in texts) / rows,
                    "length_distance": round(float((seen - mass).abs().sum()) / 2, 4),
                    "forwards": round(float(state.nfe.double().mean()), 3),
                }
            )
    grids, generator = sudoku().texts, torch.Generator().manual_seed(0)
    pick = torch.randint(len(grids), (rows,), generator=generator)
    hidden = torch.rand(rows, 16, generator=generator).argsort(1) < 9
    puzzles = torch.where(hidden, 5, grids[pick])
    starts = torch.randint(11, (rows,), generator=generator)
    for name in ("bayes", "serial", "fixed", "factor", "eb", "klass", "wino"):
        config = presets[name].replace(max_new_tokens=16)
        state = oracle_run(shallow_sudoku(), config, 16, rows, puzzles)
        right = [lawful(tuple(grid)) for grid in state.ids.tolist()]
        found.append(
            {"task": "sudoku", "decoder": name, "valid": sum(right) / rows,
             "forwards": round(float(state.nfe.double().mean()), 3)}
        )  # fmt: skip
        chain = presets[name].replace(max_new_tokens=14)
        if name == "bayes":
            chain = chain.replace(initial_length=14, beyond=False, end_model="cdf")
        output = decode(
            shallow_chain(11, 3, 4, length=8), input_ids=starts[:, None], generation_config=chain
        )
        want = [chain_text(int(x), 11, 3, 4, 8) for x in starts]
        exactly = [a[:8].tolist() == w for a, w in zip(output.answers, want)]
        found.append(
            {"task": "chain", "decoder": name, "valid": sum(exactly) / rows,
             "forwards": round(sum(output.nfe) / rows, 3)}
        )  # fmt: skip
    return found + drawn_records()
