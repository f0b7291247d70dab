"""Does a model know the images of a run at all? Where it flags most of them, none is a find.

A calibration promises how few of the images that belong are flagged. Where a large part is flagged
nevertheless, these images are of another kind than the model's: each is odd to it, and the oddest
is no more of a find than the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.store.conversions import in_words
from hvaeood_cli.store.score_file import ScoreFile

_MOST_FLAGGED = 1 / 3  # of the scored images, by a model that knows them
_HIGHEST_LEVEL = 0.1  # a rule that asks for more errors flags many in any case
_LEAST_IMAGES = 20  # of fewer, a third may well be odd

_TELLING = ("resized", "greyed", "coloured")  # conversions that change how an image scores

# What finds the odd ones among images that no model knows: the first by itself, or the others.
OWN_MODEL = (
    "hvaeood find FOLDER",
    "hvaeood train FOLDER --out my-model",
    "hvaeood score FOLDER --model my-model",
)


class Foreign(NamedTuple):
    """Images that their model does not know."""

    model: str  # its name, as the score file has it
    n_flagged: int
    n_scored: int
    ways: tuple[str, ...]  # in which they are foreign, a sentence each; empty where none is known

    @property
    def headline(self) -> str:
        return (
            f"The model {self.model} does not know these images: {self.n_flagged:,} of "
            f"{self.n_scored:,} are flagged"
        )


def knows_images(scores: ScoreFile) -> bool | None:
    """Whether the model knows the images of a run; None where that cannot be said.

    It can be said of 20 scored images or more that are decided at a level of 0.1 at most: the model
    knows them if a third of them at most is flagged.
    """
    decision = scores.decision
    if decision is None or decision.level > _HIGHEST_LEVEL or scores.n_scored < _LEAST_IMAGES:
        return None
    return decision.n_flagged <= _MOST_FLAGGED * scores.n_scored


def foreign(scores: ScoreFile, calibration: Calibration | None) -> Foreign | None:
    """What is foreign about the images of a run; None where the model knows them, or may do.

    calibration: the one that decided the scores; None if it is not at hand.
    """
    if scores.decision is None or knows_images(scores) is not False:
        return None
    ways = [_conversions(scores, calibration), _costs(scores, calibration)]
    return Foreign(
        model=scores.header.model_name,
        n_flagged=scores.decision.n_flagged,
        n_scored=scores.n_scored,
        ways=tuple(way for way in ways if way),
    )


def _conversions(scores: ScoreFile, calibration: Calibration | None) -> str:
    """What was done to most of these images, and not to most of the model's."""
    usual = calibration.about.get("converted") if calibration else None
    usual = usual if isinstance(usual, list) else []  # a file may say anything
    said = [
        f"{in_words(name, scores.header.image_size)} ({count:,})"
        for name, count in scores.conversion_counts.items()
        if name in _TELLING and name not in usual and count > scores.n_scored / 2
    ]
    return f"they were {', '.join(said)}, unlike those that the model knows" if said else ""


def _costs(scores: ScoreFile, calibration: Calibration | None) -> str:
    """Whether the model needs more or fewer bits for these images than for nearly all it knows."""
    if calibration is None:
        return ""
    usual, here = calibration["bits_per_dim"], scores.bits_per_dim[scores.scored]
    usual, here = usual[np.isfinite(usual)], here[np.isfinite(here)]
    if not len(usual) or not len(here):
        return ""
    low, high = (float(end) for end in np.quantile(usual, [0.01, 0.99]))
    middle = float(np.median(here))
    if low <= middle <= high:
        return ""
    word = "richer or noisier" if middle > high else "plainer"
    return (
        f"they are {word}: {middle:.3g} bits/dim at the median, where 98 % of the images that the "
        f"model knows take {low:.3g} to {high:.3g}"
    )
