"""The networks of FVD and the inception score, on weights made up here."""

import hashlib
import os
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.errors import UserError
from worldmodel.metrics.features import (
    STYLEGAN_V,
    TORCHSCRIPT_SHA256,
    VIDEOGPT,
    FeatureNetwork,
    Protocol,
    load_i3d,
)
from worldmodel.metrics.frechet import frechet_distance
from worldmodel.metrics.i3d import I3D, pad_same
from worldmodel.videogpt.inception import C3D, load_c3d


def random_clips(seed: int, *, num_clips: int = 1, colours: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_clips, 9, 8, 8, colours), dtype=np.uint8)


@pytest.fixture(scope="module")
def i3d_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[I3D, Path]:
    """An I3D of random weights and running statistics, and its state dict as a file."""
    torch.manual_seed(0)
    network = I3D(eps=0.25).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.3, 1.3)
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.2)
        elif tensor.ndim == 5:  # torch's own first weights would shrink every clip to nothing
            nn.init.kaiming_normal_(tensor, nonlinearity="relu")
    weights = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    path = tmp_path_factory.mktemp("i3d") / "i3d.safetensors"
    save_file(weights, path, metadata={"batch_norm_eps": "0.25"})
    return network, path


def test_i3d_has_the_parameters_of_carreira_and_zisserman() -> None:
    with torch.device("meta"):
        network = I3D(eps=1e-3)
    # Worked out from the paper's table of Inception-v1, and that of piergiaj/pytorch-i3d.
    count = 3 * 64 * 7**3 + 64 * 64 + 64 * 192 * 27 + 2 * (64 + 64 + 192) + 1024 * 400 + 400
    inputs = 192
    for a, b1, b2, c1, c2, d in (
        (64, 96, 128, 16, 32, 32),
        (128, 128, 192, 32, 96, 64),
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
        (256, 160, 320, 32, 128, 128),
        (384, 192, 384, 48, 128, 128),
    ):
        count += inputs * (a + b1 + c1 + d) + 27 * (b1 * b2 + c1 * c2)
        count += 2 * (a + b1 + b2 + c1 + c2 + d)
        inputs = a + b2 + c2 + d
    assert sum(p.numel() for p in network.parameters()) == count == 12_697_264
    names = network.state_dict()
    assert {"Conv3d_1a_7x7.conv3d.weight", "Mixed_4f.b2b.bn.running_var"} <= set(names)
    assert names["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)


@given(size=st.integers(1, 40), kernel=st.integers(1, 7), stride=st.integers(1, 3))
def test_padding_is_tensorflows_same(size: int, kernel: int, stride: int) -> None:
    padded = pad_same(torch.ones(1, 1, 1, 1, size), (1, 1, kernel), (1, 1, stride))
    row = padded[0, 0, 0, 0]
    windows = row.unfold(0, kernel, stride)
    assert len(windows) == -(-size // stride)
    before = int((row.cumsum(0) == 0).sum())
    after = len(row) - size - before
    # Nothing more than the last window needs, unless a stride jumps over the edge by itself.
    assert after - before in (0, 1)
    assert after == 0 or (len(windows) - 1) * stride + kernel == len(row)


def test_i3d_from_a_file_sees_clips_resized_and_in_minus_one_to_one(
    i3d_file: tuple[I3D, Path],
) -> None:
    network, path = i3d_file
    loaded = load_i3d(path, VIDEOGPT)
    clips = random_clips(1, num_clips=2)
    frames = torch.from_numpy(clips[1:]).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    resized = F.interpolate(frames, (9, 224, 224), mode="trilinear", align_corners=False)
    with torch.no_grad():
        expected = network(resized).numpy()
    found = loaded.features(clips)
    assert found.dtype == np.float64
    assert found.shape == (2, 400)
    np.testing.assert_allclose(found[1:], expected, rtol=1e-3, atol=1e-3)
    assert np.abs(found[0] - found[1]).max() > 1e-2  # the clips are told apart
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.metric, loaded.protocol) == ("FVD", VIDEOGPT)


def test_i3d_refuses_clips_that_are_too_short(i3d_file: tuple[I3D, Path]) -> None:
    loaded = load_i3d(i3d_file[1], VIDEOGPT)
    with pytest.raises(UserError, match="9 frames at least, not 8"):
        loaded.features(random_clips(3)[:, :8])


def test_without_weights_the_message_says_where_they_are() -> None:
    with pytest.raises(UserError, match=f"dropbox.com.*{TORCHSCRIPT_SHA256}.*--i3d-weights"):
        load_i3d(None, VIDEOGPT)
    with pytest.raises(UserError, match=r"there is no file nowhere\.pt: get StyleGAN-V's"):
        load_i3d(Path("nowhere.pt"), STYLEGAN_V)
    with pytest.raises(UserError, match=r"github\.com/rezoo/tgan2.*--c3d-weights"):
        load_c3d(None)
    with pytest.raises(UserError, match=r"there is no file nowhere\.npz"):
        load_c3d(Path("nowhere.npz"))


def test_state_dicts_that_do_not_fit_are_named(i3d_file: tuple[I3D, Path], tmp_path: Path) -> None:
    weights = {k: v for k, v in i3d_file[0].state_dict().items() if "num_batches" not in k}
    other = tmp_path / "other.safetensors"

    save_file({k: v for k, v in weights.items() if k != "Mixed_5c.b0.bn.bias"}, other)
    with pytest.raises(UserError, match=r"it lacks Mixed_5c\.b0\.bn\.bias"):
        load_i3d(other, VIDEOGPT)

    save_file(weights | {"logits.conv3d.bias": torch.zeros(600)}, other)
    with pytest.raises(UserError, match=r"logits\.conv3d\.bias has shape \[600\], not \[400\]"):
        load_i3d(other, VIDEOGPT)

    save_file(weights | {"logits.conv3d.bias": torch.full((400,), torch.nan)}, other)
    with pytest.raises(UserError, match=r"logits\.conv3d\.bias holds numbers that are not"):
        load_i3d(other, VIDEOGPT)

    save_file(weights, other, metadata={"batch_norm_eps": "nan"})
    with pytest.raises(UserError, match="batch_norm_eps must be between 0 and 1, not nan"):
        load_i3d(other, VIDEOGPT)

    other.write_bytes(other.read_bytes()[:-1000])
    with pytest.raises(UserError, match="is damaged"):
        load_i3d(other, VIDEOGPT)

    with pytest.raises(UserError, match="StyleGAN-V's protocol needs its own archive"):
        load_i3d(i3d_file[1], STYLEGAN_V)


class ToyArchive(nn.Module):
    """Called like StyleGAN-V's I3D: colour means, the size of frames, and what was asked for."""

    def forward(
        self,
        x: Tensor,
        rescale: bool = False,
        resize: bool = False,
        return_features: bool = False,
    ) -> Tensor:
        size = torch.full((x.shape[0], 1), float(x.shape[3]))
        asked = torch.full((x.shape[0], 1), float(rescale) + 2.0 * float(resize))
        return torch.cat([x.mean((2, 3, 4)), size, asked + 4.0 * float(return_features)], 1)


class PlainArchive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3, 4))


def write_archive(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


def test_an_archive_of_another_digest_runs_only_when_trusted(tmp_path: Path) -> None:
    path = write_archive(ToyArchive(), tmp_path / "i3d.pt")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"{digest}, not {TORCHSCRIPT_SHA256}.*--trust-weights"):
        load_i3d(path, STYLEGAN_V)
    assert load_i3d(path, STYLEGAN_V, trust_weights=True).sha256 == digest


def test_each_protocol_prepares_clips_in_its_own_way(tmp_path: Path) -> None:
    path = write_archive(ToyArchive(), tmp_path / "i3d.pt")
    clips = np.empty((2, 9, 8, 8, 3), np.uint8)
    clips[0], clips[1] = (255, 0, 51), (0, 255, 204)

    def features(protocol: Protocol) -> np.ndarray:
        return load_i3d(path, protocol, trust_weights=True).features(clips)

    # 0..255 as they are, the archive resizes and scales; it returns logits both times.
    expected = [[255, 0, 51, 8, 7], [0, 255, 204, 8, 7]]
    np.testing.assert_allclose(features(STYLEGAN_V), expected, rtol=1e-6)
    expected = [[1, -1, -0.6, 224, 4], [-1, 1, 0.6, 224, 4]]
    np.testing.assert_allclose(features(VIDEOGPT), expected, rtol=1e-4)


def test_grey_clips_are_three_equal_colours(tmp_path: Path) -> None:
    path = write_archive(ToyArchive(), tmp_path / "i3d.pt")
    loaded = load_i3d(path, STYLEGAN_V, trust_weights=True)
    grey = random_clips(2, colours=1)
    found = loaded.features(grey)
    np.testing.assert_allclose(found[:, :3], grey.mean(), rtol=1e-5)


def test_files_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    pickled = tmp_path / "rgb_imagenet.pt"
    torch.save({"weight": torch.zeros(3)}, pickled)
    with pytest.raises(UserError, match="a pickled state dict must become safetensors first"):
        load_i3d(pickled, VIDEOGPT)
    with pytest.raises(UserError, match="is no TorchScript archive"):
        load_i3d(pickled, VIDEOGPT, trust_weights=True)
    other = write_archive(PlainArchive(), tmp_path / "other.pt")
    with pytest.raises(UserError, match="is not called as StyleGAN-V's I3D is"):
        load_i3d(other, VIDEOGPT, trust_weights=True)


def test_c3d_has_the_parameters_of_its_paper() -> None:
    with torch.device("meta"):
        network = C3D(np.zeros((3, 16, 128, 171)))
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    count = sum(27 * a * b + b for a, b in pairwise(widths))
    count += (8192 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 101
    assert sum(p.numel() for p in network.parameters()) == count == 78_409_573


@pytest.fixture(scope="module")
def c3d_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C3D whose first class is the largest blue, less the mean, in the first 32x32 pixels.

    Its convolutions hand on one channel, the second takes the place of the first by its bias.
    """
    with torch.device("meta"):
        shapes = C3D(np.zeros((3, 16, 128, 171))).state_dict()
    arrays = {}
    for name, tensor in shapes.items():
        layer, _, kind = name.partition(".")
        array = np.zeros(tensor.shape, np.float32)
        if kind == "weight":
            array[(0, 0, 1, 1, 1) if array.ndim == 5 else (0, 0)] = 1.0
        arrays[f"{layer}/{'W' if kind == 'weight' else 'b'}"] = array
    arrays["fc8/b"][1] = 5.0
    folder = tmp_path_factory.mktemp("c3d")
    np.savez_compressed(folder / "conv3d_deepnetA_ucf.npz", **arrays)
    mean = np.full((3, 16, 128, 171), 99.0, np.float32)
    mean[0, :, 8:120, 8:120] = 40.0  # blue, in the square that counts
    np.savez(folder / "mean2.npz", mean=mean)
    return folder / "conv3d_deepnetA_ucf.npz"


def test_c3d_from_a_file_sees_blue_first_in_0_to_256_less_the_mean(c3d_file: Path) -> None:
    network = load_c3d(c3d_file)
    clips = np.zeros((1, 16, 64, 64, 3), np.uint8)
    clips[..., 2] = 150
    clips[0, 5, 10, 10] = (255, 255, 200)
    clips[0, 5, 30:, 30:, 2] = 255  # beyond the first cell
    logits = network.features(clips)
    assert logits.shape == (1, 101)
    # 112 pixels over 64, corner on corner: the bright pixel falls between two.
    at = 10 * 111 / 63
    reach = max(1 - abs(round(at) - at) * 63 / 111, 0.0)
    expected = (150 + 50 * reach**2) / 255 * 256 - 40
    assert logits[0, 0] == pytest.approx(expected, rel=1e-5)
    assert logits[0, 1] == 5.0
    assert not logits[0, 2:].any()
    assert network.metric == "Inception score"
    with pytest.raises(UserError, match="16 frames, not 9"):
        network.features(random_clips(5))


def test_arrays_that_do_not_fit_are_named(c3d_file: Path, tmp_path: Path) -> None:
    mean = tmp_path / "mean2.npz"
    weights = tmp_path / "weights.npz"
    weights.write_bytes(b"PK but no archive")
    with pytest.raises(UserError, match=r"there is no file .*mean2\.npz"):
        load_c3d(weights)
    np.savez(mean, mean=np.zeros((3, 16, 112, 112), np.float32))
    with pytest.raises(UserError, match=r"mean should be floats of shape \(3, 16, 128, 171\)"):
        load_c3d(weights)
    np.savez(mean, mean=np.full((3, 16, 128, 171), np.inf, np.float32))
    with pytest.raises(UserError, match="mean holds numbers that are not finite"):
        load_c3d(weights)
    mean.write_bytes(c3d_file.with_name("mean2.npz").read_bytes())
    with pytest.raises(UserError, match=r"weights\.npz is damaged or another file"):
        load_c3d(weights)
    arrays: dict[str, Any] = {"conv1a/W": np.zeros((64, 3, 3, 3, 3), np.float32)}
    np.savez(weights, **arrays)
    with pytest.raises(UserError, match="conv1a/b"):
        load_c3d(weights)
    arrays["conv1a/W"] = np.asarray([{"pickled": True}], object)
    np.savez(weights, **arrays)
    with pytest.raises(UserError, match="conv1a/W should be floats"):
        load_c3d(weights)


@pytest.mark.slow
def test_black_against_white_with_the_real_weights() -> None:
    """151.26 with StyleGAN-V's archive, 151.17 with VideoGPT's weights, by
    JunyaoHu/common_metrics_on_video_quality."""
    named = os.environ.get("VIDEOGPT_I3D")
    if not named:
        pytest.skip("VIDEOGPT_I3D should name i3d_torchscript.pt or an I3D as safetensors")
    protocols = [VIDEOGPT] if named.endswith(".safetensors") else [VIDEOGPT, STYLEGAN_V]
    for protocol in protocols:
        network: FeatureNetwork = load_i3d(Path(named), protocol)
        black, white = (
            network.features(np.full((8, 30, 64, 64, 3), level, np.uint8)) for level in (0, 255)
        )
        assert frechet_distance(black, white) == pytest.approx(151.2, abs=1.0)
