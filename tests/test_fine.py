"""Layers over single tokens: they begin as nothing, and learn to move what is seen."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from worldmodel.configs import FrameGPTConfig
from worldmodel.prior.fine import FineLayers

NUM_CODES, NUM_ACTIONS, GRID = 16, 5, (4, 8)


def make_layers() -> FineLayers:
    torch.manual_seed(0)
    return FineLayers(layers=1, grid=GRID, width=64, heads=2, condition_size=NUM_ACTIONS)


def test_they_begin_as_the_identity():
    context = torch.randn(2, 3, GRID[0] * GRID[1], 64)
    actions = torch.eye(NUM_ACTIONS)[torch.randint(NUM_ACTIONS, (2, 3))]
    torch.testing.assert_close(make_layers()(context, actions), context, rtol=0, atol=0)


def test_what_is_seen_moves_as_far_as_the_action_says():
    """By up to half the width, as a fast turn does: no convolution of three reaches so far."""
    fine = make_layers()
    see, tell = nn.Linear(NUM_CODES, 64), nn.Linear(64, NUM_CODES)
    parameters = [*fine.parameters(), *see.parameters(), *tell.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    rows, columns = GRID
    for _ in range(120):
        codes = torch.randint(NUM_CODES, (64, rows, columns))
        action = torch.randint(NUM_ACTIONS, (64,))
        source = torch.arange(columns) + 2 * (action[:, None] - 2)  # up to 4 tokens away
        in_view = ((source >= 0) & (source < columns))[:, None].expand(-1, rows, -1)
        source = source.clamp(0, columns - 1)[:, None].expand(-1, rows, -1)
        context = see(F.one_hot(codes, NUM_CODES).float()).flatten(1, 2)
        actions = F.one_hot(action, NUM_ACTIONS).float()
        logits = tell(fine(context[:, None], actions[:, None]))[:, 0].unflatten(1, GRID)
        loss = F.cross_entropy(logits[in_view], codes.gather(2, source)[in_view])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05  # 2.77 nats to begin with


def test_heads_that_rotary_positions_can_t_turn_are_refused():
    with pytest.raises(ValueError, match="fine_layers need heads of a size divisible by 8"):
        FrameGPTConfig(fine_layers=1, head_width=24, head_heads=2)
