"""What is usual of a map: its mean and standard deviation at each pixel, over usual images.

They are kept in a file of their own beside each calibration, `calibration.maps.safetensors`: two
arrays of (L - 1, H, W) float32 nats, `mean` and `std`, and what they were made of. Without it a map
is in nats; with it, in spreads: standard deviations above what is usual at that pixel. Of a model
that takes tiles there is a third, `raised`, (L - 1,) spreads: by how much the closing of a map
(`scoring.maps`) raises usual ones, which is taken off again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hvaeood_cli.calibration.calibration import LEAST_IMAGES
from hvaeood_cli.errors import CalibrationError
from hvaeood_cli.files import replacing

MUST_AGREE = ("model_sha256", "proposal", "preprocessing", "map")
ENOUGH = 500  # usual images: their standard deviation is then within some 3 %

NOT_KNOWN = "what is usual there is not known, hvaeood calibrate finds out"  # of a model's maps

ENDING = ".maps.safetensors"
_MAX_BYTES = 1 << 26
# A pixel that never changes among usual images has no spread to compare with. The least spread is
# this share of the root mean square of all pixels' spreads.
_LEAST_SPREAD = 0.1

Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class UsualMaps:
    """Mean and standard deviation of each k's map at each pixel, over n usual images or tiles."""

    settings: dict[str, str]  # the keys of MUST_AGREE
    n: int  # of how many maps
    mean: Float  # (L - 1, H, W) nats
    std: Float  # (L - 1, H, W) nats
    raised: Float  # (L - 1,) spreads; 0 for maps that are not closed

    @classmethod
    def of(cls, settings: Mapping[str, Any], batches: Iterable[Float]) -> UsualMaps:
        """Of the maps of usual images or tiles, in batches of (L - 1, N, H, W) nats.

        settings: those that the maps were made with; others are left out. Raises CalibrationError
        for too few.
        """
        n, total, squares = 0, np.zeros(()), np.zeros(())
        for maps in batches:
            values = maps.astype(np.float64)
            finite = np.isfinite(values).all(axis=(0, 2, 3))  # a model may fail on an image
            values = values[:, finite]
            n += values.shape[1]
            total = total + values.sum(1)
            squares = squares + np.square(values).sum(1)
        if n < LEAST_IMAGES:
            raise CalibrationError(
                f"{n} images are too few to say what is usual of a map",
                f"give at least {LEAST_IMAGES}; {ENOUGH} are enough",
            )
        mean = total / n
        std = np.sqrt(np.maximum(squares / n - np.square(mean), 0.0))
        kept = {key: str(settings[key]) for key in MUST_AGREE}
        not_raised = np.zeros(len(mean), np.float32)
        return cls(kept, n, mean.astype(np.float32), std.astype(np.float32), not_raised)

    def spreads(self, maps: Float) -> Float:
        """Maps in standard deviations above what is usual. maps: (L - 1, N, H, W) nats."""
        size = np.sqrt(np.square(self.std).mean(axis=(1, 2), keepdims=True))  # (L - 1, 1, 1)
        std = np.maximum(self.std, np.maximum(_LEAST_SPREAD * size, 1e-6))
        return np.asarray((maps - self.mean[:, None]) / std[:, None], np.float32)

    def fits(self, settings: Mapping[str, Any]) -> bool:
        """Whether maps made with these settings can be compared with these."""
        return all(self.settings[key] == str(settings[key]) for key in MUST_AGREE)

    # -- on disk ------------------------------------------------------------------------------

    def save(self, calibration: Path) -> None:
        """Write the file beside a calibration, whole or not at all. Raises OSError."""
        from safetensors.numpy import save

        settings = _Settings.model_validate(self.settings)
        head = _Head(n=self.n, settings=settings)
        arrays = {"mean": self.mean, "std": self.std}
        arrays |= {"raised": self.raised} if self.raised.any() else {}
        content = save(arrays, {"head": head.model_dump_json()})
        with replacing(place_of(calibration)) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(cls, path: Path) -> UsualMaps:
        """Read and check a file. Raises CalibrationError with what is wrong."""
        from safetensors import SafetensorError, safe_open

        again = "hvaeood calibrate SOURCE makes it anew"
        try:
            if not path.is_file() or path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"no regular file of at most {_MAX_BYTES >> 20} MiB")
            with safe_open(path, framework="np") as file:
                head = _Head.model_validate_json((file.metadata() or {}).get("head", ""))
                if not {"mean", "std"} <= {*file.keys()} <= {"mean", "std", "raised"}:
                    raise ValueError("it does not hold mean and std alone")
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found.setdefault("raised", np.zeros(found["mean"].shape[:1], np.float32))
            _check(**found)
        except (OSError, ValueError, SafetensorError) as error:
            said = (
                str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
            )
            reason = said.strip().split("\n")[0][:200]
            raise CalibrationError(f"{path} holds no usual maps ({reason})", again) from None
        return cls(head.settings.model_dump(), head.n, **found)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    proposal: Literal["mean", "sample"]
    preprocessing: Annotated[str, Field(max_length=4096)]
    map: Annotated[str, Field(max_length=4096)]  # what a map is, by `scoring.maps`


class _Head(BaseModel):
    """What the file says of its arrays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["hvaeood-usual-maps"] = "hvaeood-usual-maps"
    format_version: Literal[1] = 1
    n: Annotated[int, Field(ge=2)]
    settings: _Settings


def _check(mean: Float, std: Float, raised: Float) -> None:
    """Raise ValueError for arrays that are no maps."""
    if mean.ndim != 3 or mean.shape != std.shape or 0 in mean.shape:
        raise ValueError(f"mean is {mean.shape} and std {std.shape}: expected twice (L - 1, H, W)")
    if mean.dtype != np.float32 or std.dtype != np.float32:
        raise ValueError(f"mean holds {mean.dtype} and std {std.dtype}, not float32")
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
        raise ValueError("its numbers are no means and standard deviations")
    if (
        raised.shape != mean.shape[:1]
        or raised.dtype != np.float32
        or not np.isfinite(raised).all()
    ):
        raise ValueError("raised is no number of each k")


def place_of(calibration: Path) -> Path:
    """The file of usual maps beside a calibration's file."""
    return calibration.with_name(calibration.stem + ENDING)


def find_usual_maps(
    calibrations: Sequence[Path], settings: Mapping[str, Any], n_layers: int, size: int
) -> UsualMaps | None:
    """What is usual of maps made with these settings; None where no file says.

    calibrations: files beside which to look, the first that fits counts. n_layers: L. size: height
    and width of a map. Raises CalibrationError for a file that cannot be read.
    """
    for path in map(place_of, calibrations):
        if path.exists():
            found = UsualMaps.load(path)
            if found.fits(settings) and found.mean.shape == (n_layers - 1, size, size):
                return found
    return None
