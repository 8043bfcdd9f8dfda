import torch

from probcomp.decoding.committing import commit_set, errors, expected_error
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.features import Features


def call(config, confidence, entropy, eos=None):
    p, h = torch.tensor([confidence]), torch.tensor([entropy])
    zero = torch.zeros_like(p)
    token = zero.long()
    features = Features(token, p, token, p, h, zero if eos is None else torch.tensor([eos]), zero)
    may = torch.ones_like(p, dtype=torch.bool)
    n = p.shape[1]
    return commit_set(
        config,
        features,
        may,
        may,
        ~may,
        doubt=h.mean(1),
        allowance=torch.tensor([0.25], dtype=torch.float64),
        quota=torch.tensor([2]),
        calm=torch.zeros_like(token),
        begin=torch.tensor([0]),
        end=torch.tensor([n]),
    )[0].tolist()


def test_the_rule_is_the_configuration_s():
    c, h = [0.9, 0.5, 0.95], [0.3, 0.9, 0.2]
    assert call(DecodingConfig(rule="budget"), c, h) == [True, False, True]
    assert call(DecodingConfig(rule="quota"), c, h) == [True, False, True]
    assert call(DecodingConfig(rule="threshold", threshold=0.92), c, h) == [False, False, True]


def test_a_curve_lets_the_budget_take_more():
    c, h = [0.8, 0.85, 0.9], [0.5, 0.4, 0.3]
    plain = DecodingConfig(rule="budget")
    sure = plain.replace(error_curve=((0.5, 0.5), (0.8, 0.02), (0.9, 0.01)))
    assert call(plain, c, h) == [False, True, True]
    assert call(sure, c, h) == [True, True, True]


def test_sampling_is_pairwise_once_a_coupling_was_measured():
    drawn = DecodingConfig(temperature=1.0, gamma=0.2, coupling_profile=(0.0, 0.5))
    assert DecodingConfig(temperature=1.0).commit_rule == "joint"
    assert drawn.commit_rule == "pairwise"
    # Neighbours share nothing and go together; two places apart they share half.
    assert call(drawn, [0.3, 0.3, 0.3], [1.0, 1.0, 1.0]) == [True, True, False]


def test_two_places_where_the_text_may_end_are_not_drawn_together():
    drawn = DecodingConfig(temperature=1.0, gamma=0.2, coupling_profile=(0.0,))
    both = call(drawn, [0.5, 0.5], [0.7, 0.7], eos=[0.5, 0.5])
    assert sum(both) == 1


def test_sure_rows_have_a_curve_of_their_own():
    config = DecodingConfig(
        error_curve=((0.5, 0.5), (0.99, 0.02)),
        error_curve_sure=((0.5, 0.3), (0.99, 0.001)),
        sure_entropy=0.2,
    )
    c = torch.tensor([[0.6, 0.9], [0.6, 0.9]])
    found = errors(config, c, torch.tensor([0.1, 0.3]))
    assert found[0].equal(expected_error(c[0], 1.0, config.error_curve_sure))
    assert found[1].equal(expected_error(c[1], 1.0, config.error_curve))
    assert not found[0].isclose(found[1]).any()
    one = errors(config.replace(sure_entropy=0.0), c, torch.zeros(2))
    assert one.equal(expected_error(c, 1.0, config.error_curve))


def test_a_sure_row_may_commit_more():
    config = DecodingConfig(rule="budget", error_curve_sure=((0.5, 0.5), (0.8, 0.02), (0.9, 0.01)))
    c = [0.8, 0.85, 0.9]
    assert call(config.replace(sure_entropy=0.35), c, [0.4, 0.3, 0.3]) == [True, True, True]
    assert call(config.replace(sure_entropy=0.3), c, [0.4, 0.3, 0.3]) == [False, True, True]
