import torch

from probcomp.decoding.repair import border


def test_the_zone_lies_around_the_cut():
    masked = torch.zeros(1, 10, dtype=torch.bool)
    found = border(torch.tensor([5]), 2, masked, torch.tensor([10]))
    assert found.tolist() == [[3, 4, 5, 6]]


def test_it_waits_for_every_position_and_stops_at_the_edges():
    masked = torch.zeros(4, 8, dtype=torch.bool)
    masked[1, 4] = True
    cut, length = torch.tensor([1, 5, 7, 0]), torch.tensor([8, 8, 8, 8])
    found = border(cut, 2, masked, length).tolist()
    assert found == [[-1, 0, 1, 2], [-1] * 4, [5, 6, 7, -1], [-1] * 4]
    short = border(torch.tensor([5]), 2, masked[:1], torch.tensor([6])).tolist()
    assert short == [[3, 4, 5, -1]]
