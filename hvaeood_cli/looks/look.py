"""What there is to see of a scored image; who can show it is passed to those who ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.errors import HvaeoodError


class Look(NamedTuple):
    """An image beside what the model makes of it."""

    image: NDArray[np.uint8]  # (H, W) or (H, W, 3), as it was read
    observed: NDArray[np.float32]  # (C, H, W): the x that was scored, on the scale 0 to 1
    from_k: NDArray[np.float32]  # (L, C, H, W): E[x|z] from k = 0 ... L - 1, on the same scale
    changed: bool  # whether it is another image now than the one that was scored


Looker = Callable[[Sequence[int]], list[Look | HvaeoodError]]
"""Rows of a score file -> what each looks like, or why that cannot be shown."""
