"""The report: what it says, that it stays one harmless page, and what a script gets."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.reasons import reasons
from hvaeood_cli.calibration.rules import decide
from hvaeood_cli.model.bundle import Bundle
from hvaeood_cli.report import contents, figures, gallery
from hvaeood_cli.store.decision import Decision, Rule
from hvaeood_cli.store.judgements import judge
from hvaeood_cli.store.reader import read_scores
from hvaeood_cli.store.writer import write_decision, write_scores
from tests.conftest import make_images
from tests.score_files import make_scores

HOSTILE = [
    b"<img src=http://canary.invalid/x onerror=alert(1)>.png",
    b"\"quoted\" 'twice' & </script></style><script>alert(2)</script>",
    "\u202egnp.exe \u2066x".encode(),
    b"esc\x1b]0;title\x07\nline\r\ttab",
    b"\xff\xfe not utf-8",
    b"=cmd|' /C calc'!A0",
    b"{{ 7 * 7 }}{% raw %}|pipe|`tick`",
    b"x" * 300,
]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Tags(html.parser.HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """usual.h5, mixed.h5, odd.h5 and hostile.h5, decided by calibration.npz."""
    folder = tmp_path_factory.mktemp("files")
    calibration = Calibration.of(make_scores(folder / "held-out.h5", 1000, seed=1))
    calibration.save(folder / "calibration.npz")
    sets = {
        "usual.h5": make_scores(folder / "usual.h5", 300, seed=2),
        "mixed.h5": make_scores(
            folder / "mixed.h5", 300, seed=5, shift=np.repeat([[15.0], [0.0]], [40, 260], axis=0)
        ),
        "odd.h5": make_scores(folder / "odd.h5", 100, seed=3, shift=15.0),
        "hostile.h5": make_scores(
            folder / "hostile.h5", 8, seed=4, shift=15.0, names=HOSTILE, bad=(5,)
        ),
    }
    for scores in sets.values():
        write_decision(scores, decide(calibration, scores, Rule()))
    return folder


@pytest.fixture
def report(run, files, tmp_path):
    """Run the command on copies of the files: (exit code, stdout, stderr)."""
    for path in files.iterdir():
        shutil.copy(path, tmp_path)

    def call(*arguments):
        return run("report", *arguments, "--calibration", "calibration.npz")

    return call


def test_the_page_says_what_was_flagged_and_why(report, tmp_path):
    """Every flagged image and its reason, also those for which there is no card."""
    code, out, err = report("mixed.h5", "--top", "5")
    assert (code, out) == (0, "") and "report.html" in err
    page = Tags((tmp_path / "report.html").read_text())
    scores = read_scores(tmp_path / "mixed.h5")
    flagged = np.flatnonzero(scores.decision.flagged)
    assert len(flagged) > 20 and f"{len(flagged)} flagged" in page.text
    assert f"{len(flagged) - 5} more flagged" in page.text
    assert "at FPR 1 %" in page.text and "about 3.0 would be flagged by mistake" in page.text
    assert "hvaeood tui mixed.h5" in page.text, "what to do next"
    calibration = Calibration.load(tmp_path / "calibration.npz")
    for row, reason in zip(flagged, reasons(calibration, scores, flagged), strict=True):
        assert scores.name(row) in page.text
        assert reason.sentence.replace("/-L", "/−L") in page.text
    assert "the model made-up (abababababab)" in page.text and "are not shown" in page.text
    assert scores.decision.calibration_id in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 4, "combined, two LLR, bits/dim"
    assert sum(attributes.get("class") == "cut" for _, attributes in page.tags) == 1


def test_a_model_that_does_not_know_the_images_says_so(run, report, tmp_path):
    """One headline, what is foreign, and how to get a model that knows them: no finds."""
    odd = read_scores(tmp_path / "odd.h5")
    odd.columns["conversions"][:] = 1
    odd.columns["bits_per_dim"][:] += 9.0
    write_scores(tmp_path / "odd.h5", odd)
    n_flagged = odd.decision.n_flagged
    said = f"The model made-up does not know these images: {n_flagged} of 100 are flagged"
    report("odd.h5")
    page = Tags((tmp_path / "report.html").read_text())
    code, out, _ = run("decide", "odd.h5", "--calibration", "calibration.npz")
    assert code == 0 and "●" not in out, "none is listed as if it were a find"
    for text in (page.text, " ".join(out.split())):
        assert said in text and "resized to 8x8 (100)" in text
        assert "they are richer or noisier" in text
        assert "hvaeood find FOLDER" in text and "train FOLDER --out my-model" in text
    assert "It differs from the calibration." in page.text and "large" in page.text
    assert "does not know" in report("odd.h5", "--format", "md")[1]
    (tmp_path / "undecided.h5").unlink(missing_ok=True)
    make_scores(tmp_path / "undecided.h5", 100)
    knows = {"odd.h5": False, "mixed.h5": True, "usual.h5": True, "hostile.h5": None}
    for name, expected in (knows | {"undecided.h5": None}).items():
        _, out, _ = report(name, "--format", "json")
        assert json.loads(out)["files"][0]["model_knows_images"] is expected, name


def test_why_an_image_is_flagged_is_data_and_stands_in_the_terminal(run, report, tmp_path):
    scores = read_scores(tmp_path / "mixed.h5")
    flagged = np.flatnonzero(scores.decision.flagged)
    calibration = Calibration.load(tmp_path / "calibration.npz")
    expected = [None] * 300
    for row, reason in zip(flagged, reasons(calibration, scores, flagged), strict=True):
        expected[row] = reason.sentence
    decide = ["decide", "mixed.h5", "--calibration", "calibration.npz"]
    _, out, _ = run(*decide, "--json")
    assert [image["why"] for image in json.loads(out)["images"]] == expected
    _, out, _ = run(*decide, "--jsonl")
    assert [json.loads(line)["why"] for line in out.splitlines()] == expected
    _, out, _ = run(*decide, "--csv")
    assert [row["why"] for row in csv.DictReader(io.StringIO(out))] == [
        why or "" for why in expected
    ]
    _, out, _ = run(*decide)
    oddest = int(np.argsort(-scores.decision.combined, kind="stable")[0])
    assert scores.name(oddest) in out
    assert reasons(calibration, scores, [oddest])[0].brief in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("asked", "next_one"),
    [("--fpr 0.01", "--fpr 0.05"), ("--fpr 0.05", "--fpr 0.1"), ("--fdr 0.2", "--fdr 0.4")],
)
def test_what_it_says_flags_more_is_another_level(run, report, tmp_path, asked, next_one):
    decided, _, _ = run("decide", "mixed.h5", *asked.split(), "--calibration", "calibration.npz")
    assert decided == 0 and report("mixed.h5", "--top", "0")[0] == 0
    page = Tags((tmp_path / "report.html").read_text())
    assert f"hvaeood decide mixed.h5 {next_one} flags more" in " ".join(page.text.split())


def test_copies_are_named_once(report, files, tmp_path):
    scores = read_scores(files / "mixed.h5")
    order = np.argsort(-scores.decision.combined, kind="stable")
    scores.columns["content"][order[[0, 1, 2]]] = 7
    write_scores(tmp_path / "mixed.h5", scores)
    report("mixed.h5", "--top", "2")
    page = Tags((tmp_path / "report.html").read_text())
    assert "and 2 copies" in page.text
    for row in order[:3]:
        assert page.text.count(scores.name(row)) == 1


def test_without_a_decision_it_is_a_ranking_of_the_batch_alone(run, tmp_path):
    make_scores(tmp_path / "bare.h5", 50)
    run("report", "bare.h5")
    page = Tags((tmp_path / "report.html").read_text())
    assert "Nothing is decided" in page.text
    assert "a ranking of this batch against itself alone" in page.text
    assert "flagged" not in page.text.partition("How to read")[0].partition("bare.h5")[2].replace(
        ".flagged", ""
    )
    assert "against itself alone" in run("report", "bare.h5", "--format", "md")[1]


def test_one_page_that_needs_nothing_else(report, tmp_path):
    report("hostile.h5", "-o", "r.html", "--top", "8")
    text = (tmp_path / "r.html").read_text()
    page = Tags(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "base", "form"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a.get("href") or "").removeprefix("#") for tag, a in page.tags if tag == "a"}
    assert targets <= set(ids), "what opens a picture, and what closes it, leads somewhere"
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for shown in (
        "<img src=http://canary.invalid/x",
        "\\u202egnp",
        "\\xff\\xfe not",
        "{{ 7 * 7 }}",
    ):
        assert shown in page.text, "a name is text"
    assert "\x1b" not in text and "\u202e" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_in_a_real_browser(report, tmp_path):
    """From file://: no console message, no request, no element out of a file's name."""
    report("hostile.h5", "usual.h5", "-o", "r.html")
    log = tmp_path / "net.json"
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --disable-quic --enable-logging=stderr"
    done = subprocess.run(
        [
            CHROMIUM,
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--log-net-log={log}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--dump-dom",
            f"file://{tmp_path / 'r.html'}",
        ],
        capture_output=True,
        check=True,
        timeout=120,
    )
    dom = Tags(done.stdout.decode())
    assert "CONSOLE" not in done.stderr.decode("utf-8", "replace")
    assert b"canary" not in log.read_bytes()
    assert "</script></style><script>alert(2)" in dom.text
    assert not [tag for tag, _ in dom.tags if tag == "script"]
    assert sum(tag == "svg" for tag, _ in dom.tags) >= 8


def test_odd_images_stand_beside_their_reconstructions(run, folder, bundle, tmp_path):
    run("score", "images", "-q", "-o", "s.h5")
    (folder / "00.png").unlink()
    Image.fromarray(make_images(1, seed=99)[0, 0]).save(folder / "01.png")
    code, _, err = run("report", "s.h5", "--model", bundle.folder)
    assert code == 0, err
    page = Tags((tmp_path / "report.html").read_text())
    pictures = [a["src"] for tag, a in page.tags if tag == "img"]
    assert len(pictures) == 11 * 5, "eleven images, each with its map and from k = 0, 1, 2"
    assert page.text.count("Map of k = ") == 11 and "what is usual there is not known" in page.text
    assert "no such file" in page.text and "not the image that was scored" in page.text
    assert "1 of 12 pictures are missing: no such file: images/00.png" in err


def test_images_are_found_beside_the_score_file(run, folder, bundle, tmp_path, monkeypatch):
    """Wherever the command is run; one that is another image now is said to be."""
    run("score", "images", "-q", "-o", "s.h5")
    Image.fromarray(make_images(1, seed=99)[0, 0]).save(folder / "01.png")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = run("report", "../s.h5", "--model", bundle.folder)
    page = Tags((tmp_path / "elsewhere" / "report.html").read_text())
    assert code == 0 and "missing" not in err
    assert sum(tag == "img" for tag, _ in page.tags) == 12 * 5
    assert page.text.count("this is not the image that was scored") == 1


def test_a_page_stays_small_and_needs_no_model(run, folder, bundle, tmp_path, monkeypatch):
    """Without the model, images are shown alone; without room, flagged ones have no thumbnail."""
    run("score", "images", "-q", "-o", "s.h5")
    scores = read_scores(tmp_path / "s.h5")
    write_decision(scores, _all_flagged(scores))
    monkeypatch.setattr(contents, "_AT_ONCE", 2)
    monkeypatch.setattr(gallery, "PAGE", 5800)
    monkeypatch.setattr(Bundle, "sha256", "0" * 64)
    code, _, err = run("report", "s.h5", "--top", "4")
    assert code == 0, err
    page = Tags((tmp_path / "report.html").read_text())
    pictures = [a for tag, a in page.tags if tag == "img"]
    small = [a for a in pictures if a.get("loading")]
    assert "reconstructions are not shown" in page.text
    assert len(pictures) - len(small) == 4
    assert 0 < len(small) < 8 and f"pictures of the first {len(small)}" in page.text
    for i in range(12):
        assert f"{i:02d}.png" in page.text


def _all_flagged(scores):
    """A decision whose calibration is nowhere."""
    n = len(scores)
    combined = np.arange(n, dtype=float)
    p = np.full(n, 0.01)
    k = np.ones(n, np.int8)
    by_k = np.full((n, scores.n_layers - 1), 0.01)
    return Decision(combined, k, by_k, p, p <= 0.01, "fpr", 0.01, 0.01, "none", 200)


def test_labels_and_several_files_are_compared(report, tmp_path):
    code, out, _ = report("usual.h5", "odd.h5", "--format", "json")
    assert code == 0
    (comparison,) = json.loads(out)["comparisons"]
    assert (comparison["inside"], comparison["outside"]) == ("usual.h5", "odd.h5")
    by_name = {row["score"]: row for row in comparison["scores"]}
    assert list(by_name) == [
        *("L", "L>1", "L>2", "LLR>1", "LLR>2", "LLR>1/-L", "LLR>2/-L"),
        *("peak", "peak, k = 1", "peak, k = 2", "typicality"),
        *("aspect: bounds", "aspect: residuals", "aspect: spots", "aspect: channels", "combined"),
    ]
    for row in by_name.values():
        assert row["n"] == 100
        for name in ("auroc", "auprc", "fpr80"):
            low, high = row["intervals"][name]
            assert low <= row[name] <= high
    assert by_name["combined"]["auroc"] > 0.9
    shares = []
    for name in ("usual.h5", "odd.h5"):
        with h5py.File(tmp_path / name) as file:
            rows = file["images/status"][:] == 0
            scores = {key: file[f"scores/{key}"][:][rows] for key in ("llr", "lower_bound")}
        shares.append(-scores["llr"][:, 1] / scores["lower_bound"][:, 0])
    above = (shares[1][:, None] > shares[0][None]).mean()  # AUROC by its definition
    low, high = by_name["LLR>2/-L"]["intervals"]["auroc"]
    assert low <= above <= high
    lines = ["path,label"] + [f"{i:05d}.png,{int(i >= 250)}" for i in range(300)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    code, out, _ = report("usual.h5", "--labels", "labels.csv", "--format", "json")
    (comparison,) = json.loads(out)["comparisons"]
    assert (comparison["n_inside"], comparison["n_outside"]) == (250, 50)
    code, _, _ = report("usual.h5", "odd.h5", "-o", "r.html")
    page = Tags((tmp_path / "r.html").read_text())
    assert "AUROC" in page.text and "bootstrap" in page.text
    assert sum("curve" in (a.get("class") or "") for _, a in page.tags) >= 8


def test_labels_that_name_only_what_does_not_belong(report, tmp_path):
    lines = ["path,label", *(f"{i:05d}.png,1" for i in range(250, 300)), "elsewhere.png,1"]
    (tmp_path / "odd.csv").write_text("\n".join(lines))
    remark = (
        "the labels name only images that do not belong, 50 of those here: the other 250 count as "
        "images that belong"
    )
    code, out, err = report("usual.h5", "--labels", "odd.csv", "--format", "json")
    assert code == 0 and err == f"warning: {remark}\n"
    whole = json.loads(out)
    (comparison,) = whole["comparisons"]
    assert (comparison["n_inside"], comparison["n_outside"]) == (250, 50)
    assert whole["remarks"] == [remark]
    _, table, _ = report("usual.h5", "--labels", "odd.csv", "--format", "csv")
    assert [row["label"] for row in csv.DictReader(io.StringIO(table))] == ["0"] * 250 + ["1"] * 50
    for format_ in ("html", "md"):
        out = f"r.{format_}"
        code, _, _ = report("usual.h5", "--labels", "odd.csv", "--format", format_, "-o", out)
        assert code == 0 and remark in (tmp_path / out).read_text()


def test_labels_in_the_files_say_which_belongs(run, tmp_path, files):
    make_scores(tmp_path / "a.h5", 50, shift=9.0, label=1)
    make_scores(tmp_path / "b.h5", 50, seed=5, label=0)
    _, out, _ = run("report", "a.h5", "b.h5", "--format", "json")
    (comparison,) = json.loads(out)["comparisons"]
    assert (comparison["inside"], comparison["outside"]) == ("b.h5", "a.h5")


def test_a_parquet_file_has_what_csv_has(run, report, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    run("decide", "usual.h5", "--calibration", "calibration.npz", "--fpr", "0.05")
    code, _, _ = run("report", "hostile.h5", "usual.h5", "-o", "scores.parquet")
    table = parquet.read_table(tmp_path / "scores.parquet")
    _, text, _ = report("hostile.h5", "usual.h5", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert code == 0 and set(table.column_names) == set(rows[0]) and len(table) == len(rows)
    for name in ("llr_1", "p_combined", "bits_per_dim"):
        asked = [float(row[name] or "nan") for row in rows]
        np.testing.assert_allclose(table[name].to_numpy(), asked, rtol=1e-5)
    for name in ("score_file", "status", "why"):
        assert [value or "" for value in table[name].to_pylist()] == [row[name] for row in rows]
    assert sum(filter(None, table["flagged"].to_pylist())) > 0


def test_data_for_scripts(report, tmp_path):
    code, table, _ = report("hostile.h5", "usual.h5", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert code == 0 and len(rows) == 308
    assert rows[0]["score_file"] == "hostile.h5" and rows[5]["status"] == "damaged"
    assert rows[5]["path"].startswith("'=cmd") and rows[5]["p_combined"] == ""
    scores = read_scores(tmp_path / "hostile.h5")
    for row, i in zip(rows[:5], range(5), strict=True):
        assert float(row["p_combined"]) == pytest.approx(scores.decision.p_combined[i], rel=1e-5)
        assert row["flagged"] == str(int(scores.decision.flagged[i]))
        assert float(row["p_2"]) == pytest.approx(scores.decision.p_value[i, 1], rel=1e-5)
    _, out, _ = report("hostile.h5", "--format", "json")
    (file,) = json.loads(out)["files"]
    names = [image["path"].encode("utf-8", "surrogateescape") for image in file["images"]]
    assert names == HOSTILE, "any file name round-trips"
    _, text, _ = report("hostile.h5", "usual.h5", "--format", "md")
    assert "flagged** at FPR 1 %" in text and " spreads high |" in text and "| `LLR>1` |" in text
    assert "\\|pipe\\|" in text and "\x1b" not in text
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line[:1] == "|"}
    assert widths == {6, 4, 5}, "no name breaks a table"


def test_a_hostile_status_reaches_neither_terminal_nor_spreadsheet(run, report, tmp_path):
    path = tmp_path / "hostile.h5"
    with h5py.File(path, "r+") as file:
        file["images/status"].attrs["codes"] = json.dumps({"scored": 0, "=cmd\x1b[2J": 5})
    code, out, _ = run("decide", path, "--calibration", "calibration.npz")
    assert code == 0 and "=cmd\\x1b[2J" in out and "\x1b" not in out
    _, table, _ = run("decide", path, "--calibration", "calibration.npz", "--csv")
    assert list(csv.DictReader(io.StringIO(table)))[5]["status"] == "'=cmd\x1b[2J"


def test_a_hostile_time_does_not_reach_the_terminal(run, report, tmp_path):
    path = tmp_path / "hostile.h5"
    with h5py.File(path, "r+") as file:
        file.attrs["created"] = "\x1b[2J"
    code, out, err = run("decide", path, "--calibration", "calibration.npz")
    assert code == 3 and "created" in err and "\x1b" not in out + err


def test_judgements_are_shown(report, tmp_path):
    scores = read_scores(tmp_path / "odd.h5")
    order = np.argsort(-scores.decision.combined)
    judge(scores, int(order[0]), "ood", "a <b>shoe</b>")
    judge(scores, int(order[-1]), "fine", "")
    report("odd.h5")
    page = Tags((tmp_path / "report.html").read_text())
    assert "Judged by hand" in page.text and "2 images" in page.text
    assert page.text.count("a <b>shoe</b>") == 2, "in the gallery and in the list"
    _, out, _ = report("odd.h5", "--format", "json")
    images = json.loads(out)["files"][0]["images"]
    assert [image.get("mark") for image in images].count("ood") == 1
    _, table, _ = report("odd.h5", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert rows[int(order[0])]["note"] == "a <b>shoe</b>" and rows[int(order[-1])]["mark"] == "fine"
    assert "| ood | `a <b>shoe</b>` |" in report("odd.h5", "--format", "md")[1]
    judge(scores, int(order[0]), "unsure", "")
    assert report("odd.h5")[0] == 3, "it is not the report that is there"
    (tmp_path / "odd.h5.judgements.json").write_text("{")
    code, _, err = report("odd.h5", "--force")
    assert code == 3 and "judgements" in err


def test_it_never_replaces_what_it_is_made_from(report, tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\n00001.png,1\n00002.png,0\n")
    (tmp_path / "link.html").symlink_to(tmp_path / "odd.h5")
    for out in ("odd.h5", "labels.csv", "calibration.npz", "link.html"):
        before = (tmp_path / out).read_bytes()
        code, _, err = report("odd.h5", "--labels", "labels.csv", "-o", out, "--force")
        assert code == 2 and "is what the report is made from" in err
        assert (tmp_path / out).read_bytes() == before


def test_combined_scores_of_two_calibrations_are_not_compared(report, tmp_path, files):
    other = Calibration.of(make_scores(tmp_path / "h.h5", 500, seed=9))
    scores = read_scores(tmp_path / "odd.h5")
    write_decision(scores, decide(other, scores, Rule()))
    _, out, _ = report("usual.h5", "odd.h5", "--format", "json")
    names = [row["score"] for row in json.loads(out)["comparisons"][0]["scores"]]
    assert "LLR>1" in names and "combined" not in names


def test_labels_as_spreadsheets_write_them(report, tmp_path):
    lines = ["path,label"] + [f"{i:05d}.png,{i % 2}" for i in range(300)]
    (tmp_path / "bom.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    code, table, _ = report("usual.h5", "--labels", "bom.csv", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert code == 0 and [row["label"] for row in rows[:3]] == ["0", "1", "0"]
    (tmp_path / "twice.csv").write_text("path,label\n00001.png,1\n00001.png,0\n")
    code, _, err = report("usual.h5", "--labels", "twice.csv")
    assert code == 3 and "line 3" in err
    (tmp_path / "semicolon.csv").write_text("path;label\n00001.png;1\n")
    code, _, err = report("usual.h5", "--labels", "semicolon.csv")
    assert code == 3 and "'path;label'" in err


def test_nothing_is_overwritten_without_force(report, tmp_path):
    assert report("usual.h5")[0] == 0
    page = (tmp_path / "report.html").read_bytes()
    code, _, err = report("usual.h5")
    assert code == 0 and "already" in err and (tmp_path / "report.html").read_bytes() == page
    code, _, err = report("odd.h5")
    assert code == 3 and "--force" in err and (tmp_path / "report.html").read_bytes() == page
    (tmp_path / "mine.html").write_text("mine")
    assert report("odd.h5", "-o", "mine.html")[0] == 3
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert report("odd.h5", "--force")[0] == 0


def test_bad_input_is_an_error_with_a_hint_and_leaves_nothing(report, run, tmp_path):
    whole = (tmp_path / "usual.h5").read_bytes()
    (tmp_path / "text.h5").write_text("text")
    (tmp_path / "short.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "newer.h5").write_bytes(whole)
    with h5py.File(tmp_path / "newer.h5", "r+") as file:
        file.attrs["format_version"] = 3
    make_scores(tmp_path / "other.h5", 10, model_sha256="cd" * 32)
    (tmp_path / "nothing.csv").write_text("path,label\nelsewhere.png,1\n")
    (tmp_path / "one-kind.csv").write_text("path,label\n00001.png,0\n")
    (tmp_path / "columns.csv").write_text("name,truth\n00001.png,1\n")
    (tmp_path / "word.csv").write_text("path,label\n00001.png,maybe\n")
    (tmp_path / "binary.csv").write_bytes(b"path,label\n\x00\xff,1\n")
    cases = [
        (["none.h5"], "no such score file"),
        (["text.h5"], "not a whole score file"),
        (["short.h5"], "not a whole score file"),
        (["newer.h5"], "version 3"),
        (["usual.h5", "other.h5"], "cannot be compared"),
        (["usual.h5", "--labels", "nothing.csv"], "name none of these images"),
        (["usual.h5", "--labels", "one-kind.csv"], "and 0 that do not"),
        (["usual.h5", "--labels", "columns.csv"], "no column"),
        (["usual.h5", "--labels", "word.csv"], "line 2: 'maybe'"),
        (["usual.h5", "--labels", "none.csv"], "cannot read"),
        (["usual.h5", "--labels", "binary.csv"], "none of these"),
        (["usual.h5", "--model", "fashionmnist"], "was scored with made-up"),
    ]
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments, words in cases:
        code, out, err = run("report", *arguments)
        assert (code, out) == (3, "") and words in err and "hint:" in err, (arguments, err)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    for arguments in (["usual.h5", "--format", "pdf"], ["usual.h5", "-o", "no/such.html"]):
        code, _, err = run("report", *arguments)
        assert code == 2 and "hint:" in err


def test_a_decision_whose_calibration_is_gone_is_still_told(run, files, tmp_path):
    shutil.copy(files / "odd.h5", tmp_path)
    with h5py.File(tmp_path / "odd.h5", "r+") as file:
        del file["decision/calibration"]
    code, _, _ = run("report", "odd.h5")
    page = Tags((tmp_path / "report.html").read_text())
    assert code == 0 and "flagged" in page.text and "not at hand" in page.text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 997.0), (1e-6, 3e-6), (5.0, 5.1)])
def test_ticks_are_round_and_inside(low, high):
    found = list(figures.ticks(low, high))
    assert 2 <= len(found) <= 13 and min(found) >= low - 1e-9 and max(found) <= high + 1e-9
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_figures_of_strange_scores():
    for here in (np.zeros(0), np.zeros(5), np.array([np.inf, 1.0]), np.array([1e30, -1e30])):
        assert "nan" not in figures.histogram(None, here, None, "x").lower()
        assert "nan" not in figures.histogram(here, here, 1.0, "x", "cut").lower()


def test_piped_to_a_reader_that_goes_away(files):
    command = f"{sys.executable} -m hvaeood_cli report usual.h5 --format csv | head -1"
    done = subprocess.run(["sh", "-c", command], cwd=files, capture_output=True, check=True)
    assert b"Traceback" not in done.stderr


def test_one_ratio_that_is_no_number_does_not_end_the_report(report, files, tmp_path):
    scores = read_scores(files / "odd.h5")
    scores.columns["llr"][3, 0] = np.nan
    write_scores(tmp_path / "nan.h5", scores)
    calibration = Calibration.load(files / "calibration.npz")
    nan = read_scores(tmp_path / "nan.h5")
    write_decision(nan, decide(calibration, nan, Rule()))
    for arguments in (["nan.h5"], ["usual.h5", "nan.h5"], ["nan.h5", "--format", "json"]):
        code, _, err = report(*arguments, "--force")
        assert code == 0, err
    assert "It differs from the calibration" in (tmp_path / "report.html").read_text()


def test_combined_scores_of_two_calibrations_are_not_compared_and_that_is_said(
    report, files, tmp_path
):
    other = Calibration.of(make_scores(tmp_path / "other-held.h5", 500, seed=11))
    odd = read_scores(tmp_path / "odd.h5")
    write_decision(odd, decide(other, odd, Rule()))
    code, out, err = report("usual.h5", "odd.h5", "--format", "md")
    assert code == 0 and "combined" not in out.split("## ")[-1].split("not all of")[0]
    assert "not all of these files were decided by one calibration" in err
    assert "not all of these files were decided by one calibration" in out


def test_labels_in_some_of_the_files_alone_are_refused(report, tmp_path):
    """Else a file without them counts for nothing, or for the wrong side."""
    make_scores(tmp_path / "in.h5", 60, seed=2)
    make_scores(tmp_path / "out.h5", 60, seed=3, shift=15.0, label=1)
    code, _, err = report("in.h5", "out.h5")
    assert code == 3 and "in.h5 says nothing of what belongs" in err and "--label" in err
    make_scores(tmp_path / "in.h5", 60, seed=2, label=0)
    code, out, _ = report("in.h5", "out.h5", "--format", "json")
    figures = {one["score"]: one for one in json.loads(out)["comparisons"][0]["scores"]}
    assert code == 0 and figures["LLR>1"]["auroc"] > 0.9
