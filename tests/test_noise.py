"""Noise is keyed by pixels and seed, and by nothing else; it is normal; it is the same anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtri

from hvaeood_cli.images.content import content_key
from hvaeood_cli.scoring import noise as noise_module
from hvaeood_cli.scoring.noise import image_key, normals, step_key, uniforms
from hvaeood_cli.scoring.philox import numpy_words, torch_words
from tests.conftest import make_images

CPU = torch.device("cpu")
IMAGE, OTHER = (content_key(image) for image in make_images(2))
KEY = image_key(IMAGE, 0)

words = st.integers(0, 2**64 - 1)


@settings(max_examples=60, deadline=None)
@given(first=words, second=words, stream=st.integers(0, 5), n=st.integers(1, 70))
def test_philox_in_tensors_is_numpys(first, second, stream, n):
    keys = [a.to_bytes(8, "little") + b.to_bytes(8, "little") for a, b in ((first, second), (0, 1))]
    expected = np.stack([numpy_words(key, stream, n) for key in keys])
    assert np.array_equal(torch_words(keys, stream, n, CPU).numpy().view(np.uint64), expected)


def test_numpys_words_are_the_generators_own():
    """And of Salmon's algorithm: NumPy counts once before its first block."""
    generator = np.random.Philox(key=np.array([3, 4], np.uint64), counter=[0, 0, 0, 1])
    key = (3).to_bytes(8, "little") + (4).to_bytes(8, "little")
    assert np.array_equal(numpy_words(key, 1, 999), generator.random_raw(999))


def test_the_transform_in_tensors_is_numpys():
    """With the arithmetic of two libraries, and where bits are at their ends."""
    bits = numpy_words(KEY, 1, 1 << 18).view(np.int32).reshape(-1, 2, 128)
    bits[0, 0, :6] = (0, -1, 2**31 - 1, -(2**31), 128, 0x7FFFFF7F)
    bits[0, 1, :6] = (0, -1, 2**31 - 1, -(2**31), 2**31 - 1, -(2**31))
    by_numpy, by_torch = np.empty(bits.shape, np.float32), torch.empty(bits.shape)
    noise_module._box_muller(np, bits, by_numpy)
    noise_module._box_muller(torch, torch.from_numpy(bits), by_torch)
    assert np.array_equal(by_numpy.view(np.int32), by_torch.numpy().view(np.int32))
    assert np.isfinite(by_numpy).all() and abs(by_numpy).max() < 6.6


def test_the_transform_is_box_and_mullers():
    """Against float64 and a library's functions, of the u that is meant."""
    bits = numpy_words(KEY, 1, 1 << 18).view(np.int32).reshape(-1, 2, 128)
    made = np.empty(bits.shape, np.float32)
    noise_module._box_muller(np, bits, made)
    u = ((bits[:, 0] & 0x7FFFFF7F).astype(np.float32) + np.float32(1.0)).astype(np.float64) / 2**31
    radius = np.where(bits[:, 0] < 0, -1.0, 1.0) * np.sqrt(-2.0 * np.log(u))
    phi = np.pi * bits[:, 1].astype(np.float32).astype(np.float64) / 2**32
    np.testing.assert_allclose(made[:, 0], radius * np.cos(phi), atol=2e-6, rtol=0)
    np.testing.assert_allclose(made[:, 1], radius * np.sin(phi), atol=2e-6, rtol=0)


def test_the_noise_is_normal():
    z = normals([KEY], 4_000_000, CPU).numpy().ravel().astype(np.float64)
    n = len(z)
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1.0) < 4 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3.0) < 4 * np.sqrt(96 / n)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs((z > 0).mean() - 0.5) < 2 / np.sqrt(n)  # symmetric
    for p in (1e-4, 1e-3, 0.1, 0.5, 0.9, 0.999, 0.9999):  # its quantiles are the normal's
        deviation = np.sqrt(p * (1 - p) / n) / stats.norm.pdf(ndtri(p))
        assert abs(np.quantile(z, p) - ndtri(p)) < 4.5 * deviation


def test_neighbours_are_independent():
    """Also the two numbers that come from one word, and squares: a circle has no memory."""
    z = normals([KEY], 1 << 20, CPU).view(-1, 2, 128).numpy().astype(np.float64)
    pairs = {
        "of a word": (z[:, 0], z[:, 1]),
        "side by side": (z[..., :-1], z[..., 1:]),
        "of two rows": (z[:-1, 0], z[1:, 0]),
    }
    for name, (a, b) in pairs.items():
        for power in (1, 2):
            correlation = np.corrcoef((a**power).ravel(), (b**power).ravel())[0, 1]
            assert abs(correlation) < 5 / np.sqrt(a.size), (name, power)


def test_the_uniform_part_is_uniform():
    u = uniforms([KEY], 1_000_000, CPU).numpy().ravel()
    assert u.dtype == np.float32 and u.min() >= 0.0 and u.max() < 1.0
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert (u * 2**24 == np.floor(u * 2**24)).all()


@pytest.mark.parametrize("draw", [normals, uniforms])
def test_a_key_has_its_noise_in_any_company(draw):
    keys = [image_key(content, seed) for content in (IMAGE, OTHER) for seed in (0, 1)]
    rows = draw(keys, 300, CPU)
    assert len({row.numpy().tobytes() for row in rows}) == 4
    for key, row in zip(keys, rows, strict=True):
        assert torch.equal(draw([key], 300, CPU)[0], row)
        assert torch.equal(draw([key], 7, CPU)[0], row[:7])  # fewer begin with the same


def test_steps_of_training_have_keys_of_their_own():
    assert len({step_key(seed, step) for seed in range(3) for step in range(-5, 5)}) == 30


def test_on_a_device_images_are_taken_some_at_a_time(monkeypatch):
    """In pieces that its memory holds; meta stands for it."""
    sizes, drawn = [], noise_module.torch_words

    def counted(keys, *arguments):
        sizes.append(len(keys))
        return drawn(keys, *arguments)

    monkeypatch.setattr(noise_module, "torch_words", counted)
    monkeypatch.setattr(noise_module, "_WORDS_ELSEWHERE", 1024)
    assert normals([KEY] * 5, 1000, torch.device("meta")).shape == (5, 1000)
    assert sizes == [2, 2, 1]


def test_the_key_knows_shape_and_values():
    image, other = make_images(2)
    assert content_key(image) != content_key(image.reshape(1, 4, 16))
    assert content_key(image) != content_key(other)


def test_the_stream_is_pinned():
    """Scores must not change under a user's feet: a new stream is a new version."""
    key = image_key(content_key(np.zeros((1, 2, 2), np.uint8)), 0)
    assert uniforms([key], 2, CPU).tolist() == [[0.2873679995536804, 0.1720765233039856]]
    assert normals([key], 2, CPU).tolist() == [[1.5804308652877808, 0.6676557660102844]]
