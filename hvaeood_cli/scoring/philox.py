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
    halves = torch.from_numpy(np.frombuffer(b"".join(keys), "<i8").reshape(-1, 2).T.copy())
    steps = torch.tensor([[_signed(i * step) for step in _KEY_STEPS] for i in range(_ROUNDS)])
    keys_by_round = (steps.unsqueeze(2) + halves).unsqueeze(3).to(device)  # (rounds, 2, B, 1)
    parts = torch.tensor([(word >> 32, word & _LOW, _signed(word)) for word in _MULTIPLIERS])
    constants = parts.T.reshape(3, 2, 1, 1).to(device)
    # The counter's four words, those at even places and those at odd ones: (2, 1 or B, n / 4). One
    # kernel takes both of a pair: on a GPU, starting a kernel takes longer than its work.
    even = torch.zeros(2, 1, -(-n // 4), dtype=torch.int64, device=device)
    odd = even.clone()
    even[0] += torch.arange(1, -(-n // 4) + 1, device=device)  # from 1, as NumPy counts
    odd[1] += stream
    for key in keys_by_round:
        high, low = _product(even, constants)
        even, odd = high.flip(0) ^ odd ^ key, low.flip(0)
    return torch.stack((even, odd), dim=3).permute(1, 2, 0, 3).flatten(1)[:, :n]


def _product(words: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    """The upper and the lower 64 bits of a 128-bit product, by halves of 32 bits.

    constants: each constant's upper half, its lower half, and all of it.
    """
    high, low = _upper(words), words & _LOW
    constant_high, constant_low, constant = constants.unbind()
    first = high * constant_low + _upper(low * constant_low)  # below 2^64: nothing is lost
    second = low * constant_high + (first & _LOW)
    return high * constant_high + _upper(first) + _upper(second), words * constant


def _upper(words: Tensor) -> Tensor:
    """The upper 32 bits of each word, as a number that is not negative."""
    return (words >> 32) & _LOW


def _signed(word: int) -> int:
    """The int64 that has the lowest 64 bits of this number."""
    return (word + 2**63) % 2**64 - 2**63
