"""A calibration: the scores of usual images, with which the scores of others are compared.

It is kept in a file, `calibration.npz`, beside the model, and as a copy in each score file that it
decides: the scores of n held-out in-distribution images, the densities fitted to some of them, and
the settings that made them. They are fitted to one split and the p-values come from the
other, so that the p-values of the combined score hold for the final decision. Where that score is
one statistic, as of tiles, all images do both.

A cross-fitted model has densities for each of its folds, whose networks differ.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvaeood_cli.calibration.combination import (
    HANDICAPS,
    Combination,
    aspects,
    places_of,
    statistics,
    statistics_of,
    widths_of,
)
from hvaeood_cli.calibration.density import Density
from hvaeood_cli.calibration.packed import (
    DENSITY,
    FORMAT,
    FORMAT_VERSION,
    MAX_UNPACKED,
    Archive,
    Version,
    member,
    parse_head,
    parse_version,
)
from hvaeood_cli.calibration.slices import in_slices
from hvaeood_cli.errors import CalibrationError
from hvaeood_cli.files import replacing
from hvaeood_cli.store.columns import Sizes, column
from hvaeood_cli.store.conversions import done_to_most
from hvaeood_cli.store.header import RunHeader
from hvaeood_cli.store.score_file import ScoreFile
from hvaeood_cli.untrusted import read_regular

LEAST_IMAGES = 50
_LEAST_FITTED = 10  # images with every score, among those that the density is fitted on

_FIT_FRACTION = 0.3  # the share of images that the density is fitted to; the rest give p-values
_SPLIT_SEED = 0
_MAX_BYTES = 1 << 27  # of a file
_SLACK = 1 << 16  # bytes of a member of the file that are not its array

# What must agree between a calibration and the scores that it decides. The seed need not: another
# draw of the noise is as good as the first.
MUST_AGREE = {
    "model_sha256": "the model",
    "n_importance_samples": "importance samples S",
    "n_importance_samples_k": "importance samples of L>k",
    "proposal": "the proposal",
    "precision": "the precision",
    "preprocessing": "the preprocessing",
}


class OutdatedError(CalibrationError):
    """A calibration of an older format: nothing is lost with the file, for nothing reads it."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """The scores of n usual images by one model of L layers, under one set of settings."""

    settings: dict[str, Any]  # the keys of MUST_AGREE
    about: dict[str, Any]  # facts for people, such as the model's name
    columns: dict[str, NDArray[np.float32]]  # every score, by name: (n,) or (n, ...)
    content: NDArray[np.uint64]  # (n,) content keys, shortened to 64 bits
    aspects: dict[str, tuple[str, ...]]  # the names of the columns of every aspect
    combinations: tuple[Combination, ...]  # by fold; one of an ordinary model
    combined: NDArray[np.float64]  # (m,) nats, sorted: of the images that give the p-values

    @classmethod
    def of(cls, scores: ScoreFile, about: dict[str, Any] | None = None) -> Calibration:
        """Calibrate on the scored rows of a run. Raises CalibrationError for too few of them.

        Some images are for the densities and the others for the p-values; of a model of tiles all
        are for both. Its score is one statistic, higher where that is, whatever is fitted: so its
        p-values hold without a split. about: more facts for people, kept in the file.
        """
        used = _by_content(scores)
        check_enough(len(used))
        if scores.header.fit == "tile" and not folds_of(scores.columns, len(scores)).any():
            return cls._fitted(scores, used, used, used, False, about)
        random = np.random.Generator(np.random.Philox(key=_SPLIT_SEED))
        order = used[random.permutation(len(used))]
        n_fit = round(_FIT_FRACTION * len(used))
        return cls._fitted(scores, used, order[:n_fit], order[n_fit:], False, about)

    @classmethod
    def within(cls, scores: ScoreFile, about: dict[str, Any] | None = None) -> Calibration:
        """A run's own images as the calibration of that run: how odd is each among the others?

        The densities leave out the oddest of them, and p-values compare each image with all. If
        what does not belong is among them, the p-values of what belongs are too large, never too
        small. Raises CalibrationError as `of` does.
        """
        used = _by_content(scores)
        check_enough(len(used))
        _, firsts = np.unique(scores.content[used], return_index=True)
        fit = used[firsts]  # many copies of an odd image do not make it usual
        return cls._fitted(scores, used, fit, used, True, {"within": True} | (about or {}))

    @classmethod
    def _fitted(
        cls,
        scores: ScoreFile,
        used: NDArray[np.int64],
        fit: NDArray[np.int64],
        ranked: NDArray[np.int64],
        trimmed: bool,
        about: dict[str, Any] | None,
    ) -> Calibration:
        """Fit each fold's densities to the rows `fit`; the rows `ranked` give the p-values.

        trimmed: leave out the oddest of the rows that a density is fitted to.
        """
        judged = aspects(scores.header.fit == "tile", scores.columns)
        names = statistics_of(judged)
        values, widths = statistics(scores.columns, names), widths_of(scores.columns, names)
        folds = folds_of(scores.columns, len(scores))
        combinations = []
        for fold in range(int(folds[used].max()) + 1):
            fitted = values[fit[folds[fit] == fold]]
            # A density cannot be fitted to values that are not finite. Where they give p-values
            # they stay, with an infinite score: they are as usual as they are frequent.
            finite = fitted[np.isfinite(fitted).all(axis=1)]
            if len(finite) < _LEAST_FITTED:
                raise CalibrationError(
                    f"only {len(finite)} of {len(fitted)} images have every score",
                    "the model fails on images that should belong: train it anew",
                )
            combinations.append(Combination.fit(judged, widths, finite, trimmed))
        if len(combinations) > 1:  # what is usual in one fold is as usual in another
            for fold, combination in enumerate(combinations):
                here = combination.combined(values[ranked[folds[ranked] == fold]])
                combinations[fold] = replace(combination, shift=float(np.median(here)))
        converted = done_to_most(scores.conversion_counts, len(used))
        facts = {"model_name": scores.header.model_name, "n_fit": len(fit), "converted": converted}
        return cls(
            settings=settings_of(scores.header),
            about=facts | (about or {}),
            columns={column.name: scores[column.name][used] for column in scores.scores},
            content=scores.content[used],
            aspects=judged,
            combinations=tuple(combinations),
            combined=np.sort(_combined(combinations, values[ranked], folds[ranked])),
        )

    def __len__(self) -> int:
        return len(self.llr)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """A column of scores by its name, (n,) or (n, ...). Raises KeyError."""
        return self.columns[name]

    @property
    def llr(self) -> NDArray[np.float32]:
        return self.columns["llr"]  # (n, L - 1) nats

    @property
    def n_layers(self) -> int:
        return int(self.columns["lower_bound"].shape[1])

    @property
    def sizes(self) -> Sizes:
        """What the shapes of its columns depend on."""
        channels = self.columns.get("kl_channel")
        return Sizes(self.n_layers, 0 if channels is None else channels.shape[1])

    @property
    def statistics(self) -> tuple[str, ...]:
        """The names of the columns that the combined score takes."""
        return statistics_of(self.aspects)

    @property
    def needed(self) -> tuple[str, ...]:
        """The names of the columns that `combine` needs: of a cross-fitted model, the fold too."""
        return self.statistics + ("fold",) * (len(self.combinations) > 1)

    @property
    def asked(self) -> tuple[str, ...]:
        """Which statistics the combined score takes that are only measured when asked for."""
        return tuple(sorted({column(name).asked for name in self.statistics} - {""}))

    @cached_property
    def sorted_llr(self) -> NDArray[np.float32]:
        """(n, L - 1) nats, each column sorted upwards."""
        return np.sort(self.llr, axis=0)

    @cached_property
    def middle_of_llr(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean of each LLR^{>k} and its standard deviation, (L - 1,) nats each."""
        usual = self.llr[np.isfinite(self.llr).all(axis=1)].astype(np.float64)
        return usual.mean(0), np.maximum(usual.std(0), 1e-6)

    @cached_property
    def usual_statistics(self) -> NDArray[np.float64]:
        """The statistics, of every image: (n, D), each sorted upwards."""
        return np.sort(statistics(self.columns, self.statistics), axis=0)

    @cached_property
    def id(self) -> str:
        """A hash of the settings, the scores, and how the densities are made from them.

        It leaves out the densities themselves, whose last digits differ between processors.
        """
        made = [self.settings, self.aspects, HANDICAPS, _FIT_FRACTION, _SPLIT_SEED]
        made += [Density.made_by()]
        made += ["within"] if self.is_within else []
        made += ["not split"] if not self.is_within and len(self.combined) == len(self) else []
        digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
        arrays: list[NDArray[Any]] = [*self.columns.values(), self.content]
        for array in arrays:
            digest.update(repr(array.shape).encode() + array.tobytes())
        return digest.hexdigest()[:16]

    @property
    def settings_id(self) -> str:
        """A short hash of the settings, which tells the calibrations of one model apart."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def is_within(self) -> bool:
        """Whether it compares a run's images with one another, as `within` does."""
        return bool(self.about.get("within"))

    def is_of(self, scores: ScoreFile) -> bool:
        """Whether it compares this run's images with one another: most are those it was made of."""
        if not self.is_within:
            return False
        own = np.isin(scores.content[scores.scored], self.content)
        return bool(own.sum() > len(own) / 2)

    def combine(self, scores: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """The combined score of every row, (N,) nats, higher is odder.

        scores: columns by name, at least those that are `needed`.
        """

        def of(part: slice) -> NDArray[np.float64]:
            rows = {name: scores[name][part] for name in self.needed}
            values = statistics(rows, self.statistics)
            return _combined(self.combinations, values, folds_of(rows, len(values)))

        return in_slices(len(scores[self.statistics[0]]), of)

    def rarities(self, scores: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
        """How rare every row is in each aspect, by the aspect's name: (N,) nats."""
        values = statistics(scores, self.statistics)
        folds = folds_of(scores, len(values))
        found = {aspect: np.full(len(values), np.inf) for aspect in self.aspects}
        for fold, combination in enumerate(self.combinations):
            here = folds == fold
            for aspect, rarity in zip(
                self.aspects, combination.rarities(values[here]), strict=True
            ):
                found[aspect][here] = rarity
        return found

    def typicality(self, lower_bound: NDArray[np.float32]) -> NDArray[np.float64]:
        """|-L - H|, (N,) nats, H the mean of -L over usual images (Nalisnick et al., 2019).

        lower_bound: (N, L). The typicality test for a batch of one image.
        """
        usual = self.columns["lower_bound"][:, 0].astype(np.float64)
        off: NDArray[np.float64] = np.abs(lower_bound[:, 0] - usual[np.isfinite(usual)].mean())
        return off

    def k_differing_most(self, llr: NDArray[np.float32]) -> NDArray[np.int64]:
        """The k >= 1 whose LLR^{>k} is most unlike the calibration's, (N,).

        llr: (N, L - 1) nats. The measure is standard deviations from the mean, either way.
        """
        centre, spread = self.middle_of_llr
        off = np.abs(llr - centre) / spread
        return np.asarray(np.nan_to_num(off, nan=-1.0).argmax(axis=1) + 1)

    def images_for(self, n: int) -> int:
        """How many images to calibrate on, so that p-values come from n of them."""
        return -(-n * len(self) // len(self.combined))

    def mismatches(self, settings: Mapping[str, Any]) -> list[str]:
        """The settings that differ from the calibration's, in words with both values; else empty.

        settings: of the scores to decide, as `wanted_of` gives them. What they have besides what
        the calibration takes does no harm.
        """
        lacking = set(self.asked) - set(settings.get("statistics", "").split())
        pairs = {key: (self.settings.get(key), settings.get(key)) for key in MUST_AGREE}
        return [
            f"{MUST_AGREE[key]}: {_short(there)} calibrated, {_short(here)} here"
            for key, (there, here) in pairs.items()
            if there != here
        ] + [f"the statistics: {name} calibrated, not measured here" for name in sorted(lacking)]

    def mismatches_of(self, header: RunHeader) -> list[str]:
        """As `mismatches`, of a run. Its layers agree too, unless somebody made up its file."""
        layers = f"the layers: {self.n_layers} calibrated, {header.n_layers} here"
        return self.mismatches(wanted_of(header)) + [layers] * (self.n_layers != header.n_layers)

    def check(self, settings: Mapping[str, Any] | RunHeader) -> None:
        """Raise CalibrationError where `mismatches` finds a difference, or `mismatches_of`."""
        if isinstance(settings, RunHeader):
            differing = self.mismatches_of(settings)
        else:
            differing = self.mismatches(settings)
        if differing:
            raise CalibrationError(
                "these scores were made with other settings than the calibration: "
                + "; ".join(differing),
                "score with the calibration's settings, hvaeood calibrate with these, or name "
                "another: --calibration FILE",
            )

    def check_statistics(self, scores: ScoreFile) -> None:
        """Raise CalibrationError where scores lack a column that it needs."""
        missing = [name for name in self.needed if name not in scores.columns]
        if missing:
            raise CalibrationError(
                f"{scores.path} has no {missing[0]}, which the calibration takes into account",
                "score the images again with this version of the program: --force",
            )

    # -- on disk ------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises OSError; CalibrationError if it is large."""
        data = self.to_bytes()
        with replacing(path) as temporary:
            temporary.write_bytes(data)

    def to_bytes(self) -> bytes:
        """The content of the file. Raises CalibrationError for more than will be read again."""
        arrays = self._arrays()
        if sum(array.nbytes + _SLACK for array in arrays.values()) > MAX_UNPACKED:
            raise CalibrationError(
                f"{len(self):,} images are too many for a calibration",
                "100,000 are more than enough for thresholds at 0.01 %",
            )
        head: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "sha256": _digest(arrays),
            "settings": self.settings,
            "about": self.about,
            "columns": list(self.columns),
            "aspects": self.aspects,
            "folds": len(self.combinations),
        }
        packed = io.BytesIO()
        members: dict[str, Any] = arrays | {"head": np.array(json.dumps(head))}
        np.savez_compressed(packed, **members)
        return packed.getvalue()

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read and check a calibration. Raises CalibrationError with what is wrong."""
        again = "hvaeood calibrate SOURCE makes it anew"
        try:
            return cls.of_bytes(read_regular(path, _MAX_BYTES), str(path))
        except FileNotFoundError:
            raise CalibrationError(f"no such calibration: {path}", again) from None
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
            reason = getattr(error, "strerror", None) or error
            raise CalibrationError(f"cannot read {path}: {reason}", again) from None

    @classmethod
    def of_bytes(cls, data: bytes, path: str) -> Calibration:
        """The calibration in a file's content. Raises CalibrationError with what is wrong.

        path: the file's name in messages.
        """
        again = "hvaeood calibrate SOURCE makes it anew"
        try:
            with Archive.opened(data) as archive:
                text = archive.head()
                _check_version(path, parse_version(text), again)
                head = parse_head(text)
                arrays = archive.arrays(head)
            judged = {aspect: tuple(names) for aspect, names in head.aspects.items()}
            columns = {name: arrays[f"score_{name}"] for name in head.columns}
            places = places_of(judged, widths_of(columns, statistics_of(judged)))
            found = cls(
                settings=head.settings.model_dump(),
                about=head.about.model_dump(exclude_unset=True),
                columns=columns,
                content=arrays["content"],
                aspects=judged,
                combinations=tuple(
                    Combination(
                        tuple(judged),
                        places,
                        tuple(_density(arrays, fold, judged, aspect) for aspect in judged),
                        float(shift),
                    )
                    for fold, shift in enumerate(arrays["shift"])
                ),
                combined=arrays["combined"],
            )
            if _digest(found._arrays()) != head.sha256 or found.id != head.id:
                raise ValueError("its content is not what it was when it was written")
        except ValueError as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise CalibrationError(
                f"{path} is not a whole calibration ({reason})",
                "hvaeood calibrate SOURCE --force makes it anew",
            ) from None
        return found

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {
            f"score_{name}": values for name, values in self.columns.items()
        }
        arrays |= {"content": self.content, "combined": self.combined}
        arrays["shift"] = np.array([combination.shift for combination in self.combinations])
        return arrays | {
            member(fold, aspect, name): getattr(density, name)
            for fold, combination in enumerate(self.combinations)
            for aspect, density in zip(self.aspects, combination.densities, strict=True)
            for name in DENSITY
        }


def find_calibration(
    paths: Sequence[Path],
    settings: Mapping[str, Any],
    preferred: str = "",
    skipped: Callable[[CalibrationError], None] = lambda _: None,
) -> Calibration | None:
    """The first calibration that was made with these settings; None where no file exists.

    preferred: the id of the one that comes first, if it was made with these settings. skipped: is
    called with the reason for each file that cannot be read. Where all were made with other
    settings, returns the first of them, whose `mismatches` say why it cannot decide. Raises
    CalibrationError where there are files and none can be read.
    """
    there, unreadable = read_calibrations(paths)
    if unreadable and not there:
        raise unreadable[0]
    for error in unreadable:
        skipped(error)
    fitting = [one for one in there if not one.mismatches(settings)]
    fitting.sort(key=lambda one: -len(one.asked))  # what is measured is to count
    wanted = [one for one in fitting if one.id == preferred]
    return next(iter([*wanted, *fitting, *there]), None)


def read_calibrations(paths: Sequence[Path]) -> tuple[list[Calibration], list[CalibrationError]]:
    """Those of the files that can be read, and why the others cannot."""
    there, unreadable = [], []
    for path in paths:
        try:
            there.append(Calibration.load(path))
        except CalibrationError as error:
            unreadable.append(error)
    return there, unreadable


def folds_of(columns: Mapping[str, NDArray[Any]], n: int) -> NDArray[np.int64]:
    """The fold of every row, (n,): 0 where the columns do not say."""
    found = columns.get("fold")
    return np.zeros(n, np.int64) if found is None else found.astype(np.int64)


def _by_content(scores: ScoreFile) -> NDArray[np.int64]:
    """The scored rows, sorted by content: the images' order in a run must change nothing."""
    used = np.flatnonzero(scores.scored)
    return used[np.lexsort([scores.sha256[used, -1], scores.content[used]])]


def _density(
    arrays: Mapping[str, NDArray[Any]],
    fold: int,
    judged: Mapping[str, tuple[str, ...]],
    aspect: str,
) -> Density:
    parts: dict[str, Any] = {name: arrays[member(fold, aspect, name)] for name in DENSITY}
    return Density(**parts, has_l=judged[aspect][0] == "lower_bound")


def _combined(
    combinations: Sequence[Combination], values: NDArray[np.float64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The combined score of every row by the densities of its fold, (N,). values: (N, D).

    Infinite for a fold that there are no densities of.
    """
    combined = np.full(len(values), np.inf)
    for fold, combination in enumerate(combinations):
        here = folds == fold
        combined[here] = combination.combined(values[here])
    return combined


def check_enough(n_images: int) -> None:
    """Raise CalibrationError for too few images to calibrate on."""
    if n_images < LEAST_IMAGES:
        raise CalibrationError(
            f"{n_images} images are too few to calibrate on",
            f"give at least {LEAST_IMAGES}; 1,000 or more for thresholds at 1 %",
        )


def settings_of(header: RunHeader) -> dict[str, Any]:
    """The settings of a run that a calibration must share with it."""
    return {key: getattr(header, key) for key in MUST_AGREE}


def wanted_of(header: RunHeader) -> dict[str, Any]:
    """The settings of a run, and the statistics that it has for a calibration to take."""
    return settings_of(header) | {"statistics": header.statistics}


def _check_version(path: str, head: Version, again: str) -> None:
    """Raise ValueError for another format, CalibrationError for another version of this one."""
    if head.format != FORMAT:
        raise ValueError(f"its format is {head.format[:80]!r}")
    version = head.format_version
    said = f"{path} has format version {version}; this program reads version {FORMAT_VERSION}"
    if version < FORMAT_VERSION:
        raise OutdatedError(said, again)
    if version > FORMAT_VERSION:
        raise CalibrationError(said, "upgrade: pip install --upgrade hvaeood")


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of all arrays, by which a damaged file is noticed."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape} {array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text  # a SHA-256
