"""From the bytes of an image file to 8-bit pixels. Bad bytes raise ImageError, nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntFlag
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hvaeood_cli.errors import ImageError

Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
EXTENSIONS = frozenset(
    b".png .jpg .jpeg .jpe .bmp .gif .tif .tiff .webp .pgm .ppm .pbm .pnm".split()
)
MAX_PIXELS = 64_000_000  # an 8,000 x 8,000 image; a decompression bomb is larger
MAX_BYTES = 1 << 30
_ORIENTATION = 0x0112  # the EXIF tag


class Conversion(IntFlag):
    """What was done to an image on the way to the model; one bit each in /images/conversions."""

    RESIZED = 1
    CROPPED = 2
    GREYED = 4
    COLOURED = 8
    ROTATED = 16  # by its EXIF orientation
    ALPHA = 32  # composited over white
    PALETTE = 64
    DEPTH = 128  # from 16 bits or floating point to 8 bits
    FIRST_FRAME = 256  # the first of several frames was taken
    PADDED = 512  # continued by its mirror image


class Decoded(NamedTuple):
    """An image as it is in its file, upright: (H, W) grey or (H, W, 3) RGB."""

    pixels: Pixels
    conversions: Conversion


def has_ending(name: bytes) -> bool:
    """Whether a name ends as an image's."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def begins_as_image(file: BinaryIO) -> bool:
    """Whether a file begins as an image of a format that is read here, whole or not."""
    try:
        with Image.open(file, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # damaged or too large, which decoding will say
        return True


def decode(data: bytes) -> Decoded:
    """Decode PNG, JPEG, BMP, GIF, TIFF, WebP or PNM bytes.

    Raises ImageError with code empty, not_an_image, damaged or too_large.
    """
    if not data:
        raise ImageError("empty", "the file has no bytes")
    if len(data) > MAX_BYTES:
        raise ImageError("too_large", f"{len(data)} bytes; at most {MAX_BYTES} are read")
    with _image_errors(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return _decoded(image)


def decode_hashed(data: bytes) -> tuple[Decoded, bytes]:
    """Decode as `decode` does, and the bytes' SHA-256. It is in the ImageError, too."""
    digest = hashlib.sha256(data).digest()
    try:
        return decode(data), digest
    except ImageError as error:
        error.sha256 = digest
        raise


def decode_opened(image: Image.Image) -> Decoded:
    """Decode an image that Pillow has opened or made, by the same rules. Raises ImageError."""
    with _image_errors():
        return _decoded(image)


def _decoded(image: Image.Image) -> Decoded:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError("too_large", _too_large(f"{width} x {height} pixels"))
    if not width * height:
        raise ImageError("empty", f"{width} x {height} pixels")
    tiles = getattr(image, "tile", ())  # of a file that is not loaded yet
    deep = any("16" in str(tile[3]) for tile in tiles)  # 16 bit that Pillow reduces
    image.load()
    return _upright(image, Conversion.DEPTH if deep else Conversion(0))


def _too_large(size: str) -> str:
    most = MAX_PIXELS // 1_000_000
    return f"{size}, where at most {most} million are read: make it smaller first"


@contextmanager
def _image_errors() -> Iterator[None]:
    """Raise ImageError for whatever Pillow raises."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not_an_image", "no image format that is read here") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = "".join(re.findall(r"[0-9]+", str(error))[:1])
        raise ImageError("too_large", _too_large(f"{pixels} pixels")) from None
    except MemoryError:
        raise ImageError("too_large", "not enough memory to decode it") from None
    except Exception as error:  # Pillow's plugins raise whatever a hostile file makes them raise
        raise ImageError("damaged", f"{type(error).__name__}: {error}") from None


def _upright(image: Image.Image, done: Conversion) -> Decoded:
    """The first frame, turned as EXIF says, without palette or transparency, in 8 bits."""
    if getattr(image, "is_animated", False):  # n_frames would walk through all of them
        done |= Conversion.FIRST_FRAME
    has_exif = "exif" in image.info or image.format == "TIFF"
    if has_exif and image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        done |= Conversion.ROTATED
        image = ImageOps.exif_transpose(image)
    if image.mode in {"P", "PA"}:
        done |= Conversion.PALETTE
        clear = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if clear else "RGB")
    if image.mode.startswith(("I", "F")):
        done |= Conversion.DEPTH
        return Decoded(_to_8_bit(np.asarray(image)), done)
    if image.mode in ("LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        done |= Conversion.ALPHA
        grey = image.mode in ("L", "LA", "La", "1")
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
        if grey:
            image = image.convert("L")
    if image.mode in ("1", "L"):
        return Decoded(np.asarray(image if image.mode == "L" else image.convert("L")), done)
    return Decoded(np.asarray(image.convert("RGB")), done)


def _to_8_bit(deep: NDArray[np.generic]) -> Pixels:
    """Scale deep pixels to 8 bits.

    16-bit integers are divided by 257, and so are wider ones if any is above 255. Floats are taken
    as 0 to 1, or as 0 to 255 if any is above 1.
    """
    values = np.nan_to_num(deep.astype(np.float64))
    if np.issubdtype(deep.dtype, np.floating):
        values = values * (255.0 if values.max(initial=0.0) <= 1.0 else 1.0)
    elif deep.dtype.itemsize == 2 or values.max(initial=0.0) > 255.0:
        values = values / 257.0
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
