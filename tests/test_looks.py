"""Looking at scored images again, and turning what is seen into pictures."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import ImageError
from hvaeood_cli.images import arrays
from hvaeood_cli.images.reader import ImageReader
from hvaeood_cli.looks.grid import reconstruction_grid
from hvaeood_cli.looks.look import Look, to_image, to_pixels
from hvaeood_cli.looks.looker import Looking
from hvaeood_cli.store.reader import read_scores
from tests.conftest import make_images


@pytest.fixture
def scores(bundle, folder, monkeypatch):
    """Of four rows of a gzipped IDX file, a file that is no image, and a PNG."""
    images = make_images(4)[:, 0]
    data = b"\0\0\x08\x03" + struct.pack(">III", *images.shape) + images.tobytes()
    (folder / "x-idx3-ubyte.gz").write_bytes(gzip.compress(data))
    (folder / "bad.png").write_bytes(b"text")
    monkeypatch.chdir(folder)
    detector = Detector(bundle.folder)
    sources = ["x-idx3-ubyte.gz", "bad.png", "03.png"]
    detector.run(detector.manifest(sources)).to_file(folder / "s.h5")
    return read_scores(folder / "s.h5")


def test_rows_of_a_gzipped_array_are_unpacked_once(scores, bundle, monkeypatch):
    loaded = []
    load = arrays.load_array
    monkeypatch.setattr(arrays, "load_array", lambda path: (loaded.append(path), load(path))[1])
    looking = Looking(scores, ImageReader(), str(bundle.folder))
    for row in (0, 3, 1):
        [look] = looking([row])
        assert isinstance(look, Look) and not look.changed
        assert np.array_equal(look.image, make_images(4)[row, 0])
    assert len(loaded) == 1


def test_looks_stand_in_the_order_of_the_rows(scores, bundle, folder):
    (folder / "03.png").write_bytes((folder / "05.png").read_bytes())
    looking = Looking(scores, ImageReader(), str(bundle.folder))
    last, bad, first = looking([5, 4, 0])
    assert isinstance(bad, ImageError) and bad.code == "not_an_image"
    assert last.changed and not first.changed
    assert not np.array_equal(first.observed, last.observed)
    assert len(last.from_k) == scores.n_layers and looking([4])[0].code == "not_an_image"


def test_one_way_to_make_a_picture_of_numbers():
    values = np.array([-1.0, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 7.0, np.nan, np.inf], np.float32)
    grey = to_pixels(values.reshape(1, 2, 4))
    assert grey.dtype == np.uint8 and grey.tolist() == [[0, 0, 0, 1], [255, 255, 0, 255]]
    colour = to_pixels(np.stack([np.zeros((2, 5)), np.full((2, 5), 0.2), np.ones((2, 5))]))
    assert colour.shape == (2, 5, 3) and colour[1, 4].tolist() == [0, 51, 255]
    assert to_image(values.reshape(1, 2, 4)).getpixel((3, 0)) == (1, 1, 1)
    assert np.array_equal(np.asarray(Image.fromarray(colour)), colour)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_the_pictures_as_they_are(channels):
    images = make_images(2, 8, channels).astype(np.float32) / 255.0
    grid = reconstruction_grid([(one, one, np.stack([one, 1.0 - one])) for one in images])
    tile = np.asarray(to_image(images[1]).resize((112, 112), Image.Resampling.NEAREST))
    assert np.array_equal(np.asarray(grid)[22 + 120 : 22 + 120 + 112, 8:120], tile)
    assert grid.size == (8 + 4 * 120, 22 + 2 * 120 + 8)
