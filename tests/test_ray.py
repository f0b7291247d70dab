"""The engine of a Ray cluster: through the command, and slow tests on a real one of two workers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import HvaeoodError, SourceError
from hvaeood_cli.images.sources import open_sources
from hvaeood_cli.model.bundle import Bundle, find_bundle, packed, unpacked
from hvaeood_cli.scoring.engines import ray as engine
from hvaeood_cli.scoring.engines.worker import Place, Work, Worker, versions
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.store.journal import Journal, journal_path
from hvaeood_cli.store.reader import read_scores
from tests.conftest import make_images
from tests.test_shards import assert_equal
from tests.test_tiles import photos, tiled  # noqa: F401  fixtures

ON_RAY = ("score", "images", "--engine", "ray")


def work(bundle: Bundle, folder: Path, **change: str) -> Work:
    there = {"device": "cpu", "runtime": "", "folder": str(folder)} | change
    return Work(packed(bundle), ScoreSettings(), batch_size=None, **there)


def with_ray(monkeypatch: pytest.MonkeyPatch, version: str = "2.60.0") -> None:
    monkeypatch.setattr(engine, "version", lambda _: version)


def test_ray_that_is_absent_or_too_old_is_said_before_any_work(run, folder, monkeypatch):
    def absent(name: str) -> str:
        raise engine.PackageNotFoundError(name)

    monkeypatch.setattr(engine, "version", absent)
    code, _, err = run(*ON_RAY)
    assert code == 2 and "Ray is not installed" in err and "pip install 'hvaeood[ray]'" in err
    with_ray(monkeypatch, "2.9.3")
    code, _, err = run(*ON_RAY)
    assert code == 2 and "Ray 2.9.3 is installed, and 2.54 is the lowest" in err
    assert not list(Path().glob("*.h5*"))


def test_an_address_that_answers_not(run, folder, monkeypatch):
    with_ray(monkeypatch)
    with socket.socket() as bound:  # it does not listen
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        code, _, err = run(*ON_RAY, "--address", address)
    assert code == 3 and f"nothing answers at {address}" in err and "ray start --head" in err
    assert not list(Path().glob("*.h5*"))


@pytest.mark.parametrize("address", ["nowhere", "ray://head:10001", "head:port", ":1"])
def test_an_address_that_is_none(run, folder, monkeypatch, address):
    with_ray(monkeypatch)
    code, _, err = run(*ON_RAY, "--address", address)
    assert code == 2 and "HOST:PORT" in err


def test_an_address_without_ray_is_refused(run, folder):
    code, _, err = run("score", folder, "--address", "head:6379")
    assert code == 2 and "--engine ray" in err
    assert not list(Path().glob("*.h5"))


def test_what_ray_cannot_do_is_said(run, folder, monkeypatch):
    with_ray(monkeypatch)
    code, _, err = run(*ON_RAY, "--device", "cuda:1")
    assert code == 2 and "--device cuda" in err
    code, _, err = run("score", "images", "--engine", "dask")
    assert code == 2 and "engines: local, ray" in err
    np.savez("many.npz", images=make_images(3)[:, 0])
    code, _, err = run("score", "many.npz", "--engine", "ray")
    assert code == 3 and "is in memory" in err and ".npy" in err


def test_what_travels(folder, tmp_path):
    np.save(tmp_path / "many.npy", make_images(3)[:, 0])
    engine.check_travels(open_sources([str(tmp_path / "many.npy"), str(folder)]))
    with pytest.raises(SourceError, match="in memory"):
        engine.check_travels(Detector().manifest(make_images(3)[:, 0]))


def test_a_file_cannot_name_a_cluster(run, folder):
    """Whoever brings images must not choose the machines that run code for them."""
    Path("hvaeood.toml").write_text('[score]\naddress = "evil:6379"\n')
    code, _, err = run(*ON_RAY)
    assert code == 2 and "may not set 'address'" in err


def test_a_model_travels_by_content(bundle, tmp_path):
    assert unpacked(packed(bundle), tmp_path / "there").sha256 == bundle.sha256
    shipped = find_bundle("fashionmnist")
    assert unpacked(packed(shipped), tmp_path / "shipped").sha256 == shipped.sha256


def test_a_worker_begins_only_where_the_images_are(bundle, folder, monkeypatch):
    monkeypatch.chdir(folder)
    worker = Worker()
    with pytest.raises(HvaeoodError) as caught:
        worker.begin(work(bundle, folder / "nowhere"))
    assert "node " in caught.value.message and "storage that they share" in caught.value.hint
    place = worker.begin(work(bundle, folder))
    assert place.kind == ("cpu", "torch") and place.images_per_stretch % place.images_per_pass == 0


def test_nodes_must_agree(bundle):
    here = Place("here", "cpu", "torch", versions(), 128, 32)
    other = Place("there", "cuda", "torch", versions(), 128, 32)
    check = engine.RayPool._check
    check(SimpleNamespace(), here, here)
    with pytest.raises(HvaeoodError, match="node there has cuda by torch and not cpu by torch"):
        check(SimpleNamespace(), other, here)
    old = (("hvaeood", "0.0"), *versions()[1:])
    with pytest.raises(HvaeoodError, match=r"node there has hvaeood 0\.0 and not"):
        check(SimpleNamespace(), Place("there", "cpu", "torch", old, 128, 32), here)


# -- on a real cluster --------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
MAIN = "from hvaeood_cli.__main__ import main; main()"
COUNTING = f"""
import sys
from hvaeood_cli.scoring.engines.ray import RayEngine

score = RayEngine.score

def counted(self, manifest, start=0):
    for batch in score(self, manifest, start):
        print("scored", len(batch.rows), file=sys.stderr)
        yield batch

RayEngine.score = counted
{MAIN}
"""


class Cluster(NamedTuple):
    head: int  # its process
    options: tuple[str, ...]  # of a run on it

    def workers(self) -> list[int]:
        """The processes of its workers that hold a model."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name, _, rest = path.read_text().rpartition(")")
                parents[int(path.parent.name)] = int(rest.split()[1]), "ray::Worker" in name
        found = []
        for process, (above, is_worker) in parents.items():
            parent = above
            while is_worker and parent not in (0, self.head):
                parent = parents.get(parent, (0, False))[0]
            if is_worker and parent == self.head:
                found.append(process)
        return found


SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture(scope="module")
def on_cluster() -> Iterator[Cluster]:
    """A cluster of two CPUs on this machine, as `ray start` makes it."""
    with cluster(n_cpus=2) as made:
        yield made


@contextlib.contextmanager
def cluster(n_cpus: int) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_AUTH_MODE", "token")  # a cluster lets in who has its token
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with node("--head", f"--port={address.rpartition(':')[2]}", n_cpus=n_cpus) as head:
            asked = [ray_command(), "health-check", "--address", address]
            for _ in range(60):
                if subprocess.run(asked, **SILENT, check=False).returncode == 0:
                    break
                assert head.poll() is None, "the cluster has ended"
            yield Cluster(head.pid, ("--engine", "ray", "--address", address))


@contextlib.contextmanager
def node(*options: str, n_cpus: int) -> Iterator[subprocess.Popen[bytes]]:
    """A node of a cluster, in a group of processes of its own."""
    start = [ray_command(), "start", *options, f"--num-cpus={n_cpus}", "--block"]
    start += ["--include-dashboard=false"] * ("--head" in options)
    process = subprocess.Popen([*start, "--disable-usage-stats"], **SILENT, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def ray_command() -> Path:
    return Path(sys.executable).with_name("ray")


@pytest.fixture
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def started(*arguments: object, program: str = MAIN) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", program, "score", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def score(
    *arguments: object, codes: tuple[int, ...] = (0,), program: str = MAIN
) -> tuple[str, str]:
    """What a run that ends by itself prints."""
    process = started(*arguments, program=program)
    out, err = process.communicate()
    assert process.returncode in codes, err
    return out.decode(), err.decode()


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_scores_are_those_of_one_machine(on_cluster):
    shutil.copytree(ROOT / "examples" / "mixed", "mixed")
    Path("mixed/000-bad.png").write_bytes(b"no image")
    score("mixed", "-o", "one.h5", codes=(4,))
    out, err = score("mixed", "-o", "ray.h5", "--json", *on_cluster.options, codes=(4,))
    assert json.loads(out)["n_scored"] == 200, "Ray says nothing there"
    assert "ray" not in err.lower().replace("ray.h5", "")
    assert_equal("ray.h5", "one.h5")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_tiles_are_those_of_one_machine(on_cluster, tiled, photos):  # noqa: F811
    score("photos", "--model", tiled.folder, "-o", "one.h5")
    score("photos", "--model", tiled.folder, "-o", "ray.h5", *on_cluster.options)
    assert_equal("ray.h5", "one.h5")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("ends", ["worker", "driver", "ctrl-c"])
def test_nothing_is_lost_and_nothing_is_done_twice(on_cluster, ends):
    """A worker killed, the driver killed, and Ctrl-C, each in the middle of a run."""
    np.save("many.npy", make_images(6000, size=28)[:, 0])
    score("many.npy", "-o", "one.h5")
    on_ray = ("many.npy", "-o", "ray.h5", *on_cluster.options)
    process, journal = started(*on_ray), journal_path(Path("ray.h5"))
    while not (journal.exists() and journal.stat().st_size > 1 << 16):
        assert process.poll() is None, process.communicate()
    if ends == "worker":
        os.kill(on_cluster.workers()[0], signal.SIGKILL)
    else:
        process.send_signal(signal.SIGKILL if ends == "driver" else signal.SIGINT)
    err = process.communicate()[1].decode()
    if ends == "worker":
        assert process.returncode == 0, err
    else:
        assert process.returncode == (-signal.SIGKILL if ends == "driver" else 130), err
        shutil.copy(journal, "copy")
        with Journal.open(Path("copy"), read_scores(Path("one.h5")).header) as stood:
            n_stood = stood.n_done
        assert 0 < n_stood < 6000
        err = score(*on_ray, program=COUNTING)[1]
        again = sum(int(line.split()[1]) for line in err.splitlines() if line[:6] == "scored")
        assert again == 6000 - n_stood
    assert_equal("ray.h5", "one.h5")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_another_runtime_scores_there_as_it_does_here(on_cluster):
    pytest.importorskip("openvino")
    by = ("--runtime", "openvino")
    score(ROOT / "examples" / "mixed", "-o", "one.h5", *by)
    score(ROOT / "examples" / "mixed", "-o", "ray.h5", *by, *on_cluster.options)
    assert_equal("ray.h5", "one.h5")
    assert read_scores(Path("ray.h5")).header.runtime.startswith("openvino")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_node_that_is_lost_in_the_middle_is_done_without():
    """Two nodes of one CPU each: all processes of the second are killed at once."""
    np.save("many.npy", make_images(6000, size=28)[:, 0])
    score("many.npy", "-o", "one.h5")
    with cluster(n_cpus=1) as first:
        address = first.options[-1]
        with node(f"--address={address}", n_cpus=1) as second:
            wait_for_cpus(address, 2)
            process = started("many.npy", "-o", "ray.h5", "--workers", "2", *first.options)
            journal = journal_path(Path("ray.h5"))
            while not (journal.exists() and journal.stat().st_size > 1 << 16):
                assert process.poll() is None, process.communicate()
            assert len(Cluster(second.pid, ()).workers()) == 1, "it has one of the two"
            os.killpg(second.pid, signal.SIGKILL)
            err = process.communicate()[1].decode()
    assert process.returncode == 0, err
    assert_equal("ray.h5", "one.h5")


def wait_for_cpus(address: str, n: int) -> None:
    """Return when a cluster has so many CPUs."""
    count = f"import ray; ray.init({address!r}); print('CPUs', int(ray.cluster_resources()['CPU']))"
    for _ in range(60):
        found = subprocess.run([sys.executable, "-c", count], capture_output=True, check=False)
        if b"CPUs %d" % n in found.stdout:
            return
    pytest.fail(f"there are no {n} CPUs: {found.stdout!r} {found.stderr!r}")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_cluster_that_is_too_small(on_cluster):
    np.save("many.npy", make_images(3, size=28)[:, 0])
    err = score("many.npy", *on_cluster.options, "--workers", "3", codes=(2,))[1]
    assert "3 workers are asked for, and the cluster has 2 CPUs" in err
    assert not list(Path().glob("*.h5*"))
