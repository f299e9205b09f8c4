"""The prior as published: what sees what, the cache, conditions, sizes, and that it learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.sampling import Sampling
from worldmodel.prior.head import draw_codes
from worldmodel.prior.layers import ConditionalNorm
from worldmodel.videogpt.configs import (
    PUBLISHED,
    GPTConfig,
    VideoGPTConfig,
    VideoVQVAEConfig,
)
from worldmodel.videogpt.gpt import GPT, Conditions
from worldmodel.videogpt.gpt_layers import PriorBlock
from worldmodel.videogpt.resnet import Conv, ResNet

NUM_CODES = 11
ACTIONS = ActionSpec("discrete", (2,))
CLASSES = ("walk", "run", "jump")
# What a prior can be conditioned on.
KINDS = {
    "nothing": {},
    "vector": {"num_actions": 2, "on_class": True},
    "frames": {"given_frames": 1},
    "both": {"num_actions": 2, "on_class": True, "given_frames": 2},
}


def make_config(
    kind: str = "nothing",
    *,
    attention: str = "dense",
    num_codebooks: int = 1,
    grid: tuple[int, int, int] = (3, 8, 8),
    pixels: int = 2,
    num_codes: int = NUM_CODES,
    dropout: float = 0.0,
) -> VideoGPTConfig:
    """Args:
    grid: (t, h, w) of the latents.
    pixels: to one latent, along height and width.
    """
    frames, height, width = grid
    return VideoGPTConfig(
        tokenizer=VideoVQVAEConfig(
            clip_shape=(frames, pixels * height, pixels * width, 3),
            downsampling=(1, pixels, pixels),
            num_codes=num_codes,
            code_dim=6,
            num_codebooks=num_codebooks,
        ),
        prior=GPTConfig(
            width=32,
            feedforward=48,
            layers=2,
            heads=2,
            dropout=dropout,
            attention=attention,  # pyright: ignore[reportArgumentType]
            resnet_depth=18,
            resnet_units=16,
            **KINDS[kind],
        ),
        actions=ACTIONS,
        class_names=CLASSES,
    )


def make_prior(config: VideoGPTConfig, *, shaken: bool = True) -> GPT:
    """A prior that knows some codes; shaken, every parameter of it matters."""
    torch.manual_seed(0)
    prior = GPT(config).eval()
    prior.code_vectors.normal_()
    if shaken:
        torch.nn.init.normal_(prior.positions.axes[3], std=1)
        for head in prior.heads:
            assert isinstance(head, torch.nn.Linear)
            torch.nn.init.normal_(head.weight, std=0.5)
            torch.nn.init.normal_(head.bias, std=0.5)
        for module in prior.modules():
            if isinstance(module, ConditionalNorm):
                torch.nn.init.normal_(module.gain_and_bias.weight, std=0.3)
    return prior


def make_clips(config: VideoGPTConfig, batch_size: int = 2) -> tuple[torch.Tensor, Conditions]:
    torch.manual_seed(1)
    _, height, width, channels = config.tokenizer.clip_shape
    codes = torch.randint(NUM_CODES, (batch_size, *config.tokenizer.latent_shape))
    num_frames = config.prior.given_frames
    vector = torch.rand(batch_size, config.condition_size) if config.condition_size else None
    frames = torch.rand(batch_size, channels, num_frames, height, width) - 0.5
    return codes, Conditions(vector, frames if num_frames else None)


def rows_of(conditions: Conditions, rows: slice | torch.Tensor) -> Conditions:
    return Conditions(*(None if x is None else x[rows] for x in conditions))


def step(prior: GPT, conditions: Conditions, given: torch.Tensor, codes: torch.Tensor):
    """Logits after the given codes and after each of `codes`, one by one."""
    logits, cache = prior.prefill(conditions, given)
    stepped = [logits]
    for i in range(codes.shape[1]):
        logits, cache = prior.decode_one_token(cache, codes[:, i])
        stepped.append(logits)
    return torch.stack(stepped, 1)


@pytest.mark.parametrize("num_codebooks", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_stepping_with_the_cache_equals_the_full_forward_pass(attention, kind, num_codebooks):
    # 6 or 12 blocks of tokens: more than a token sees near it.
    config = make_config(kind, attention=attention, num_codebooks=num_codebooks)
    prior = make_prior(config)
    codes, conditions = make_clips(config)
    with torch.no_grad():
        expected = prior(codes, conditions)
    flat = codes.flatten(1)
    frame_size, num_tokens = 64 * num_codebooks, flat.shape[1]
    # From nothing, from around the end of a frame, and to the last code.
    for num_given in (0, frame_size - 1, frame_size, num_tokens - 6):
        actual = step(prior, conditions, flat[:, :num_given], flat[:, num_given : num_given + 5])
        seen = expected[:, num_given : num_given + 6]
        torch.testing.assert_close(actual, seen, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_stepping_from_the_first_code_to_the_last_equals_the_full_forward_pass(attention):
    config = make_config(attention=attention)
    prior = make_prior(config)
    codes, conditions = make_clips(config)
    with torch.no_grad():
        expected = prior(codes, conditions)
    flat = codes.flatten(1)
    actual = step(prior, conditions, flat[:, :0], flat[:, :-1])
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    _, cache = prior.prefill(conditions, flat[:, :-1])
    with pytest.raises(ValueError, match="none follows the last"):
        prior.decode_one_token(cache, flat[:, -1])


@pytest.mark.parametrize("attention", ["dense", "sparse"])
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_a_future_code_changes_nothing_in_the_past(attention, num_codebooks):
    config = make_config(attention=attention, num_codebooks=num_codebooks)
    prior = make_prior(config)
    codes, conditions = make_clips(config)
    with torch.no_grad():
        before = prior(codes, conditions)
        for i in (0, 37, 100, before.shape[1] - 1):
            changed = codes.clone()
            changed.view(2, -1)[:, i] = (changed.view(2, -1)[:, i] + 1) % NUM_CODES
            after = prior(changed, conditions)
            torch.testing.assert_close(after[:, : i + 1], before[:, : i + 1])
            if i + 1 < before.shape[1]:
                assert not torch.allclose(after[:, i + 1], before[:, i + 1])


@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_a_cloned_cache_branches(attention):
    config = make_config(attention=attention)
    prior = make_prior(config)
    codes, conditions = make_clips(config)
    _, cache = prior.prefill(conditions, codes.flatten(1)[:, :70])
    other = cache.clone()
    expected, _ = prior.decode_one_token(cache.clone(), codes[:, 0, 0, 0, 0])
    prior.decode_one_token(cache, (codes[:, 0, 0, 0, 0] + 1) % NUM_CODES)
    actual, _ = prior.decode_one_token(other, codes[:, 0, 0, 0, 0])
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_those_of_drawing_from_the_forward_pass(kind):
    config = make_config(kind, grid=(2, 2, 4), num_codebooks=2, dropout=0.5)
    prior = make_prior(config).train()  # which must not matter: nothing is dropped
    codes, conditions = make_clips(config)
    uniforms, sampling = torch.rand(2, 32), Sampling(temperature=0.7, top_k=5)
    drawn = codes.clone()
    prior.eval()
    for i in range(5, 32):
        with torch.no_grad():
            logits = prior(drawn, conditions)[:, i]
        drawn.view(2, -1)[:, i] = draw_codes(logits, uniforms[:, i], sampling)
    prior.train()
    calls = []
    actual = prior.sample(
        conditions,
        uniforms,
        sampling,
        given=codes.flatten(1)[:, :5],
        on_token=lambda: calls.append(1),
    )
    assert torch.equal(actual, drawn)
    assert len(calls) == 27


@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_the_same_numbers_give_the_same_codes_alone_or_in_a_batch(attention):
    config = make_config("both", attention=attention)
    prior = make_prior(config)
    codes, conditions = make_clips(config, batch_size=3)
    given = codes.flatten(1)[:, : prior.num_tokens - 20]
    uniforms = torch.rand(3, prior.num_tokens)
    together = prior.sample(conditions, uniforms, Sampling(), given=given)
    for i in range(3):
        row = slice(i, i + 1)
        alone = prior.sample(rows_of(conditions, row), uniforms[row], Sampling(), given=given[row])
        assert torch.equal(alone[0], together[i])
    others = torch.rand(3, prior.num_tokens)
    assert not torch.equal(prior.sample(conditions, others, Sampling(), given=given), together)


def test_all_codes_given_are_all_that_comes_out():
    config = make_config(grid=(1, 2, 2))
    prior = make_prior(config)
    codes, conditions = make_clips(config)
    uniforms = torch.rand(2, 4)
    assert torch.equal(
        prior.sample(conditions, uniforms, Sampling(), given=codes.flatten(1)), codes
    )
    with pytest.raises(ValueError, match="5 codes are given of 4"):
        prior.sample(conditions, uniforms, Sampling(), given=codes.new_zeros(2, 5))
    with pytest.raises(ValueError, match="expected 4 numbers a clip, not 3"):
        prior.sample(conditions, uniforms[:, :3], Sampling())


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_prior_knows_nothing_and_ignores_the_vector(kind):
    config = make_config(kind)
    prior = make_prior(config, shaken=False)
    codes, conditions = make_clips(config)
    features = []
    prior.heads[0].register_forward_hook(lambda _module, inputs, _output: features.append(inputs))
    logits = prior(codes, conditions)
    loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
    assert loss.item() == pytest.approx(math.log(NUM_CODES), rel=1e-6)
    assert torch.equal(logits, torch.zeros_like(logits))
    if conditions.vector is not None:
        prior(codes, conditions._replace(vector=torch.ones_like(conditions.vector)))
        assert torch.equal(features[0][0], features[1][0])


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_that_the_config_does_not_have_are_refused(kind):
    config = make_config(kind)
    prior = make_prior(config)
    codes, conditions = make_clips(config)
    size, num_frames = config.condition_size, config.prior.given_frames
    with pytest.raises(ValueError, match=f"expected a condition of {size} numbers"):
        prior(codes, conditions._replace(vector=torch.zeros(2, size + 1)))
    with pytest.raises(ValueError, match=f"expected {num_frames} given frames"):
        prior(codes, conditions._replace(frames=torch.zeros(2, 3, num_frames + 1, 16, 16)))
    with pytest.raises(ValueError, match="expected codes of"):
        prior(codes[:, :2], conditions)


@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_checkpointed_activations_give_the_same_loss_and_gradients(attention):
    config = make_config("both", attention=attention)
    prior = make_prior(config).train()
    codes, conditions = make_clips(config)

    def loss_and_gradients() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        loss = F.cross_entropy(prior(codes, conditions).flatten(0, 1), codes.flatten())
        return loss, torch.autograd.grad(loss, list(prior.parameters()))

    def tensors_kept() -> int:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: kept.append(x.numel()), lambda x: x
        ):
            prior(codes, conditions)
        return sum(kept)

    kept = tensors_kept()
    loss, gradients = loss_and_gradients()
    prior.checkpoint_activations = True
    assert tensors_kept() < kept
    again, gradients_again = loss_and_gradients()
    assert torch.equal(again, loss)
    for actual, expected in zip(gradients_again, gradients, strict=True):
        torch.testing.assert_close(actual, expected)


def test_dropout_is_for_training_alone():
    config = make_config(dropout=0.5)
    prior = make_prior(config)
    codes, conditions = make_clips(config)
    assert torch.equal(prior(codes, conditions), prior(codes, conditions))
    prior.train()
    assert not torch.allclose(prior(codes, conditions), prior(codes, conditions))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    config = make_config(kind, grid=(2, 2, 4), num_codebooks=2)
    prior = make_prior(config).train()
    codes, conditions = make_clips(config)
    F.cross_entropy(prior(codes, conditions).flatten(0, 1), codes.flatten()).backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert "code_vectors" in prior.state_dict()


# Columns of Table 9: latent size, K and E (Table 8), heads don't count, layers, D, feed-forward,
# given frames' C, H, W with the ResNet's depth, and numbers in the condition.
TABLE_9 = {
    "moving-mnist": ((4, 16, 16), 512, 64, 8, 192, 384, (1, 64, 64), 18, 0),
    "bair": ((8, 32, 32), 1024, 256, 16, 512, 2048, (3, 64, 64), 34, 64),
    "robonet": ((8, 32, 32), 1024, 256, 16, 512, 2048, (3, 64, 64), 34, 64),
    "vizdoom-hgs": ((8, 32, 32), 1024, 256, 16, 512, 2048, None, None, 60),
    "vizdoom-battle2": ((8, 32, 32), 1024, 256, 16, 512, 2048, None, None, 315),
    "ucf101": ((4, 32, 32), 1024, 256, 20, 1024, 4096, None, None, 0),
    "ucf101-128": ((4, 32, 32), 1024, 256, 20, 1024, 4096, None, None, 0),
    "tgif": ((4, 32, 32), 1024, 256, 20, 1024, 4096, None, None, 0),
}
ACTION_SPECS = {
    "bair": ActionSpec("box", low=(-1.0,) * 4, high=(1.0,) * 4),
    "robonet": ActionSpec("box", low=(-1.0,) * 4, high=(1.0,) * 4),
    "vizdoom-battle2": ActionSpec("discrete", (21,)),
}


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def resnet_parameters(channels: int, depth: int, units: int) -> int:
    """Counted by hand: stem, basic blocks of 3x3x3 with norms, a 1x1x1 shortcut where wider."""
    total = channels * 64 * 3 * 7 * 7 + 2 * 64
    width_in = 64
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]
    for width, num_blocks in zip((64, 128, 256, units), blocks, strict=True):
        total += 27 * width_in * width + (2 * num_blocks - 1) * 27 * width * width
        total += 2 * num_blocks * 2 * width
        if width != width_in:
            total += width_in * width + 2 * width
        width_in = width
    return total


def prior_parameters(name: str) -> tuple[int, int]:
    """The prior without what sees given frames, and that: by hand from Table 9."""
    grid, num_codes, code_dim, layers, width, hidden, frame, depth, condition = TABLE_9[name]
    norm = linear(condition, 2 * width) if condition else 2 * width
    block = linear(width, 3 * width) + linear(width, width) + 2 * norm  # attention
    block += linear(width, hidden) + linear(hidden, width)
    given = 0
    if frame is not None:
        block += linear(width, width) + linear(width, 2 * width) + linear(width, width) + norm
        channels, height, frame_width = frame
        given = resnet_parameters(channels, depth, 512) + linear(512, width) + 2 * width
        given += (1 + height // 4 + frame_width // 4) * width
    positions = (sum(grid) + 1) * width  # one codebook
    head = linear(width, num_codes)
    outside = linear(code_dim, width) + width + positions + norm + head
    return layers * block + outside, given


@pytest.mark.parametrize("name", TABLE_9)
def test_published_priors_have_the_sizes_of_table_9(name):
    preset = PUBLISHED[name]
    actions = ACTION_SPECS.get(name, ActionSpec("discrete", (4,)))
    with torch.device("meta"):
        prior = GPT(VideoGPTConfig(preset.tokenizer, preset.prior, actions))
    given = 0 if prior.given is None else sum(p.numel() for p in prior.given.parameters())
    total = sum(p.numel() for p in prior.parameters())
    assert (total - given, given) == prior_parameters(name)


def test_every_published_prior_is_held_to_its_size():
    assert set(TABLE_9) | {"tiny-videogpt"} == set(PUBLISHED)


def test_sizes_are_those_of_the_original():
    """shared/facts/videogpt.md: what the original's modules count, in millions."""
    preset = PUBLISHED["vizdoom-hgs"]
    unconditional = replace(preset.prior, num_actions=0)
    with torch.device("meta"):
        prior = GPT(VideoGPTConfig(preset.tokenizer, unconditional, ACTIONS))
        resnet = ResNet(3, depth=34, units=240)
    assert round(sum(p.numel() for p in prior.parameters()) / 1e6, 1) == 51.1
    assert round(sum(p.numel() for p in resnet.parameters()) / 1e6, 1) == 33.9
    assert round(prior_parameters("moving-mnist")[0] / 1e6, 1) == 3.7


def test_the_resnet_gives_a_quarter_of_the_resolution_and_every_frame():
    torch.manual_seed(0)
    resnet = ResNet(3, depth=18, units=24)
    assert resnet(torch.rand(2, 3, 3, 16, 20)).shape == (2, 24, 3, 4, 5)


@pytest.mark.parametrize(("kernel", "stride"), [((3, 7, 7), 2), ((3, 3, 3), 1), ((1, 1, 1), 1)])
@pytest.mark.parametrize("num_frames", [1, 2])
def test_convolutions_are_pytorchs_also_for_one_frame(kernel, stride, num_frames):
    conv = Conv(2, 3, kernel, stride=stride)
    x = torch.randn(2, 2, num_frames, 9, 8)
    t, h, w = (size // 2 for size in kernel)
    at_the_border = np.pad(x, ((0, 0), (0, 0), (0, 0), (h, h), (w, w)), mode="edge")
    bordered = torch.from_numpy(at_the_border)
    expected = F.conv3d(bordered, conv.weight, stride=(1, stride, stride), padding=(t, 0, 0))
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


def train(prior: GPT, draw, *, steps: int, rate: float = 3e-3) -> None:
    """Adam on what `draw` gives: codes and conditions."""
    prior.train()
    optimiser = torch.optim.Adam([p for p in prior.parameters() if p.requires_grad], lr=rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        codes, conditions = draw()
        loss = F.cross_entropy(prior(codes, conditions).flatten(0, 1), codes.flatten())
        loss.backward()
        optimiser.step()
    prior.eval()


def nats(prior: GPT, codes: torch.Tensor, conditions: Conditions) -> torch.Tensor:
    """Of each code, a clip a row."""
    with torch.no_grad():
        logits = prior(codes, conditions)
    return F.cross_entropy(logits.mT, codes.flatten(1), reduction="none")


def test_a_second_codebook_that_copies_the_first_is_learned():
    config = make_config(grid=(1, 2, 2), num_codebooks=2)
    prior = make_prior(config, shaken=False)

    def draw() -> tuple[torch.Tensor, Conditions]:
        return torch.randint(NUM_CODES, (64, 1, 2, 2, 1)).expand(-1, -1, -1, -1, 2), Conditions()

    train(prior, draw, steps=250)
    of_codes = nats(prior, *draw()).view(64, 4, 2).mean((0, 1))
    assert of_codes[0].item() == pytest.approx(math.log(NUM_CODES), abs=0.15)
    assert of_codes[1] < 0.1
    drawn = prior.sample(Conditions(), torch.rand(64, 8), Sampling())
    assert (drawn[..., 0] == drawn[..., 1]).float().mean() > 0.9


@pytest.mark.parametrize("attention", ["dense", pytest.param("sparse", marks=pytest.mark.slow)])
def test_a_sequence_is_learned_to_its_entropy(attention):
    """A code stays with 0.9, else it is any of the others; the first is any."""
    config = make_config(attention=attention, grid=(2, 2, 4))
    prior = make_prior(config, shaken=False)

    def draw() -> tuple[torch.Tensor, Conditions]:
        codes = [torch.randint(NUM_CODES, (64,))]
        for _ in range(15):
            moves = torch.randint(1, NUM_CODES, (64,)) * (torch.rand(64) < 0.1)
            codes.append((codes[-1] + moves) % NUM_CODES)
        return torch.stack(codes, 1).view(64, 2, 2, 4, 1), Conditions()

    train(prior, draw, steps=200)
    of_step = -0.9 * math.log(0.9) - 0.1 * math.log(0.1 / (NUM_CODES - 1))
    entropy = (math.log(NUM_CODES) + 15 * of_step) / 16
    many = torch.cat([nats(prior, *draw()) for _ in range(20)])
    assert entropy - 0.05 < many.mean() < entropy + 0.12


def test_the_vector_is_used_after_training():
    """The first two codes are the actions, the next two the class."""
    config = make_config("vector", grid=(2, 1, 2))
    prior = make_prior(config, shaken=False)

    def draw() -> tuple[torch.Tensor, Conditions]:
        actions, classes = torch.randint(2, (64, 2)), torch.randint(3, (64, 1))
        vector = torch.cat([F.one_hot(actions, 2).flatten(1), F.one_hot(classes[:, 0], 3)], 1)
        codes = torch.cat([actions, classes + 2, classes + 2], 1).view(64, 2, 1, 2, 1)
        return codes, Conditions(vector.float())

    train(prior, draw, steps=150)
    codes, conditions = draw()
    assert nats(prior, codes, conditions).mean() < 0.1
    of_others = nats(prior, codes, rows_of(conditions, torch.arange(64).roll(1))).mean(0)
    assert (of_others[:3] > 0.5).all()  # each action, and the class when it is news


def test_given_frames_stay_apart_while_nothing_is_learned_from_them():
    """At first a prior learns how often codes come, and given frames mustn't fade meanwhile."""
    config = make_config("frames", grid=(1, 4, 4), pixels=8, num_codes=2)
    config = replace(config, prior=replace(config.prior, resnet_units=128))
    prior = make_prior(config, shaken=False)
    assert prior.given is not None
    frames = torch.rand(8, 3, 1, 32, 32) - 0.5
    codes = (torch.rand(8, 1, 4, 4, 1) < 0.1).long()
    before = prior.given(frames).std(0).mean()
    train(prior, lambda: (codes, Conditions(None, frames)), steps=15, rate=2e-3)
    assert prior.given(frames).std(0).mean() > 0.7 * before


@pytest.mark.parametrize("pixels", [2, 4, 8])  # a latent: four to a place looked at, one, four
def test_a_token_looks_first_where_it_lies_itself(pixels: int):
    config = make_config("frames", grid=(2, 8, 8), pixels=pixels)
    config = replace(config, prior=replace(config.prior, width=256, resnet_units=16))
    torch.manual_seed(0)
    prior = GPT(config)
    assert prior.given is not None
    block = prior.blocks[0]
    assert isinstance(block, PriorBlock)
    assert block.given_queries is not None
    tokens = F.layer_norm(prior.positions(), (256,))
    keys, _ = block.given_keys_values(prior.given.positions()).chunk(2, -1)
    most = (block.given_queries(tokens) @ keys.T).argmax(1).view(2, 8, 8)
    size = 2 * pixels  # the ResNet's grid: a quarter of 8 * pixels
    places = (torch.arange(8) + 0.5) / 8
    found = [(axis + 0.5) / size for axis in (most // size, most % size)]
    off = [(found[0] - places[:, None]).abs(), (found[1] - places).abs()]
    assert (torch.maximum(*off) <= 1 / min(8, size)).float().mean() > 0.9


def test_where_something_is_in_a_given_frame_is_seen():
    """Each code says whether its quarter of the given frame is bright.

    The ResNet stays as it began, which is enough and ten times faster; that it learns too is
    what `test_every_parameter_learns` holds.
    """
    config = make_config("frames", grid=(1, 2, 2), pixels=4, num_codes=2)
    prior = make_prior(config, shaken=False)
    assert prior.given is not None
    prior.given.resnet.requires_grad_(False)
    bright = torch.cartesian_prod(*[torch.arange(2)] * 4).view(16, 2, 2)  # all there are
    pixels = bright.repeat_interleave(4, 1).repeat_interleave(4, 2) - 0.5
    conditions = Conditions(None, pixels[:, None, None].expand(-1, 3, 1, -1, -1))
    codes = bright[:, None, :, :, None]
    train(prior, lambda: (codes, conditions), steps=80, rate=5e-3)
    assert nats(prior, codes, conditions).mean() < 0.2
    assert nats(prior, 1 - codes, conditions).mean(0).min() > 1.0  # of each quarter
