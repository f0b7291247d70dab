"""Decoding, preprocessing and finding images, hostile ones included."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from hvaeood_cli.errors import ImageError, SourceError, UsageError
from hvaeood_cli.images import arrays, sources
from hvaeood_cli.images.arrays import array_in_memory, load_array
from hvaeood_cli.images.datasets import DATASETS
from hvaeood_cli.images.decode import Conversion, Decoded, decode
from hvaeood_cli.images.folder import FileSource
from hvaeood_cli.images.preprocess import preprocess
from hvaeood_cli.images.reader import ImageReader
from hvaeood_cli.images.sources import Manifest, open_sources
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.presets import COMPACT_GRAY


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GREY = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3)
PNG = encode(GREY)
LAYERS = COMPACT_GRAY.model.layers
GREY_8 = ModelConfig(image_size=8, stem_stride=2, layers=LAYERS)
RGB_8 = ModelConfig(
    image_size=8, stem_stride=2, layers=LAYERS, image_channels=3, likelihood="logistics"
)
JPEG = encode(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")


def test_a_grey_png_comes_through_untouched():
    pixels, done = preprocess(decode(PNG), GREY_8)
    assert np.array_equal(pixels[0], np.asarray(GREY)) and done == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"I am a text file, whatever my name says.\n" * 10, "not_an_image"),
        (PNG[: len(PNG) - 30], "damaged"),
        (PNG[:20], "damaged"),
        (JPEG[: len(JPEG) // 2], "damaged"),
        (b"\x89PNG\r\n\x1a\n", "not_an_image"),
        (b"\0" * 1000, "not_an_image"),
    ],
    ids=["empty", "text", "short png", "shorter png", "short jpeg", "png magic", "zeros"],
)
def test_bad_bytes_have_a_reason(data, code):
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.code == code


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that promises width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(30_000, 30_000), (2_000_000_000, 2_000_000_000)])
def test_a_decompression_bomb_is_not_decoded(size):
    with pytest.raises(ImageError) as caught:
        decode(bomb(*size))
    assert caught.value.code == "too_large"


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(PNG) - 1), value=st.integers(0, 255), which=st.booleans())
def test_a_flipped_byte_never_raises_anything_else(position, value, which):
    data = bytearray(PNG if which else JPEG)
    data[position] = value
    with contextlib.suppress(ImageError):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("image", "conversion", "value"),
    [
        (Image.new("RGB", (8, 8), (255, 0, 0)), Conversion.GREYED, 76),  # ITU-R 601
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), Conversion.ALPHA, 255),  # white shows through
        (Image.new("LA", (8, 8), (100, 255)), Conversion.ALPHA, 100),
        (Image.new("P", (8, 8), 0), Conversion.PALETTE, None),
        (Image.fromarray(np.full((8, 8), 257 * 80, np.uint16)), Conversion.DEPTH, 80),
        (Image.new("1", (8, 8), 1), Conversion(0), 255),
        (Image.new("L", (12, 8), 9), Conversion.CROPPED, 9),
        (Image.new("L", (32, 32), 9), Conversion.RESIZED, 9),
    ],
    ids=["colour", "transparent", "grey alpha", "palette", "16 bit", "1 bit", "wide", "large"],
)
def test_conversions_are_done_and_recorded(image, conversion, value):
    pixels, done = preprocess(decode(encode(image)), GREY_8)
    assert pixels.shape == (1, 8, 8) and pixels.dtype == np.uint8
    assert conversion in done
    assert value is None or (pixels == value).all()


def test_other_formats():
    for kind in ("BMP", "GIF", "TIFF", "WEBP", "PPM"):
        options = {"lossless": True} if kind == "WEBP" else {}
        pixels, _ = preprocess(decode(encode(GREY, kind, **options)), GREY_8)
        assert np.array_equal(pixels[0], np.asarray(GREY)), kind


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    decoded = decode(encode(GREY, "PNG", exif=exif))
    assert Conversion.ROTATED in decoded.conversions
    assert np.array_equal(decoded.pixels, np.rot90(np.asarray(GREY), -1))


def test_float_and_animated_images():
    data = encode(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF")
    assert (decode(data).pixels == 128).all()
    frames = [Image.new("L", (8, 8), v) for v in (10, 200)]
    animated = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    decoded = decode(animated)
    assert Conversion.FIRST_FRAME in decoded.conversions


def test_wide_integers_are_not_blackened():
    """A 32-bit image of 8-bit values is what it looks like; a 16-bit one is scaled."""
    values = np.array([[0, 100], [255, 7]], np.int32)
    assert decode(encode(Image.fromarray(values), "TIFF")).pixels.tolist() == values.tolist()


def test_orientations_that_do_not_exist_turn_nothing():
    exif = Image.Exif()
    exif[0x0112] = 9
    assert decode(encode(GREY, "PNG", exif=exif)).conversions == 0


def test_grey_becomes_colour_when_the_model_wants_it():
    pixels, done = preprocess(Decoded(np.asarray(GREY), Conversion(0)), RGB_8)
    assert pixels.shape == (3, 8, 8) and Conversion.COLOURED in done
    assert (pixels == np.asarray(GREY)).all()


# -- sources ------------------------------------------------------------------------------------


def names(manifest) -> list[str]:
    return [os.fsdecode(name) for name in manifest.names()]


def test_a_folder_is_searched_recursively_in_byte_order(folder):
    (folder / "notes.txt").write_text("not an image")
    (folder / "B.PNG").write_bytes(PNG)
    manifest = open_sources([str(folder)])
    found = names(manifest)
    assert found == sorted(found, key=os.fsencode) and len(found) == 13
    assert str(folder / "deeper" / "10.png") in found and manifest.skipped == 1


def test_loops_of_links_end(folder):
    (folder / "deeper" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "self.png").symlink_to(folder / "self.png")
    manifest = open_sources([str(folder)])
    assert len(manifest) == 13
    row = names(manifest).index(str(folder / "self.png"))
    with pytest.raises(ImageError) as caught:
        manifest.read(row)
    assert caught.value.code == "unreadable"


def test_any_name_a_file_can_have(tmp_path):
    raw = [b"new\nline.png", b"\x1b[31mred.png", b"caf\xe9.png", "漢字.png".encode(), b"'$(x).png"]
    for name in raw:
        (tmp_path / os.fsdecode(name)).write_bytes(PNG)
    manifest = open_sources([str(tmp_path)])
    assert sorted(raw) == [os.path.basename(name) for name in manifest.names()]
    assert all(manifest.read(i)[0].pixels.shape == (8, 8) for i in range(5))


def test_a_list_on_standard_input(folder):
    paths = [os.fsencode(folder / "03.png"), b"gone.png"]
    manifest = open_sources(["-"], iter(paths))
    assert list(manifest.names()) == paths
    with pytest.raises(ImageError) as caught:
        manifest.read(1)
    assert caught.value.code == "missing"


def write_idx(path: Path, images: np.ndarray) -> Path:
    header = b"\0\0\x08\x03" + struct.pack(">III", *images.shape)
    data = header + images.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


ARRAY = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)


@pytest.mark.parametrize("name", ["x-idx3-ubyte", "x-idx3-ubyte.gz", "x.npy", "x.npz"])
def test_array_files(tmp_path, name):
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, ARRAY[..., None])
    elif name.endswith("npz"):
        np.savez(path, labels=np.zeros(5), images=ARRAY)
    else:
        write_idx(path, ARRAY)
    manifest = open_sources([f"{path}#1:4"])
    assert names(manifest) == [f"{path}#{i}" for i in (1, 2, 3)]
    assert np.array_equal(manifest.read(2)[0].pixels, ARRAY[3])


def test_channels_first_and_last(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.save(tmp_path / "last.npy", colour)
    np.save(tmp_path / "first.npy", colour.transpose(0, 3, 1, 2))
    for name in ("last.npy", "first.npy"):
        assert np.array_equal(load_array(tmp_path / name), colour)


@pytest.mark.parametrize("data", [b"", b"\0\0\x08", b"\0\0\x0d\x03" + b"\0" * 12, b"junk" * 9])
def test_a_broken_idx_file_is_an_error_with_a_hint(tmp_path, data):
    path = tmp_path / "bad-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        open_sources([str(path)])
    assert caught.value.hint


def test_an_idx_file_that_promises_too_much(tmp_path):
    path = tmp_path / "bad-idx3-ubyte"
    path.write_bytes(b"\0\0\x08\x03" + struct.pack(">III", 2**31, 2**31, 2**31))
    with pytest.raises(SourceError, match="promises"):
        open_sources([str(path)])
    path.write_bytes(b"\0\0\x08\x03" + struct.pack(">III", 5, 8, 8) + b"short")
    with pytest.raises(SourceError, match="truncated: 5 of 320"):
        open_sources([str(path)])


def test_pickles_are_never_opened(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(SourceError):
        open_sources([str(tmp_path / "evil.npy")])


def test_nothing_to_score_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no images in"):
        open_sources([str(tmp_path)])
    with pytest.raises(SourceError, match="no such file"):
        open_sources([str(tmp_path / "nowhere")])
    with pytest.raises(SourceError, match="standard input"):
        open_sources(["-"], iter(()))
    with pytest.raises(UsageError):
        open_sources([])


def test_a_torchvision_data_set_by_name(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        write_idx(raw / f"{split}-images-idx3-ubyte", ARRAY)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x05" + bytes(5))
    manifest = open_sources(["fashionmnist:test"], data_root=tmp_path)
    assert names(manifest)[0] == "fashionmnist:test#0"
    assert np.array_equal(manifest.read(4)[0].pixels, ARRAY[4])
    with pytest.raises(SourceError) as caught:
        open_sources(["mnist:test"], data_root=tmp_path)
    assert "--download" in caught.value.hint
    with pytest.raises(UsageError, match="no split"):
        open_sources(["mnist:nope"], data_root=tmp_path)


def test_svhn_is_read_from_its_mat_file(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    # torchvision insists on the published file's checksum; ours is a small file of the same form
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    colour = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": colour.transpose(1, 2, 3, 0), "y": np.ones((3, 1))})
    manifest = open_sources(["svhn:test"], data_root=tmp_path)
    assert np.array_equal(manifest.read(1)[0].pixels, colour[1])


def test_the_listing_notices_a_change(folder):
    before = open_sources([str(folder)]).listing_sha256()
    assert open_sources([str(folder)]).listing_sha256() == before
    (folder / "03.png").write_bytes(PNG + b"x")
    assert open_sources([str(folder)]).listing_sha256() != before


# -- folders, whatever the order in which the system lists them ------------------------------------


@pytest.fixture(params=["as it is", "reversed", "by length", "shuffled"])
def listing_order(request, monkeypatch):
    """Makes os.scandir give the entries of a folder in another order."""
    orders = {
        "as it is": list,
        "reversed": lambda entries: sorted(entries, key=lambda e: e.name, reverse=True),
        "by length": lambda entries: sorted(entries, key=lambda e: (len(e.name), e.name)),
        "shuffled": lambda entries: sorted(entries, key=lambda e: zlib.crc32(e.name)),
    }
    scandir = os.scandir

    @contextlib.contextmanager
    def ordered(path):
        with scandir(path) as entries:
            yield orders[request.param](entries)

    monkeypatch.setattr(os, "scandir", ordered)


def test_links_give_the_same_names_in_any_order_of_listing(tmp_path, listing_order):
    """Real folders go before links to them, and links in the order of their paths."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for place in (root / "m-real", root / "z-real" / "deep", outside / "deep"):
        place.mkdir(parents=True)
        (place / "x.png").write_bytes(PNG)
    links = {
        root / "a-link": root / "z-real",  # to what is there under its own name
        root / "m-real" / "b": root,  # a loop
        root / "n-2": outside,
        root / "n-1": outside / "deep",  # goes first, so it lies under this name
        root / "z-real" / "again": outside,  # and this comes after n-2
        outside / "back": root / "m-real",
    }
    for link, target in links.items():
        link.symlink_to(target, target_is_directory=True)
    found = [os.path.relpath(name, root) for name in names(open_sources([str(root)]))]
    assert found == ["m-real/x.png", "n-1/x.png", "z-real/deep/x.png"]


# -- hostile files ---------------------------------------------------------------------------------


def test_a_pipe_is_unreadable_and_never_waited_for(tmp_path, monkeypatch):
    """Not even where a file became a pipe after it was looked at."""
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr(os, "stat", lambda path: os.lstat(__file__))
    with pytest.raises(ImageError, match="not a regular file") as caught:
        FileSource([os.fsencode(tmp_path / "pipe.png")]).read(0)
    assert caught.value.code == "unreadable"


def test_no_more_is_read_of_a_growing_file_than_there_was(tmp_path, monkeypatch):
    path, before = tmp_path / "grows.png", tmp_path / "before"
    path.write_bytes(PNG)
    before.write_bytes(PNG[:-5])
    monkeypatch.setattr(os, "fstat", lambda descriptor: os.stat(before))
    monkeypatch.setattr("hvaeood_cli.images.folder.decode_hashed", lambda data: (len(data), b""))
    assert FileSource([os.fsencode(path)]).read(0)[0] == len(PNG) - 5


def test_frames_that_are_not_shown_are_not_walked_through(monkeypatch):
    frames = [Image.new("L", (8, 8), i) for i in range(50)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    sought = []
    seek = GifImageFile._seek
    monkeypatch.setattr(
        GifImageFile, "_seek", lambda self, i, *rest: (sought.append(i), seek(self, i, *rest))[1]
    )
    assert Conversion.FIRST_FRAME in decode(data).conversions and len(sought) < 5


@pytest.mark.parametrize("rows", ["#" + "9" * 5000, "#:" + "9" * 5000, "#9:3", "#٣"])
def test_rows_that_nobody_has(tmp_path, rows):
    np.save(tmp_path / "x.npy", ARRAY)
    with pytest.raises(SourceError):
        open_sources([f"{tmp_path / 'x.npy'}{rows}"])


def test_an_array_in_memory_has_a_stamp_of_its_contents():
    before = Manifest([array_in_memory(ARRAY)])
    other = ARRAY.copy()
    other[4, 7, 7] ^= 1
    assert before.listing_sha256() == Manifest([array_in_memory(ARRAY)]).listing_sha256()
    assert before.listing_sha256() != Manifest([array_in_memory(other)]).listing_sha256()


def test_an_array_in_memory_is_hashed_once_and_a_row_at_a_time(monkeypatch):
    hashed, sha256 = [], hashlib.sha256

    def counted(data=b""):
        hashed.append(len(bytes(data)))
        return sha256(data)

    monkeypatch.setattr(arrays, "hashlib", SimpleNamespace(sha256=counted))
    colour = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), np.uint8)
    manifest = Manifest([array_in_memory(colour)])  # whose rows lie otherwise than they are taken
    manifest.listing_sha256()
    rows = [manifest.read(i) for i in range(5)]
    assert hashed == [3 * 8 * 8] * 5
    for (image, digest), row in zip(rows, colour, strict=True):
        assert np.array_equal(image.pixels, row.transpose(1, 2, 0))
        assert digest == sha256(np.ascontiguousarray(image.pixels)).digest()


FILES_OF_DATASETS = {
    "mnist": "MNIST/raw/t10k-images-idx3-ubyte",
    "fashionmnist": "FashionMNIST/raw/t10k-images-idx3-ubyte",
    "kmnist": "KMNIST/raw/t10k-images-idx3-ubyte",
    "emnist-letters": "EMNIST/raw/emnist-letters-test-images-idx3-ubyte",
    "omniglot": "omniglot-py/images_evaluation/Angelic/character01/0965_01.png",
    "cifar10": "cifar-10-batches-py/test_batch",
    "cifar100": "cifar-100-python/test",
    "svhn": "test_32x32.mat",
    "stl10": "stl10_binary/test_X.bin",
}


@pytest.mark.parametrize("name", DATASETS)
def test_the_stamp_of_a_data_set_is_of_its_root_and_files(tmp_path, monkeypatch, name):
    from torchvision import datasets

    monkeypatch.setattr(datasets, DATASETS[name][0], lambda *_, **__: [None] * 3)

    def listing(root: str) -> str:
        return open_sources([f"{name}:test"], data_root=tmp_path / root).listing_sha256()

    for root in ("here", "there"):
        path = tmp_path / root / FILES_OF_DATASETS[name]
        path.parent.mkdir(parents=True)
        path.write_bytes(b"images")
        os.utime(path, ns=(1, 1))
    whole = listing("here")
    assert whole != listing("there")
    (tmp_path / "here" / "archive.tar.gz").touch()
    assert whole == listing("here")
    os.utime(tmp_path / "here" / FILES_OF_DATASETS[name], ns=(1, 2))
    assert whole != listing("here")


def test_a_damaged_image_of_a_data_set_is_one_bad_row(tmp_path, monkeypatch):
    from torchvision import datasets

    class Damaged:
        def __init__(self, root, **options):
            pass

        def __len__(self):
            return 2

        def __getitem__(self, i):
            raise Image.UnidentifiedImageError("cannot identify image file")

    monkeypatch.setattr(datasets, "Omniglot", Damaged)
    with pytest.raises(ImageError) as caught:
        open_sources(["omniglot:test"], data_root=tmp_path).read(1)
    assert caught.value.code == "damaged"
    monkeypatch.setattr(datasets, "Omniglot", lambda *_, **__: 1 / 0)
    with pytest.raises(SourceError, match="division by zero"):
        open_sources(["omniglot:test"], data_root=tmp_path)


# -- reading single images again -------------------------------------------------------------------


@pytest.fixture
def unpacked(monkeypatch) -> list[Path]:
    """The array files that were loaded, one entry a time."""
    loaded: list[Path] = []
    monkeypatch.setattr(
        arrays, "load_array", lambda path: (loaded.append(path), load_array(path))[1]
    )
    return loaded


def test_a_gzipped_array_is_unpacked_once_until_it_changes(tmp_path, unpacked):
    path = write_idx(tmp_path / "x-idx3-ubyte.gz", ARRAY)
    reader = ImageReader()
    for i in (3, 0, 3):
        assert np.array_equal(reader.read(b"%s#%d" % (os.fsencode(path), i)).pixels, ARRAY[i])
    assert len(unpacked) == 1
    write_idx(path, ARRAY[::-1])
    os.utime(path, (1, 1))
    assert np.array_equal(reader.read(os.fsencode(path) + b"#0").pixels, ARRAY[4])
    assert len(unpacked) == 2
    write_idx(path, ARRAY[:2])
    with pytest.raises(ImageError, match="has 2 images now"):
        reader.read(os.fsencode(path) + b"#3")
    path.unlink()
    with pytest.raises(SourceError, match="no such file"):
        reader.read(os.fsencode(path) + b"#0")


def test_few_arrays_are_kept(tmp_path, unpacked):
    paths = [write_idx(tmp_path / f"{i}-idx3-ubyte.gz", ARRAY) for i in range(3)]
    reader = ImageReader()
    for path in (*paths, paths[2], paths[1], paths[0]):
        reader.read(os.fsencode(path) + b"#0")
    assert unpacked == [*paths, paths[0]]


def test_a_name_never_means_a_folder_or_another_image(tmp_path, monkeypatch):
    """Names come out of score files, which may be hostile."""
    (tmp_path / "folder.npy").mkdir()
    for place in ("a.png", "folder.npy/b.png"):
        (tmp_path / place).write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "scandir", None)
    reader = ImageReader()
    assert reader.read(b"a.png").pixels.shape == (8, 8)
    for name in (b".", b"folder.npy", b"folder.npy#0", b"a.png#0", b"-", b"a\0b", b"#:", b"x#:1"):
        with pytest.raises(ImageError):
            reader.read(name)


def test_images_are_looked_for_beside_a_score_file_too(tmp_path, monkeypatch):
    """From the current folder first; an absolute name means one file alone."""
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    (there / "a.png").write_bytes(PNG)
    write_idx(there / "x-idx3-ubyte.gz", ARRAY)
    monkeypatch.chdir(here)
    reader = ImageReader(beside=there / "scores.h5")
    assert reader.read(b"a.png").pixels.shape == (8, 8)
    assert np.array_equal(reader.read(b"x-idx3-ubyte.gz#3").pixels, ARRAY[3])
    write_idx(here / "x-idx3-ubyte.gz", ARRAY[::-1])
    assert np.array_equal(reader.read(b"x-idx3-ubyte.gz#3").pixels, ARRAY[1])
    for name in (b"b.png", os.fsencode(here / "a.png"), b"a\0b"):
        with pytest.raises(ImageError):
            reader.read(name)


def test_a_new_kind_of_source_is_a_function_and_a_line(monkeypatch):
    def open_noise(argument: str) -> arrays.ArraySource | None:
        name, rows = arrays.split_rows(argument)
        return arrays.take_rows(name, ARRAY, rows, "noise 1") if name == "noise:" else None

    kinds = sources._kinds
    monkeypatch.setattr(sources, "_kinds", lambda *a: [*kinds(*a), open_noise(a[0])])
    manifest = open_sources(["noise:#2:4"])
    assert names(manifest) == ["noise:#2", "noise:#3"]
    assert np.array_equal(ImageReader().read(b"noise:#3").pixels, ARRAY[3])
    with pytest.raises(SourceError, match="no such file"):
        open_sources(["silence:"])
