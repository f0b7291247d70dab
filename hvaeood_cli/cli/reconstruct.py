"""`hvaeood reconstruct`: draw images beside their reconstructions from each k, and their maps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvaeood_cli.cli import console, options
from hvaeood_cli.errors import ImageError, SourceError, StoreError, UsageError
from hvaeood_cli.files import check_folder, check_output

if TYPE_CHECKING:
    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.cli.deciding import Warn
    from hvaeood_cli.images.decode import Decoded
    from hvaeood_cli.images.sources import Manifest

_MAX_IMAGES = 64  # of one picture
_AT_ONCE = 16  # whole images whose maps are made together; of those with tiles, one
_NATS, _SPREADS = ".nats.npy", ".spreads.npy"  # of the maps of all k, for scripts


def reconstruct(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE", help="Image files, or rows of an array: FILE#17.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.png", help="The picture to write."),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="Write the maps of each image there: where it is odd at each k, as pictures and "
            "for NumPy.",
        ),
    ] = None,
    model: options.Model = "fashionmnist",
    proposal: options.Proposal = "mean",
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Show an image as the model sees it from each k, and where it is odd.

    Example: **hvaeood reconstruct odd.png -o grid.png --maps maps/**

    From left to right: the image, what was scored, its reconstruction, and its latent
    reconstructions, where the k lowest latents come from the prior. An image from the training
    distribution keeps its looks; another drifts towards what the model knows.

    The map of k colours what the latents above k explain worse than is usual there: from 2 spreads
    above it to 8, violet to yellow. NAME.map-K.png shows it over the image;
    NAME.spreads.npy holds all of them, (L - 1, H, W), or NAME.nats.npy where nothing says what is
    usual. A map shows where to look. It is no outline of an object, and names no cause.

    Next: **hvaeood score FOLDER**
    """
    if output is None and maps is None:
        raise UsageError("nothing is to be written", "-o grid.png, or --maps DIR")
    if output is not None and output.suffix.lower() != ".png":
        raise UsageError(f"{output} does not end in .png", "the picture is written as PNG")
    if output is not None:
        check_output(output, "grid.png")
    if output is not None and output.exists() and not force:
        raise StoreError(f"{output} is there already", "choose another -o, or --force")
    from hvaeood_cli.assembly import Assembly
    from hvaeood_cli.images.sources import open_sources

    assembly = Assembly(model, proposal=proposal, seed=seed, device=device)
    manifest = open_sources(images, data_root=data_root)
    if output is not None and len(manifest) > _MAX_IMAGES:
        raise UsageError(f"{len(manifest)} images; a picture shows {_MAX_IMAGES}", "name fewer")
    said = f"{len(manifest):,} {'image' if len(manifest) == 1 else 'images'}"
    n_layers = assembly.bundle.config.n_layers
    places = _places(maps, manifest, n_layers, force) if maps is not None else []
    if output is not None:
        _draw(assembly, manifest, output)
        if not quiet:
            console.say(f"{said}, k = 0 to {n_layers - 1}: {output}")
    if maps is not None:
        _write_maps(assembly, manifest, maps, places, console.warner(quiet))
        if not quiet:
            console.say(f"maps of {said}, k = 1 to {n_layers - 1}: {maps}")


def _draw(assembly: Assembly, manifest: Manifest, output: Path) -> None:
    from hvaeood_cli.files import replacing
    from hvaeood_cli.looks.grid import reconstruction_grid
    from hvaeood_cli.scoring.views import views

    try:
        pixels = assembly.preprocessed(manifest)
    except ImageError as error:
        raise SourceError(error.message, "name image files, or rows of an array: FILE#17") from None
    seen = views(assembly.scorer.of_one_sample, pixels, None)
    grid = reconstruction_grid(
        [
            ((one / 255.0).astype("float32"), view.observed, view.from_k)
            for one, view in zip(pixels, seen, strict=True)
        ]
    )
    with replacing(output) as temporary:
        grid.save(temporary, format="PNG")


def _places(folder: Path, manifest: Manifest, n_layers: int, force: bool) -> list[Path]:
    """Where below the folder each image's maps go; their endings are put behind these names.

    The images lie there as they do below the folder that all of them lie in. Raises StoreError
    where a map is there already, UsageError where there can be no such folder.
    """
    from hvaeood_cli.images.reader import row_of_array
    from hvaeood_cli.taking.places import Layout

    check_folder(folder)
    layout = Layout(manifest.names())
    places = []
    for i in range(len(manifest)):
        name = os.fsdecode(manifest.name(i))
        place = layout.place(name, made=row_of_array(name)[1] is not None)
        endings = [_NATS, _SPREADS, *map(_picture, range(1, n_layers))]
        for there in (folder / _named(place, ending) for ending in endings):
            if os.path.lexists(there) and not force:
                raise StoreError(f"{there} is there already", "name another folder, or --force")
        places.append(place)
    return places


def _picture(k: int) -> str:
    return f".map-{k}.png"


def _named(place: Path, ending: str) -> Path:
    return place.with_name(place.name + ending)


def _write_maps(
    assembly: Assembly, manifest: Manifest, folder: Path, places: list[Path], warn: Warn
) -> None:
    """Write the maps of every image, some at a time.

    Raises SourceError for an image that cannot be read, StoreError where nothing can be written.
    """
    import numpy as np
    from PIL import Image

    from hvaeood_cli.calibration.usual_maps import NOT_KNOWN
    from hvaeood_cli.files import replacing
    from hvaeood_cli.images.preprocess import box_of, preprocess
    from hvaeood_cli.looks.heat import overlay
    from hvaeood_cli.looks.look import Maps
    from hvaeood_cli.scoring.views import views
    from hvaeood_cli.taking.places import make_folders

    config, usual = assembly.bundle.config, assembly.usual_maps
    if usual is None:
        warn(f"the maps are in nats, for {NOT_KNOWN}")

    def write(image: Decoded, maps: Maps, place: Path) -> None:
        make_folders(folder, place.parent)
        unit, other = (_NATS, _SPREADS) if maps.why_nats else (_SPREADS, _NATS)
        (folder / _named(place, other)).unlink(missing_ok=True)  # which --force replaces
        target = folder / _named(place, unit)
        with replacing(target) as temporary, temporary.open("wb") as file:
            np.save(file, maps.values, allow_pickle=False)
        for k in range(1, config.n_layers):
            with replacing(folder / _named(place, _picture(k))) as temporary:
                Image.fromarray(overlay(image.pixels, maps, k)).save(temporary, format="PNG")

    try:
        folder.mkdir(exist_ok=True)
        at_once = 1 if config.fit == "tile" else _AT_ONCE
        for first in range(0, len(manifest), at_once):
            images = [_read(manifest, i) for i in range(len(manifest))[first : first + at_once]]
            pixels = [preprocess(image, config).pixels for image in images]
            seen = views(assembly.scorer.of_one_sample, pixels, usual)
            for image, view, place in zip(images, seen, places[first:], strict=False):
                box = box_of(config, *image.pixels.shape[:2])
                write(image, Maps(view.maps, box, "" if usual else NOT_KNOWN), place)
    except OSError as error:
        raise StoreError(
            f"cannot write {error.filename or folder}: {error.strerror}",
            "make room, or choose another folder",
        ) from None


def _read(manifest: Manifest, i: int) -> Decoded:
    """An image. Raises SourceError, naming it."""
    try:
        return manifest.read(i)[0]
    except ImageError as error:
        raise SourceError(
            f"{os.fsdecode(manifest.name(i))}: {error}", "leave it out, or copy it again"
        ) from None
