"""What a decision needs to know of usual images: kept beside the model, under an id of its own.

A calibration is a file, `calibration.npz`: the scores of n held-out in-distribution images, the
density fitted on some of them, and the settings that made them. The density is fitted on one
split and compared with the other, so the combined score's p-values hold for the final decision.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.density import Density, Scored, statistics
from hvaeood_cli.errors import CalibrationError
from hvaeood_cli.files import replacing
from hvaeood_cli.store.reader import ScoreFile

FORMAT, FORMAT_VERSION = "hvaeood-calibration", 2  # 1 had a density without LLR>k / -L
FILE = "calibration.npz"
LEAST_IMAGES = 100

_FIT_FRACTION = 0.3  # of the images go to the density, the rest to its p-values
_SPLIT_SEED = 0
_MAX_BYTES = 1 << 30  # of a file, unpacked
_UNREADABLE = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,  # an encrypted member; NotImplementedError, an unknown method, is one too
    zipfile.BadZipFile,
    zlib.error,
)
_COLUMNS = ("lower_bound", "llr", "kl", "log_px")
_DENSITY = ("centre", "spread", "log_weights", "means", "precisions")

# What must agree between a calibration and the scores that it judges. The seed need not: another
# draw of the noise is as good as the first.
SETTINGS = {
    "model_sha256": "the model",
    "n_importance_samples": "importance samples S",
    "n_importance_samples_k": "importance samples of L>k",
    "proposal": "the proposal",
    "precision": "the precision",
    "preprocessing": "the preprocessing",
}


@dataclass(frozen=True)
class Calibration:
    """Scores of n usual images of one model under one set of settings. L layers."""

    settings: dict[str, Any]  # the keys of SETTINGS
    about: dict[str, Any]  # model name, source, dates: for people
    lower_bound: NDArray[np.float32]  # (n, L) nats
    llr: NDArray[np.float32]  # (n, L - 1) nats
    kl: NDArray[np.float32]  # (n, L) nats
    log_px: NDArray[np.float32]  # (n, L) nats
    content: NDArray[np.uint64]  # (n,) of the images' pixels
    oddness: NDArray[np.float64]  # (m,) sorted, of the images that the density was not fitted on
    density: Density

    @classmethod
    def of(cls, scores: ScoreFile, about: dict[str, Any] | None = None) -> Calibration:
        """From the scored rows of a score file. Raises CalibrationError for too few of them."""
        used = np.flatnonzero(scores.scored)
        # Sorted by content, so that the images' order in the file does not change the split.
        used = used[np.lexsort([scores.sha256[used, -1], scores.content[used]])]
        check_enough(len(used))
        values = statistics(scores)[used]
        random = np.random.Generator(np.random.Philox(key=_SPLIT_SEED))
        order = random.permutation(len(used))
        n_fit = round(_FIT_FRACTION * len(used))
        fitted = values[order[:n_fit]]
        # What is not finite has no density, but it counts among the p-values' images: it is as
        # usual as it is frequent.
        density = Density.fit(fitted[np.isfinite(fitted).all(axis=1)])
        facts = {"model_name": scores.attributes["model_name"], "n_fit": n_fit}
        return cls(
            settings=settings_of(scores.attributes, scores.settings),
            about=facts | (about or {}),
            lower_bound=scores.lower_bound[used],
            llr=scores.llr[used],
            kl=scores.kl[used],
            log_px=scores.log_px[used],
            content=scores.content[used],
            oddness=np.sort(density.oddness(values[order[n_fit:]])),
            density=density,
        )

    def __len__(self) -> int:
        return len(self.llr)

    @property
    def n_layers(self) -> int:
        return int(self.lower_bound.shape[1])

    @cached_property
    def sorted_llr(self) -> NDArray[np.float32]:
        """(n, L - 1) nats, each column sorted upwards."""
        return np.sort(self.llr, axis=0)

    @cached_property
    def id(self) -> str:
        """A hash of scores, model and settings."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
        for array in self._arrays().values():
            digest.update(repr(array.shape).encode() + array.tobytes())
        return digest.hexdigest()[:16]

    def combined(self, scores: Scored) -> NDArray[np.float64]:
        """The combined score of every row, (N,) nats, higher is odder."""
        return self.density.oddness(statistics(scores))

    def k_differing_most(self, llr: NDArray[np.float32]) -> NDArray[np.int64]:
        """The k, from 1, whose LLR^{>k} is most spreads off the calibration's mean, either way."""
        usual = self.llr[np.isfinite(self.llr).all(axis=1)].astype(np.float64)
        off = np.abs(llr - usual.mean(0)) / np.maximum(usual.std(0), 1e-6)
        return np.asarray(np.nan_to_num(off, nan=-1.0).argmax(axis=1) + 1)

    def images_for(self, n: int) -> int:
        """How many images a calibration takes to compare with n of them."""
        return -(-n * len(self) // len(self.oddness))

    def mismatches(self, scored: dict[str, Any]) -> list[str]:
        """Where scores were made in another way than these, in words, with both values.

        scored: as `settings_of` gives them.
        """
        return [
            f"{words}: {_short(self.settings.get(key))} calibrated, {_short(scored.get(key))} here"
            for key, words in SETTINGS.items()
            if self.settings.get(key) != scored.get(key)
        ]

    def check(self, scored: dict[str, Any]) -> None:
        """Raise CalibrationError where `mismatches` finds any."""
        differing = self.mismatches(scored)
        if differing:
            raise CalibrationError(
                "these scores are made in another way than the calibration's: "
                + "; ".join(differing),
                "score with the calibration's settings, hvaeood calibrate with these, or name "
                "another: --calibration FILE",
            )

    # -- on disk ------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "id": self.id}
        head |= {"settings": self.settings, "about": self.about}
        packed = io.BytesIO()
        arrays: dict[str, Any] = self._arrays() | {"head": np.array(json.dumps(head))}
        np.savez_compressed(packed, **arrays)
        with replacing(path) as temporary:
            temporary.write_bytes(packed.getvalue())

    @classmethod
    def find(cls, paths: Iterable[Path]) -> Calibration | None:
        """The first that is there. Raises CalibrationError where that one is broken."""
        found = next((path for path in paths if path.is_file()), None)
        return None if found is None else cls.load(found)

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read and check a calibration. Raises CalibrationError."""
        again = "hvaeood calibrate SOURCE makes it anew"
        if not path.is_file():
            raise CalibrationError(f"no such calibration: {path}", again)
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > _MAX_BYTES:
                    raise ValueError("it claims to be larger than 1 GiB")
            with np.load(path, allow_pickle=False) as file:
                head = json.loads(str(file["head"]))
                if head["format"] != FORMAT:
                    raise ValueError(f"its format is {head['format']!r}")
                if head["format_version"] != FORMAT_VERSION:
                    newer = head["format_version"] > FORMAT_VERSION
                    raise CalibrationError(
                        f"{path} has format version {head['format_version']}; this program reads "
                        f"version {FORMAT_VERSION}",
                        "upgrade: pip install --upgrade hvaeood" if newer else again,
                    )
                density = Density(*(file[f"density_{name}"] for name in _DENSITY))
                columns = {name: file[name] for name in (*_COLUMNS, "content", "oddness")}
                found = cls(head["settings"], head["about"], **columns, density=density)
                found._check_shapes()
                if found.id != head["id"]:
                    raise ValueError("its content does not match its id")
        except _UNREADABLE as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise CalibrationError(f"{path} is not a whole calibration ({reason})", again) from None
        return found

    def _check_shapes(self) -> None:
        """Raise ValueError where an array does not fit the others."""
        n, n_layers = self.lower_bound.shape
        n_dims, n_parts = 4 * n_layers - 1, len(self.density.log_weights)
        expected = {
            "llr": (n, n_layers - 1),
            "kl": (n, n_layers),
            "log_px": (n, n_layers),
            "content": (n,),
            "oddness": (len(self.oddness),),
            "density_centre": (n_dims,),
            "density_spread": (n_dims,),
            "density_log_weights": (n_parts,),
            "density_means": (n_parts, n_dims),
            "density_precisions": (n_parts, n_dims, n_dims),
        }
        arrays = self._arrays()
        wrong = [name for name, shape in expected.items() if arrays[name].shape != shape]
        if wrong or not 0 < len(self.oddness) <= n:
            raise ValueError(f"{wrong[0] if wrong else 'oddness'} has the wrong shape")

    def _arrays(self) -> dict[str, NDArray[Any]]:
        columns = {name: getattr(self, name) for name in (*_COLUMNS, "content", "oddness")}
        return columns | {f"density_{name}": getattr(self.density, name) for name in _DENSITY}


def check_enough(n_images: int) -> None:
    """Raise CalibrationError for too few images to calibrate on."""
    if n_images < LEAST_IMAGES:
        raise CalibrationError(
            f"{n_images} images are too few to calibrate on",
            f"give at least {LEAST_IMAGES}; 1,000 or more for thresholds at 1 %",
        )


def settings_of(attributes: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of all that a score file says of itself, what a calibration must share."""
    known = {**settings, **attributes}
    return {key: known.get(key) for key in SETTINGS}


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text  # a SHA-256
