import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.media.resize import AreaResize


@settings(max_examples=30, deadline=None)
@given(data=st.data(), size_out=st.tuples(st.integers(1, 16), st.integers(1, 16)))
def test_equals_the_mean_of_a_fine_grid(data, size_out) -> None:
    """Repeating pixels until both grids divide it, then averaging blocks: the definition."""
    image = data.draw(hnp.arrays(np.uint8, (6, 10, 3)))
    fine = image.repeat(size_out[0], 0).repeat(size_out[1], 1).astype(np.float64)
    blocks = fine.reshape(size_out[0], 6, size_out[1], 10, 3).mean((1, 3))
    shrunk = AreaResize((6, 10), size_out)(image)
    assert np.abs(shrunk - blocks).max() <= 0.5 + 1e-6


def test_equals_pytorch_where_sizes_divide() -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    pooled = torch.nn.functional.avg_pool2d(
        torch.from_numpy(image).permute(2, 0, 1).double(), (4, 5)
    )
    expected = pooled.permute(1, 2, 0).numpy()
    assert np.abs(AreaResize((120, 160), (30, 32))(image) - expected).max() <= 0.5


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_a_flat_image_stays_as_it_is(value) -> None:
    image = np.full((120, 160, 3), value, np.uint8)
    assert (AreaResize((120, 160), (64, 64))(image) == value).all()
