"""What a model is made of: the validated, serialisable description that a bundle carries."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Positive = Annotated[int, Field(ge=1, le=65536)]


class LayerConfig(BaseModel):
    """One stochastic layer z_i and the deterministic stage in front of it, on either side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: Positive  # channels of a spatial z_i, or units of a dense one; BIVA has two such z_i
    spatial: bool  # z_i keeps the stage's height and width; a dense z_i is a vector
    channels: Positive  # of the deterministic features h_i and d_i
    n_blocks: Annotated[int, Field(ge=1, le=64)] = 3
    kernel: Annotated[int, Field(ge=1, le=15)] = 3
    head_kernel: Annotated[int, Field(ge=1, le=15)] = 3  # on the way into and out of a spatial z_i
    stride: Annotated[int, Field(ge=1, le=8)] = 1  # taken in the stage's last block


class ModelConfig(BaseModel):
    """A hierarchical VAE. `layers[0]` is z_1, the lowest and largest; `layers[-1]` is z_L."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["hvae", "biva", "lvae"] = "hvae"
    image_channels: Literal[1, 3] = 1  # grey or RGB
    image_size: Annotated[int, Field(ge=4, le=4096)] = 28  # height and width, pixels; of a tile
    fit: Literal["crop", "pad", "tile"] = "crop"  # how an image of another size becomes one of this
    tile_stride: Positive | None = None  # from one tile to the next, pixels of the scaled image
    tile_scale: Annotated[float, Field(gt=0, le=1)] | None = None  # of images, before they are cut
    likelihood: Literal["bernoulli", "logistics"] = "bernoulli"
    dequantize: Literal["none", "uniform"] = "none"  # "uniform" is for comparison alone
    stem_kernel: Annotated[int, Field(ge=1, le=15)] = 5
    stem_stride: Annotated[int, Field(ge=1, le=8)] = 1  # 2: no features at full resolution
    unstem_kernel: Annotated[int, Field(ge=1, le=15)] | None = None  # None: 3 if stem_stride > 1
    weight_norm: bool = False  # Salimans & Kingma (2016); folded away once trained
    layers: Annotated[tuple[LayerConfig, ...], Field(min_length=2, max_length=64)]

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def n_dims(self) -> int:
        """D: pixels times channels, what bits/dim divides by."""
        return self.image_channels * self.image_size**2

    def feature_size(self, i: int) -> int:
        """Height and width of h_i and d_i (i from 1; 0 is the stem's output)."""
        size = self.image_size // self.stem_stride
        for layer in self.layers[:i]:
            size //= layer.stride
        return size

    def latent_shape(self, i: int) -> tuple[int, ...]:
        """Shape of z_i (i from 1): (C, H, W) if spatial, (C,) if dense.

        BIVA's z_i, i < L, is z_i^BU and z_i^TD, one after the other along C.
        """
        layer = self.layers[i - 1]
        size = self.feature_size(i)
        n = 2 * layer.latent if self.kind == "biva" and i < self.n_layers else layer.latent
        return (n, size, size) if layer.spatial else (n,)

    @property
    def n_channels(self) -> int:
        """The channels of z_1; a dense z_1 counts as one, of many units."""
        shape = self.latent_shape(1)
        return shape[0] if len(shape) > 1 else 1

    @property
    def stride(self) -> int:
        """The overall stride: how many image pixels one of h_L spans, in height and width."""
        return self.stem_stride * math.prod(layer.stride for layer in self.layers)

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.image_size % self.stride:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by the overall stride {self.stride}"
            )
        if self.likelihood == "bernoulli" and self.image_channels != 1:
            raise ValueError("the bernoulli likelihood is for grey images, image_channels 1")
        if self.likelihood == "bernoulli" and self.dequantize != "none":
            raise ValueError("dequantize is for the logistics likelihood")
        if (self.fit == "tile") != (self.tile_stride is not None and self.tile_scale is not None):
            raise ValueError("tiles have tile_stride and tile_scale, and nothing else has")
        if self.tile_stride is not None and self.tile_stride > self.image_size:
            raise ValueError(f"tiles {self.tile_stride} pixels apart would leave pixels out")
        spatial = [layer.spatial for layer in self.layers]
        if spatial != sorted(spatial, reverse=True):
            raise ValueError("a spatial latent cannot stand above a dense one")
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, default: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out newer settings at their defaults, so that older models keep their hash."""
        fields: dict[str, Any] = default(self)
        silent = {"dequantize": "none", "unstem_kernel": None, "fit": "crop"}
        silent |= {"tile_stride": None, "tile_scale": None}
        return {key: value for key, value in fields.items() if silent.get(key, ...) != value}
