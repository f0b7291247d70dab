"""Noise that belongs to an image: keyed by its pixels and the run's seed, by nothing else.

So a score does not depend on the batch that an image is in, on its place there, on the number of
workers or on a resume. Nor does the noise depend on the device, to the last bit. Random bits become
numbers by integer arithmetic and by +, -, * and / of float32, one at a time, which IEEE 754 rounds
in one way only. No logarithm, cosine or square root comes from a library: `torch.sqrt` on a CPU
differs from NumPy's in the last bit of nearly every fifth number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvaeood_cli.scoring.philox import Key, numpy_words, torch_words

_WORDS_AT_A_TIME = 3 << 13  # on a CPU: what its cache holds, in as few calls as can be
_WORDS_ELSEWHERE = 1 << 23  # 64 MiB, of which a dozen are in use


class Stream(IntEnum):
    """What a key's bits are for. Models with different latents see the same pixels."""

    UNIFORM = 0
    NORMAL = 1


def image_key(content: bytes, seed: int) -> Key:
    """The key of an image's noise. content: its `images.content.content_key`; seed: the run's."""
    return hashlib.sha256(content + seed.to_bytes(8, "little")).digest()[:16]


def step_key(seed: int, step: int) -> Key:
    """The key of a whole batch's noise at one step of training."""
    return hashlib.sha256(f"step {step} of training with seed {seed}".encode()).digest()[:16]


def uniforms(keys: Sequence[Key], n: int, device: torch.device) -> Tensor:
    """Uniform numbers, (len(keys), n) float32: multiples of 2^-24 in [0, 1)."""
    n_words = -(-n // 2)
    numbers: Tensor
    if device.type == "cpu":
        drawn = np.stack([numpy_words(key, Stream.UNIFORM, n_words) for key in keys])
        numbers = torch.from_numpy(_uniform(np, drawn))
    else:
        numbers = _uniform(torch, torch_words(keys, Stream.UNIFORM, n_words, device))
    return numbers[:, :n]


def normals(keys: Sequence[Key], n: int, device: torch.device) -> Tensor:
    """Standard normal numbers, (len(keys), n) float32. A longer row begins with the shorter one."""
    stretches = -(-n // (2 * _STRETCH))
    n_words = stretches * _STRETCH
    shape = (len(keys), stretches, 2, _STRETCH)
    if device.type == "cpu":
        array = np.empty(shape, np.float32)
        n_keys = max(1, _WORDS_AT_A_TIME // n_words)
        for begin in range(0, len(keys), n_keys):
            few = slice(begin, begin + n_keys)
            drawn = [numpy_words(key, Stream.NORMAL, n_words) for key in keys[few]]
            _fill(array[few].reshape(-1, 2, _STRETCH), np.concatenate(drawn))
        return torch.from_numpy(array).flatten(1)[:, :n]
    rows = torch.empty(shape, device=device)
    n_keys = max(1, _WORDS_ELSEWHERE // n_words)
    for begin in range(0, len(keys), n_keys):
        few = slice(begin, begin + n_keys)
        words = torch_words(keys[few], Stream.NORMAL, n_words, device)
        bits = words.view(torch.int32).unflatten(1, (stretches, 2, _STRETCH))
        _box_muller(torch, bits, rows[few])
    return rows.flatten(1)[:, :n]


def _fill(out: NDArray[np.float32], words: NDArray[np.uint64]) -> None:
    """Fill an array with normal numbers, part by part. out: (stretches, 2, _STRETCH)."""
    bits = words.view(np.int32).reshape(out.shape)
    n_stretches = _WORDS_AT_A_TIME // _STRETCH
    for begin in range(0, len(out), n_stretches):
        part = slice(begin, begin + n_stretches)
        _box_muller(np, bits[part], out[part])


# From here on `xp` is NumPy or PyTorch, and all arrays are of that library. Each 64-bit word is
# read as two int32. _STRETCH of them are for radii and the next _STRETCH for angles: together they
# make 2 * _STRETCH normal numbers.

_STRETCH = 128
_SIGN = -(2**31)
_SQRT_HALF = 0x3F3504F3  # sqrt(1/2), as the bits of a float32
_MANTISSA = 0x7FFFFF
_LOG_4 = 1.38629436492919921875
# Masks the 31 bits of a radius. The bit of 2^7 is left out, lest u round to 1 and r to 0.
_RADIUS = 0x7FFFFF7F
# Minimax polynomials in float32, the highest power first; their errors are below 2e-7.
# 4 atanh(s) / s in powers of s^2:
_4_ATANH = (0.8259274363517761, 1.3330445289611816, 4.000000476837158)
_SINE = (  # sin(pi x) / x in powers of x^2 <= 1/4
    0.07756038755178452,
    -0.5982421040534973,
    2.550069808959961,
    -5.167709827423096,
    3.1415927410125732,
)
_COSINE = (  # cos(pi x) in powers of x^2 <= 1/4
    0.2196968048810959,
    -1.3318802118301392,
    4.058412075042725,
    -4.934792995452881,
    0.9999999403953552,
)


def _uniform(xp: Any, words: Any) -> Any:
    """Uniform numbers in [0, 1), two from each word."""
    return _float(xp, (words.view(xp.int32) >> 8) & 0xFFFFFF) * 2.0**-24


def _box_muller(xp: Any, bits: Any, out: Any) -> None:
    """Normal numbers r (cos phi, sin phi), r = sqrt(-2 log u), from (..., 2, n) to the same shape.

    Box & Muller (1958). One of the bits for r is its sign, so phi needs to go over half the
    circle only. The numbers go up to sqrt(62 log 2) = 6.56.
    """
    radius_bits, angle_bits = bits[..., 0, :], bits[..., 1, :]
    r = _sqrt(xp, _minus_2_log(xp, radius_bits)).view(xp.int32)
    r |= radius_bits & _SIGN
    r = r.view(xp.float32)
    x = _float(xp, angle_bits)
    x *= 2.0**-32  # phi / pi, in [-1/2, 1/2]
    square = x * x
    xp.multiply(r, _polynomial(_COSINE, square), out=out[..., 0, :])
    x *= _polynomial(_SINE, square)
    xp.multiply(r, x, out=out[..., 1, :])


def _minus_2_log(xp: Any, bits: Any) -> Any:
    """-2 log u of a u in (0, 1), in (0, 43]."""
    t = _float(xp, bits & _RADIUS)
    t += 1.0  # 2^31 u = 2^(31 + e) f, with f in [sqrt(1/2), sqrt(2)) and e <= 0
    parts = t.view(xp.int32)
    parts -= _SQRT_HALF + (31 << 23)
    e = _float(xp, parts >> 23)
    parts &= _MANTISSA
    parts += _SQRT_HALF
    f = t
    s = f - 1.0  # log f = 2 atanh((f - 1) / (f + 1))
    f += 1.0
    s /= f
    s *= _polynomial(_4_ATANH, s * s)
    e *= -_LOG_4
    e -= s
    return e


def _sqrt(xp: Any, x: Any) -> Any:
    """Square roots by two of Heron's steps, with a relative error of at most 5e-8."""
    guess = (x.view(xp.int32) >> 1) + 0x1FBB7000  # halves the exponent: to 4 %
    root = guess.view(xp.float32)
    for half in (0.49984827637672424, 0.5):  # the first factor centres the error around 0
        quotient = x / root
        root += quotient
        root *= half
    return root


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    """The polynomial's value at x, by Horner's rule. coefficients: the highest power first."""
    y = x * coefficients[0]
    for coefficient in coefficients[1:-1]:
        y += coefficient
        y *= x
    y += coefficients[-1]
    return y


def _float(xp: Any, integers: Any) -> Any:
    """The nearest float32 of each int32."""
    numbers = xp.empty_like(integers, dtype=xp.float32)
    numbers[...] = integers
    return numbers
