"""Noise is keyed by pixels and seed, and by nothing else."""

from __future__ import annotations

import numpy as np

from hvaeood_cli.images.content import content_key
from hvaeood_cli.scoring.noise import image_noise
from tests.conftest import make_images

IMAGE, OTHER = make_images(2)


def test_the_same_image_and_seed_give_the_same_noise():
    first, second = image_noise(IMAGE, 0, 3, 10), image_noise(IMAGE.copy(), 0, 3, 10)
    assert np.array_equal(first.uniform, second.uniform)
    assert np.array_equal(first.normal, second.normal)


def test_another_image_or_seed_gives_other_noise():
    first = image_noise(IMAGE, 0, 3, 10)
    for other in (image_noise(OTHER, 0, 3, 10), image_noise(IMAGE, 1, 3, 10)):
        assert not np.array_equal(first.normal, other.normal)
        assert not np.array_equal(first.uniform, other.uniform)


def test_more_samples_begin_with_the_same_ones():
    few, many = image_noise(IMAGE, 0, 2, 10), image_noise(IMAGE, 0, 16, 10)
    assert np.array_equal(few.normal, many.normal[:2])
    assert np.array_equal(few.uniform, many.uniform)


def test_the_key_knows_shape_and_values():
    assert content_key(IMAGE) != content_key(IMAGE.reshape(1, 4, 16))
    assert content_key(IMAGE) != content_key(OTHER)


def test_the_noise_has_the_right_distribution():
    normal = image_noise(IMAGE, 0, 1000, 100).normal
    assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1.0) < 0.02
    uniform = image_noise(make_images(1, size=100)[0], 0, 1, 1).uniform
    assert uniform.min() >= 0.0 and uniform.max() < 1.0 and abs(uniform.mean() - 0.5) < 0.02


def test_the_stream_is_pinned():
    """Scores must not change under a user's feet: a new stream is a new version."""
    noise = image_noise(np.zeros((1, 2, 2), np.uint8), 0, 1, 2)
    assert noise.uniform.ravel()[:2].tolist() == [0.2873679995536804, 0.1720765233039856]
    assert noise.normal.ravel().tolist() == [-0.7766194343566895, -0.6137444972991943]
