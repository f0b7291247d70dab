"""The column table: everything that is kept of an image, said once.

The rows of a journal, the datasets of a score file, the columns of CSV and JSON, what the workbench
can plot and sort by and what the density takes all follow from `TABLE`. A new score takes an entry
here and a function of the same name in `scoring/statistics.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.store.room import Room

Rows = NDArray[np.void]  # a structured array of `row_dtype(sizes)`
Tiles = NDArray[np.void]  # a structured array of `tile_dtype(sizes)`

Each = Literal["image", "k", "k > 0", "layer", "channel", "residual", "perturbation", "byte"]
Group = Literal["images", "scores", "decision"]

_SHA256_BYTES = 32
RESIDUALS = ("spread", "1 apart", "2 apart", "diagonal")  # what is measured of the residuals
PERTURBATIONS = ("inverted", "shuffled")  # of an image, beside which it is scored


class Sizes(NamedTuple):
    """What the shapes of a model's columns depend on."""

    n_layers: int  # L
    n_channels: int = 0  # of z_1; 0 in files from before there were columns of them
    asked: tuple[str, ...] = ()  # the statistics that are measured because somebody asked for them

    def beside(self, other: Sizes) -> Sizes:
        """What has room for both."""
        most = max(self.n_layers, other.n_layers), max(self.n_channels, other.n_channels)
        return Sizes(*most, tuple(sorted({*self.asked, *other.asked})))


@dataclass(frozen=True)
class Column:
    """One value of each image, or one for each k, layer, channel of z_1, or byte of a hash."""

    name: str  # of the row's field, the dataset and the JSON member
    each: Each  # "k": k = 0 ... L - 1; "k > 0": k = 1 ... L - 1; "layer": z_1 ... z_L
    dtype: str  # NumPy's name
    group: Group  # of the datasets in the file
    sentence: str  # what it is
    unit: str = ""
    heading: str = ""  # what people read over the whole column
    title: str = ""  # what people read over one value; {} is k, the layer ...
    title_0: str = ""  # the title where k = 0, if it has one of its own
    csv: str = ""  # the name in CSV; {} is k, or the layer. Empty: neither in CSV nor in JSON
    density: slice | None = None  # which of its values the density takes; None: none
    odd_end: Literal["high", "low", "either"] = "high"  # where images that do not belong lie
    listed: bool = False  # whether lists of images show it, where there is room
    above: str = ""  # what a value above usual images' says: "... than most"; {} as in titles
    below: str = ""  # ... and a value below theirs
    over_tiles: Literal["mean", "max"] = "mean"  # what a row keeps of its image's tiles
    of_each_tile: bool = False  # whether the table of tiles keeps it, too
    asked: str = ""  # the name under which it is asked for; empty: it is always measured
    optional: bool = False  # added within this version of the format: older files may lack it
    least: float | None = None  # no value is less; NaN, where there is none, is always allowed
    most: float | None = None  # ... nor more

    @property
    def dataset(self) -> str:
        """Its path in a score file."""
        return f"/{self.group}/{self.name}"

    def indices(self, sizes: Sizes) -> range | None:
        """The k, layers ... that it has a value for; None if it has one value per image."""
        return {
            "image": None,
            "k": range(sizes.n_layers),
            "k > 0": range(1, sizes.n_layers),
            "layer": range(1, sizes.n_layers + 1),
            "channel": range(1, sizes.n_channels + 1),
            "residual": range(len(RESIDUALS)),
            "perturbation": range(len(PERTURBATIONS)),
            "byte": range(_SHA256_BYTES),
        }[self.each]

    def words(self, sizes: Sizes) -> list[str]:
        """What stands for {} of each value: its index, or in words what it is."""
        if self.each in ("residual", "perturbation"):
            return list(RESIDUALS if self.each == "residual" else PERTURBATIONS)
        return [str(i) for i in self.indices(sizes) or ()]

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape of one image's value: () or (n,)."""
        indices = self.indices(sizes)
        return () if indices is None else (len(indices),)

    @property
    def may_be_wrong(self) -> bool:
        """Whether some of the values that its type has cannot be."""
        return self.dtype == "bool" or self.least is not None or self.most is not None

    def wrong(self, values: NDArray[Any]) -> str:
        """What is wrong with values that somebody else wrote; empty if nothing is."""
        return what_is_wrong(values, self.least, self.most)

    def titles(self, sizes: Sizes) -> list[str]:
        """What people read over each of its values."""
        if self.each == "image":
            return [self.title]
        return [
            self.title_0 if word == "0" and self.title_0 else self.title.format(word)
            for word in self.words(sizes)
        ]

    def csv_names(self, sizes: Sizes) -> list[str]:
        """The names of its values in CSV."""
        if not self.csv or self.each == "image":
            return [self.csv] if self.csv else []
        return [self.csv.format(word.replace(" ", "_")) for word in self.words(sizes)]


TABLE: list[Column] = [
    Column("sha256", "byte", "uint8", "images", "SHA-256 of what was read"),
    Column("content", "image", "uint64", "images", "key of the pixels as the model takes them"),
    Column(
        "status", "image", "int8", "images", "0 scored, else a code of `store/status.py`", least=0
    ),
    Column(
        "fold",
        "image",
        "int8",
        "images",
        "which fold of a cross-fitted model scored it; 0 of any other",
        optional=True,
        least=0,
    ),
    Column("conversions", "image", "uint16", "images", "what was done to it, a bit each"),
    Column(
        "stamp",
        "image",
        "uint64",
        "images",
        "hash of its stamp when it was read; while that is the same, so is the image",
        optional=True,
    ),
    Column(
        "n_tiles",
        "image",
        "uint32",
        "images",
        "how many tiles it was cut into; 1 where it was taken whole, 0 without scores",
        optional=True,
    ),
    Column(
        "lower_bound",
        "k",
        "float32",
        "scores",
        "L^{>k}; k = 0 is the ELBO, importance weighted over S samples",
        unit="nats",
        heading="L",
        title="L>{}",
        title_0="L",
        csv="lower_bound_{}",
        density=slice(0, 1),  # L^{>k} for k > 0 is L minus a ratio, and adds nothing
        odd_end="low",
        above="plainer",
        below="richer, or harder to explain,",
        of_each_tile=True,
    ),
    Column(
        "kl",
        "layer",
        "float32",
        "scores",
        "log q - log p of z_i in the pass of L, mean over samples",
        unit="nats",
        heading="KL",
        title="KL {}",
        csv="kl_{}",
        density=slice(None),
        odd_end="either",
        above="more surprising in layer {}",
        below="less surprising in layer {}",
        of_each_tile=True,
    ),
    Column(
        "log_px",
        "k",
        "float32",
        "scores",
        "log p(x|z) in the pass of each k, mean over samples",
        unit="nats",
        heading="log p(x|z)",
        title="log p(x|z), k = {}",
        title_0="log p(x|z)",
        csv="log_px_{}",
        density=slice(None),
        odd_end="either",
        above="reproduced better from k = {}",
        below="reproduced worse from k = {}",
        of_each_tile=True,
    ),
    Column(
        "llr",
        "k > 0",
        "float32",
        "scores",
        "LLR^{>k} = L - L^{>k}: how much the k lowest latents know that the others do not",
        unit="nats",
        heading="LLR",
        title="LLR>{}",
        csv="llr_{}",
        density=slice(None),
        listed=True,
        above="stranger above layer {}",
        below="plainer above layer {}",
    ),
    Column(
        "llr_share",
        "k > 0",
        "float32",
        "scores",
        "LLR^{>k} / -L: the ratio as a share of what the image costs",
        heading="LLR/-L",
        title="LLR>{}/-L",
        csv="llr_share_{}",
        density=slice(None),
        above="resting more on detail up to layer {}",
        below="resting less on detail up to layer {}",
    ),
    Column(
        "bits_per_dim",
        "image",
        "float32",
        "scores",
        "-L / (D ln 2)",
        unit="bits/dim",
        heading="bits/dim",
        title="bits/dim",
        csv="bits_per_dim",
        listed=True,
    ),
    Column(
        "peak",
        "k",
        "float32",
        "scores",
        "the largest mean of -log p(x_i|z) over 5x5 pixels, in the pass of each k",
        unit="nats",
        heading="peak",
        title="peak, k = {}",
        title_0="peak",
        csv="peak_{}",
        density=slice(-1, None),  # of tiles: from the highest k a defect is seen best
        above="stranger in its strangest spot, from k = {},",
        below="plainer in its strangest spot, from k = {},",
        optional=True,
        over_tiles="max",
        of_each_tile=True,
    ),
    Column(
        "residual",
        "residual",
        "float32",
        "scores",
        "of the pixels' residuals in the ELBO's pass: log mean square, 0 where the model is right, "
        "and correlation with those 1 apart, 2 apart, and diagonally 1 apart",
        heading="residual",
        title="residual, {}",
        csv="residual_{}",
        density=slice(None),
        odd_end="either",
        above="with larger or more similar errors from pixel to pixel ({})",
        below="with smaller or less similar errors from pixel to pixel ({})",
        optional=True,
    ),
    Column(
        "spot_cost",
        "k > 0",
        "float32",
        "scores",
        "-log p(x_i|z) that one pixel in a hundred exceeds, in the pass of each k",
        unit="nats",
        heading="spots",
        title="spots, k = {}",
        csv="spot_cost_{}",
        density=slice(0, 1),  # k = 1: spots that are seen from further up say less
        odd_end="either",
        above="with costlier spots, from k = {},",
        below="with less in its costliest spots, from k = {},",
        optional=True,
        over_tiles="max",
    ),
    Column(
        "kl_channel",
        "channel",
        "float32",
        "scores",
        "log of the Kullback-Leibler divergence of each channel of z_1, nats a place",
        heading="channels",
        title="log KL 1, channel {}",
        density=slice(None),
        odd_end="either",
        above="more surprising in channel {} of layer 1",
        below="less surprising in channel {} of layer 1",
        optional=True,
    ),
    Column(
        "complexity",
        "image",
        "float32",
        "scores",
        "-L minus the length of the image as a PNG file",
        unit="nats",
        heading="complexity",
        title="-L - PNG",
        csv="complexity",
        density=slice(None),
        above="dearer for how complex it is",
        below="cheaper for how complex it is",
        asked="complexity",
        optional=True,
    ),
    Column(
        "gradient",
        "layer",
        "float32",
        "scores",
        "log of the squared length of the ELBO's gradient in the weights of each stage",
        heading="gradient",
        title="gradient {}",
        csv="gradient_{}",
        density=slice(None),
        odd_end="either",
        above="pulling harder at the weights of stage {}",
        below="pulling less at the weights of stage {}",
        asked="gradient",
        optional=True,
    ),
    Column(
        "path_mean",
        "layer",
        "float32",
        "scores",
        "length of the mean of q(z_i)",
        heading="|mean|",
        title="|mean| {}",
        csv="path_mean_{}",
        density=slice(None),
        odd_end="either",
        above="further out in layer {}",
        below="nearer to the middle in layer {}",
        asked="path",
        optional=True,
    ),
    Column(
        "path_scale",
        "layer",
        "float32",
        "scores",
        "length of the scale of q(z_i)",
        heading="|scale|",
        title="|scale| {}",
        csv="path_scale_{}",
        density=slice(None),
        odd_end="either",
        above="less certain in layer {}",
        below="more certain in layer {}",
        asked="path",
        optional=True,
    ),
    Column(
        "path_error",
        "image",
        "float32",
        "scores",
        "length of x - E[x|z]",
        heading="error",
        title="|x - E[x|z]|",
        csv="path_error",
        density=slice(None),
        above="reconstructed worse",
        below="reconstructed better",
        asked="path",
        optional=True,
    ),
    Column(
        "perturbed",
        "perturbation",
        "float32",
        "scores",
        "the ELBO minus that of the image with its pixels inverted, or its quarters shuffled",
        unit="nats",
        heading="beside",
        title="beside {}",
        csv="perturbed_{}",
        density=slice(None),
        odd_end="low",
        above="losing more by being {}",
        below="losing less by being {}",
        asked="perturbed",
        optional=True,
    ),
    Column(
        "regret",
        "image",
        "float32",
        "scores",
        "by how much the ELBO rises when q is fitted to this image alone",
        unit="nats",
        heading="regret",
        title="regret",
        csv="regret",
        density=slice(None),
        above="with more left to explain",
        below="with less left to explain",
        asked="regret",
        optional=True,
    ),
    Column(
        "combined",
        "image",
        "float64",
        "decision",
        "how rare it is among usual images, aspect by aspect; the rarest counts most",
        unit="nats",
        heading="combined",
        title="combined score",
    ),
    Column(
        "k", "image", "int8", "decision", "whose LLR^{>k} differs most; 0 without scores", least=0
    ),
    Column(
        "p_value",
        "k > 0",
        "float64",
        "decision",
        "conformal p-value of LLR^{>k}, two-sided: it may be too high or too low",
        title="p of LLR>{}",
        csv="p_{}",
        odd_end="low",
        least=0.0,
        most=1.0,
    ),
    Column(
        "p_combined",
        "image",
        "float64",
        "decision",
        "conformal p-value of the combined score: the one to act on",
        heading="p",
        title="p",
        csv="p_combined",
        odd_end="low",
        least=0.0,
        most=1.0,
    ),
    Column("flagged", "image", "bool", "decision", "whether the rule flags it", csv="flagged"),
]


def what_is_wrong(values: NDArray[Any], least: float | None, most: float | None) -> str:
    """Which of these values cannot be, in words; empty if all can. NaN stands for no value."""
    if values.dtype == np.bool_ and values.view(np.uint8).max(initial=0) > 1:
        return "holds what is neither true nor false"
    if least is not None and (values < least).any():
        return f"holds a value below {least:g}"
    if most is not None and (values > most).any():
        return f"holds a value above {most:g}"
    return ""


ASKED = tuple(sorted({column.asked for column in TABLE} - {""}))  # what can be asked for


def columns(*groups: Group, asked: Collection[str] = ASKED) -> list[Column]:
    """The columns of these groups, in the table's order.

    asked: the statistics that somebody asked for; by default all that there are.
    """
    known = {"", *asked}
    return [column for column in TABLE if column.group in groups and column.asked in known]


def column(name: str) -> Column:
    """The column of that name. Raises KeyError."""
    return {column.name: column for column in TABLE}[name]


@cache
def row_dtype(sizes: Sizes) -> np.dtype[np.void]:
    """The dtype of one image's row in a journal: all columns but those of the decision."""
    kept = columns("images", "scores", asked=sizes.asked)
    return np.dtype([(column.name, column.dtype, column.shape(sizes)) for column in kept])


def tile_columns() -> list[Column]:
    """The scores that are kept of each tile, in the table's order."""
    return [column for column in TABLE if column.of_each_tile]


@cache
def tile_dtype(sizes: Sizes) -> np.dtype[np.void]:
    """The dtype of one tile: top and left, pixels of its image as it was read, and its scores."""
    scores = [(column.name, column.dtype, column.shape(sizes)) for column in tile_columns()]
    return np.dtype([("place", "int32", (2,)), *scores])


def blank_rows(n: int, sizes: Sizes) -> Rows:
    """n rows without scores: status 0, NaN scores."""
    rows = np.zeros(n, row_dtype(sizes))
    for column in columns("scores", asked=sizes.asked):
        rows[column.name] = np.nan
    return rows


def new_columns(n: int, sizes: Sizes, room: Room) -> dict[str, NDArray[Any]]:
    """Columns for n rows, each by itself, which are still to be filled."""
    return {
        column.name: room.array((n, *column.shape(sizes)), column.dtype)
        for column in columns("images", "scores", asked=sizes.asked)
    }
