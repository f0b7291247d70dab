"""Images behind addresses: a real S3 server on the loopback, and a network that fails."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.errors import ImageError, SourceError
from hvaeood_cli.images import remote
from hvaeood_cli.images.reader import ImageReader
from hvaeood_cli.images.remote import open_remote
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.store.reader import read_scores
from tests.conftest import make_images

fsspec = pytest.importorskip("fsspec")
s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server of our own."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    there = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    there.start()
    yield "http://{}:{}".format(*there.get_host_and_port())
    there.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path) -> Iterator[s3fs.S3FileSystem]:
    """A user's own connection to an empty bucket called `pictures`."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    remote._opened.cache_clear()
    files = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    files.mkdir("pictures")
    yield files
    files.rm("pictures", recursive=True)
    remote._opened.cache_clear()


def sent(folder: Path, bucket: s3fs.S3FileSystem, to: str = "pictures/photos") -> None:
    for path in folder.rglob("*.*"):
        bucket.pipe(f"{to}/{path.relative_to(folder)}", path.read_bytes())


def test_a_bucket_has_the_scores_of_its_folder(run, folder, bucket):
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    sent(folder, bucket)
    assert run("score", folder, "-o", "folder.h5")[0] == 4
    code, _, err = run("score", "s3://pictures/photos/")
    assert code == 4 and "left out: 1 file" in err, err
    with h5py.File("folder.h5") as here, h5py.File("photos.scores.h5") as there:
        for name in ("lower_bound", "llr", "kl"):
            np.testing.assert_array_equal(here[f"scores/{name}"], there[f"scores/{name}"])
        assert list(here["images/status"]) == list(there["images/status"])
        names = [name.decode() for name in there["images/path"]]
    assert names == [
        f"s3://pictures/photos/{path.relative_to(folder)}" for path in sorted(folder.rglob("*.png"))
    ]


def test_a_list_may_name_addresses_and_files(run, folder, bucket):
    sent(folder, bucket)
    names = ["s3://pictures/photos/00.png", str(folder / "01.png"), "s3://pictures/none.png"]
    code, out, err = run("score", "-", "--jsonl", stdin="\n".join(names).encode())
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 4, err
    assert {row["path"]: row["status"] for row in rows} == dict(
        zip(names, ["scored", "scored", "missing"], strict=True)
    )


def test_a_bucket_that_grew_is_brought_up_to_date(run, folder, bucket):
    sent(folder, bucket)
    assert run("score", "s3://pictures/photos")[0] == 0
    assert "nothing has changed" in run("score", "s3://pictures/photos")[1]
    bucket.pipe("pictures/photos/new.png", (folder / "00.png").read_bytes()[:-1])
    bucket.pipe("pictures/photos/03.png", (folder / "04.png").read_bytes())
    bucket.rm("pictures/photos/05.png")
    code, out, _ = run("score", "s3://pictures/photos")
    assert code == 0 and "1 new, 1 changed, 1 gone" in out
    assert len(read_scores(Path("photos.scores.h5")).present) == 12


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_an_archive_in_a_bucket_is_read_in_place(run, folder, bucket, tmp_path, ending):
    archive = tmp_path / f"photos.{ending}"
    if ending == "tar":
        with tarfile.open(archive, "w") as packed:
            packed.add(folder, "deep")
    else:
        with zipfile.ZipFile(archive, "w") as packed:
            for path in sorted(folder.rglob("*.png")):
                packed.write(path, f"deep/{path.relative_to(folder)}")
    bucket.pipe(f"pictures/{archive.name}", archive.read_bytes())
    source = open_sources([f"s3://pictures/{archive.name}"])
    assert len(source) == 12
    source = ForkingPickler.loads(ForkingPickler.dumps(source))
    images = dict(zip(source.names(), range(12), strict=True))
    name = f"s3://pictures/{archive.name}/deep/deeper/10.png".encode()
    expected = open_sources([str(folder / "deeper" / "10.png")]).read(0)
    np.testing.assert_array_equal(source.read(images[name])[0].pixels, expected[0].pixels)
    assert source.sha256(images[name]) == expected[1]
    np.testing.assert_array_equal(ImageReader(remote=True).read(name).pixels, expected[0].pixels)


def test_an_archive_that_is_cut_in_a_bucket_is_refused(run, folder, bucket, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        packed.add(folder, "deep")
    bucket.pipe("pictures/x.tar", (tmp_path / "x.tar").read_bytes()[:2000])
    code, _, err = run("score", "s3://pictures/x.tar")
    assert code == 3 and "error: cannot read s3://pictures/x.tar" in err and "hint:" in err


def test_calibrate_on_a_bucket(run, bundle, bucket, tmp_path):
    shutil.copytree(bundle.folder, tmp_path / "own")
    for i, image in enumerate(make_images(60)):
        Image.fromarray(image[0]).save(tmp_path / "one.png")
        bucket.pipe(f"pictures/usual/{i:02}.png", (tmp_path / "one.png").read_bytes())
    code, _, err = run("calibrate", "s3://pictures/usual", "--model", "own")
    assert code == 0 and "maps stay in nats" not in err, err


def test_what_is_shown_of_a_score_file_fetches_nothing_unasked(run, folder, bucket, monkeypatch):
    sent(folder, bucket)
    assert run("score", "s3://pictures/photos")[0] == 0
    asked = []
    monkeypatch.setattr(remote.Store, "ask", lambda self, question: asked.append(1))
    with pytest.raises(ImageError, match="--remote fetches it"):
        ImageReader().read(b"s3://pictures/photos/00.png")
    with pytest.raises(ImageError, match="--remote fetches it"):
        ImageReader().read(b"s3://pictures/photos.tar/00.png")
    code, _, err = run("report", "photos.scores.h5", "--top", "2", "--format", "html")
    assert code == 0 and "--remote fetches it" in err and not asked
    monkeypatch.undo()


def test_a_report_fetches_images_where_it_is_asked_to(run, folder, bucket):
    sent(folder, bucket)
    assert run("score", "s3://pictures/photos")[0] == 0
    code, _, err = run("report", "photos.scores.h5", "--top", "2", "--remote", "-o", "r.html")
    assert code == 0 and "could not be shown" not in err, err
    assert Path("r.html").read_text().count("data:image/png") >= 2


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("s3://nowhere/photos", SourceError, "no such"),
        ("s3://pictures/other", SourceError, "no such"),
        ("s3://user:secret@host/x", SourceError, "password"),
        ("https://host/x.png?X-Amz-Signature=secret", SourceError, "token"),
        pytest.param(
            "s3://a::b/c", SourceError, "within an address", id="within"
        ),  # xdist would share tests out by what stands before `::`
        ("file:///tmp/x", SourceError, "on this machine"),
        ("nonsense://x/y", SourceError, "no kind of store"),
        ("s3://pictures/x.npy", SourceError, "from a disk alone"),
        ("s3://pictures/x.tar.gz", SourceError, "compressed as a whole"),
    ],
)
def test_what_cannot_be_listed_is_an_error_with_a_hint(bucket, address, error, words):
    with pytest.raises(error, match=words) as caught:
        open_sources([address])
    assert caught.value.hint and "secret" not in caught.value.message


def test_no_credentials(run, bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    remote._opened.cache_clear()
    code, _, err = run("score", "s3://pictures/photos")
    assert code == 3 and "redentials" in err and "hint: " in err and "~/.aws" in err, err


@pytest.fixture
def memory(folder, monkeypatch) -> Iterator[list[float]]:
    """`memory://photos`; the pauses before a store is asked again are noted, not made."""
    files = fsspec.filesystem("memory")
    for path in folder.rglob("*.png"):
        files.pipe(f"/photos/{path.name}", path.read_bytes())
    pauses: list[float] = []
    monkeypatch.setattr(remote, "_wait", pauses.append)
    yield pauses
    files.rm("/photos", recursive=True)


def failing(monkeypatch, error: Exception, times: int) -> None:
    """Make the store fail some times before it gives an object."""
    cls = type(fsspec.filesystem("memory"))
    fetch, left = cls.cat_file, [times]

    def cat_file(self, path, **options):
        if left[0] and path.endswith("03.png"):
            left[0] -= 1
            raise error
        return fetch(self, path, **options)

    monkeypatch.setattr(cls, "cat_file", cat_file)


class StatusError(Exception):
    """An answer of a web server, as libraries raise it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.parametrize(
    "error", [TimeoutError("slow"), ConnectionResetError(), OSError(5, "busy"), StatusError(503),
              StatusError(429)]
)  # fmt: skip
def test_what_passes_is_asked_again_each_time_later(memory, monkeypatch, error):
    failing(monkeypatch, error, 2)
    assert open_sources(["memory://photos"]).read(3)[0].pixels.shape == (8, 8)
    assert len(memory) == 2 and memory[1] > memory[0] > 0


@pytest.mark.parametrize(
    ("error", "n_asked", "status", "words"),
    [
        (TimeoutError("slow"), 4, "unreadable", "slow"),
        (PermissionError("not yours"), 1, "unreadable", "refused: not yours"),
        (StatusError(403), 1, "unreadable", "status 403"),
        (FileNotFoundError(), 1, "missing", "no such object"),
    ],
)
def test_an_image_that_does_not_come_is_a_row(
    run, memory, monkeypatch, error, n_asked, status, words
):
    failing(monkeypatch, error, 100)
    code, out, err = run("score", "memory://photos", "--jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    odd = [row for row in rows if row["status"] != "scored"]
    assert code == 4 and len(rows) == 12 and len(memory) == n_asked - 1, err
    assert [row["status"] for row in odd] == [status] and words in odd[0]["error"]
    monkeypatch.undo()


def test_an_image_that_did_not_come_is_tried_again(run, memory, monkeypatch):
    with monkeypatch.context() as context:
        failing(context, TimeoutError("slow"), 100)
        assert run("score", "memory://photos")[0] == 4
    assert run("score", "memory://photos")[0] == 0
    assert read_scores(Path("photos.scores.h5")).n_scored == 12


def test_without_the_library_an_error_says_what_to_install(monkeypatch):
    def absent(kind, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    remote._opened.cache_clear()
    with pytest.raises(SourceError) as caught:
        open_sources(["s3://pictures/photos"])
    assert caught.value.hint == "pip install 'hvaeood[cloud]'"


@pytest.mark.parametrize("how", ["--copy-to", "--move-to"])
def test_nothing_is_taken_from_an_address(run, bundle, folder, bucket, tmp_path, how):
    shutil.copytree(bundle.folder, tmp_path / "own")
    np.save(tmp_path / "usual.npy", make_images(60, seed=5)[:, 0])
    assert run("calibrate", "usual.npy", "--model", "own", "-q")[0] == 0
    sent(folder, bucket)
    score = ("score", "s3://pictures/photos", "--model", "own", "--fpr", "0.9")
    code, out, _ = run(*score)
    assert code == 0 and "hvaeood report photos.scores.h5 --model own --remote" in out
    n_flagged = read_scores(Path("photos.scores.h5")).decision.n_flagged
    code, _, err = run("decide", "photos.scores.h5", "--fpr", "0.9", how, "odd", "--model", "own")
    assert n_flagged and code == 4 and f"{n_flagged} images not taken" in err, err
    assert "from which nothing is taken" in err and not list(Path("odd").rglob("*.png"))


@pytest.fixture
def site(folder, monkeypatch) -> Iterator[tuple[str, dict[str, int], list[str]]]:
    """A web server over the images: its address, what it refuses by path, what it was asked."""
    refused: dict[str, int] = {}
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def send_head(self):
            asked.append(f"{self.command} {self.path}")
            if self.path in refused:
                return self.send_error(refused[self.path])
            return super().send_head()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote, "_wait", lambda seconds: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", refused, asked
        server.shutdown()


def test_a_page_has_the_scores_of_what_it_links_to(run, folder, site):
    address, refused, asked = site
    refused.update({"/03.png": 403, "/04.png": 404, "/05.png": 503})
    code, out, err = run("score", f"{address}/", "-o", "page.h5", "--jsonl")
    rows = {row["path"]: row for line in out.splitlines() if (row := json.loads(line))}
    assert code == 4 and len(rows) == 10, err
    status = {name: row["status"] for name, row in rows.items() if row["status"] != "scored"}
    assert status == {
        f"{address}/03.png": "unreadable", f"{address}/04.png": "missing",
        f"{address}/05.png": "unreadable",
    }  # fmt: skip
    refused.clear()
    assert run("score", f"{address}/", "-o", "page.h5")[0] == 0
    assert read_scores(Path("page.h5")).n_scored == 10
    asked.clear()
    assert "nothing has changed" in run("score", f"{address}/", "-o", "page.h5")[1]
    assert not [line for line in asked if line.startswith("GET") and line.endswith(".png")]


def test_an_image_that_changed_behind_a_page_is_scored_anew(run, folder, site):
    address, _, _ = site
    assert run("score", f"{address}/", "-o", "page.h5")[0] == 0
    pixels = np.asarray(Image.open(folder / "00.png"))
    Image.fromarray(255 - pixels).save(folder / "00.png")
    os.utime(folder / "00.png", (1, 1))  # servers tell seconds
    assert "1 changed" in run("score", f"{address}/", "-o", "page.h5")[1]


def test_where_a_server_does_not_say_that_an_image_changed_it_is_read_again(
    run, folder, site, monkeypatch
):
    monkeypatch.setattr(SimpleHTTPRequestHandler, "date_time_string", lambda self, when=None: "")
    address, _, asked = site
    assert run("score", f"{address}/00.png", "-o", "one.h5")[0] == 0
    asked.clear()
    assert run("score", f"{address}/00.png", "-o", "one.h5")[0] == 0
    assert "GET /00.png" in asked


@pytest.mark.parametrize(
    ("path", "words"), [("none/", "no such object"), ("none.png", "no such object")]
)
def test_a_page_that_is_not_there(run, site, path, words):
    code, _, err = run("score", f"{site[0]}/{path}")
    assert code == 3 and words in err and "hint: check the address" in err


def test_a_public_bucket_is_read_without_credentials(folder, bucket, monkeypatch):
    sent(folder, bucket)
    bucket.chmod("pictures", "public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": "true"})  # as FSSPEC_S3_ANON sets it
    remote._opened.cache_clear()
    assert len(open_sources(["s3://pictures/photos"])) == 12


def test_a_name_in_a_score_file_lists_nothing(folder, bucket, monkeypatch):
    """Not even where images are to be fetched: it may name a bucket of millions."""
    sent(folder, bucket)
    monkeypatch.setattr(remote.Store, "walk", lambda *_: pytest.fail("it was listed"))
    for name in (b"s3://pictures/photos", b"s3://user:secret@host/x.png"):
        with pytest.raises((ImageError, SourceError)):
            ImageReader(remote=True).read(name)


def test_listing_says_how_many_were_found(memory, monkeypatch):
    monkeypatch.setattr(remote, "COUNT_EACH", 5)
    said: list[int] = []
    assert len(open_remote("memory://photos", said.append) or ()) == 12
    assert said[:2] == [5, 10]
