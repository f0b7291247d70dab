"""Philox4x64-10 (Salmon et al., 2011): random bits that are a function of a key and a position.

NumPy's C code on a CPU and integer arithmetic in PyTorch on any other device give the same bits, so
that nothing but a 16-byte key has to reach a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Key = bytes
"""16 bytes: two 64-bit words, little-endian."""

_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW = 0xFFFFFFFF
_NOTHING = np.zeros(4, np.uint64)


class _Thread(threading.local):
    """A generator for each thread, set anew for each key: making one takes as long as 500 words."""

    def __init__(self) -> None:
        self.generator = np.random.Generator(np.random.Philox(0))


_thread = _Thread()


def numpy_words(key: Key, stream: int, n: int) -> NDArray[np.uint64]:
    """n words of 64 random bits, (n,). A longer row begins with the shorter one.

    stream: the counter's highest word; streams of one key have nothing in common.
    """
    generator = _thread.generator
    generator.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": (0, 0, 0, stream), "key": np.frombuffer(key, "<u8")},
        "buffer": _NOTHING,
        "buffer_pos": 4,  # as many as it holds: the first word begins a new block
        "has_uint32": 0,
        "uinteger": 0,
    }
    # the same as `random_raw(n)`, which takes the interpreter's lock at every word
    words: NDArray[np.uint64] = generator.integers(0, 2**64 - 1, n, np.uint64, endpoint=True)
    return words


def torch_words(keys: Sequence[Key], stream: int, n: int, device: torch.device) -> Tensor:
    """The same words for several keys, (len(keys), n) int64, whose arithmetic wraps as uint64's."""
    halves = torch.from_numpy(np.frombuffer(b"".join(keys), "<i8").reshape(-1, 2, 1).copy())
    key_0, key_1 = halves.to(device).unbind(1)  # (B, 1)
    x_0 = torch.arange(1, -(-n // 4) + 1, device=device)  # from 1, as NumPy counts
    x_1 = x_2 = torch.zeros(1, dtype=torch.int64, device=device)
    x_3 = x_2 + stream
    for i in range(_ROUNDS):
        high_0, low_0 = _product(x_0, _MULTIPLIERS[0])
        high_1, low_1 = _product(x_2, _MULTIPLIERS[1])
        x_0 = high_1 ^ x_1 ^ (key_0 + _signed(i * _KEY_STEPS[0]))
        x_2 = high_0 ^ x_3 ^ (key_1 + _signed(i * _KEY_STEPS[1]))
        x_1, x_3 = low_1, low_0
    return torch.stack((x_0, x_1, x_2, x_3), dim=2).flatten(1)[:, :n]


def _product(words: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """The upper and the lower 64 bits of a 128-bit product, by halves of 32 bits."""
    high, low = _upper(words), words & _LOW
    constant_high, constant_low = constant >> 32, constant & _LOW
    first = high * constant_low + _upper(low * constant_low)  # below 2^64: nothing is lost
    second = low * constant_high + (first & _LOW)
    return high * constant_high + _upper(first) + _upper(second), words * _signed(constant)


def _upper(words: Tensor) -> Tensor:
    """The upper 32 bits of each word, as a number that is not negative."""
    return (words >> 32) & _LOW


def _signed(word: int) -> int:
    """The int64 that has the lowest 64 bits of this number."""
    return (word + 2**63) % 2**64 - 2**63
