"""The prior's invariants: causal, cached as uncached, batched as single, exact likelihood."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from worldmodel.configs.dream import FrameGPTConfig, VQVAEConfig, WorldModelConfig
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.sampling import Sampling
from worldmodel.prior import fast, stepping
from worldmodel.prior.frame_gpt import FrameGPT
from worldmodel.prior.head import TokenHead, Undirected, draw_codes
from worldmodel.prior.layers import Block, ConditionalNorm, attend_where, frames_visible, turn
from worldmodel.prior.outcomes import OutcomeHead, OutcomeLogits
from worldmodel.prior.stepping import prefill, step
from worldmodel.storage.tensors import int8_rows, stored_int8_rows

NUM_ACTIONS, NUM_CODES = 3, 16
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.7),
    Sampling(temperature=0),
    Sampling(top_k=3),
    Sampling(top_p=0.6),
    Sampling(temperature=1.3, top_k=9, top_p=0.9),
]
GUIDED = [Sampling(guidance=1.5), Sampling(temperature=0.7, top_p=0.9, guidance=0.4)]


def make_prior(*, num_codebooks: int = 1, window: int = 3) -> FrameGPT:
    """A small prior whose every parameter matters: nothing is left at zero."""
    torch.manual_seed(0)
    world = WorldModelConfig(
        actions=ActionSpec("discrete", (NUM_ACTIONS,)),
        variable_names=("health", "ammo"),
        tokenizer=VQVAEConfig(
            frame_shape=(32, 32, 3), num_codes=NUM_CODES, num_codebooks=num_codebooks
        ),
        prior=FrameGPTConfig(
            width=32, layers=2, heads=2, window=window, head_width=16, head_heads=2, head_layers=2
        ),
    )
    prior = FrameGPT(world).eval()
    for parameter in prior.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.3)
    for module in prior.modules():
        if isinstance(module, ConditionalNorm):
            torch.nn.init.normal_(module.gain_and_bias.weight, std=0.3)
    prior.outcome.set_bins([np.array([0.0, 1.0]), np.array([-8.0, 0.0, 20.0]), np.array([0.0])])
    return prior


def make_clips(prior: FrameGPT, batch_size: int = 2, num_frames: int = 8):
    """Codes (B, T, h, w, q), actions (B, T-1, A) and variables (B, T, V)."""
    shape = (batch_size, num_frames, *prior.grid, prior.num_codebooks)
    codes = torch.randint(NUM_CODES, shape)
    actions = torch.eye(NUM_ACTIONS)[torch.randint(NUM_ACTIONS, (batch_size, num_frames - 1))]
    return codes, actions, torch.randn(batch_size, num_frames, 2)


def predict(prior: FrameGPT, codes, actions, variables):
    with torch.no_grad():
        return prior(codes[:, :-1], actions, variables[:, :-1], codes[:, 1:], variables[:, 1:])


@pytest.mark.parametrize("batch_size", [1, 2])  # alone it is compiled
@pytest.mark.parametrize("num_codebooks", [1, 2])
@pytest.mark.parametrize("num_given", [1, 2, 6])
def test_stepping_with_the_cache_equals_the_full_forward_pass(
    num_codebooks, num_given, batch_size, monkeypatch
):
    # Eight frames through a window of three: the ring is written over more than once.
    prior = make_prior(num_codebooks=num_codebooks)
    codes, actions, variables = make_clips(prior, batch_size)
    expected = predict(prior, codes, actions, variables)
    states = []
    prior.norm.register_forward_hook(lambda _module, _inputs, output: states.append(output))
    predict(prior, codes, actions, variables)
    full = states.pop()
    past = num_given - 1
    memory = prefill(prior, codes[:, :past], actions[:, :past], variables[:, :past])
    newest_states = stepping._newest_states

    def noted(*arguments):
        states.append(newest_states(*arguments)[0][:, 0])
        return newest_states(*arguments)

    monkeypatch.setattr(stepping, "_newest_states", noted)
    num_uniforms = prior.head.num_tokens + 2
    for t in range(past, actions.shape[1]):
        outcome, memory = step(
            prior,
            memory,
            codes[:, t],
            actions[:, t],
            variables[:, t],
            torch.rand(batch_size, num_uniforms),
            Sampling(temperature=0),
        )
        torch.testing.assert_close(states[-1], full[:, t], atol=1e-5, rtol=1e-5)
        first_token = expected.logits[:, t, 0].argmax(-1)
        assert torch.equal(outcome.codes.flatten(1)[:, 0], first_token)


@pytest.mark.parametrize("changed", ["codes", "actions", "variables"])
def test_the_future_changes_nothing_in_the_past(changed):
    prior = make_prior()
    codes, actions, variables = make_clips(prior)
    before = predict(prior, codes, actions, variables)
    t = 4
    if changed == "codes":
        codes[:, t + 1 :] = (codes[:, t + 1 :] + 1) % NUM_CODES
    elif changed == "actions":
        actions[:, t:] = actions[:, t:].roll(1, -1)
    else:
        variables[:, t:] += 1
    after = predict(prior, codes, actions, variables)
    torch.testing.assert_close(after.logits[:, :t], before.logits[:, :t])
    early, late = before.early_outcomes.values, after.early_outcomes.values
    torch.testing.assert_close(late[:, :t], early[:, :t])
    # Rewards and ends of row t - 1 know the variables of frame t.
    known = t - 1 if changed == "variables" else t
    for name in ("values", "terminated"):
        logits = getattr(after.outcomes, name), getattr(before.outcomes, name)
        torch.testing.assert_close(*(both[:, :known] for both in logits))
    assert not torch.allclose(after.logits[:, t], before.logits[:, t])


def test_a_token_sees_only_the_tokens_before_it_in_its_frame():
    prior = make_prior()
    codes, actions, variables = make_clips(prior)
    before = predict(prior, codes, actions, variables).logits[:, -1]
    i = 7
    flat = codes[:, -1].view(2, -1)
    flat[:, i] = (flat[:, i] + 1) % NUM_CODES
    after = predict(prior, codes, actions, variables).logits[:, -1]
    torch.testing.assert_close(after[:, : i + 1], before[:, : i + 1])
    assert not torch.allclose(after[:, i + 1], before[:, i + 1])


def test_what_lies_behind_the_window_of_every_layer_is_forgotten():
    prior = make_prior(window=2)
    codes, actions, variables = make_clips(prior)
    before = predict(prior, codes, actions, variables).logits[:, -1]
    codes[:, 0] = (codes[:, 0] + 1) % NUM_CODES  # two layers see 1 + 2 x 1 frames back
    after = predict(prior, codes, actions, variables).logits[:, -1]
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(guidance=0.7)], ids=str)
def test_a_batch_of_dreams_equals_single_dreams(sampling):
    prior = make_prior()
    codes, actions, variables = make_clips(prior, batch_size=3)
    uniforms = torch.rand(3, prior.head.num_tokens + 2)

    def dream(rows: slice):
        memory = prefill(prior, codes[rows, :4], actions[rows, :4], variables[rows, :4])
        return step(
            prior,
            memory,
            codes[rows, 4],
            actions[rows, 4],
            variables[rows, 4],
            uniforms[rows],
            sampling,
        )[0]

    together = dream(slice(None))
    for i in range(3):
        alone = dream(slice(i, i + 1))
        assert torch.equal(alone.codes[0], together.codes[i])
        torch.testing.assert_close(alone.variables[0], together.variables[i])
        torch.testing.assert_close(alone.nats[0], together.nats[i])


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_guidance_leads_away_from_no_action_in_particular(num_codebooks):
    prior = make_prior(num_codebooks=num_codebooks)
    codes, actions, variables = make_clips(prior, num_frames=5)
    undirected = actions.clone()
    undirected[:, -1] = 1 / NUM_ACTIONS

    def dream(sampling: Sampling):
        memory = prefill(prior, codes[:, :3], actions[:, :3], variables[:, :3])
        last = (codes[:, 3], actions[:, 3], variables[:, 3])
        return step(prior, memory, *last, torch.zeros(2, prior.head.num_tokens + 2), sampling)

    plain, memory = dream(Sampling(temperature=0))
    guided, guided_memory = dream(Sampling(temperature=0, guidance=3))
    codes[:, 4] = guided.codes
    told, untold = (
        predict(prior, codes, a, variables).logits[:, -1] for a in (actions, undirected)
    )
    expected = (told + 3 * (told - untold)).argmax(-1)
    assert torch.equal(guided.codes.flatten(1), expected)
    assert not torch.equal(guided.codes, plain.codes)
    # What is remembered is what was done, and how unexpected a frame is stays the prior's to say.
    torch.testing.assert_close(guided_memory.keys_values, memory.keys_values)
    nats = F.cross_entropy(told.mT, guided.codes.flatten(1), reduction="none").mean(1)
    torch.testing.assert_close(guided.nats, nats)


@pytest.mark.parametrize("is_shipped", [False, True])
@pytest.mark.parametrize("sampling", SAMPLINGS + GUIDED, ids=str)
def test_the_compiled_head_equals_the_one_in_torch(sampling: Sampling, is_shipped: bool):
    torch.manual_seed(0)
    head = TokenHead(
        num_tokens=20, num_codes=NUM_CODES, width=16, layers=2, heads=2, condition_size=3
    ).eval()
    for module in head.modules():
        if isinstance(module, ConditionalNorm):
            torch.nn.init.normal_(module.gain_and_bias.weight, std=0.3)
    torch.nn.init.normal_(head.logits.weight, std=0.5)
    if is_shipped:
        _ship(head.logits)
        for b in head.blocks:
            assert isinstance(b, Block)
            _ship(b.queries_keys_values, b.attention_output, b.expand, b.contract)
    context, actions = torch.randn(8, 20, 16), torch.rand(8, 3)
    uniforms = torch.rand(8, 20)
    away = None
    if sampling.guidance:
        away = Undirected(torch.randn(8, 20, 16), torch.rand(8, 3), sampling.guidance)
    codes, nats = head.sample(context, actions, uniforms, sampling, away)
    for count in (1, 3, 8):  # one, a few, and in fours
        given = (context[:count], actions[:count], uniforms[:count])
        away_here = away and Undirected(away.context[:count], away.actions[:count], away.guidance)
        fast_codes, fast_nats = fast.sample(head, *given, sampling, away_here)
        assert torch.equal(fast_codes, codes[:count])
        torch.testing.assert_close(fast_nats, nats[:count], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_the_compiled_head_is_the_same_to_the_bit_with_any_number_of_threads(guidance: float):
    torch.manual_seed(0)
    head = TokenHead(
        num_tokens=9, num_codes=NUM_CODES, width=16, layers=1, heads=2, condition_size=3
    ).eval()
    given = torch.randn(13, 9, 16), torch.rand(13, 3), torch.rand(13, 9), Sampling()
    away = Undirected(torch.randn(13, 9, 16), torch.rand(13, 3), guidance) if guidance else None
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(fast.sample(head, *given, away))
    finally:
        torch.set_num_threads(before)
    for codes, nats in results[1:]:
        assert torch.equal(codes, results[0][0])
        assert torch.equal(nats, results[0][1])


def test_what_is_not_a_number_stays_so():
    head = TokenHead(
        num_tokens=3, num_codes=NUM_CODES, width=16, layers=1, heads=2, condition_size=3
    ).eval()
    context = torch.full((1, 3, 16), torch.nan)
    codes, nats = fast.sample(head, context, torch.rand(1, 3), torch.rand(1, 3), Sampling())
    assert nats.isnan().all()
    assert ((codes >= 0) & (codes < NUM_CODES)).all()
    block, x, ring = (
        Block(32, 2, 3, num_layers=2).eval(),
        context.new_full((1, 4, 32), torch.nan),
        torch.zeros(2, 2, 1, 4, 16),
    )
    turns = torch.ones(4, 8), torch.zeros(4, 8)
    fast.run_block(block, x, torch.rand(1, 3), ring, 0, torch.tensor([True]), turns)
    assert x.isnan().all()


@pytest.mark.parametrize("is_shipped", [False, True])
@pytest.mark.parametrize("num_positions", [1, 6, 16])
def test_the_compiled_block_equals_the_one_in_torch(num_positions: int, is_shipped: bool):
    torch.manual_seed(0)
    width, heads, window, slot = 32, 2, 3, 1
    size = width // heads
    block = Block(width, heads, 3, num_layers=2).eval()
    for norm in (block.norm1, block.norm2):
        torch.nn.init.normal_(norm.gain_and_bias.weight, std=0.3)
    if is_shipped:
        _ship(block.queries_keys_values, block.attention_output, block.expand, block.contract)
    x, actions = torch.randn(1, num_positions, width), torch.rand(1, 3)
    turns = torch.randn(num_positions, size // 2), torch.randn(num_positions, size // 2)
    filled = torch.tensor([True, True, False])
    ring = torch.randn(2, heads, window, num_positions, size)
    ring[:, :, 2] = torch.nan  # not filled
    expected_ring = ring.clone()

    def attend(q, k, v):
        expected_ring[:, :, slot] = torch.stack([turn(k, *turns), v])[:, 0]
        keys, values = expected_ring[:, :, :2].flatten(2, 3)[:, None]
        return F.scaled_dot_product_attention(turn(q, *turns), keys, values)

    expected = block(x, actions, attend)
    fast.run_block(block, x, actions, ring, slot, filled, turns)
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ring, expected_ring, atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("is_shipped", [False, True])
def test_compiled_layers_equal_those_in_torch(is_shipped: bool):
    torch.manual_seed(0)
    linear = torch.nn.Linear(5, 33), torch.nn.Linear(33, 7)
    if is_shipped:
        _ship(*linear)
    layers = torch.nn.Sequential(linear[0], torch.nn.SiLU(), linear[1])
    x = torch.randn(1, 1, 5)
    assert not fast.serves_one(x)  # it has no gradients
    with torch.no_grad():
        assert fast.serves_one(x)
        torch.testing.assert_close(fast.run_layers(layers, x), layers(x), atol=1e-5, rtol=1e-5)
        assert not fast.serves_one(torch.randn(2, 5))


def _ship(*layers: torch.nn.Linear) -> None:
    """Weights as they are read from a shipped checkpoint."""
    with torch.no_grad():
        for layer in layers:
            numbers, scale = int8_rows("", layer.weight).values()
            layer.weight.copy_(numbers * scale)
            assert stored_int8_rows(layer.weight) is not None


def test_weights_that_change_are_read_again():
    """Shipped ones are copied into int8: training on must not leave the copies as they were."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(5, 33), torch.nn.Linear(33, 7)
    layers, x = torch.nn.Sequential(*linear), torch.randn(1, 5)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    for shipped in (linear, ()):
        _ship(*shipped)
        with torch.no_grad():
            result = fast.run_layers(layers, x)
        expected = layers(x)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
        expected.square().sum().backward()
        optimizer.step()


UNCACHED = """
import torch, numba
from worldmodel.prior import fast
from worldmodel.prior.head import TokenHead
from worldmodel.interface.sampling import Sampling

assert not fast.is_kept()
assert not fast.is_compiled()
torch.manual_seed(0)
head = TokenHead(
    num_tokens=5, num_codes=7, width=16, layers=2, heads=2, condition_size=3
).eval()
given = torch.randn(1, 5, 16), torch.rand(1, 3), torch.rand(1, 5), Sampling()
assert torch.equal(fast.sample(head, *given)[0], head.sample(*given)[0])
fast.compile_all()
assert fast.is_compiled()

told = []
fast.compile_once(told.append)
assert not told
fast.is_compiled, fast.compile_all = lambda: False, lambda: None
fast.compile_once(told.append)
assert "at every start" in told[0]
"""


@pytest.mark.slow
def test_where_nothing_can_be_kept_the_head_is_compiled_all_the_same():
    """An install that can't be written to, without a cache folder: "no locator available"."""
    nowhere = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    subprocess.run(
        [sys.executable, "-c", UNCACHED], env=environment | nowhere, check=True, timeout=200
    )


@pytest.mark.slow
def test_the_head_that_was_compiled_ahead_is_the_one_that_draws(tmp_path):
    """Compiled into an empty folder by one process; the next one compiles nothing more."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    compiles = (
        "from worldmodel.prior import fast; assert not fast.is_compiled();"
        "fast.compile_all(); assert fast.is_compiled()"
    )
    subprocess.run([sys.executable, "-c", compiles], env=environment, check=True, timeout=200)
    dreams = (
        "from worldmodel.prior import fast; assert fast.is_compiled();"
        "from envs.dream import DreamEnv; dream = DreamEnv(); dream.reset(seed=0); dream.step(0);"
        "from worldmodel.prior import kernels;"
        "compiled = kernels.sample_frames, kernels.run_block, kernels.normalise;"
        "assert [sum(f.stats.cache_hits.values()) for f in compiled] == [1, 1, 1];"
        "assert not any(f.stats.cache_misses for f in compiled)"
    )
    done = subprocess.run(
        [sys.executable, "-c", dreams], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_top_p_of_nothing_leaves_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    for top_p in (1e-46, 1e-3):
        drawn = draw_codes(logits, torch.tensor([0.9, 0.1]), Sampling(top_p=top_p))
        assert drawn.tolist() == [1, 0]


def test_the_likelihood_told_while_sampling_is_that_of_the_forward_pass():
    torch.manual_seed(0)
    head = TokenHead(
        num_tokens=9, num_codes=NUM_CODES, width=16, layers=1, heads=2, condition_size=3
    ).eval()
    context, actions = torch.randn(4, 9, 16), torch.rand(4, 3)
    codes, nats = head.sample(context, actions, torch.rand(4, 9), Sampling(temperature=0.5))
    with torch.no_grad():
        logits = head(context, codes, actions)
    expected = torch.nn.functional.cross_entropy(logits.mT, codes, reduction="none").mean(1)
    torch.testing.assert_close(nats, expected)


def test_the_likelihood_of_all_frames_sums_to_one():
    torch.manual_seed(0)
    head = TokenHead(num_tokens=3, num_codes=4, width=8, layers=1, heads=1, condition_size=1).eval()
    frames = torch.cartesian_prod(*[torch.arange(4)] * 3)  # all 64
    context = torch.randn(1, 3, 8).expand(64, -1, -1)
    with torch.no_grad():
        logits = head(context, frames, torch.ones(64, 1))
    log_likelihood = -torch.nn.functional.cross_entropy(logits.mT, frames, reduction="none").sum(1)
    assert log_likelihood.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_conditional_norm_starts_as_a_plain_one_whatever_the_condition():
    norm = ConditionalNorm(8, 60)
    x = torch.randn(5, 4, 8)
    expected = torch.nn.functional.layer_norm(x, (8,))
    torch.testing.assert_close(norm(x, torch.ones(5, 60)), expected)


def test_attention_in_training_is_that_of_a_dream():
    # In bf16 on a CPU it is worked out another way.
    torch.manual_seed(0)
    visible = frames_visible(5, 3)
    q, k, v = (torch.randn(2, 4, 5, 8, requires_grad=True) for _ in range(3))
    dreamed = attend_where(visible, q, k, v)
    torch.testing.assert_close(dreamed, F.scaled_dot_product_attention(q, k, v, attn_mask=visible))
    with torch.autocast("cpu", torch.bfloat16):
        trained = attend_where(visible, q, k, v)
    torch.testing.assert_close(trained.float(), dreamed, rtol=0.02, atol=0.02)
    gradients, expected = (
        torch.autograd.grad(y.float().square().sum(), (q, k, v)) for y in (trained, dreamed)
    )
    torch.testing.assert_close(gradients, expected, rtol=0.05, atol=0.05)


def test_frames_see_themselves_and_the_window_before_them():
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert frames_visible(4, 2).int().tolist() == expected


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_codes_are_drawn_with_the_probabilities_that_sampling_asks_for(sampling):
    logits = torch.tensor([2.0, -1.0, 0.5, 1.5, 0.0])
    uniforms = (torch.arange(20_000) + 0.5) / 20_000
    drawn = draw_codes(logits.expand(20_000, -1), uniforms, sampling)
    frequencies = drawn.bincount(minlength=5) / 20_000
    # The same by hand, one rule after the other.
    if sampling.temperature == 0:
        expected = torch.tensor([1.0, 0, 0, 0, 0])
    else:
        expected = (logits / sampling.temperature).softmax(0)
        order = expected.argsort(descending=True)
        if sampling.top_k is not None:
            expected[order[sampling.top_k :]] = 0
            expected /= expected.sum()
        if sampling.top_p is not None:
            reached = expected[order].cumsum(0) - expected[order] >= sampling.top_p
            expected[order[reached]] = 0
        expected = expected / expected.sum()
    torch.testing.assert_close(frequencies, expected, atol=1e-3, rtol=0)


@settings(max_examples=50, deadline=None)
@given(
    logits=st.lists(st.floats(-20, 20), min_size=2, max_size=8),
    uniform=st.floats(0, 1, exclude_max=True, width=32),
    top_k=st.integers(1, 8),
)
def test_a_code_outside_the_k_likeliest_is_never_drawn(logits, uniform, top_k):
    row = torch.tensor(logits)
    drawn = draw_codes(row[None], torch.tensor([uniform]), Sampling(top_k=top_k))[0]
    assert (row > row[drawn]).sum() < top_k


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.5}, {"guidance": -1}],
)
def test_sampling_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Sampling(**wrong)


def some_recent(head: OutcomeHead, batch_size: int):
    return torch.randn(batch_size, head.recent.in_features)


def test_outcome_values_are_those_of_the_data():
    prior = make_prior()
    head = prior.outcome
    assert head.bins[1][: int(head.num_used[1])].tolist() == [-8.0, 0.0, 20.0]
    logits = head(torch.randn(500, 4, 32), some_recent(head, 500))
    drawn = head.sample(logits, 1, torch.rand(500))
    assert set(drawn.tolist()) <= {-8.0, 0.0, 20.0}
    assert head.expected(logits, 0).min() >= 0
    assert head.expected(logits, 0).max() <= 1


def test_common_values_survive_rare_ones():
    """Like changes of health: mostly none, a drain, some medikits, and 34 oddities."""
    values = np.arange(-34.0, 34.0, 2)
    common = np.concatenate([np.zeros(9000), np.full(900, -8.0), np.full(100, 20.0)])
    head = OutcomeHead(width=8, num_variables=0, num_bins=32, window=2)
    head.set_bins([np.concatenate([common, values])])
    assert {0.0, -8.0, 20.0} <= set(head.bins[0].tolist())
    assert int(head.num_used[0]) == 32


def test_continuous_values_become_quantiles():
    samples = np.random.default_rng(0).normal(size=10_000)
    head = OutcomeHead(width=8, num_variables=0, num_bins=5, window=2)
    head.set_bins([samples])
    expected = np.sort(samples)[[0, 2499, 4999, 7499, 9999]].astype(np.float32)  # all were seen
    assert head.bins[0].tolist() == expected.tolist()


def test_new_values_take_over_from_the_nearest_old_ones():
    """With other data what was learned of a value goes on, wherever in the list it now stands."""
    prior = make_prior()  # knows -8, 0 and 20
    head, before = prior.outcome, copy.deepcopy(prior.outcome)
    head.set_bins([np.array([0.0, 1.0]), np.array([-38.0, -8.0, 0.0, 2.0, 20.0]), np.array([0.0])])
    features, recent = torch.randn(3, 4, 32), some_recent(head, 3)
    old, new = before(features, recent), head(features, recent)
    torch.testing.assert_close(new.values[:, 0], old.values[:, 0])
    torch.testing.assert_close(new.values[:, 1, :5], old.values[:, 1][:, [0, 0, 1, 1, 2]])
    torch.testing.assert_close(new.terminated, old.terminated)


def test_a_change_beyond_the_limits_counts_as_the_limit():
    """Who has 3 left loses 3 of 8: to predict -8 is no mistake. Who has 10 left loses 8."""
    torch.manual_seed(0)
    prior = make_prior()
    prior.outcome.set_bins([np.zeros(1), np.array([-8.0, -4.0, 0.0]), np.zeros(1)])
    prior.outcome.variable_high.fill_(100.0)
    values = torch.full((2, 3, 32), -torch.inf)
    values[:, :, 0] = 0.0
    values[:, 1, :3] = torch.tensor([0.6, 0.3, 0.1]).log()
    before, after = torch.tensor([[3.0, 0], [10, 0]]), torch.tensor([[0.0, 0], [2, 0]])
    zeros = torch.zeros(2)
    for weights, expected in (((2.0, 0.0), 0.9), ((0.0, 2.0), 0.6)):
        nats, _ = prior.outcome.losses(
            OutcomeLogits(values, zeros), zeros, zeros, before, after, torch.tensor(weights)
        )
        assert float(nats[1].neg().exp()) == pytest.approx(expected)


def test_what_drains_every_eight_steps_is_predicted_to_the_step():
    """From how it went lately alone, whatever else came; before the first drain it can't be."""
    torch.manual_seed(0)
    prior = make_prior(window=12)
    prior.outcome.set_bins([np.zeros(1), np.array([-8.0, 0, 12, 20]), np.zeros(1)])
    prior.outcome.variable_mean.fill_(50.0)
    prior.outcome.variable_std.fill_(30.0)
    prior.outcome.variable_low.fill_(-1000.0)
    optimizer = torch.optim.Adam(prior.outcome.parameters(), lr=3e-3)

    def health_nats(batch_size: int):
        phases = torch.randint(8, (batch_size, 1))
        time = torch.arange(33)
        health = 100.0 - 8 * ((time + phases) // 8) + 20.0 * (time > 13)
        variables = torch.stack([health, torch.zeros_like(health)], -1)
        history = prior.outcome.history_of_each(variables[:, :-1])
        logits = prior.outcome(torch.zeros(batch_size, 32, 4, 32), history)
        changes = variables.diff(dim=1)
        targets = prior.outcome.nearest_bins(F.pad(changes, (1, 0)))[..., 1]
        return F.cross_entropy(logits.values[:, :, 1].mT, targets, reduction="none")

    for _ in range(500):
        optimizer.zero_grad()
        health_nats(32).mean().backward()
        optimizer.step()
    with torch.no_grad():
        nats = health_nats(256)
    assert nats[:, 16:].mean() < 0.05
    assert nats[:, :8].sum(1).mean() > 1.5  # log 8 = 2.08 at best, over the steps of a period


def test_a_prior_says_the_same_of_variables_that_are_standardised_otherwise():
    torch.manual_seed(0)
    prior = make_prior(window=4)
    prior.standardise_by(torch.tensor([50.0, 3.0]), torch.tensor([20.0, 0.5]))
    codes, actions, variables = make_clips(prior)
    variables = 50 + 20 * variables
    before = predict(prior, codes, actions, variables)
    weights = {name: tensor.clone() for name, tensor in prior.state_dict().items()}
    prior.standardise_by(torch.tensor([40.0, 5.0]), torch.tensor([30.0, 2.0]))
    after = predict(prior, codes, actions, variables)
    torch.testing.assert_close(after.logits, before.logits, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(after.outcomes, before.outcomes, atol=2e-3, rtol=1e-4)
    assert not torch.equal(prior.state_dict()["variable.weight"], weights["variable.weight"])


def test_a_new_prior_keeps_its_random_weights_when_it_hears_of_the_data():
    prior = make_prior()
    weights = {name: tensor.clone() for name, tensor in prior.named_parameters()}
    prior.standardise_by(torch.tensor([50.0, 3.0]), torch.tensor([20.0, 0.5]))
    for name, tensor in prior.named_parameters():
        assert torch.equal(tensor, weights[name]), name
    assert prior.outcome.variable_std.tolist() == [20.0, 0.5]


def test_a_variable_follows_from_the_change_of_one_before_it():
    """The second rises by 1 just when the first rises, and falls when it falls by more than the
    drain: chance alone from the state, certain once the first is known, in draws as in losses."""
    torch.manual_seed(0)
    prior = make_prior()
    changes = torch.tensor([-38.0, -30, -8, 0, 12, 20])
    prior.outcome.set_bins([np.zeros(1), changes.numpy(), np.array([-1.0, 0, 1])])
    prior.outcome.variable_std.fill_(25.0)
    prior.outcome.variable_low.fill_(-1000.0)
    prior.outcome.variable_high.fill_(1000.0)
    optimizer = torch.optim.Adam(prior.outcome.in_turn.parameters(), lr=0.05)
    predicted = OutcomeLogits(torch.zeros(256, 3, 32), torch.zeros(256))
    for row, num_used in enumerate((1, 6, 3)):
        predicted.values[:, row, num_used:] = -torch.inf
    before = torch.zeros(256, 2)

    def second(first: torch.Tensor) -> torch.Tensor:
        return (first > 0).float() - (first < -8).float()

    for _ in range(300):
        first = changes[torch.randint(6, (256,))]
        after = torch.stack([first, second(first)], -1)
        outcomes = prior.outcome.given_changes(predicted, before, after)
        nats, _ = prior.outcome.losses(
            outcomes, torch.zeros(256), torch.zeros(256), before, after, torch.ones(256)
        )
        optimizer.zero_grad()
        nats.sum().backward()
        optimizer.step()
    assert nats[2] < 0.1
    # The first stays a matter of chance.
    assert nats[1].item() == pytest.approx(np.log(6), abs=0.05)
    with torch.no_grad():
        drawn = prior.outcome.draw_variables(predicted, before, torch.rand(256, 2))
    assert set(drawn[:, 0].tolist()) == set(changes.tolist())
    assert (drawn[:, 1] == second(drawn[:, 0])).float().mean() > 0.9


def test_reward_and_end_follow_from_what_the_variables_have_become():
    """Points for a change of the second variable, and an end where the first is at its lowest:
    neither can be told from the state, both can be told from the variables.
    """
    torch.manual_seed(0)
    prior = make_prior()
    prior.outcome.variable_high.fill_(3.0)
    head = prior.outcome
    parameters = [*head.arrival.parameters(), *head.consequences.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)

    def steps(num_steps: int):
        before = torch.randint(0, 4, (num_steps, 2)).float()
        after = torch.randint(0, 4, (num_steps, 2)).float()
        with torch.no_grad():
            predicted = head(torch.randn(num_steps, 4, 32), some_recent(head, num_steps))
        rewards, ends = (after[:, 1] > before[:, 1]).float(), after[:, 0] == 0
        return prior.outcome.given_changes(predicted, before, after), rewards, ends

    for _ in range(400):
        logits, rewards, ends = steps(256)
        no_change = torch.zeros(256, 2)
        value_nats, end_nats = head.losses(
            logits, rewards, ends.float(), no_change, no_change, torch.ones(256)
        )
        optimizer.zero_grad()
        (value_nats[0] + end_nats).backward()
        optimizer.step()
    with torch.no_grad():
        logits, rewards, ends = steps(1000)
    assert ((head.expected(logits, 0) > 0.5) == rewards.bool()).float().mean() > 0.99
    assert ((logits.terminated > 0) == ends).float().mean() > 0.99


def test_a_dream_draws_its_end_knowing_its_new_variables():
    prior = make_prior()
    codes, actions, variables = make_clips(prior)
    memory = prefill(prior, codes[:, :3], actions[:, :3], variables[:, :3])
    uniforms = torch.rand(2, prior.head.num_tokens + 2)
    here = (codes[:, 3], actions[:, 3], variables[:, 3])
    outcome, _ = step(prior, memory.clone(), *here, uniforms, Sampling())
    again = prior(
        codes[:, :4], actions[:, :4], variables[:, :4],
        torch.cat([codes[:, 1:4], outcome.codes[:, None]], 1),
        torch.cat([variables[:, 1:4], outcome.variables[:, None]], 1),
    )  # fmt: skip
    ends = again.outcomes.terminated[:, -1].sigmoid()
    torch.testing.assert_close(outcome.terminated, ends)
    rewards = prior.outcome.expected(again.outcomes, 0)[:, -1]
    torch.testing.assert_close(outcome.reward, rewards)


def test_outcomes_count_by_their_weights():
    """A weight of 3 is what three such frames would be."""
    prior = make_prior()
    head = prior.outcome
    logits = head(torch.randn(2, 4, 32), some_recent(head, 2))
    ends, no_change = torch.tensor([1.0, 0.0]), torch.zeros(2, 2)
    weights = torch.tensor([3.0, 1.0])
    weighted = head.losses(logits, torch.zeros(2), ends, no_change, no_change, weights)
    again = torch.tensor([0, 0, 0, 1])
    repeated = type(logits)(*(each[again] for each in logits))
    same = torch.zeros(4, 2)
    thrice = head.losses(repeated, torch.zeros(4), ends[again], same, same, torch.ones(4))
    for a, b in zip(weighted, thrice, strict=True):
        torch.testing.assert_close(a / 4 * 2, b)
