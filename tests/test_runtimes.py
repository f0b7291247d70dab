"""OpenVINO computes what PyTorch does, or says that it does not: never another score."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hvaeood_cli.detector import Detector
from hvaeood_cli.errors import UsageError
from hvaeood_cli.scoring import graph, runtimes
from hvaeood_cli.scoring.graph import graph_of, tolerance
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.store.journal import journal_path
from tests.conftest import SMALL, make_images, make_ladder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


EXPORT, MADE = graph._exported, {}


def exported_once(scorer: Scorer):
    """What an export gives, seconds earlier: it is the same each time."""
    key = repr(scorer.settings), sum(p.sum().item() for p in scorer.ladder.parameters())
    if key not in MADE:
        MADE[key] = EXPORT(scorer)
    return MADE[key]


@pytest.fixture(autouse=True)
def in_cache(cache, monkeypatch):
    """One cache for all tests here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(graph, "_exported", exported_once)


@pytest.fixture
def openvino():
    pytest.importorskip("openvino")


@pytest.fixture
def absent(monkeypatch):
    """An environment without OpenVINO."""

    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(graph, "version", version)


@pytest.fixture
def exports(monkeypatch) -> list[Scorer]:
    """The scorers whose graphs are exported from now on."""
    made = []
    monkeypatch.setattr(
        graph, "_exported", lambda scorer: made.append(scorer) or exported_once(scorer)
    )
    return made


def small(**settings) -> Scorer:
    return Scorer.on(make_ladder(), ScoreSettings(**settings), CPU)


@pytest.mark.usefixtures("openvino")
def test_both_runtimes_score_the_same():
    scorer, pixels = small(n_importance_samples=4), make_images(200)
    there = scorer.score(pixels)
    here = replace(scorer, network=graph_of(scorer, "0" * 64)).score(pixels)
    for name in ("lower_bound", "log_px"):
        assert (np.abs(here[name] - there[name]) <= tolerance(there[name])).all()
    for name in ("kl", "llr", "llr_share", "bits_per_dim"):
        np.testing.assert_allclose(here[name], there[name], rtol=2e-5, atol=0.05)


@pytest.mark.usefixtures("openvino")
def test_both_score_colours_the_same_by_samples_of_the_prior():
    config = SMALL.model_copy(update={"image_channels": 3, "likelihood": "logistics"})
    settings = ScoreSettings(n_importance_samples=4, n_importance_samples_k=3, proposal="sample")
    scorer = Scorer.on(make_ladder(config, gain=1.0), settings, CPU)
    pixels = make_images(128, channels=3)
    there = scorer.score(pixels)
    here = replace(scorer, network=graph_of(scorer, "2" * 64)).score(pixels)
    for name in ("lower_bound", "log_px"):
        assert (np.abs(here[name] - there[name]) <= tolerance(there[name])).all()


@pytest.mark.usefixtures("openvino")
def test_a_run_says_which_runtime_it_was_and_goes_on_with_it(run, folder, monkeypatch):
    code, out, _ = run("score", "images", "-o", "s.h5", "--runtime", "openvino")
    assert code == 0 and "on cpu by openvino" in " ".join(out.split())
    with h5py.File("s.h5") as file:
        assert file.attrs["runtime"].startswith("openvino ")
        first = file["scores/llr"][:]
    code, out, _ = run("score", "images", "-o", "s.h5")  # auto: the file's
    assert code == 0 and "nothing has changed" in out
    code, _, err = run("score", "images", "-o", "s.h5", "--runtime", "torch")
    assert code == 3 and "the runtime: openvino" in " ".join(err.split())
    assert "--runtime openvino as there" in " ".join(err.split())
    (folder / "00.png").unlink()
    np.save("one.npy", make_images(1, seed=9)[:, 0])
    code, out, _ = run("score", "images", "one.npy", "-o", "s.h5")
    assert code == 0 and "1 new, 1 gone, 11 kept" in " ".join(out.split())
    for workers in ("0", "3"):
        run("score", "images", "-o", f"{workers}.h5", "--runtime", "openvino", "--workers", workers)
        with h5py.File(f"{workers}.h5") as file:
            np.testing.assert_array_equal(file["scores/llr"][:], first[1:])


@pytest.mark.usefixtures("openvino")
def test_an_interrupted_run_goes_on_with_its_runtime(run, folder, monkeypatch):
    score, scored = Scorer.score, []

    def some(self, pixels, noises=None):
        if len(scored) == 4:
            scored.append(0)
            raise KeyboardInterrupt
        scored.append(len(pixels))
        return score(self, pixels, noises)

    monkeypatch.setattr(Scorer, "score", some)
    long = ("score", "images", "-o", "s.h5", "-S", "512", "--workers", "0")  # a pass is one image
    assert run(*long, "--runtime", "openvino")[0] == 130
    assert journal_path(Path("s.h5")).exists()
    code, out, _ = run(*long)
    assert code == 0 and "on cpu by openvino" in " ".join(out.split()) and sum(scored) == 12


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize("damage", ["torn", "changed", "empty", "another's"])
def test_a_damaged_graph_is_made_anew(cache, exports, damage):
    scorer, pixels = small(n_importance_samples=2), make_images(20)
    first = replace(scorer, network=graph_of(scorer, "1" * 64)).score(pixels)
    exports.clear()
    graph_of(scorer, "1" * 64)
    assert not exports
    (place,) = (
        path for path in cache.glob("hvaeood/graphs/*") if b"1" * 64 in path.read_bytes()[:4096]
    )
    whole = place.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    another = whole.replace(b"1" * 64, b"2" * 64, 1)
    kinds = {"torn": whole[:-1], "changed": changed, "empty": b"", "another's": another}
    place.write_bytes(kinds[damage])
    again = replace(scorer, network=graph_of(scorer, "1" * 64)).score(pixels)
    assert exports == [scorer]
    np.testing.assert_array_equal(again["llr"], first["llr"])
    assert b'"1111' in place.read_bytes()[:4096]


@pytest.mark.usefixtures("openvino")
def test_a_cache_that_is_filled_at_once_and_one_that_cannot_be(tmp_path, monkeypatch):
    scorer, pixels = small(), make_images(5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "fresh"))
    from_cache = [graph_of(scorer, "3" * 64)]
    (place,) = (tmp_path / "fresh").glob("hvaeood/graphs/*")
    blob = place.read_bytes()
    place.unlink()
    identity = graph._identity(scorer, "3" * 64)
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(lambda _: graph.keep("graphs", identity, blob.partition(b"\n")[2]), range(16))
        )
    assert [path.read_bytes() for path in place.parent.iterdir()] == [blob]
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    from_cache.append(graph_of(scorer, "3" * 64))
    scores = [replace(scorer, network=network).score(pixels)["llr"] for network in from_cache]
    np.testing.assert_array_equal(*scores)


@pytest.mark.usefixtures("openvino")
def test_a_long_run_has_the_scores_of_a_short_one_unless_told(bundle, folder, exports, monkeypatch):
    short = Detector(bundle.folder).score(str(folder))
    monkeypatch.setattr(runtimes, "LONG", 0)
    with pytest.warns(UserWarning, match="--runtime openvino"):
        long = Detector(bundle.folder).score(str(folder))
    assert long.header.runtime == "torch" and not exports
    np.testing.assert_array_equal(long["llr"], short["llr"])


@pytest.mark.usefixtures("openvino")
def test_a_graph_that_is_not_the_model_is_refused(run, bundle, folder, monkeypatch):
    """Whatever makes it another: a converter's mistake, or a processor's."""
    other = Scorer.on(make_ladder(seed=1), ScoreSettings(), CPU)
    monkeypatch.setattr(graph, "_exported", lambda scorer: exported_once(other))
    monkeypatch.setattr(graph, "keep", lambda *_: pytest.fail("it is not kept"))
    monkeypatch.setenv("XDG_CACHE_HOME", "nowhere")
    code, _, err = run("score", "images", "-o", "s.h5", "--runtime", "openvino")
    assert code == 2 and "differs from PyTorch's by" in " ".join(err.split())


@pytest.mark.usefixtures("openvino")
def test_an_openvino_that_fails_is_named(run, folder, monkeypatch):
    def failing(scorer):
        raise RuntimeError("no kernel for this processor\nand more")

    monkeypatch.setattr(graph, "_exported", failing)
    monkeypatch.setenv("XDG_CACHE_HOME", "nowhere")
    code, _, err = run("score", "images", "-o", "s.h5", "--runtime", "openvino")
    assert code == 2 and "no kernel for this processor" in err and "--runtime torch" in err


@pytest.mark.usefixtures("absent")
def test_without_openvino(run, folder, monkeypatch):
    code, _, err = run("score", "images", "-o", "s.h5", "--runtime", "openvino")
    assert code == 2 and "not installed" in err and "hvaeood[openvino]" in err
    code, _, err = run("score", "images", "-o", "s.h5")
    assert code == 0 and "torch" not in err
    code, _, err = run("score", "images", "--runtime", "onnx")
    assert code == 2 and "no runtime is called 'onnx'" in err


def test_openvino_is_for_float32_on_a_cpu(openvino):
    with pytest.raises(UsageError, match="float32, not in bfloat16"):
        graph_of(small(precision="bfloat16"), "0" * 64)
    with pytest.raises(UsageError, match="for the CPU, not for meta"):
        graph_of(Scorer(make_ladder(), ScoreSettings(), torch.device("meta")), "0" * 64)
