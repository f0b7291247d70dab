"""`hvaeood reconstruct`: draw images beside their reconstructions from each k."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hvaeood_cli.cli import console, options
from hvaeood_cli.errors import SourceError, StoreError, UsageError

_MAX_IMAGES = 64


def reconstruct(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE", help="Image files, or rows of an array: FILE#17.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.png", help="The picture to write.")
    ],
    model: options.Model = "fashionmnist",
    proposal: options.Proposal = "mean",
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Show an image as the model sees it from each k.

    Example: **hvaeood reconstruct odd.png -o grid.png**

    From left to right: the image, what was scored, its reconstruction, and its latent
    reconstructions, where the k lowest latents come from the prior. An image from the training
    distribution keeps its looks; another drifts towards what the model knows.

    Next: **hvaeood score FOLDER**
    """
    if output.suffix.lower() != ".png":
        raise UsageError(f"{output} does not end in .png", "the picture is written as PNG")
    if output.exists() and not force:
        raise StoreError(f"{output} is there already", "choose another -o, or --force")
    from hvaeood_cli.detector import Detector
    from hvaeood_cli.errors import ImageError
    from hvaeood_cli.files import replacing
    from hvaeood_cli.images.sources import open_sources
    from hvaeood_cli.looks.grid import reconstruction_grid

    detector = Detector(model, proposal=proposal, seed=seed, device=device)
    manifest = open_sources(images, data_root=data_root)
    if len(manifest) > _MAX_IMAGES:
        raise UsageError(f"{len(manifest)} images; a picture shows {_MAX_IMAGES}", "name fewer")
    try:
        rows = [
            ((pixels / 255.0).astype("float32"), view.observed[0], view.from_k[:, 0])
            for pixels, view in detector.views(manifest)
        ]
    except ImageError as error:
        raise SourceError(error.message, "name image files, or rows of an array: FILE#17") from None
    grid = reconstruction_grid(rows)
    with replacing(output) as temporary:
        grid.save(temporary, format="PNG")
    if not quiet:
        noun = "image" if len(rows) == 1 else "images"
        console.say(f"{len(rows)} {noun}, k = 0 to {len(rows[0][2]) - 1}: {output}")
