"""Bar charts of characters: what stands in each cell, with one bar in each column."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCKS = " ▁▂▃▄▅▆▇"
_CAPS = "▁─▔"

CellStyle = tuple[str, str, str]  # glyph, its colour, the colour behind it; "" is none
Place = tuple[int, int]  # column, row from the bottom


@dataclass(frozen=True)
class Bars:
    """B bars in a chart of `rows` cells' height. The lowest part of each bar is flagged.

    Heights are in eighths of a cell.
    """

    rows: int
    here: NDArray[np.int64]  # (B,)
    flagged: NDArray[np.int64]  # (B,) <= here

    def cells(self, caps: NDArray[np.int64] | None) -> dict[CellStyle, list[Place]]:
        """The chart's cells, by style. caps: (B,), heights that a stroke over the bars marks.

        A full cell is a space on a coloured ground: in some fonts a full block leaves gaps.
        """
        styles: dict[Place, CellStyle] = {}
        for column, (here, flagged) in enumerate(zip(self.here, self.flagged, strict=True)):
            for row in range(min(-(-int(here) // 8), self.rows)):
                styles[column, row] = self._style(int(here) - 8 * row, int(flagged) - 8 * row)
        for column, height in enumerate([] if caps is None else map(int, caps)):
            if height > 0:
                row = min((height - 1) // 8, self.rows - 1)
                _, ink, paper = styles.get((column, row), ("", "", ""))
                behind = paper if paper or int(self.here[column]) - 8 * row < 8 else ink
                stroke = _CAPS[min((height - 1) % 8 // 3, 2)]
                styles[column, row] = (stroke, "usual", behind)
        grouped: dict[CellStyle, list[Place]] = defaultdict(list)
        for place, style in styles.items():
            grouped[style].append(place)
        return grouped

    @staticmethod
    def _style(here: int, flagged: int) -> CellStyle:
        """The style of one cell, which is filled and flagged up to these eighths."""
        if flagged >= 8:
            return " ", "", "flagged"
        if flagged > 0:
            return _BLOCKS[flagged], "flagged", "here" if here >= 8 else ""
        return (" ", "", "here") if here >= 8 else (_BLOCKS[max(here, 1)], "here", "")
