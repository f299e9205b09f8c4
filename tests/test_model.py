"""Dreams: the same seed gives the same dream, a kept state goes on as if never left."""

import numpy as np
import pytest
import torch

from worldmodel.checkpoint import load_checkpoint
from worldmodel.dream import Dream, dream_along
from worldmodel.interface.sampling import Sampling


@pytest.fixture(scope="module")
def tiny(tiny_run):
    return load_checkpoint(str(tiny_run))


def begin(tiny, rows: slice = slice(0, 2)) -> Dream:
    starts = tiny.starts
    moment = (starts.frames[rows], starts.actions[rows], starts.variables[rows])
    return tiny.model.start(*(torch.from_numpy(array) for array in moment))


def go_on(tiny, dream: Dream, *, num_steps: int = 5, seed: int = 0):
    actions = torch.ones(len(dream.codes), num_steps, dtype=torch.int64)
    rng = np.random.default_rng(seed)
    return list(dream_along(tiny.model, dream, actions, rng=rng, sampling=Sampling()))


def test_the_same_numbers_give_the_same_dream(tiny):
    first, second = (go_on(tiny, begin(tiny)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.variables, b.variables)
    other = go_on(tiny, begin(tiny), seed=1)
    assert any(not torch.equal(a.frames, b.frames) for a, b in zip(first, other, strict=True))


def test_a_cloned_dream_goes_on_as_if_the_other_had_never_moved(tiny):
    dream = begin(tiny)
    kept = dream.clone()
    moved = go_on(tiny, dream)
    again = go_on(tiny, kept)
    for a, b in zip(moved, again, strict=True):
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.reward, b.reward)


def test_dreams_of_one_batch_do_not_touch_each_other(tiny):
    model = tiny.model
    both = begin(tiny)
    uniforms = torch.rand(2, model.num_uniforms, generator=torch.Generator().manual_seed(0))
    actions = torch.tensor([0, 1])
    together, _ = model.step(both, actions, uniforms, Sampling())
    for i in range(2):
        row = slice(i, i + 1)
        alone, _ = model.step(begin(tiny, row), actions[row], uniforms[row], Sampling())
        assert torch.equal(alone.codes[0], together.codes[i])
        apart = alone.frames[0].int() - together.frames[i].int()
        assert apart.abs().max() <= 1  # a batch rounds otherwise


def test_variables_stay_in_the_range_of_the_data(tiny):
    for step in go_on(tiny, begin(tiny), num_steps=30):
        assert (step.variables >= tiny.model.prior.outcome.variable_low).all()
        assert (step.variables <= tiny.model.prior.outcome.variable_high).all()


def test_frames_are_what_the_tokenizer_makes_of_them(tiny):
    frames = torch.from_numpy(tiny.starts.frames)
    codes = tiny.model.encode(frames)
    assert codes.shape == (*frames.shape[:2], 8, 8, 1)
    assert tiny.model.decode(codes).shape == frames.shape


def test_dreams_last_without_limit(tiny):
    steps = go_on(tiny, begin(tiny), num_steps=200)
    assert all(step.nats.isfinite().all() for step in steps)
