"""Images behind an address: object stores and web servers, read over the network.

fsspec gives each kind of store one face, and finds the user's credentials where that store's own
tools do. A store is asked again for what may pass; what it refuses then is a row with a status, as
with any image, and never "missing".
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from hvaeood_cli.errors import HvaeoodError, ImageError, SourceError
from hvaeood_cli.images.arrays import is_array_file
from hvaeood_cli.images.decode import MAX_BYTES, Decoded, decode_hashed, has_ending
from hvaeood_cli.images.file import File, local_file
from hvaeood_cli.images.folder import COUNT_EACH, Count

Answer = TypeVar("Answer")

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SECRET = re.compile(r"://[^/]*@|^https?://.*\?", re.IGNORECASE)
_PAUSES = (0.5, 2.0, 8.0)  # seconds before an answer is asked for again
_PASSING = (408, 425, 429)  # "wait": the statuses below 500 that pass
_LASTING = (
    FileNotFoundError, IsADirectoryError, PermissionError, NotImplementedError, ImportError,
    ValueError,
)  # fmt: skip
_CREDENTIALS = re.compile("Credential|Profile|Token")  # in the names of errors, which last, too
_PAGE = 1000  # objects of a listing of S3
_BUFFER = 1 << 20
_MARKS = (  # what says that an object has changed, as the stores call it
    "ETag", "etag", "generation", "mtime", "LastModified", "Last-Modified", "last_modified",
    "created",
)  # fmt: skip
_HINTS = {
    "s3": "credentials are looked for in the environment and ~/.aws; AWS_ENDPOINT_URL names "
    "another server than Amazon's, and FSSPEC_S3_ANON=true reads public buckets",
    "gs": "credentials are looked for where gcloud auth application-default login keeps them",
}
_OTHER_HINT = "check the address and the network; passwords are looked for in ~/.netrc"


def is_address(name: str) -> bool:
    """Whether a name is an address, such as s3://bucket/photos, and no path."""
    return _ADDRESS.match(name) is not None


class Object(NamedTuple):
    """An image in a store."""

    path: str  # as the store has it, without the kind of store
    size: int | None  # bytes, where the store says so
    stamp: str


@dataclass(frozen=True, eq=False)
class RemoteSource:
    """Images in a store, one an object. Any thread or process may read them."""

    store: Store
    objects: Sequence[Object]
    skipped: int = 0  # how many other objects were found beside them

    def __len__(self) -> int:
        return len(self.objects)

    def name(self, i: int) -> bytes:
        return _bytes_of(self.store.address(self.objects[i].path))

    @property
    def longest(self) -> int:
        """The bytes of the longest name."""
        return max(len(self.name(i)) for i in range(len(self)))

    def read(self, i: int) -> tuple[Decoded, bytes]:
        return decode_hashed(self._fetch(i))

    def sha256(self, i: int) -> bytes:
        return hashlib.sha256(self._fetch(i)).digest()

    def stamp(self, i: int) -> str:
        return self.objects[i].stamp

    def _fetch(self, i: int) -> bytes:
        """The bytes of image i. Raises ImageError."""
        path, size, _ = self.objects[i]
        if size is not None and size > MAX_BYTES:
            raise ImageError("too_large", f"{size} bytes; at most {MAX_BYTES} are read")
        data = self.store.read(path, size)
        if size is not None and len(data) != size:
            raise ImageError("unreadable", "it has changed since it was listed")
        if len(data) > MAX_BYTES:
            raise ImageError("too_large", f"more than {MAX_BYTES} bytes")
        return data


@dataclass(frozen=True)
class RemoteFile:
    """A file in a store that holds many images, and is read in pieces."""

    store: Store
    path: str
    size: int
    stamp: str

    @property
    def name(self) -> bytes:
        return _bytes_of(self.store.address(self.path))

    def open(self) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_Pieces(self), _BUFFER))

    def read_at(self, place: int, size: int) -> bytes:
        """At most `size` bytes from a place on. Raises ImageError."""
        end = min(place + size, self.size)
        if end <= place:
            return b""
        data = self.store.ask(lambda files: bytes(files.cat_file(self.path, start=place, end=end)))
        if len(data) != end - place:
            raise ImageError(
                "unreadable", "the file has changed, or its server gives no part of a file"
            )
        return data


class _Pieces(io.RawIOBase):
    """A file in a store as Python's libraries want one."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._file.read_at(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


@dataclass(frozen=True)
class Store:
    """A kind of store, such as `s3`. Any thread or process may ask it."""

    kind: str

    @property
    def is_web(self) -> bool:
        return self.kind in ("http", "https")

    @property
    def _files(self) -> Any:
        """fsspec's file system. Raises SourceError where there is none for this kind."""
        return _opened(self.kind, os.getpid())

    def address(self, path: str) -> str:
        return str(self._files.unstrip_protocol(path))

    def path(self, address: str) -> str:
        return str(self._files._strip_protocol(address))

    def ask(self, question: Callable[[Any], Answer]) -> Answer:
        """What the store answers. What may pass is asked again, later each time.

        Raises ImageError: `missing` where the store says that there is no such thing, `unreadable`
        for all else.
        """
        pauses: Iterator[float] = iter(_PAUSES)
        while True:
            try:
                return question(self._files)
            except HvaeoodError:
                raise
            except Exception as wrapped:  # each library has errors of its own
                error = _root(wrapped)
                pause = next(pauses, None) if _may_pass(error) else None
                if pause is None:
                    raise _refusal(error) from None
                _wait(pause * random.uniform(0.5, 1.5))  # noqa: S311  # not all at once

    def read(self, path: str, size: int | None) -> bytes:
        """All bytes of an object. Raises ImageError."""
        if size is not None:
            return self.ask(lambda files: bytes(files.cat_file(path)))

        def bounded(files: Any) -> bytes:
            with files.open(path, "rb") as file:
                return bytes(file.read(MAX_BYTES + 1))

        return self.ask(bounded)

    def facts(self, path: str) -> dict[str, Any]:
        """What the store says of a path. Raises ImageError."""
        return dict(self.ask(lambda files: files.info(path)))

    def walk(self, path: str) -> Iterator[dict[str, Any]]:
        """What the store says of each object below a path. Raises ImageError.

        Of a web server, of what one page links to: a site may have no end.
        """
        if self.kind == "s3":  # one listing of millions would take minutes, without a word
            yield from self._pages(path)
            return
        below = self.ask(lambda files: list(files.ls(path, detail=True)))
        for facts in below:
            name = str(facts["name"])
            if facts.get("type") != "directory":
                yield facts
            elif not self.is_web and name.rstrip("/") != path.rstrip("/"):
                yield from self.walk(name)

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        """As `walk`, of S3: page by page, and each asked for again by itself."""
        bucket, _, prefix = path.partition("/")
        asked = {"Bucket": bucket, "Prefix": prefix and f"{prefix}/", "MaxKeys": _PAGE}
        while True:
            page = self.ask(lambda files: files.call_s3("list_objects_v2", **asked))
            for one in page.get("Contents", ()):
                if not one["Key"].endswith("/"):  # a mark of a folder
                    yield {"name": f"{bucket}/{one['Key']}", "size": one["Size"], **one}
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]


@cache
def _opened(kind: str, process: int) -> Any:
    """fsspec's file system: one for all threads of a process, which a forked one cannot share."""
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if kind == "s3":  # few tries of botocore's own, since `Store.ask` tries again
        options["config_kwargs"] = {"retries": {"total_max_attempts": 2}, "connect_timeout": 10}
    if kind in ("gs", "gcs"):  # else it asks first, by another protocol, what kind of bucket it is
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    if Store(kind).is_web:
        options["client_kwargs"] = {"trust_env": True}  # proxies, and passwords in ~/.netrc
    try:
        import fsspec

        return fsspec.filesystem(kind, **options)
    except ImportError as error:
        raise SourceError(
            f"{kind}:// needs a library that is not installed ({error})",
            "pip install 'hvaeood[cloud]'",
        ) from None
    except ValueError:
        raise SourceError(
            f"{kind}:// is no kind of store that is known", "s3://, gs://, https:// ... or a path"
        ) from None


def open_remote(argument: str, count: Count = lambda _: None) -> RemoteSource | None:
    """The images below an address, or the one image there; None for what is no address.

    Raises SourceError for what cannot be listed, and where there are none.
    """
    if not is_address(argument):
        return None
    if is_array_file(Path(argument)):
        raise SourceError(
            f"{argument}: array files are read from a disk alone", "download it first"
        )
    store, path = _store_of(argument)
    try:
        is_page = store.is_web and not _is_image(path)  # every page is a file to a web server
        facts = {} if is_page else store.facts(path)
        if facts.get("type") == "file":
            return RemoteSource(store, [_object(facts)])
        return _below(store, path, argument, count)
    except ImageError as error:
        raise _refused(argument, error) from None


def named_object(address: str) -> RemoteSource:
    """The one object at an address, though nothing may be there: then reading it says so.

    Raises SourceError for an address that is none.
    """
    store, path = _store_of(address)
    return RemoteSource(store, [_asked(store, path)])


def remote_file(argument: str) -> RemoteFile | None:
    """The file at an address; None for what is no address. Raises SourceError."""
    if not is_address(argument):
        return None
    store, path = _store_of(argument)
    try:
        found = _object(store.facts(path))
    except ImageError as error:
        raise _refused(argument, error) from None
    if found.size is None:
        raise SourceError(
            f"the server does not say how large {argument} is, so no part of it can be read",
            "download it first",
        )
    return RemoteFile(store, found.path, found.size, found.stamp)


def file_at(argument: str) -> File | None:
    """The file at an address or a path; None where there is none. Raises SourceError."""
    return remote_file(argument) or local_file(argument)


def _below(store: Store, path: str, argument: str, count: Count) -> RemoteSource:
    found, skipped = list[Object](), 0
    for facts in store.walk(path):
        name = str(facts["name"])
        if not _is_image(name):
            skipped += 1
            continue
        # A page says nothing of what it links to, neither a size nor a time.
        found.append(_asked(store, name) if store.is_web else _object(facts))
        if len(found) % COUNT_EACH == 0:
            count(len(found))
    if not found:
        if not skipped:
            raise ImageError("missing", "the store has no such object")
        others = f" ({skipped} other objects)"
        raise SourceError(
            f"no images at {argument}{others}",
            "objects are taken by their ending: .png .jpg .bmp .gif .tif .webp .pgm ...",
        )
    found.sort(key=lambda one: _bytes_of(one.path))
    return RemoteSource(store, found, skipped)


def _store_of(address: str) -> tuple[Store, str]:
    """The store of an address, and the path there.

    Raises SourceError for an address that holds a secret: score files and messages keep addresses.
    """
    kind = cast("re.Match[str]", _ADDRESS.match(address))[1].lower()
    if _SECRET.search(address):
        raise SourceError(
            f"{kind}://...: the address holds what may be a password or a token",
            f"score files keep addresses; leave it out: {_hint(kind)}",
        )
    if "::" in address:
        raise SourceError(f"{address}: an address within an address", "name the plain one")
    if kind in ("file", "local"):
        raise SourceError(f"{address} is on this machine", "name its path")
    store = Store(kind)
    return store, store.path(address)


def _object(facts: Mapping[str, Any]) -> Object:
    """An object by what its store says of it. Where nothing says whether it has changed, its stamp
    is another one each time, so that it is read again."""
    size = facts.get("size")
    mark = next((str(facts[name]) for name in _MARKS if facts.get(name)), f"at {time.time_ns()}")
    return Object(str(facts["name"]), None if size is None else int(size), f"{size} {mark}")


def _asked(store: Store, path: str) -> Object:
    """An object by what its store says of it alone; if it says nothing, reading it will say why."""
    try:
        return _object(store.facts(path))
    except ImageError:
        return Object(path, None, "")


def _is_image(name: str) -> bool:
    return has_ending(_bytes_of(name))


def _root(error: Exception) -> Exception:
    """What an error came from: fsspec says that there is no such file of whatever went wrong."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _status(error: Exception) -> int | None:
    """The status of HTTP in an error of botocore, aiohttp or gcsfs."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for status in (response, getattr(error, "status", None), getattr(error, "code", None)):
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return None


def _may_pass(error: Exception) -> bool:
    if (status := _status(error)) is not None:
        return status >= 500 or status in _PASSING
    return not (isinstance(error, _LASTING) or _CREDENTIALS.search(type(error).__name__))


def _refusal(error: Exception) -> ImageError:
    """Missing is only what the store says is not there."""
    status = _status(error)
    if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError)):
        return ImageError("missing", "the store has no such object")
    words = re.sub(r"\?\S+", "?...", " ".join(str(error).split())) or type(error).__name__
    refused = status in (401, 403) or isinstance(error, PermissionError)
    return ImageError("unreadable", (f"refused: {words}" if refused else words)[:200])


def _refused(argument: str, error: ImageError) -> SourceError:
    kind = argument.partition("://")[0].lower()
    hint = "check the address" if error.code == "missing" else _hint(kind)
    return SourceError(f"cannot read {argument}: {error}", hint)


def _hint(kind: str) -> str:
    return _HINTS.get(kind, _OTHER_HINT)


def _bytes_of(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


_wait = time.sleep
