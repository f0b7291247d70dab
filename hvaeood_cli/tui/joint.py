"""Images that two score files share: scored by two models, or lying in two folders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.tui.run import COMBINED, Run
from hvaeood_cli.tui.threshold import Flags

COLUMNS = ("first", "second", "difference", "flagged", "path")


@dataclass(frozen=True, eq=False)
class Joint:
    """M images that two runs share, with the scores and flags of each."""

    rows: NDArray[np.int32]  # (M, 2) rows of the first and the second file
    values: NDArray[np.float64]  # (M, 2) p if both runs are calibrated, else places in the ranking
    difference: NDArray[np.float64]  # (M,) decades, or places, by which it is odder in the second
    flagged: NDArray[np.bool_]  # (M, 2)
    are_p: bool

    def __len__(self) -> int:
        return len(self.rows)

    def order(self, column: str, descending: bool) -> NDArray[np.int64]:
        """The images (0 ... M - 1) sorted by a column, (M,); NaN last."""
        keys = {
            "first": self.values[:, 0],
            "second": self.values[:, 1],
            "difference": np.abs(self.difference),
            "flagged": self.flagged[:, 0] * 1.0 + self.flagged[:, 1] * 2.0,
            "path": self.rows[:, 0].astype(np.float64),
        }
        key = keys[column]
        return np.argsort(-key if descending else key, kind="stable")

    def counts(self) -> dict[str, int]:
        """How many images both runs flag, one of them alone, and neither."""
        first, second = self.flagged.T
        return {
            "both": int((first & second).sum()),
            "first alone": int((first & ~second).sum()),
            "second alone": int((second & ~first).sum()),
            "neither": int((~first & ~second).sum()),
        }


def match(first: ScoreFile, second: ScoreFile) -> NDArray[np.int32]:
    """Pairs of rows with the same image, (M, 2): the same pixels, or else the same bytes.

    Models of different sizes see different pixels in the same file, so both keys are tried. Of
    several copies in a file, the first counts.
    """
    pairs = [_common(first.content, second.content), _common(_bytes_of(first), _bytes_of(second))]
    together = np.concatenate(pairs)
    _, places = np.unique(together[:, 0], return_index=True)
    together = together[np.sort(places)]
    _, places = np.unique(together[:, 1], return_index=True)
    together = together[np.sort(places)]
    return together[np.argsort(together[:, 0], kind="stable")]


def join(first: Run, second: Run, flags: tuple[Flags, Flags]) -> Joint:
    """Join two runs by the images that both have scored. flags: the flags of each."""
    rows = match(first.scores, second.scores)
    rows = rows[first.scores.scored[rows[:, 0]] & second.scores.scored[rows[:, 1]]]
    runs = (first, second)
    are_p = all(run.has_p for run in runs)
    columns = [
        (run.p if are_p else _places(run))[column] for run, column in zip(runs, rows.T, strict=True)
    ]
    values = np.stack(columns, axis=1).astype(np.float64)
    scale = -np.log10(values) if are_p else -values
    pairs = zip(flags, rows.T, strict=True)
    flagged = np.stack([flags.flagged[column] for flags, column in pairs], axis=1)
    return Joint(rows, values, scale[:, 1] - scale[:, 0], flagged, are_p)


def _places(run: Run) -> NDArray[np.float64]:
    """The place of each image in its run's ranking, (N,): 1 is the oddest.

    Combined scores themselves cannot be compared: those of two densities have no common scale.
    """
    places = np.full(len(run), np.nan)
    odder_first = run.order(COMBINED)[: run.n_scored][::-1]
    places[odder_first] = np.arange(1, run.n_scored + 1)
    return places


def _common(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Pairs of rows with equal keys, (M, 2). A key of 0 is none."""
    keys, one, other = np.intersect1d(first, second, return_indices=True)
    return np.asarray(np.stack([one, other], axis=1)[keys != 0], np.int32)


def _bytes_of(scores: ScoreFile) -> NDArray[np.uint64]:
    """The first 64 bits of the hash of each image's bytes, (N,); 0 where there were none."""
    heads = np.ascontiguousarray(scores.sha256[:, :8]).view(">u8").ravel()
    return heads.astype(np.uint64)
