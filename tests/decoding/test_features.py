import pytest
import torch

from probcomp.decoding.features import read_features


def test_features_are_those_of_the_softmax():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).double() * 3
    logits[..., 6] = -torch.inf  # a banned token
    p = logits.softmax(-1)
    found = read_features(logits, (1, 2), ((3, 1.0), (4, 0.5)))
    torch.testing.assert_close(found.entropy, torch.special.entr(p).sum(-1))
    torch.testing.assert_close(found.eos, p[..., 1] + p[..., 2])
    torch.testing.assert_close(found.delimiter, p[..., 3] + 0.5 * p[..., 4])
    torch.testing.assert_close(found.top_prob, p.max(-1).values)
    assert found.token.equal(p.argmax(-1))
    assert torch.isinf(logits[..., 6]).all()  # what was passed in is left alone


def test_draws_follow_the_tempered_law():
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf]).double().expand(1, 4000, 4).contiguous()
    grid = ((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)[None]
    found = read_features(logits, (0,), temperature=2.0, noise=grid)
    share = torch.bincount(found.token[0], minlength=4) / 4000
    want = (logits[0, 0] / 2.0).softmax(0)
    torch.testing.assert_close(share.double(), want, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.confidence[0], logits[0, 0].softmax(0)[found.token[0]])
    with pytest.raises(ValueError, match="noise"):
        read_features(logits, (0,), temperature=1.0)
