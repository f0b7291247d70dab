"""A run among others: files that appear meanwhile, engines that leave gaps, odd places."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import ImageError, StoreError
from hvaeood_cli.images.sources import Manifest
from hvaeood_cli.scoring.run import ScoringRun
from hvaeood_cli.store.columns import blank_rows
from hvaeood_cli.store.journal import Batch, Journal, journal_path
from hvaeood_cli.store.reader import read_scores
from tests.score_files import SIZES, make_scores

WHOLE = ((0, 5), (5, 12))


@dataclass
class FakeEngine:
    """Gives the rows of these batches, all alike; before it begins, something else happens."""

    batches: tuple[tuple[int, int], ...] = WHOLE
    meanwhile: Callable[[], object] = lambda: None
    device: str = "cpu"
    runtime: str = "torch"
    note: str = ""

    def score(self, manifest: Manifest, start: int = 0) -> Iterator[Batch]:
        self.meanwhile()
        for first, last in self.batches:
            rows = blank_rows(last - first, SIZES)
            rows["llr"] = 1.0
            yield Batch(first, rows, {})


@pytest.fixture
def of(bundle, folder) -> Callable[[Callable[[], FakeEngine]], ScoringRun]:
    """A run over twelve images by an engine that is made when it is needed."""
    detector = Detector(bundle.folder)
    run = detector.run(detector.manifest(str(folder)))
    return lambda make_engine: replace(run, make_engine=lambda runtime: make_engine())


def never() -> FakeEngine:
    pytest.fail("there is nothing left to score")


def test_a_file_that_appears_while_the_model_is_loaded_is_kept(of, tmp_path):
    """It may be the same run, which another process had finished, or not."""
    out = tmp_path / "s.h5"

    def slowly() -> FakeEngine:
        of(FakeEngine).to_file(out)
        return FakeEngine(meanwhile=never)

    made, fresh = of(slowly).to_file(out)
    assert not fresh and (made.llr == 1.0).all() and not journal_path(out).exists()
    out.unlink()

    def beside_another() -> FakeEngine:
        make_scores(out, 20)
        return FakeEngine(meanwhile=never)

    with pytest.raises(StoreError, match="made from other inputs"):
        of(beside_another).to_file(out)
    assert len(read_scores(out)) == 20 and not journal_path(out).exists()


def test_a_file_that_appears_while_images_are_scored_is_kept_and_so_are_the_scores(of, tmp_path):
    out = tmp_path / "s.h5"
    engine = FakeEngine(meanwhile=lambda: make_scores(out, 20))
    with pytest.raises(StoreError, match="made by another process meanwhile") as caught:
        of(lambda: engine).to_file(out)
    assert len(read_scores(out)) == 20 and "--force" in caught.value.hint
    _, fresh = of(lambda: FakeEngine(meanwhile=never)).to_file(out, force=True)
    assert fresh and len(read_scores(out)) == 12 and not journal_path(out).exists()


def test_a_journal_is_locked_until_it_is_gone(of, tmp_path, monkeypatch):
    """Else another process could have begun to write to it."""
    out, removed = tmp_path / "s.h5", []
    run = of(FakeEngine)
    run.to_file(out)
    Journal.open(journal_path(out), run.header("cpu")).close()
    unlink = Path.unlink

    def guarded(path: Path, missing_ok: bool = False) -> None:
        if path == journal_path(out):
            with pytest.raises(StoreError, match="another process is writing"):
                Journal.open(path, run.header("cpu"))
            removed.append(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", guarded)
    run.to_file(out)
    run.to_file(out, force=True)
    assert removed == [journal_path(out)] * 2 and not journal_path(out).exists()


@pytest.mark.parametrize("batches", [((0, 5), (6, 12)), ((0, 5),), ((0, 12), (12, 13)), ((5, 12),)])
def test_rows_that_the_engine_leaves_out_are_not_scored(of, tmp_path, batches):
    run = of(lambda: FakeEngine(batches))
    with pytest.raises(RuntimeError, match="the engine gave"):
        run.in_memory()
    with pytest.raises(RuntimeError, match="the engine gave"):
        run.to_file(tmp_path / "s.h5")
    assert not (tmp_path / "s.h5").exists()


def test_trouble_of_the_engine_is_not_called_trouble_with_writing(of, tmp_path):
    def fail() -> None:
        raise ConnectionError("the other machine is gone")

    with pytest.raises(ConnectionError, match="the other machine"):
        of(lambda: FakeEngine(meanwhile=fail)).to_file(tmp_path / "s.h5")
    with pytest.raises(StoreError, match="cannot write"):
        of(FakeEngine).to_file(tmp_path / "gone" / "s.h5")


def test_a_reason_that_has_no_code_is_a_row_all_the_same(bundle, folder, monkeypatch):
    """A source of someone else's may have words of its own."""
    detector = Detector(bundle.folder)
    manifest, read = detector.manifest(str(folder)), Manifest.read

    def fail(self: Manifest, i: int):
        if i == 3:
            raise ImageError("on_strike", "come back tomorrow")
        return read(self, i)

    monkeypatch.setattr(Manifest, "read", fail)
    scores = detector.run(manifest).in_memory()
    assert scores.status_name(3) == "unreadable" and scores.errors[3] == "come back tomorrow"
    assert scores.n_scored == 11


def test_another_device_that_was_asked_for_is_named(of, tmp_path):
    of(FakeEngine).to_file(tmp_path / "s.h5")
    with pytest.raises(StoreError, match="cpu there, cuda here") as caught:
        replace(of(never), device="cuda").to_file(tmp_path / "s.h5")
    assert "--device cpu" in caught.value.hint


def test_a_model_in_a_folder_whose_name_is_no_text(bundle, folder, tmp_path):
    place = tmp_path / os.fsdecode(b"m\xff\xe6")
    shutil.copytree(bundle.folder, place)
    detector = Detector(place)
    detector.run(detector.manifest(str(folder))).to_file(tmp_path / "s.h5")
    header = read_scores(tmp_path / "s.h5").header
    assert header.model_path == f"{tmp_path}/m\\udcff\\udce6"
