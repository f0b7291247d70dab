"""Tiles: every pixel is in one, none holds what is not there, and small images are padded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvaeood_cli.errors import UsageError
from hvaeood_cli.images.tiling import Tiling


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 24), st.data())
def test_every_pixel_is_in_a_tile_and_each_tile_in_the_image(height, width, size, data):
    tiling = Tiling(size, data.draw(st.integers(1, size)), data.draw(st.sampled_from([1.0, 0.5])))
    image = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    pixels, padded = tiling.scaled(image)
    places = tiling.places(*pixels.shape[1:])
    tiles = tiling.cut(pixels)
    assert len(tiles) == len(places) == tiling.count(height, width)
    assert len(np.unique(places, axis=0)) == len(places)
    seen = np.zeros(pixels.shape[1:], bool)
    for (top, left), tile in zip(places, tiles, strict=True):
        seen[top : top + size, left : left + size] = True
        np.testing.assert_array_equal(tile, pixels[:, top : top + size, left : left + size])
    assert seen.all()
    assert padded == (min(tiling.scaled_size(height, width)) < size)


def test_the_last_tiles_are_flush_with_the_edge():
    assert Tiling(32, 16).places(70, 40).tolist() == [
        [0, 0], [0, 8], [16, 0], [16, 8], [32, 0], [32, 8], [38, 0], [38, 8],
    ]  # fmt: skip


def test_a_colour_image_keeps_its_channels():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    tiles = Tiling(8, 8).cut(Tiling(8, 8).scaled(image).pixels)
    assert tiles.shape == (12, 3, 8, 8)
    np.testing.assert_array_equal(tiles[0], image[:8, :8].transpose(2, 0, 1))


def test_what_is_smaller_than_a_tile_is_mirrored():
    pixels, padded = Tiling(8, 4).scaled(np.arange(15, dtype=np.uint8).reshape(5, 3))
    assert padded
    assert pixels.shape == (1, 8, 8)
    assert pixels[0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert pixels[0, :, 0].tolist() == [0, 3, 6, 9, 12, 9, 6, 3]


@pytest.mark.parametrize(("stride", "scale"), [(0, 1.0), (33, 1.0), (16, 0.0), (16, 2.0)])
def test_what_is_no_tiling_is_refused(stride, scale):
    with pytest.raises(UsageError):
        Tiling(32, stride, scale)
