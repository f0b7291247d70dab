"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from hvaeood_cli.errors import SourceError, UsageError
from hvaeood_cli.store.shard import Shard

_MAX_LIST = 1 << 27  # bytes of a list on standard input
_MOST_DIGITS = 6  # of a number of shards
_MAX_PATH = 4096  # bytes; no system opens a longer one

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Folders (searched recursively), image files, .zip and .tar files (read in place), "
        "IDX/.npy/.npz/.parquet files (FILE#A:B takes rows A to B-1), addresses such as "
        "s3://bucket/photos, a torchvision data set "
        "(fashionmnist:test), or - for a list on stdin.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", metavar="NAME|DIR", envvar="HVAEOOD_MODEL", help="The model."),
]
ModelOfScores = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME|DIR", help="The model.", show_default="the one that scored"
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda[:N]|mps", envvar="HVAEOOD_DEVICE", help="Where the model runs."
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="The seed of all randomness.")]
Null = Annotated[bool, typer.Option("-0", "--null", help="With -: paths end in NUL, not newline.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", envvar="HVAEOOD_DATA_ROOT", help="Where torchvision keeps its data sets."
    ),
]
Remote = Annotated[
    bool,
    typer.Option(
        "--remote",
        envvar="HVAEOOD_REMOTE",
        help="Fetch images behind the addresses in a score file; for files that you trust.",
    ),
]
Download = Annotated[
    bool, typer.Option("--download", help="Let torchvision fetch a data set that is not there.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and data only.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        "-S",
        metavar="N",
        min=1,
        help="Importance samples S of the ELBO.",
        show_default="16; 1 by tiles",
    ),
]
SamplesK = Annotated[int, typer.Option(metavar="N", min=1, help="Importance samples of each L>k.")]
Proposal = Annotated[
    str, typer.Option(metavar="mean|sample", help="How latents at and below k leave the prior.")
]
Precision = Annotated[
    str,
    typer.Option(metavar="float32|tf32|bfloat16", help="Of the network; the last two suit GPUs."),
]
Statistics = Annotated[
    str,
    typer.Option(
        metavar="NAME,...",
        help="Measure these too: complexity, path, perturbed, gradient (4 times as long at S = 1), "
        "regret (14 times), or all.",
        show_default="none",
    ),
]
Runtime = Annotated[
    str,
    typer.Option(
        metavar="auto|torch|openvino",
        envvar="HVAEOOD_RUNTIME",
        help="What computes scores on a CPU; auto: what the file was begun with, else torch.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        max=1024,
        help="Threads that read images and, on a CPU, score them, side by side; 0 for none. With "
        "--engine ray: processes.",
        show_default="one a core; 1 on a GPU",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        metavar="local|ray",
        envvar="HVAEOOD_ENGINE",
        help="What shares out the work: this machine, or a Ray cluster.",
    ),
]
Address = Annotated[
    str,
    typer.Option(
        metavar="auto|local|HOST:PORT",
        envvar="HVAEOOD_ADDRESS",
        help="The Ray cluster: the one this machine is in, one started here, or another.",
    ),
]
Jsonl = Annotated[bool, typer.Option("--jsonl", help="One JSON object for each image.")]
Csv = Annotated[bool, typer.Option("--csv", help="One CSV row for each image.")]
Top = Annotated[int, typer.Option(metavar="N", min=0, help="How many odd images to list.")]

BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Images read and scored together.", show_default="one pass"
    ),
]
ScoreOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The score file (HDF5).",
        show_default="SOURCE.scores.h5",
    ),
]


def shard(given: str) -> Shard:
    """A shard, such as 3/64: I of N, from 1. Raises UsageError."""
    number, slash, of = str(given).strip().partition("/")
    plain = (number + of).isascii() and number.isdecimal() and of.isdecimal()
    if not (slash and plain and len(of) <= _MOST_DIGITS and 1 <= int(number) <= int(of)):
        raise UsageError(f"--shard {given!r} is no shard", "I/N with I from 1 to N, such as 3/64")
    return Shard(int(number), int(of))


OfShard = Annotated[
    Shard | None,
    typer.Option(
        "--shard",
        parser=shard,
        metavar="I/N",
        help="Score the I-th of N shards alone, to a part in the folder -o; see hvaeood merge.",
        show_default=False,
    ),
]


def level(given: str | float) -> float:
    """An error rate, such as 0.05 or 5%. Raises ValueError."""
    text = str(given).strip()
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no level: 0.05 or 5%") from None


Fpr = Annotated[
    float | None,
    typer.Option(
        parser=level,
        metavar="LEVEL",
        help="Flag images with p <= LEVEL: each image that belongs is flagged this often at most.",
        show_default="the file's rule, else 0.01",
    ),
]
Fdr = Annotated[
    float | None,
    typer.Option(
        parser=level,
        metavar="LEVEL",
        help="Flag by Benjamini-Hochberg: of what is flagged, this fraction at most belongs.",
        show_default=False,
    ),
]
By = Annotated[
    bool, typer.Option("--by", help="With --fdr: Benjamini-Yekutieli, under any dependence.")
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        help="The calibration.",
        show_default="the one that decided, else the model's",
    ),
]
FailOnFlagged = Annotated[
    bool, typer.Option("--fail-on-flagged", help="Exit with 1 where any image is flagged.")
]

# -- options of train -----------------------------------------------------------------------------

ModelFolder = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="The model's folder.")
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="compact-gray, compact-photo-gray, compact-photo-tile, compact-rgb, "
        "compact-biva-gray, compact-biva-rgb or compact-lvae-gray; paper-gray, "
        "paper-rgb-appendix, paper-rgb-code or paper-biva-rgb.",
        show_default="the one that suits the images",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(metavar="N", min=4, help="Height and width, pixels.", show_default="the preset's"),
]
Channels = Annotated[
    int | None, typer.Option(metavar="N", help="1 (grey) or 3 (RGB).", show_default="the preset's")
]
Fit = Annotated[
    str | None,
    typer.Option(
        metavar="crop|pad|tile",
        help="How images become of one size: their centre square, padded to a square, or tiles.",
        show_default="tile where most are larger",
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=4,
        help="Take images by tiles of NxN pixels.",
        show_default="the preset's size",
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Pixels from tile to tile.", show_default="half a tile"),
]
Scale = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Scale images before they are cut: 0.5 halves both sides.",
        show_default="so that tiles are 200 at most",
    ),
]
ModelName = Annotated[
    str | None, typer.Option(help="What the model is called.", show_default="DIR's name")
]
Epochs = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Passes over the images.", show_default="the preset's"),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        metavar="N", min=0.01, help="Stop by then; schedules shrink to fit.", show_default="none"
    ),
]
Validation = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, help="Images set aside for the curve.", show_default="5 %, at most 1000"
    ),
]
CalibrationShare = Annotated[
    int | None,
    typer.Option(
        "--calibrate",
        metavar="N",
        min=0,
        help="Images set aside to calibrate the model on; 0 for none.",
        show_default="20 %, at most 2000",
    ),
]
TrainBatchSize = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Images per step.", show_default="the preset's"),
]
LearningRate = Annotated[
    float | None, typer.Option(help="The highest learning rate.", show_default="the preset's")
]
SemanticWeight = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        min=0.0,
        help="Weight of L>k in the loss; 0 is the paper.",
        show_default="the preset's",
    ),
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other training setting, as JSON: ema, accumulate, gradient_skip, free_nats, "
        "posterior_scale, kl_warmup ...; a wrong KEY lists them all.",
    ),
]
Devices = Annotated[int, typer.Option(metavar="N", min=1, help="Devices, with a process each.")]
Strategy = Annotated[
    str, typer.Option(metavar="NAME", help="How devices share the work, by Fabric's name: ddp.")
]
TrainPrecision = Annotated[
    str, typer.Option(metavar="NAME", help="32-true, tf32, bf16-mixed or 16-mixed.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile with torch.compile: pays off in long runs.")
]
Cached = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache",
        help="Keep the pixels as the model takes them in the user's cache folder, so that images "
        "are read once and need not fit in memory; hvaeood cache shows what is there.",
    ),
]
CheckpointEvery = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.0, help="The most work that a kill may cost.")
]


def stdin_paths(sources: list[str], null: bool) -> Iterator[bytes]:
    """The paths on standard input, if `-` is among the sources: one per line, or NUL-terminated.

    Raises SourceError for a list that is no list of paths, and where there is no standard input.
    """
    if "-" not in sources:
        return
    if sys.stdin is None:  # closed by the shell: `<&-`
        raise SourceError("standard input is closed", "find photos -name '*.jpg' | hvaeood score -")
    data = sys.stdin.buffer.read(_MAX_LIST + 1)
    if len(data) > _MAX_LIST:
        raise SourceError(
            f"the list on standard input has more than {_MAX_LIST >> 20} MiB",
            "name folders, or give it in parts",
        )
    for number, path in enumerate(data.split(b"\0" if null else b"\n"), 1):
        if len(path) > _MAX_PATH:
            raise SourceError(
                f"standard input: path {number:,} has {len(path):,} bytes, and no path has more "
                f"than {_MAX_PATH:,}",
                "one path a line; or with -0, each ended by a NUL, as by find -print0",
            )
        if path:
            yield path
