"""The paper's tables and figures, ours beside the paper's.

    python -m benchmarks.paper OUT --quick --data FashionMNIST=t10k-images-idx3-ubyte.gz MNIST=FILE
    python -m benchmarks.paper OUT -n 2000 -S 16 --models MNIST=digits FashionMNIST=a,b,c --data ...

Downloads nothing. A set is any source of `hvaeood score`; NAME-train is a model's own training set.
Those that are lacking are named in the rows that want them. SmallNORB28x28Inverted and
Omniglot28x28Inverted are made of the sets without "Inverted". Of each set N images are drawn, with
a seed. Of several models of one kind there are mean and standard deviation, and WAIC.

OUT gets tables.md with all there is, a Markdown and a CSV file for Table 1 and for the others, and
an SVG file for each figure. OUT/cells keeps what has been computed: the same command goes on there.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.arguments import named
from benchmarks.paper import competitors, figures, tables
from benchmarks.paper.cells import Cell, Cells
from benchmarks.paper.published import BITS, DETECTIONS
from hvaeood_cli.detector import Detector
from hvaeood_cli.images.preprocess import preprocess
from hvaeood_cli.scoring.bounds import bits_per_dim

Float = NDArray[np.float64]
Pixels = NDArray[np.uint8]  # (N, C, H, W)

_SHIPPED = {"FashionMNIST": "fashionmnist", "CIFAR10": "cifar10"}
_INVERTED = "Inverted"
_REGRET = {("FashionMNIST", "FashionMNIST"), ("FashionMNIST", "MNIST")}  # Table 2 asks for no more


@dataclass(frozen=True)
class Paper:
    """All that the tables and figures are made of."""

    data: Mapping[str, str]
    models: Mapping[str, Sequence[Detector]]
    cells: Cells
    n: int
    n_regret: int
    samples: int
    seed: int

    def why_not(self, trained_on: str, images: str) -> str:
        """Why there are no scores of a set; empty if there are."""
        if trained_on not in self.models:
            return f"no model of {trained_on}"
        return "" if images.removesuffix(_INVERTED) in self.data else f"no data: {images}"

    def pixels(self, detector: Detector, images: str, n: int) -> Pixels:
        """n images of a set as the model takes them, drawn with the seed."""
        manifest = detector.manifest(self.data[images.removesuffix(_INVERTED)])
        random = np.random.default_rng(self.seed)
        rows = np.sort(random.permutation(len(manifest))[:n])
        config = detector.bundle.config
        pixels = np.stack([preprocess(manifest.read(i)[0], config).pixels for i in rows])
        return 255 - pixels if images.endswith(_INVERTED) else pixels

    def columns(self, detector: Detector, images: str) -> dict[str, Float]:
        """What is kept of the scores of a set: L^{>k}, the combined score, the codec's bits."""
        pixels = self.pixels(detector, images, self.n)

        def compute() -> dict[str, Float]:
            scores = detector.score(pixels.squeeze(1) if pixels.shape[1] == 1 else pixels)
            found = {"lower_bound": scores.lower_bound.astype(np.float64)}
            found["codec"] = competitors.codec_bits(detector.scorer, pixels)
            if detector.calibration is not None:
                found["combined"] = detector.calibration.combine(scores.columns)
            return found

        return self.cells.get(self._cell("scores", detector, images, pixels), compute)

    def regret(self, detector: Detector, images: str) -> Float:
        pixels = self.pixels(detector, images, self.n_regret)
        cell = self._cell("regret", detector, images, pixels)
        return self.cells.get(
            cell, lambda: {"regret": competitors.regret(detector.scorer, pixels)}
        )["regret"]

    def _cell(self, what: str, detector: Detector, images: str, pixels: Pixels) -> Cell:
        content = hashlib.sha256(pixels.tobytes()).hexdigest()
        calibration = detector.calibration.id if detector.calibration else ""
        return Cell(
            what,
            detector.bundle.sha256,
            calibration,
            images,
            content,
            len(pixels),
            self.samples,
            self.seed,
        )

    @cached_property
    def wanted(self) -> list[tuple[str, str]]:
        """Every (trained on, images) of the tables, each model's own sets among them."""
        pairs = [(row.trained_on, row.images) for row in BITS]
        for row in DETECTIONS:
            pairs += [(row.trained_on, row.trained_on), (row.trained_on, f"{row.trained_on}-train")]
            if row.outside != row.trained_on:
                pairs.append((row.trained_on, row.outside))
        return list(dict.fromkeys(pairs))

    @cached_property
    def lacking(self) -> dict[tuple[str, str], str]:
        whys = {pair: self.why_not(*pair) for pair in self.wanted}
        return {pair: why for pair, why in whys.items() if why}

    def scores(self, trained_on: str, images: str) -> list[dict[str, Float]]:
        """By model, every score by name, (N,), higher is odder."""
        detectors = self.models[trained_on]
        columns = [self.columns(detector, images) for detector in detectors]
        elbos = np.stack([each["lower_bound"][:, 0] for each in columns])  # (models, N)
        return [
            self._scores_of(trained_on, images, detector, each)
            | ({"WAIC": competitors.waic(elbos)} if len(elbos) > 1 else {})
            for detector, each in zip(detectors, columns, strict=True)
        ]

    def _scores_of(
        self, trained_on: str, images: str, detector: Detector, columns: Mapping[str, Float]
    ) -> dict[str, Float]:
        lower = columns["lower_bound"]  # (N, L)
        elbo = lower[:, 0]
        found = {f"L^{{>{k}}}": -values for k, values in enumerate(lower.T)}
        found |= {f"LLR^{{>{k}}}": elbo - lower[:, k] for k in range(1, lower.shape[1])}
        found["input complexity"] = competitors.input_complexity(elbo, columns["codec"])
        if not self.why_not(trained_on, f"{trained_on}-train"):
            training = self.columns(detector, f"{trained_on}-train")["lower_bound"][:, 0]
            found["typicality"] = competitors.typicality(elbo, training)
        if "combined" in columns:
            found["combined"] = columns["combined"]
        if self.n_regret and (trained_on, images) in _REGRET:
            found["likelihood regret"] = self.regret(detector, images)
        return found


def write_tables(paper: Paper, out: Path, said: str) -> None:
    there = [pair for pair in paper.wanted if pair not in paper.lacking]
    scores = {pair: paper.scores(*pair) for pair in there}
    bits = {pair: [_bits(paper, pair[0], each) for each in found] for pair, found in scores.items()}
    first = tables.bits_rows(bits, paper.lacking)
    others = tables.detection_rows(scores, paper.lacking, paper.samples)
    tables.write(out, "table-1", tables.BITS_HEAD, first)
    tables.write(out, "tables-2-5-6-7-8", tables.DETECTION_HEAD, others)
    text = [said, "Table 1, bits/dim:", tables.markdown(tables.BITS_HEAD, first)]
    text += ["Tables 2, 5, 6, 7 and 8:", tables.markdown(tables.DETECTION_HEAD, others)]
    (out / "tables.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _bits(paper: Paper, trained_on: str, scores: Mapping[str, Float]) -> Float:
    """Mean bits/dim of L, L^{>1} ..., (L,)."""
    config = paper.models[trained_on][0].bundle.config
    lower = np.array([-scores[f"L^{{>{k}}}"].mean() for k in range(config.n_layers)])
    return bits_per_dim(lower, config.n_dims)


def write_figures(paper: Paper, out: Path) -> list[str]:
    """Figures 1 to 3; returns what is lacking for each that is not made."""
    lacking = []
    for number, trained_on, sets in ((1, "FashionMNIST", ("FashionMNIST", "MNIST")),
                                     (3, "CIFAR10", ("CIFAR10",))):  # fmt: skip
        whys = [why for name in sets if (why := paper.why_not(trained_on, name))]
        if whys:
            lacking.append(f"Figure {number}: {'; '.join(whys)}")
            continue
        detector = paper.models[trained_on][0]
        found = {}
        for name in sets:
            pixels = paper.pixels(detector, name, 5)
            found[name] = detector.scorer.of_one_sample.reconstruct(pixels)
        (out / f"figure-{number}.svg").write_text(figures.reconstructions(found))
    pair = "FashionMNIST", "MNIST"
    whys = [why for name in pair if (why := paper.why_not(name, name))]
    if whys:
        return [*lacking, f"Figure 2: {'; '.join(whys)}"]
    one, other = (paper.models[name][0] for name in pair)
    values = {
        name: figures.correlations_of(
            one.scorer, other.scorer, paper.pixels(one, name, min(paper.n, 1000))
        )
        for name in pair
    }
    (out / "figure-2.svg").write_text(figures.correlations(values))
    return lacking


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=SOURCE")
    parser.add_argument("--models", nargs="+", default=[], metavar="TRAINED-ON=MODEL,...")
    parser.add_argument("-n", type=int, default=10_000, help="images of each set, at most")
    parser.add_argument("-S", "--samples", type=int, default=16)
    parser.add_argument("--regret", type=int, default=500, metavar="N", help="images; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="200 images, S = 1, regret of 32")
    options = parser.parse_args()
    if options.quick:
        options.n, options.samples, options.regret = 200, 1, 32

    models = {
        trained_on: [
            Detector(name, n_importance_samples=options.samples, seed=options.seed)
            for name in names.split(",")
        ]
        for trained_on, names in (_SHIPPED | named(options.models)).items()
    }
    options.out.mkdir(parents=True, exist_ok=True)
    cells = Cells(options.out / "cells")
    paper = Paper(
        named(options.data), models, cells, options.n, options.regret, options.samples, options.seed
    )
    hashes = (
        f"{trained_on}: " + ", ".join(f"{d.bundle.name} ({d.bundle.sha256[:12]})" for d in found)
        for trained_on, found in models.items()
    )
    said = (
        f"S = {options.samples} in L and 1 in L^{{>k}}, proposal mean, seed {options.seed}, at "
        f"most {options.n} images of each set, {options.regret} for likelihood regret. "
        f"Models by training set: {'; '.join(hashes)}."
    )
    write_tables(paper, options.out, said)
    lacking = [f"{trained_on} model: {why}" for (trained_on, _), why in paper.lacking.items()]
    lacking += write_figures(paper, options.out)
    print("\n".join(dict.fromkeys(lacking)))
    print(f"in {options.out}: tables.md, table-1, tables-2-5-6-7-8, figures")


if __name__ == "__main__":
    main()
