"""Images in Google Cloud Storage, as an emulator on the loopback has them."""

from __future__ import annotations

import io
import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hvaeood_cli.errors import ImageError, SourceError
from hvaeood_cli.images import remote
from hvaeood_cli.images.reader import ImageReader
from hvaeood_cli.images.remote import open_remote
from hvaeood_cli.images.sources import open_sources

emulator = pytest.importorskip("gcp_storage_emulator.server")


@pytest.fixture
def bucket(monkeypatch) -> Iterator[object]:
    """A user's own connection to an empty bucket called `pictures`."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="pictures")
    server.start()
    address = "http://{}:{}".format(*server._api._httpd.server_address)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    remote._opened.cache_clear()
    yield remote._opened("gs", os.getpid())  # else gcsfs would want another protocol, too
    server.stop()
    remote._opened.cache_clear()


def sent(folder: Path, bucket) -> None:
    for path in folder.rglob("*.*"):
        bucket.pipe(f"pictures/photos/{path.relative_to(folder)}", path.read_bytes())


def test_a_bucket_has_the_scores_of_its_folder(run, folder, bucket):
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    sent(folder, bucket)
    assert run("score", folder, "-o", "folder.h5")[0] == 4
    code, _, err = run("score", "gs://pictures/photos/")
    assert code == 4 and "left out: 1 file" in err, err
    with h5py.File("folder.h5") as here, h5py.File("photos.scores.h5") as there:
        for name in ("lower_bound", "llr", "kl"):
            np.testing.assert_array_equal(here[f"scores/{name}"], there[f"scores/{name}"])
        assert list(here["images/status"]) == list(there["images/status"])
        names = [name.decode() for name in there["images/path"]]
    assert names == [
        f"gs://pictures/photos/{path.relative_to(folder)}" for path in sorted(folder.rglob("*.png"))
    ]
    assert run("score", "gs://pictures/photos/")[0] == 4, "a finished run stays as it is"


def test_an_archive_there_is_read_in_pieces_and_shown(run, folder, bucket):
    packed = io.BytesIO()
    first = sorted(folder.rglob("*.png"))[0]
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(first, "a/b.png")
    bucket.pipe("pictures/all.tar", packed.getvalue())
    (manifest,) = open_sources(["gs://pictures/all.tar"]).sources
    assert manifest.name(0) == b"gs://pictures/all.tar/a/b.png"
    here = open_sources([str(first)])
    assert manifest.read(0)[1] == here.read(0)[1]
    shown = ImageReader(remote=True).read(manifest.name(0))
    np.testing.assert_array_equal(shown.pixels, here.read(0)[0].pixels)


def test_what_is_not_there_and_what_has_changed(folder, bucket):
    sent(folder, bucket)
    for address in ("gs://pictures/other", "gs://no-bucket/photos"):
        with pytest.raises(SourceError, match="the store has no such object"):
            open_remote(address)
    source = open_remote("gs://pictures/photos")
    path = source.objects[0].path
    before = source.stamp(0)
    bucket.pipe(path, b"another")
    assert open_remote("gs://pictures/photos").stamp(0) != before
    with pytest.raises(ImageError, match="has changed since it was listed"):
        source.read(0)
