"""Presets: models and how they are trained, by name, each with its source."""

from __future__ import annotations

from typing import NamedTuple

from hvaeood_cli.errors import UsageError
from hvaeood_cli.model.config import LayerConfig, ModelConfig
from hvaeood_cli.settings import TrainSettings

# The paper's training takes 2000 epochs: 200 of KL warm-up; free nats are constant for 200 and
# gone after 200 more (Appendix B, Table 4). Each preset adds its lambda by layer.
_PAPER = TrainSettings(
    epochs=2000,
    optimizer="adam",
    learning_rate=3e-4,
    schedule="constant",
    kl_warmup=0.1,
    free_nats_per="element",
    free_nats_constant=0.1,
    free_nats_anneal=0.1,
)

# Our own training, for two CPU cores: short, and with the semantic term (see `objective`).
_COMPACT = TrainSettings(
    epochs=20,
    optimizer="adamw",
    learning_rate=1e-3,
    schedule="cosine",
    kl_warmup=0.2,
    free_nats_per="layer",
    free_nats_constant=1.0,
    semantic_weight=1.0,
)

# For natural images: many small and fast steps, and a z_1 that the layers above listen to from the
# first one. The objective is the paper's, since the semantic term spoils LLR^{>k} here
# (docs/natural-images.md).
_COMPACT_RGB = TrainSettings(
    epochs=60,
    batch_size=16,
    optimizer="adamw",
    learning_rate=4e-3,
    schedule="cosine",
    weight_decay=0.0,
    kl_warmup=0.1,
    free_nats_per="layer",
    free_nats_constant=1.0,
)


class Preset(NamedTuple):
    """A model and how it is trained."""

    summary: str
    model: ModelConfig
    train: TrainSettings


def _free(settings: TrainSettings, *nats: float) -> TrainSettings:
    """The settings with these free nats, lambda of z_1 ... z_L."""
    return settings.model_copy(update={"free_nats": nats})


def _heard(settings: TrainSettings, *scales: float) -> TrainSettings:
    """The settings with these scales for q(z_1) ... q(z_L) to start at."""
    return settings.model_copy(update={"posterior_scale": scales})


PAPER_GRAY = Preset(
    "the paper's HVAE for 28x28 grey images (Table 4, Appendix B): made for GPUs and days",
    ModelConfig(
        stem_kernel=5,
        weight_norm=True,
        layers=(
            LayerConfig(latent=8, spatial=True, channels=64, n_blocks=3, kernel=5, stride=2),
            LayerConfig(latent=16, spatial=False, channels=64, n_blocks=3, kernel=3, stride=2),
            LayerConfig(latent=8, spatial=False, channels=64, n_blocks=3, kernel=3, stride=1),
        ),
    ),
    _free(_PAPER, 2.0, 2.0, 2.0),
)

COMPACT_GRAY = Preset(
    "a small HVAE for 28x28 grey images that trains on two CPU cores in under an hour",
    ModelConfig(
        stem_kernel=5,
        stem_stride=2,
        layers=(
            LayerConfig(latent=8, spatial=True, channels=16, n_blocks=2, head_kernel=1),
            LayerConfig(latent=8, spatial=False, channels=32, n_blocks=2, stride=2),
            LayerConfig(latent=8, spatial=False, channels=32, n_blocks=1),
        ),
    ),
    _free(_COMPACT, 20.0, 8.0, 4.0),
)

PAPER_RGB_APPENDIX = Preset(
    "the paper's HVAE for 32x32 RGB images by its Appendix B: every latent spatial; for GPUs",
    ModelConfig(
        image_channels=3,
        image_size=32,
        likelihood="logistics",
        stem_kernel=5,
        weight_norm=True,
        layers=(
            LayerConfig(latent=8, spatial=True, channels=256, n_blocks=3, kernel=5, stride=2),
            LayerConfig(latent=16, spatial=True, channels=256, n_blocks=3, kernel=3, stride=2),
            LayerConfig(latent=32, spatial=True, channels=256, n_blocks=3, kernel=3, stride=2),
        ),
    ),
    _free(_PAPER, 2.0, 2.0, 2.0),
)

PAPER_RGB_CODE = Preset(
    "the paper's HVAE for 32x32 RGB images by its published code: wider latents; for GPUs",
    ModelConfig(
        image_channels=3,
        image_size=32,
        likelihood="logistics",
        stem_kernel=5,
        weight_norm=True,
        layers=(
            LayerConfig(latent=128, spatial=True, channels=256, n_blocks=3, kernel=5, stride=2),
            LayerConfig(latent=64, spatial=True, channels=256, n_blocks=3, kernel=3, stride=2),
            LayerConfig(latent=32, spatial=False, channels=256, n_blocks=3, kernel=3, stride=2),
        ),
    ),
    _free(_PAPER, 2.0, 2.0, 2.0),
)

COMPACT_RGB = Preset(
    "a small HVAE for 32x32 RGB images that trains on two CPU cores in an hour or two",
    ModelConfig(
        image_channels=3,
        image_size=32,
        likelihood="logistics",
        stem_kernel=5,
        stem_stride=2,
        unstem_kernel=1,
        layers=(
            LayerConfig(latent=12, spatial=True, channels=40, n_blocks=1, head_kernel=1),
            LayerConfig(latent=4, spatial=True, channels=64, n_blocks=1, stride=2),
            LayerConfig(latent=16, spatial=False, channels=64, n_blocks=1, stride=2),
        ),
    ),
    _heard(_free(_COMPACT_RGB, 0.0, 40.0, 20.0), 0.17, 0.6, 0.6),
)

COMPACT_PHOTO_GRAY = Preset(
    "compact-rgb for 32x32 grey photographs, whose shades are kept",
    COMPACT_RGB.model.model_copy(update={"image_channels": 1}),
    COMPACT_RGB.train,
)

# For tiles. An odd spot is told by what z_L alone cannot explain of it, so L^{>k} is trained, too,
# by the semantic term; a stem of stride 4 makes a step cheaper (docs/photographs.md).
COMPACT_PHOTO_TILE = Preset(
    "a small HVAE for 32x32 tiles of grey photographs, told apart by what z_L alone explains",
    ModelConfig(
        image_channels=1,
        image_size=32,
        likelihood="logistics",
        stem_kernel=5,
        stem_stride=4,
        unstem_kernel=1,
        layers=(
            LayerConfig(latent=12, spatial=True, channels=48, n_blocks=1, head_kernel=1),
            LayerConfig(latent=4, spatial=True, channels=64, n_blocks=1, stride=2),
            LayerConfig(latent=16, spatial=False, channels=64, n_blocks=1, stride=2),
        ),
    ),
    _heard(_free(_COMPACT_RGB, 0.0, 0.0, 0.0), 0.17, 0.6, 0.6).model_copy(
        update={"semantic_weight": 1.0, "batch_size": 32}
    ),
)

# Table 4 lists nine strides for ten layers. We give the tenth a stride of 1, which makes the
# overall stride the 8 of Appendix B.2. Neither says how wide the model is: 64 channels, and latents
# that narrow towards the top, are our choice. z_i^BU and z_i^TD have two free nats each.
PAPER_BIVA_RGB = Preset(
    "the paper's BIVA for 32x32 RGB images (Table 4, Appendix B.2): for GPUs and a week",
    ModelConfig(
        kind="biva",
        image_channels=3,
        image_size=32,
        likelihood="logistics",
        stem_kernel=5,
        weight_norm=True,
        layers=tuple(
            LayerConfig(
                latent=38 - 2 * i,
                spatial=i < 3,
                channels=64,
                n_blocks=3,
                kernel=5 if i == 0 else 3,
                stride=stride,
            )
            for i, stride in enumerate((2, 1, 1, 2, 1, 2, 1, 1, 1, 1))
        ),
    ),
    _free(_PAPER, *[4.0] * 9, 2.0),
)

COMPACT_BIVA_GRAY = Preset(
    "a small BIVA for 28x28 grey images that trains on two CPU cores",
    ModelConfig(
        kind="biva",
        stem_kernel=5,
        stem_stride=2,
        layers=(
            LayerConfig(latent=4, spatial=True, channels=16, n_blocks=1, head_kernel=1),
            LayerConfig(latent=4, spatial=False, channels=32, n_blocks=1, stride=2),
            LayerConfig(latent=4, spatial=False, channels=32, n_blocks=1),
            LayerConfig(latent=8, spatial=False, channels=32, n_blocks=1),
        ),
    ),
    _free(_COMPACT, 20.0, 8.0, 8.0, 4.0),
)

# For comparison: as compact-gray in everything but the inference (Appendix F.2 of the paper).
COMPACT_LVAE_GRAY = Preset(
    "a small Ladder VAE for 28x28 grey images: compact-gray with top-down inference",
    COMPACT_GRAY.model.model_copy(update={"kind": "lvae"}),
    COMPACT_GRAY.train,
)

COMPACT_BIVA_RGB = Preset(
    "a small BIVA for 32x32 RGB images that trains on two CPU cores",
    ModelConfig(
        kind="biva",
        image_channels=3,
        image_size=32,
        likelihood="logistics",
        stem_kernel=5,
        stem_stride=2,
        unstem_kernel=1,
        layers=(
            LayerConfig(latent=6, spatial=True, channels=32, n_blocks=1, head_kernel=1),
            LayerConfig(latent=2, spatial=True, channels=64, n_blocks=1, stride=2),
            LayerConfig(latent=8, spatial=False, channels=64, n_blocks=1, stride=2),
            LayerConfig(latent=16, spatial=False, channels=64, n_blocks=1),
        ),
    ),
    _heard(_free(_COMPACT_RGB, 0.0, 40.0, 20.0, 10.0), 0.17, 0.6, 0.6, 0.6),
)

PRESETS: dict[str, Preset] = {
    "compact-gray": COMPACT_GRAY,
    "compact-photo-gray": COMPACT_PHOTO_GRAY,
    "compact-photo-tile": COMPACT_PHOTO_TILE,
    "compact-rgb": COMPACT_RGB,
    "compact-biva-gray": COMPACT_BIVA_GRAY,
    "compact-lvae-gray": COMPACT_LVAE_GRAY,
    "compact-biva-rgb": COMPACT_BIVA_RGB,
    "paper-gray": PAPER_GRAY,
    "paper-rgb-appendix": PAPER_RGB_APPENDIX,
    "paper-rgb-code": PAPER_RGB_CODE,
    "paper-biva-rgb": PAPER_BIVA_RGB,
}

# Where images are taken by tiles, what takes the place of a preset that was chosen for the images.
PRESETS_FOR_TILES = {"compact-photo-gray": "compact-photo-tile"}


def for_images(
    model: ModelConfig, size: int | None, channels: int | None, fit: str = "crop"
) -> ModelConfig:
    """The same model for images of another size or number of channels; None keeps the model's.

    fit: "crop" or "pad", how they become of that size. `for_tiles` makes a model for tiles of it.
    Raises UsageError where the model cannot take such images.
    """
    size, channels = size or model.image_size, channels or model.image_channels
    if channels not in (1, 3):
        raise UsageError(
            f"images have 1 channel (grey) or 3 (RGB), not {channels}", "--channels 1 or 3"
        )
    if channels == 3 and model.likelihood == "bernoulli":
        raise UsageError(
            "this preset's Bernoulli likelihood is for grey images, and 3 channels are asked for",
            "take an RGB preset, or --channels 1: colour images are then made grey",
        )
    _check_size(model, size, "images", "--image-size")
    changes = {"image_size": size, "image_channels": channels, "fit": fit}
    return ModelConfig.model_validate(model.model_dump() | changes)


def for_tiles(model: ModelConfig, size: int, stride: int, scale: float) -> ModelConfig:
    """The same model for images of any size, by tiles.

    size: of a tile; stride: from one to the next; scale: of images before they are cut, as in
    `Tiling`. Raises UsageError where the model cannot take such tiles.
    """
    _check_size(model, size, "tiles", "--tile")
    changes = {"image_size": size, "fit": "tile", "tile_stride": stride, "tile_scale": scale}
    return ModelConfig.model_validate(model.model_dump() | changes)


def _check_size(model: ModelConfig, size: int, what: str, option: str) -> None:
    if size % model.stride:
        fits = max(1, round(size / model.stride)) * model.stride
        raise UsageError(
            f"{what} of {size}x{size} do not fit: the model's overall stride is {model.stride}",
            f"{option} takes multiples of {model.stride}, for example {fits}",
        )


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises UsageError, with all names, for an unknown one."""
    if name not in PRESETS:
        raise UsageError(f"no preset named {name!r}", "presets: " + ", ".join(PRESETS))
    return PRESETS[name]
