"""How fast photographs are scored by tiles, and in how much memory.

    python -m benchmarks.tiles           # tiles/s and photographs/s, S = 1 and 16
    python -m benchmarks.tiles memory    # peak memory: one 12-megapixel photograph against many
    python -m benchmarks.tiles memory-of 1000 0.0625   # ... of a thousand at a scale of 1/16

Tiles that overlap share nothing: the network would have to run over the whole photograph, and a
tile's latents and noise would no longer be its own. The lowest features alone could be shared, the
stem's and those of z_1's stage on the way up, which are a part of one of the L + S ways.

The model is compact-photo-gray, untrained: its speed is that of a trained one. Nothing else should
run meanwhile.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from hvaeood_cli.allocator import keep_memory
from hvaeood_cli.detector import Detector
from hvaeood_cli.images.preprocess import tiling_of
from hvaeood_cli.model.bundle import Bundle, write_bundle
from hvaeood_cli.model.presets import PRESETS, for_tiles
from hvaeood_cli.training.loop import build_seeded

SMALL, TWELVE_MEGAPIXELS = (220, 290), (3000, 4000)  # height and width
TIMES = 3
MADE = 20  # photographs that differ; more are links to them, and are read and scored all the same


def make_model(folder: Path, scale: float) -> Bundle:
    config = for_tiles(PRESETS["compact-photo-gray"].model, 32, 16, scale)
    ladder = build_seeded(config, 0)
    return write_bundle(folder, f"tiles-{scale:g}", config, ladder, {}, np.zeros(0, np.uint64))


def make_photos(folder: Path, n: int, size: tuple[int, int]) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(n):
        if i >= MADE:
            (folder / f"{i:04d}.jpg").hardlink_to(folder / f"{i % MADE:04d}.jpg")
            continue
        coarse = random.integers(0, 256, (size[0] // 20, size[1] // 20), np.uint8)
        photo = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BILINEAR)
        photo.save(folder / f"{i:04d}.jpg", quality=90)
    return folder


def speed() -> None:
    """PNG and JPEG files to a score file."""
    for size, scale, n in ((SMALL, 0.5, 16), (TWELVE_MEGAPIXELS, 1 / 16, 4)):
        with tempfile.TemporaryDirectory() as name:
            photos = make_photos(Path(name) / "photos", n, size)
            bundle = make_model(Path(name) / "model", scale)
            tiling = tiling_of(bundle.config)
            assert tiling is not None
            n_tiles = n * tiling.count(*size)
            for n_samples in (1, 16):
                detector = Detector(bundle.folder, n_importance_samples=n_samples)
                run = detector.run(detector.manifest(str(photos)))
                _ = run.engine  # loads the model
                took = []
                for _ in range(TIMES):
                    started = time.perf_counter()
                    run.to_file(Path(name) / "s.h5", force=True)
                    took.append(time.perf_counter() - started)
                seconds = statistics.median(took)
                print(
                    f"{size[1]}x{size[0]}, scale {scale:g}, S = {n_samples}: "
                    f"{n_tiles / seconds:.0f} tiles/s, {n / seconds:.2f} photographs/s",
                    flush=True,
                )


def memory() -> None:
    """Peak resident memory of a whole process. 0 photographs: one that is small, for comparison."""
    for n, scale in ((0, 0.25), (1, 0.25), (6, 0.25), (30, 1 / 16), (1, 1.0)):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.tiles", "memory-of", str(n), str(scale)],
            capture_output=True,
            text=True,
            check=True,
        )
        what = f"{n} of 12 megapixels, scale {scale:g}" if n else "one of 220x290 pixels"
        print(f"{what}: {done.stdout.strip()}", flush=True)


def memory_of(n: int, scale: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        subprocess.run(  # in a process of its own: to make them takes memory, too
            [sys.executable, "-m", "benchmarks.tiles", "make", str(photos), str(n)], check=True
        )
        detector = Detector(make_model(Path(name) / "model", scale).folder, n_importance_samples=1)
        started = time.perf_counter()
        scores, _ = detector.run(detector.manifest(str(photos))).to_file(Path(name) / "s.h5")
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{int(scores['n_tiles'].sum()):,} tiles, peak {peak:,} MiB, {seconds:.1f} s")


if __name__ == "__main__":
    keep_memory()
    match sys.argv[1:]:
        case ["memory"]:
            memory()
        case ["memory-of", n, scale]:
            memory_of(int(n), float(scale))
        case ["make", folder, n]:
            make_photos(Path(folder), int(n) or 1, TWELVE_MEGAPIXELS if int(n) else SMALL)
        case _:
            speed()
