"""Pixels survive the way into the model and back."""

import torch

from worldmodel.media.frames import to_float, to_uint8


def test_every_grey_level_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1)
    assert torch.equal(to_uint8(to_float(levels)), levels)


def test_floats_lie_between_minus_a_half_and_a_half():
    levels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1)
    assert to_float(levels).flatten().tolist() == [-0.5, 0.5]


def test_channels_come_first_inside():
    frames = torch.zeros(2, 3, 4, 5, 3, dtype=torch.uint8)
    frames[..., 2] = 255
    inside = to_float(frames)
    assert inside.shape == (2, 3, 3, 4, 5)
    assert (inside[:, :, 2] == 0.5).all()


def test_values_outside_are_clipped():
    assert to_uint8(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1)).flatten().tolist() == [0, 255]
