"""`calibrate` on the embedded model: what it writes, when it is used, and when it refuses."""

import json

import pytest
import torch

from probcomp.decoding import calibrate, decode, load_calibration
from probcomp.decoding.adapters import CallableAdapter
from probcomp.decoding.calibrating import confidence, fit
from probcomp.decoding.calibrating.fit import first_canvas, read_examples
from probcomp.decoding.calibrating.record import FILE, Calibration, checksum, folder_of
from probcomp.decoding.length import LengthPrior
from probcomp.decoding.small.load import FOLDER, embedded_model, load_small
from probcomp.decoding.small.network import SmallDenoiser
from probcomp.decoding.small.tasks import make_examples
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.errors import InputError


def dev(task, count):
    return [(e.prompt, e.answer) for e in make_examples(task, count, 77, "dev")]


@pytest.fixture(scope="module")
def fitted():
    return calibrate(
        embedded_model(),
        CharacterTokenizer(),
        examples=dev("add", 20) + dev("record", 20),
        sweep=False,
    )


def test_it_beats_the_prior_on_held_out_answers(fitted):
    report = fitted.report
    assert report["end_log_score"] > report["prior_log_score"]
    assert report["end_log_score_partly_seen"] > report["end_log_score"]
    assert report["end_log_score_partly_seen"] > report["prior_log_score_partly_seen"]
    assert report["error_calibration"] <= report["error_calibration_before"]
    assert 0 <= report["commits_wrong"] < report["commits_watched"]
    assert (report["answers"], report["chosen_on"], report["held_out"]) == (20, 10, 10)
    assert len(fitted.options["hazard"]) >= 12


def test_round_trip(fitted, tmp_path):
    fitted.save(tmp_path)
    assert load_calibration(tmp_path) == fitted
    assert load_calibration(tmp_path / FILE) == fitted


def test_the_shipped_calibration_is_used_without_asking():
    shipped = load_calibration(FOLDER)
    assert shipped.checksum == checksum(embedded_model())
    assert decode(prompt="+1+2").config.hazard == shipped.options["hazard"]
    assert decode(prompt="+1+2", calibration=False).config.hazard is None
    assert decode(prompt="+1+2", preset="fixed", max_new_tokens=16).config.hazard is None
    assert decode(prompt="+1+2", gamma=0.123).config.gamma == 0.123
    assert decode(prompt="+1+2", calibration=FOLDER).config.hazard == shipped.options["hazard"]


def test_other_weights_and_other_presets_refuse_it(fitted, tmp_path):
    other = SmallDenoiser()
    with pytest.raises(InputError, match="other weights"):
        decode(other, CharacterTokenizer(), prompt="+1+2", calibration=fitted)
    fitted.save(tmp_path)
    other.folder = tmp_path
    with pytest.raises(InputError, match="other weights"):
        decode(other, CharacterTokenizer(), prompt="+1+2")
    with pytest.raises(InputError, match="preset"):
        decode(prompt="+1+2", preset="eb", calibration=fitted)
    with pytest.raises(InputError, match="beside"):
        decode(SmallDenoiser(), CharacterTokenizer(), prompt="+1+2", calibration=True)


def test_a_model_that_knows_no_end_is_refused_and_nothing_is_written(tmp_path):
    torch.manual_seed(0)
    with pytest.raises(InputError, match="refused"):
        calibrate(
            SmallDenoiser(),
            CharacterTokenizer(),
            examples=dev("add", 40),
            out=tmp_path / "none.json",
            sweep=False,
        )
    assert not list(tmp_path.iterdir())


def test_the_checksum_tells_trainings_apart():
    model = load_small(FOLDER)
    same = checksum(model)
    assert checksum(load_small(FOLDER)) == same
    with torch.no_grad():
        model.norm.weight[3] += 1e-4
    assert checksum(model) != same
    assert folder_of(model) == FOLDER
    assert folder_of(torch.nn.Linear(1, 1)) is None


def test_the_first_canvas_weighs_truncation_against_width():
    prior = LengthPrior.constant(10.0)
    found = first_canvas(prior, 200, 1.0, 1e-3)
    # d/dW: h S(W) = c_pos, S(W) = 0.9^W
    want = torch.tensor(1e-3 / 0.1).log() / torch.tensor(0.9).log()
    assert found == pytest.approx(float(want), abs=1.0)
    assert first_canvas(prior, 200, 1.0, 10.0) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "line 1"), ('\n{"prompt": "a"}', "line 2"), ("[1]", "line 1")],
)
def test_bad_example_files(tmp_path, text, says):
    (tmp_path / "dev.jsonl").write_text(text)
    with pytest.raises(InputError, match=says):
        read_examples(tmp_path / "dev.jsonl")


def test_dev_answers_that_do_not_fit_are_refused_by_name(tmp_path):
    """The context of the embedded model is 160: long prompts and answers leave no canvas."""
    good, out = dev("add", 40), tmp_path / "none.json"

    def refused(examples, says):
        with pytest.raises(InputError, match=says):
            calibrate(examples=examples, out=out, sweep=False)
        assert not out.exists()

    for size in (155, 160, 400):
        refused([*good, ("+" * size, "1")], f"longest prompt has {size} tokens.*leave out prompts")
    refused([(p, "1" * 200) for p, _ in good], r"0 of 40 answers .*shorten or leave out")
    refused([(p, "") for p, _ in good], "40 are empty")


def test_an_error_fit_that_is_worse_on_held_out_answers_is_dropped(monkeypatch):
    """A curve that calls everything wrong: the model's own 1 - c is kept, and reported."""
    wrong = ((0.5, 0.99), (1 - 1e-9, 0.9))
    monkeypatch.setattr(confidence, "choose_curve", lambda fitted, chosen: wrong)
    found = calibrate(examples=dev("add", 40), sweep=False)
    assert found.report["error_fit_kept_sure"] is False
    before = found.report["error_calibration_before_sure"]
    assert found.report["error_calibration_sure"] == before
    assert found.options["error_curve_sure"] == ()
    assert found.options["confidence_temperature"] == 1.0


def test_fits_choices_and_checks_never_share_an_answer(monkeypatch):
    """Sweeps see what no fit saw; the check sees what neither saw."""
    parts = {}

    def note(name, real):
        def run(adapter, config, pairs, *rest):
            parts.setdefault(name, []).append({(*p, -1, *a) for p, a in map(tuple, pairs)})
            return real(adapter, config, pairs, *rest)

        return run

    for name in ("commits", "sweep_error", "sweep_sampling", "fit_token_noise"):
        real = getattr(fit, name)
        monkeypatch.setattr(fit, name, note(name, real))
    calibrate(examples=sorted(set(dev("add", 40)))[:24])
    fitted, chosen, held = parts["commits"]
    assert parts["sweep_error"] == [chosen]
    # One of a few settings of drawing: chosen on more, and never on what checks.
    assert parts["sweep_sampling"] == parts["fit_token_noise"] == [fitted | chosen]
    assert not (fitted & chosen) | (fitted & held) | (chosen & held)


def test_many_answers_are_read_for_errors_and_lengths_alone(monkeypatch):
    """States of every answer would cost a forward each, for fits that a few hundred decide."""
    seen = {}

    def note(name):
        real = getattr(fit, name)

        def run(adapter, pairs, *rest):
            count = len(rest[0]) if name == "commits" else len(pairs)
            seen.setdefault(name, []).append(count)
            return real(adapter, pairs, *rest)

        monkeypatch.setattr(fit, name, run)

    for name in ("blank", "partial", "fit_coupling", "commits"):
        note(name)
    monkeypatch.setattr(fit, "FITTED", 12)
    found = calibrate(examples=dev("json", 40), sweep=False)
    assert seen["blank"] == seen["partial"] == [12, 6]
    assert seen["fit_coupling"] == [12]
    assert seen["commits"] == [20, 10, 10]
    assert found.report["answers"] == 20


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="20 answers"):
        calibrate(examples=dev("add", 3))
    adapter = CallableAdapter(lambda ids, keys: ids, mask_id=2, eos_ids=1, vocab_size=4)
    with pytest.raises(InputError, match="weights"):
        calibrate(adapter, CharacterTokenizer(), examples=dev("add", 30))
    for value in ({"format": 9}, [], {"format": 1, "checksum": ""}):
        (tmp_path / "c.json").write_text(json.dumps(value))
        with pytest.raises(InputError, match="calibrate again"):
            load_calibration(tmp_path / "c.json")
    strange = {"format": 1, "checksum": "", "report": {}, "options": {"gama": 1}}
    (tmp_path / "c.json").write_text(json.dumps(strange))
    with pytest.raises(InputError, match="gamma"):
        load_calibration(tmp_path / "c.json")
    assert Calibration("", {}, {}).options == {}
