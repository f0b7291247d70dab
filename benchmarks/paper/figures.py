"""The paper's Figures 1 to 3, as SVG files that stand alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from markupsafe import escape
from numpy.typing import NDArray
from PIL import Image

from hvaeood_cli.scoring.bounds import climb_means
from hvaeood_cli.scoring.scorer import Reconstructions, Scorer

Float = NDArray[np.float64]

_STYLE = "text{font:13px sans-serif;fill:#222}.small{font-size:11px}"
_COLOURS = ("#3b6fb6", "#d1802f")


def reconstructions(of: Mapping[str, Reconstructions]) -> str:
    """Figures 1 and 3: for each set by name a row an image: x, and E[x|z] from k = 0, 1 ..."""
    first = next(iter(of.values()))
    n_columns = 1 + len(first.from_k)
    size, gap, left, top, scale = first.observed.shape[-1], 4, 110, 24, 2
    step = size * scale + gap
    labels = ["x", *(f"k = {k}" for k in range(n_columns - 1))]
    parts = [_text(left + i * step + size * scale / 2, top - 8, label, "middle")
             for i, label in enumerate(labels)]  # fmt: skip
    y = top
    for name, found in of.items():
        parts.append(_text(left - 10, y + size * scale / 2, name, "end"))
        for i in range(len(found.observed)):
            for column, picture in enumerate((found.observed[i], *found.from_k[:, i])):
                parts.append(_image(picture, left + column * step, y, size * scale))
            y += step
        y += 2 * gap
    return _svg(left + n_columns * step, y, "Reconstructions", parts)


def correlations(of: Mapping[str, Mapping[str, float]]) -> str:
    """Figure 2: by set of images, the correlation of two models' layers, by the layer's name."""
    layers = list(next(iter(of.values())))
    left, top, height, width, bar = 40, 30, 180, 70, 24
    parts = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + height * (1.0 - value)
        right = left + width * len(layers)
        parts.append(f'<path d="M{left} {y}H{right}" stroke="#ccc" stroke-width="1"/>')
        parts.append(_text(left - 6, y + 4, f"{value:g}", "end"))
    for column, layer in enumerate(layers):
        x = left + column * width
        parts.append(_text(x + width / 2, top + height + 18, layer, "middle"))
        for i, values in enumerate(of.values()):
            tall = height * values[layer]
            parts.append(
                f'<rect x="{x + 10 + i * bar}" y="{top + height - tall:.1f}" '
                f'width="{bar - 2}" height="{tall:.1f}" fill="{_COLOURS[i]}"/>'
            )
    for i, name in enumerate(of):
        x = left + i * 170
        parts.append(f'<rect x="{x}" y="6" width="11" height="11" fill="{_COLOURS[i]}"/>')
        parts.append(_text(x + 16, 16, f"given {name}", "start"))
    return _svg(left + width * len(layers) + 10, top + height + 30, "Correlations", parts)


@torch.no_grad()
def correlations_of(one: Scorer, other: Scorer, pixels: NDArray[np.uint8]) -> dict[str, float]:
    """How far two models' inference networks have the same features, by layer: 0 to 1.

    The paper gives no formula. Ours: at each position, the absolute correlation over images of
    each channel of one model with each of the other, mean over positions; of these, for each
    channel the best match; and the mean over the channels of both models.
    """
    features, others = (_features(scorer, pixels) for scorer in (one, other))
    return {name: _matched(features[name], others[name]) for name in features}


def _features(scorer: Scorer, pixels: NDArray[np.uint8]) -> dict[str, Float]:
    """h_i and the mean of q(z_i) of each image, bottom up: (N, C, positions)."""
    parts: dict[str, list[Float]] = {}
    for batch in scorer.passes(pixels):
        rungs = climb_means(scorer.ladder, batch.x, scorer.ladder.n_layers)
        for i, rung in enumerate(rungs, start=1):
            for name, values in ((f"h_{i}", rung.features[0]), (f"z_{i}", rung.mean)):
                flat = values[: batch.n].reshape(batch.n, values.shape[1], -1)
                parts.setdefault(name, []).append(flat.double().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def _matched(a: Float, b: Float) -> float:
    """a, b: (N, C, positions)."""
    a, b = ((f - f.mean(0)) / (f.std(0) + 1e-9) for f in (a, b))
    each = np.abs(np.einsum("nap,nbp->pab", a, b) / len(a)).mean(0)  # (C, C)
    return float((each.max(1).mean() + each.max(0).mean()) / 2.0)


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{title}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(words)}</text>'


def _image(picture: NDArray[np.float32], x: float, y: float, size: int) -> str:
    """picture: (C, H, W) from 0 (black) to 1 (white)."""
    pixels = np.uint8(np.rint(picture.transpose(1, 2, 0) * 255.0)).squeeze()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<image x="{x}" y="{y}" width="{size}" height="{size}" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )
