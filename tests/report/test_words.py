import pytest
import torch

from probcomp.evaluation import Comparison, Estimate, Size, compare_with_magnitude
from probcomp.report import BudgetLine, Report, words

DENSE, SMALL = Size(50_000, 50_000, 200_000), Size(15_000, 5_000, 22_000)
REPORT = Report(model="m", method="x", seed=0, dense=DENSE, compressed=SMALL)


def estimate(value, low, high) -> Estimate:
    return Estimate(value, low, high, 0.95, "k", 360)


def comparison(difference, low, high) -> Comparison:
    return Comparison(
        estimate(0.975, 0.95, 0.99), estimate(0.972, 0.95, 0.99), estimate(difference, low, high)
    )


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (words.count, 1234567, "1,234,567"),
        (words.count, None, "–"),
        (words.times, 3.412, "3.41×"),
        (words.times, 9.996, "10.0×"),
        (words.times, 123.4, "123×"),
        (words.times, float("inf"), "–"),
        (words.percent, 0.1234, "12.3\u00a0%"),
        (words.chance, 0.95, "95\u00a0%"),
        (words.points, -0.0123, "−1.2"),
        (words.points, 0.004, "+0.4"),
        (words.points, -0.0001, "0.0"),
        (words.size, 999, "999 B"),
        (words.size, 999.7, "1 kB"),
        (words.size, 23_100, "23.1 kB"),
        (words.size, 5e12, "5e+03 GB"),
        (words.number, -1.25, "−1.2"),
        (words.number, float("nan"), "–"),
        (words.seconds, 0.42, "0.4 s"),
        (words.seconds, 75.2, "75 s"),
        (words.seconds, 720, "12 min"),
        (words.shape, (3, 4), "3 × 4"),
        (words.shape, None, "removed"),
        (words.shape, (), "1"),
        (words.moment, "2026-01-31T12:30:59+00:00", "2026-01-31 12:30 UTC"),
    ],
)
def test_numbers_as_words(function, value, text) -> None:
    assert function(value) == text


def test_headline_states_both_accuracies() -> None:
    text = words.headline(REPORT.replace(accuracy=comparison(-0.003, -0.012, 0.006)))
    assert text == ("10.0× fewer non-zero parameters at 97.2\u00a0% accuracy (dense: 97.5\u00a0%).")
    text = words.headline(REPORT.replace(nll=comparison(0, -1, 1)))
    assert "at a negative log-likelihood of 0.972 nats per sample (dense: 0.975)." in text
    assert words.headline(REPORT) == "10.0× fewer non-zero parameters."


def test_explanation_says_when_a_difference_is_within_noise() -> None:
    noise = words.explanation(REPORT.replace(accuracy=comparison(-0.003, -0.012, 0.006)))
    assert "interval −1.2 to 0.6, so these samples cannot tell it from none" in noise
    real = words.explanation(REPORT.replace(accuracy=comparison(-0.1, -0.12, -0.06)))
    assert "cannot tell" not in real
    assert "−10.0 points" in real


def test_explanation_names_how_the_saving_was_made() -> None:
    text = words.explanation(REPORT)
    assert "Whole units were cut out" in text
    assert "hold 15,000 numbers (3.33× fewer); 10,000 of these are zeros." in text
    same = REPORT.replace(compressed=Size(50_000, 5_000, 22_000))
    assert "No whole unit was cut out" in words.explanation(same)
    full = REPORT.replace(compressed=Size(5_000, 5_000, 20_000))
    assert "nothing that is left is zero" in words.explanation(full)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            BudgetLine("params", 0.1, 0.0998),
            "Asked for at most 10.0\u00a0% of the parameters, got 9.98\u00a0%.",
        ),
        (
            BudgetLine("bits", 80_000, 79_000),
            "Asked for at most 80,000 bits of the coded file, got 79,000.",
        ),
        (
            BudgetLine("latency_ms", 2, 1.5, note="Rounded up."),
            "Asked for 2 ms, got 1.5 ms (Rounded up).",
        ),
    ],
)
def test_budget_sentence(line, text) -> None:
    assert words.budget_sentence(REPORT.replace(budget=(line,))) == text


def test_no_budget_no_sentence() -> None:
    assert words.budget_sentence(REPORT) == ""


def test_regularity_sentence_adds_up_layers() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :4] = True
    weight = torch.zeros(8, 8)
    weight[::2, ::2] = 1.0  # magnitude pruning keeps a scattered sixteen
    layers = [compare_with_magnitude(name, mask, weight) for name in "ab"]
    text = words.regularity_sentence(layers)
    assert "form 2 clusters where magnitude pruning forms 32" in text
    assert "100\u00a0% full against 25\u00a0%" in text
    assert words.regularity_sentence([compare_with_magnitude("a", mask, None)]) == ""


def test_the_headline_names_the_unit_of_the_loss(report) -> None:
    assert report.nll is not None
    text = words.headline(report.replace(accuracy=None, nll_unit="token"))
    assert "nats per token" in text


def test_outputs_that_imitate_the_dense_model_are_told_by_their_cosine() -> None:
    cosine = Estimate(0.931, 0.92, 0.94, 0.95, "Student t", 64)
    report = REPORT.replace(nll=comparison(0, -1, 1), cosine=cosine)
    assert words.headline(report).endswith("a mean cosine of 0.931 to those of the dense model.")
    assert "nats" not in words.headline(report)
    assert "Over 64 held-out samples the mean cosine is 0.9310" in words.explanation(report)


def test_only_what_is_calibrated_is_called_a_probability() -> None:
    assert words.inclusion(REPORT) == "inclusion score"
    assert words.inclusion(REPORT.replace(calibrated=True)) == "inclusion probability"


def test_a_file_is_told_by_its_size_and_what_is_lost(report) -> None:
    text = words.coded_sentence(report).replace("\u00a0", " ")
    coded = report.coded
    assert f"{words.size(coded.bytes)} against 20 kB".replace("\u00a0", " ") in text
    assert words.percent(coded.accuracy.compressed.value).replace("\u00a0", " ") in text
    assert words.coded_sentence(REPORT) == ""


def test_a_prediction_stands_beside_the_measurement(report) -> None:
    text = words.prediction_sentence(report)
    assert "Loss increase, nats per sample, predicted before the refit: 0.05" in text
    distance = words.prediction_sentence(report.replace(loss_name="half squared distance"))
    assert "half squared distance per sample" in distance
    assert "nats" not in distance
    assert f"held-out data: {report.nll.difference.value:.3g}" in text
    assert "0.8 to 2.5" in text
    assert words.prediction_sentence(REPORT) == ""
