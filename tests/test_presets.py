"""Presets say what the paper says, and take images of other sizes and channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hvaeood_cli.errors import UsageError
from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.presets import PRESETS, for_images, get_preset
from hvaeood_cli.scoring.bounds import bits_per_dim, lower_bound
from tests.conftest import make_images, make_noise

COMPACT = [name for name in PRESETS if name.startswith("compact")]


def shapes(name: str) -> list[tuple[int, ...]]:
    config = get_preset(name).model
    return [config.latent_shape(i) for i in range(1, config.n_layers + 1)]


def test_the_papers_latents():
    """Appendix B.1 and B.2; the published code's for paper-rgb-code."""
    assert shapes("paper-gray") == [(8, 14, 14), (16,), (8,)]
    assert shapes("paper-rgb-appendix") == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    assert shapes("paper-rgb-code") == [(128, 16, 16), (64, 8, 8), (32,)]
    biva = get_preset("paper-biva-rgb").model
    assert biva.n_layers == 10 and biva.stride == 8 and biva.kind == "biva"
    assert [layer.stride for layer in biva.layers][:9] == [2, 1, 1, 2, 1, 2, 1, 1, 1]
    assert [layer.kernel for layer in biva.layers] == [5] + [3] * 9
    assert [layer.spatial for layer in biva.layers] == [True] * 3 + [False] * 7


@pytest.mark.parametrize("name", PRESETS)
def test_every_layer_has_its_free_nats(name):
    preset = get_preset(name)
    assert len(preset.train.free_nats) == preset.model.n_layers
    assert len(preset.train.posterior_scale) in (0, preset.model.n_layers)


def test_biva_has_two_free_nats_for_each_of_its_variables():
    """lambda / C for each element: C counts z^BU and z^TD together."""
    assert get_preset("paper-biva-rgb").train.free_nats == (4.0,) * 9 + (2.0,)


@pytest.mark.parametrize("name", [name for name in COMPACT if name.endswith("rgb")])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_untrained_compact_model_starts_below_ten_bits(name, channels):
    torch.manual_seed(0)
    ladder = build_ladder(for_images(get_preset(name).model, 16, channels))
    pixels = torch.from_numpy(make_images(8, size=16, channels=channels))
    x = ladder.likelihood.observe(pixels, torch.zeros(()))
    with torch.no_grad():
        bound = lower_bound(ladder, x, make_noise(ladder, 1, 8)).lower_bound.mean()
    assert bits_per_dim(bound, channels * 256).item() < 10.0
    assert sum(p.numel() for p in ladder.parameters()) < 1_000_000


@pytest.mark.parametrize("name", COMPACT)
def test_any_size_that_the_stride_divides_is_a_setting(name):
    config = for_images(get_preset(name).model, 48, None)
    ladder = build_ladder(config)
    x = torch.zeros(2, config.image_channels, 48, 48)
    with torch.no_grad():
        assert lower_bound(ladder, x, make_noise(ladder, 1, 2)).lower_bound.shape == (2,)


def test_a_size_that_does_not_fit_is_an_error_that_names_one_that_does():
    model = get_preset("compact-rgb").model  # stride 8
    for size, fits in ((4, "8"), (30, "32"), (36, "32")):
        with pytest.raises(UsageError, match="stride is 8") as caught:
            for_images(model, size, None)
        assert caught.value.hint.endswith(f"for example {fits}")


def test_a_preset_for_the_wrong_number_of_channels():
    with pytest.raises(UsageError, match="Bernoulli") as caught:
        for_images(get_preset("compact-gray").model, None, 3)
    assert "RGB preset" in caught.value.hint
    with pytest.raises(UsageError, match="not 2"):
        for_images(get_preset("compact-rgb").model, None, 2)


@pytest.mark.parametrize("options", [("--image-size", "13"), ("--channels", "3")])
def test_train_refuses_them_with_a_hint(run, folder, options):
    code, out, err = run("train", folder, "--out", "m", "--preset", "compact-gray", *options)
    assert (code, out) == (2, "") and err.startswith("error: ") and "hint: " in err


def test_train_makes_a_colour_model_of_another_size(run, tmp_path):
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(make_images(20, size=10, channels=3)):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "photos" / f"{i}.png")
    options = ("--image-size", "8", "--epochs", "1", "--batch-size", "8", "--validation", "4")
    code, _, err = run("train", "photos", "--out", "m", "--preset", "compact-biva-rgb", *options)
    assert code == 0, err
    code, _, err = run("score", "photos", "--model", "m")
    assert code == 0, err
    code, _, err = run("reconstruct", "photos", "--model", "m", "--output", "grid.png")
    assert code == 0, err
    assert np.asarray(Image.open("grid.png")).ndim == 3


def test_a_description_from_before_dequantize_keeps_its_identity():
    config = get_preset("compact-gray").model
    assert "dequantize" not in config.model_dump()
    noisy = get_preset("compact-rgb").model.model_copy(update={"dequantize": "uniform"})
    assert ModelConfig.model_validate(noisy.model_dump()) == noisy


@pytest.mark.parametrize(
    "changes",
    [
        {"image_channels": 3},
        {"dequantize": "uniform"},
        {"image_size": 29},
        {"kind": "vae"},
    ],
)
def test_a_configuration_that_means_nothing_is_refused(changes):
    with pytest.raises(ValueError, match=r"image_|dequantize|kind"):
        ModelConfig.model_validate(get_preset("compact-gray").model.model_dump() | changes)
