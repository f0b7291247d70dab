"""Pixels to train on are read once, and are the same wherever they are kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hvaeood_cli.errors import UsageError
from hvaeood_cli.images.sources import Manifest, open_sources
from hvaeood_cli.training import reading
from hvaeood_cli.training.pixel_cache import PixelCache
from hvaeood_cli.training.pixels import PixelRows
from hvaeood_cli.training.reading import Read, Readers, read_pixels
from hvaeood_cli.user_cache import bound_pixels, cache_folder, entries
from tests.conftest import SMALL

TILED = SMALL.model_copy(update={"fit": "tile", "tile_stride": 4, "tile_scale": 0.5})
CONFIGS = {"whole": SMALL, "tiles": TILED}


@pytest.fixture
def photographs(tmp_path, monkeypatch) -> Path:
    """Forty images of many sizes; two that cannot be used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, random = tmp_path / "photographs", np.random.default_rng(0)
    folder.mkdir()
    for i in range(40):
        height, width = random.integers(20, 40, 2)
        colours = (3,) if i % 2 else ()
        pixels = random.integers(0, 256, (height, width, *colours), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (folder / "07.png").write_bytes(b"nothing")
    Image.new("L", (2, 2)).save(folder / "11.png")
    return folder


class Counted:
    """A manifest of which each reading is counted."""

    def __init__(self, manifest: Manifest, monkeypatch) -> None:
        self.n = 0
        read = Manifest.read

        def counted(this: Manifest, i: int):
            self.n += this is manifest
            return read(this, i)

        monkeypatch.setattr(Manifest, "read", counted)


def same(one: Read, two: Read) -> bool:
    assert one.pixels.sha256 == two.pixels.sha256
    assert np.array_equal(one.pixels[:], two.pixels[:])
    assert np.array_equal(one.images.of_row, two.images.of_row)
    assert np.array_equal(one.images.n_tiles, two.images.n_tiles)
    assert list(one.images.manifest.names()) == list(two.images.manifest.names())
    return one[2:] == two[2:] and one.images.contents == two.images.contents


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.data())
def test_rows_of_several_arrays_are_those_of_one(lengths, data):
    every = np.random.default_rng(0).integers(0, 256, (sum(lengths), 1, 2, 2), np.uint8)
    rows = PixelRows(np.split(every, np.cumsum(lengths)[:-1]))

    def some(of: int) -> np.ndarray:
        return np.array(data.draw(st.lists(st.integers(0, of - 1)) if of else st.just([])), int)

    chosen = some(len(every))
    again = some(len(chosen))
    assert len(rows) == len(every) and np.array_equal(rows[:], every)
    assert np.array_equal(rows[chosen], every[chosen])
    picked = rows.pick(chosen)
    assert len(picked) == len(chosen) and np.array_equal(picked[1:3], every[chosen][1:3])
    assert np.array_equal(picked.pick(again)[:], every[chosen][again])
    assert picked.sha256 == PixelRows.of(every[chosen]).sha256


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_pixels_are_the_same_in_memory_and_in_files_and_are_read_once(
    photographs, config, monkeypatch
):
    manifest = open_sources([str(photographs)])
    in_memory = read_pixels(manifest, config)
    assert len(in_memory.unusable) == 2
    cache, counted = PixelCache.of(manifest, config), Counted(manifest, monkeypatch)
    seen = []
    first = read_pixels(manifest, config, cache, report=lambda n, of: seen.append((n, of)))
    assert same(in_memory, first) and counted.n == 40
    assert seen[-1] == (40, 40) and seen == sorted(seen)
    assert all(isinstance(array, np.memmap) for array in first.pixels.arrays)
    again = read_pixels(manifest, config, PixelCache.of(manifest, config))
    assert same(in_memory, again) and counted.n == 40
    modes = {path.stat().st_mode & 0o777 for path in cache.folder.iterdir()}
    assert modes == {0o600} and cache.folder.stat().st_mode & 0o777 == 0o700


def test_what_they_depend_on_makes_another_entry(photographs, tmp_path, monkeypatch):
    def entry(config=SMALL) -> Path:
        return PixelCache.of(open_sources(["photographs"]), config).folder

    monkeypatch.chdir(tmp_path)
    first = entry()
    assert entry() == first
    others = {"fit": "pad"}, {"image_channels": 3}
    different = {entry(SMALL.model_copy(update=change)) for change in others} | {entry(TILED)}
    different.add(entry(SMALL.model_copy(update={"stem_stride": 1})))  # takes smaller images
    Image.new("L", (30, 30)).save(photographs / "03.png")
    different.add(entry())
    (photographs / "04.png").unlink()
    different.add(entry())
    (tmp_path / "elsewhere").mkdir()
    photographs.rename(tmp_path / "elsewhere" / "photographs")
    monkeypatch.chdir(tmp_path / "elsewhere")
    different.add(entry())
    assert len(different | {first}) == 8


DAMAGES = {
    "a flipped bit in front": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "a flipped bit in the middle": lambda data: data[:300] + bytes([data[300] ^ 4]) + data[301:],
    "a flipped bit at the end": lambda data: data[:-1] + bytes([data[-1] ^ 128]),
    "a byte too few": lambda data: data[:-1],
    "a byte too many": lambda data: data + b"\0",
    "nothing": lambda data: b"",
    "the head alone": lambda data: data[:100],
    "no JSON": lambda data: b"{}\n{}\n",
    "a huge shape": lambda data: data.replace(b'"shape":[', b'"shape":[9999999999999,', 1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_is_read_anew(photographs, damage, monkeypatch):
    manifest = open_sources([str(photographs)])
    cache = PixelCache.of(manifest, SMALL)
    whole = read_pixels(manifest, SMALL)
    read_pixels(manifest, SMALL, cache)
    part = sorted(cache.folder.iterdir())[3]
    data = part.read_bytes()
    part.write_bytes(damage(data))
    counted = Counted(manifest, monkeypatch)
    assert same(whole, read_pixels(manifest, SMALL, cache)) and counted.n == 5
    assert part.read_bytes() == data


def test_parts_that_change_places_are_read_anew(photographs):
    manifest = open_sources([str(photographs)])
    cache = PixelCache.of(manifest, SMALL)
    whole = read_pixels(manifest, SMALL)
    read_pixels(manifest, SMALL, cache)
    one, two = sorted(cache.folder.iterdir())[:2]
    content = one.read_bytes(), two.read_bytes()
    one.write_bytes(content[1]), two.write_bytes(content[0])
    assert same(whole, read_pixels(manifest, SMALL, cache))


@pytest.mark.parametrize("what", ["a pipe", "a folder", "a link to nothing"])
def test_what_is_no_file_is_not_waited_for(photographs, what):
    manifest, remarks = open_sources([str(photographs)]), list[str]()
    cache = PixelCache.of(manifest, SMALL, remarks.append)
    whole = read_pixels(manifest, SMALL, cache)
    part = sorted(cache.folder.iterdir())[3]
    part.unlink()
    if what == "a pipe":
        os.mkfifo(part)
    elif what == "a folder":
        part.mkdir()
    else:
        part.symlink_to(part.with_name("nowhere"))
    assert same(whole, read_pixels(manifest, SMALL, cache))
    assert len(remarks) <= 1


def test_what_was_read_before_an_interruption_stands(photographs, monkeypatch):
    manifest = open_sources([str(photographs)])
    monkeypatch.setattr(reading, "_AT_ONCE", 1)
    cache, counted = PixelCache.of(manifest, SMALL), Counted(manifest, monkeypatch)

    def interrupt(n_done: int, n_all: int) -> None:
        if n_done == 23:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_pixels(manifest, SMALL, cache, report=interrupt)
    before = counted.n
    whole = read_pixels(manifest, SMALL, cache)
    assert counted.n == before + 20  # four of eight parts of five images stand
    assert same(whole, read_pixels(manifest, SMALL))


def test_what_may_pass_is_asked_for_again(photographs):
    manifest = open_sources([str(photographs)])
    cache, gone = PixelCache.of(manifest, SMALL), photographs / "20.png"
    gone.rename(photographs / "away")
    assert len(read_pixels(manifest, SMALL, cache).unusable) == 3
    (photographs / "away").rename(gone)
    assert len(read_pixels(manifest, SMALL, cache).unusable) == 2


@pytest.mark.parametrize("shared", [True, False])
def test_processes_read_a_share_each(photographs, tmp_path, monkeypatch, shared):
    """Where machines do not share a cache, each reads the others' shares as well."""
    manifest = open_sources([str(photographs)])
    whole, counted = read_pixels(manifest, SMALL), Counted(manifest, monkeypatch)
    shares = []

    def process(i: int) -> None:
        """Where a process waits, the next one reads its share."""

        def wait() -> None:
            shares.append(counted.n)
            if i < 2:
                process(i + 1)

        cache = PixelCache(tmp_path / ("c" if shared else f"c{i}"))
        assert same(whole, read_pixels(manifest, SMALL, cache, Readers(i, 3, wait)))
        assert len(list(cache.folder.iterdir())) == 8

    process(0)
    assert shares == [15, 30, 40]  # of eight parts three, three and two
    assert counted.n == (40 if shared else 120)


@pytest.mark.parametrize("what", ["a file", "not writable"])
def test_where_nothing_can_be_kept_it_is_said_and_held_in_memory(
    photographs, tmp_path, what, monkeypatch
):
    remarks = []
    manifest = open_sources([str(photographs)])
    if what == "a file":
        (tmp_path / "cache").write_bytes(b"")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    cache = PixelCache.of(manifest, SMALL, remarks.append)
    assert same(read_pixels(manifest, SMALL), read_pixels(manifest, SMALL, cache))
    assert len(set(remarks)) == 1 and "held in memory" in remarks[0]


def test_what_was_used_longest_ago_makes_room(photographs, monkeypatch):
    manifest = open_sources([str(photographs)])
    caches = [PixelCache(cache_folder("pixels") / (32 * name)) for name in "abc"]
    for age, cache in zip((10, 20, 30), caches, strict=True):
        kept = read_pixels(manifest, SMALL, cache).pixels
        os.utime(cache.folder, (age, age))
    of_one = entries("pixels")[0].n_bytes
    monkeypatch.setenv("HVAEOOD_CACHE_GB", str(2.5 * of_one / 1e9))
    bound_pixels(caches[0].folder)
    assert {entry.path for entry in entries("pixels")} == {caches[0].folder, caches[2].folder}
    monkeypatch.setenv("HVAEOOD_CACHE_GB", "0")
    bound_pixels(caches[0].folder)
    assert [entry.path for entry in entries("pixels")] == [caches[0].folder]
    assert len(kept[:]) == 38, "what is mapped stays readable"
    for wrong in ("much", "-1", "nan"):
        monkeypatch.setenv("HVAEOOD_CACHE_GB", wrong)
        with pytest.raises(UsageError, match="gigabytes"):
            bound_pixels(caches[0].folder)


TRAIN = ("train", "photographs", "--preset", "compact-gray", "--fit", "crop", "--epochs", "1")
TRAIN += ("--batch-size", "16", "--calibrate", "0", "--validation", "4")


def test_train_with_and_without(run, photographs):
    def weights(out: str) -> bytes:
        return Path(out, "model.safetensors").read_bytes()

    code, _, err = run(*TRAIN, "--out", "kept")
    assert code == 0 and "pixels of the images are kept in" in err
    code, _, err = run(*TRAIN, "--out", "in-memory", "--no-cache")
    assert code == 0 and "kept in" not in err and weights("kept") == weights("in-memory")
    code, out, err = run("cache")
    assert code == 0 and "pixels       1 entries" in out and "--clear" in err
    code, out, _ = run("cache", "--clear", "--json")
    assert code == 0 and '"removed": true' in out and not entries("pixels")
    stranger = cache_folder("pixels") / "notes"
    stranger.write_bytes(b"not ours")
    code, _, err = run("cache", "--clear")
    assert code == 0 and "removed 0 entries" in err and stranger.exists()


def test_a_limit_that_is_no_number_is_refused_before_any_work(run, photographs, monkeypatch):
    monkeypatch.setenv("HVAEOOD_CACHE_GB", "much")
    code, _, err = run(*TRAIN, "--out", "m")
    assert code == 2 and "HVAEOOD_CACHE_GB=much" in err and "hint:" in err
    assert not entries("pixels")


def test_an_image_that_changes_is_another(run, photographs, monkeypatch):
    """The same command on a folder that changed goes not on from what was read before."""
    assert run(*TRAIN, "--out", "m")[0] == 0
    Image.new("L", (30, 30), 200).save(photographs / "00.png")
    code, _, err = run(*TRAIN, "--out", "m")
    assert code == 3 and "other images or settings" in err
