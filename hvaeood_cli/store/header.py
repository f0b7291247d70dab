"""The header, which identifies a run: which images are scored with which model, how and where."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hvaeood_cli.store.columns import ASKED, Sizes
from hvaeood_cli.store.shard import Shard

FORMAT = "hvaeood-scores"
FORMAT_VERSION = 2

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Time = Annotated[
    str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,20}(Z|[+-][0-9]{2}:[0-9]{2})$")
]
Word = Annotated[str, Field(max_length=200)]
_Runtime = Annotated[str, Field(max_length=200, pattern=r"^([a-z]+( [0-9A-Za-z.+-]+)?)?$")]
_Text = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
_Samples = Annotated[int, Field(ge=1, le=10_000)]


class RunHeader(BaseModel):
    """The root attributes of a score file. A run goes on only if the fields in `IDENTITY` agree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: _Time  # ISO 8601, UTC; of the run's first start
    tool_version: Word
    torch_version: Word
    numpy_version: Word
    pillow_version: Word
    device: Word  # its kind: cpu, cuda, mps
    model_name: _Text
    model_path: _Text  # the model's folder when it was scored; bytes that are no UTF-8 as \udcff
    model_sha256: Sha256  # of its weights and architecture
    n_layers: Annotated[int, Field(ge=2, le=64)]  # L
    n_channels: Annotated[int, Field(ge=0, le=65536)] = 0  # of z_1: files from before do not say
    image_size: Annotated[int, Field(ge=1, le=4096)]  # height and width that the model takes
    image_channels: Literal[1, 3]
    n_dims: Annotated[int, Field(ge=1)]  # D: what bits/dim divides by
    preprocessing: _Text  # how any image becomes one of that size
    fit: Literal["crop", "pad", "tile"] = "crop"  # ... in a word; what follows is of tiles alone
    tile_stride: Annotated[int, Field(ge=1, le=65536)] | None = None  # pixels of a scaled image
    tile_scale: Annotated[float, Field(gt=0, le=1)] | None = None  # of images before they are cut
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    n_importance_samples: _Samples  # S
    n_importance_samples_k: _Samples  # S'
    proposal: Literal["mean", "sample"]
    precision: Word
    statistics: Annotated[str, Field(max_length=200)] = ""  # those that were asked for, by space
    runtime: _Runtime = "torch"  # what computed: files from before there was a choice do not say
    n_images: Annotated[int, Field(ge=1)]  # of the listing; rows of gone images do not count
    listing_sha256: Sha256  # of names, sizes and times: has the folder changed?
    label: Literal[0, 1] | None = None  # of all images: 0 they belong, 1 they do not
    shard: Annotated[int, Field(ge=1)] | None = None  # of a part alone, which is the shard's file
    n_shards: Annotated[int, Field(ge=1, le=10**6)] | None = None
    whole_n_images: Annotated[int, Field(ge=1, lt=2**53)] | None = None  # of all shards together
    whole_listing_sha256: Sha256 | None = None  # ... and of their names, sizes and times

    @property
    def sizes(self) -> Sizes:
        """What the shapes of its columns depend on."""
        return Sizes(self.n_layers, self.n_channels, tuple(self.statistics.split()))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.n_dims != self.image_channels * self.image_size**2:
            raise ValueError(f"n_dims {self.n_dims} is not what images of this size have")
        if (self.fit == "tile") != (self.tile_stride is not None and self.tile_scale is not None):
            raise ValueError("tiles have tile_stride and tile_scale, and nothing else has")
        if self.tile_stride is not None and self.tile_stride > self.image_size:
            raise ValueError(f"tiles {self.tile_stride} pixels apart would leave pixels out")
        asked = self.statistics.split()
        if " ".join(sorted({*asked} & {*ASKED})) != self.statistics:
            raise ValueError(f"no statistics are called {self.statistics!r}")
        self._check_shard()
        return self

    def _check_shard(self) -> None:
        if self.shard is None or self.n_shards is None or self.whole_n_images is None:
            if any(getattr(self, field) is not None for field in OF_SHARD):
                raise ValueError(f"a part has {', '.join(OF_SHARD)}, and nothing else has")
            return
        shard = Shard(self.shard, self.n_shards)
        if self.whole_listing_sha256 is None or shard.number > shard.of:
            raise ValueError(f"shard {shard} cannot be")
        if len(shard.places(self.whole_n_images)) != self.n_images:
            raise ValueError(
                f"shard {shard} of {self.whole_n_images} images does not have {self.n_images}"
            )


OF_SHARD = ("shard", "n_shards", "whole_n_images", "whole_listing_sha256")  # of a part alone

# The fields that must agree for a run to go on, or to be found done, and their names in messages.
IDENTITY = {
    "model_sha256": "the model",
    "n_layers": "the model's layers",
    "n_channels": "the scores that are kept (channels of z_1)",
    "seed": "the seed",
    "n_importance_samples": "the importance samples",
    "n_importance_samples_k": "the importance samples of L>k",
    "proposal": "the proposal",
    "precision": "the precision",
    "statistics": "the statistics that were asked for",
    "preprocessing": "the preprocessing",
    "device": "the device",
    "runtime": "the runtime",
    "tool_version": "the program's version",
    "torch_version": "torch's version",
    "numpy_version": "NumPy's version",
    "pillow_version": "Pillow's version",
    "label": "the label",
    "n_shards": "the number of shards",
    "shard": "the shard",
    "whole_n_images": "the number of images of all shards",
    "whole_listing_sha256": "the images of all shards (a name, size or time differs)",
    "n_images": "the number of images",
    "listing_sha256": "the images (a name, size or time differs)",
}


OF_IMAGES = ("n_images", "listing_sha256")  # what differs where only the images do


def differences(there: RunHeader, here: RunHeader, ignored: Collection[str] = ()) -> list[str]:
    """Why the run `here` cannot go on with what `there` began, in words; empty if it can.

    ignored: fields that need not agree, such as `OF_IMAGES`.
    """
    found = []
    for field, words in IDENTITY.items():
        old, new = getattr(there, field), getattr(here, field)
        if old == new or field in ignored:
            continue
        if field.endswith("listing_sha256"):
            found.append(words)
            continue
        if field == "model_sha256":
            old, new = f"{there.model_name} ({old[:12]})", f"{here.model_name} ({new[:12]})"
        old, new = ("none" if value == "" else value for value in (old, new))
        found.append(f"{words}: {old} there, {new} here")
    return found


def how_to_agree(there: RunHeader, here: RunHeader) -> str:
    """What to type so that nothing differs, where device or runtime alone does; else empty."""
    for field in ("device", "runtime"):
        old, new = getattr(there, field).split(), getattr(here, field).split()
        but_for_it = there.model_copy(update={field: getattr(here, field)})
        if old and old[:1] != new[:1] and not differences(but_for_it, here):
            return f"--{field} {old[0]} as there, another -o, or --force to start over"
    return ""
