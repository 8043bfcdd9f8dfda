import dataclasses
import json

import pytest

from probcomp.decoding.config import CHOICES, DecodingConfig
from probcomp.decoding.presets import presets
from probcomp.errors import InputError


@pytest.mark.parametrize("name", [None, *presets])
def test_a_round_trip_through_json(name):
    config = DecodingConfig() if name is None else presets[name]
    config = config.replace(hazard=(0.1, 0.2), end_share=((0.1, 0.2),))
    said = json.loads(json.dumps(config.to_dict()))
    assert said["_cls_name"] == "DecodingConfig"
    assert DecodingConfig.from_dict(said) == config


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DecodingConfig().gamma = 1.0


@pytest.mark.parametrize("name", CHOICES)
def test_unknown_choices_are_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match=f"{name} is one of .*{CHOICES[name][-1]}"):
        DecodingConfig(**{name: "other"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"initial_length": True}, "initial_length"),
        ({"steps": 2.5}, "steps"),
        ({"threshold": 1.2}, "threshold"),
        ({"stop_mass": "x"}, "stop_mass"),
        ({"gamma": 0}, "gamma"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"border": -1}, "border"),
        ({"block_min": 9, "block_max": 4}, "block_min 9"),
        ({"extend_actions": (8, 0)}, "extend_actions"),
        ({"end_share": ((0.5, 0.1), (0.2, 0.1))}, "end_share"),
        ({"error_curve": ((0.5, 1.4),)}, "error_curve"),
        ({"coupling_profile": (0.1, -0.1)}, "coupling_profile"),
        ({"end_noise": float("inf")}, "end_noise"),
        ({"token_noise": float("nan")}, "token_noise"),
        ({"sure_entropy": float("inf")}, "sure_entropy"),
        ({"error_curve_sure": ((0.9, 0.1), (0.5, 0.2))}, "error_curve_sure"),
        ({"end_noise": -0.1}, "end_noise"),
    ],
)
def test_values_out_of_range_are_named(options, says):
    with pytest.raises(InputError, match=says):
        DecodingConfig(**options)


def test_every_problem_is_told_at_once():
    with pytest.raises(InputError, match=r"gamma.*; .*temperature|temperature.*; .*gamma"):
        DecodingConfig(gamma=-1, temperature=-1)


def test_unknown_names_get_near_ones():
    with pytest.raises(InputError, match="temperature"):
        DecodingConfig().replace(temprature=1.0)


def test_the_rule_follows_how_tokens_are_chosen():
    assert DecodingConfig().commit_rule == "budget"
    assert DecodingConfig(temperature=1.0).commit_rule == "joint"
    assert DecodingConfig(temperature=1.0, coupling_profile=(0.1,)).commit_rule == "pairwise"
    assert DecodingConfig(temperature=1.0, rule="entropy").commit_rule == "entropy"


def test_the_end_is_drawn_when_sampling_alone():
    drawing = DecodingConfig(draw_end=True, temperature=1.0, sizing="none")
    assert drawing.draws_end
    assert drawing.sizes_first
    assert not drawing.replace(temperature=0.0).draws_end
    assert not drawing.replace(stop="none").draws_end
    assert not DecodingConfig(sizing="none").sizes_first
