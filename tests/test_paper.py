"""The paper by one command: what is kept, what is said of data that is lacking, and the tables."""

from __future__ import annotations

import csv
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from benchmarks.arguments import named
from benchmarks.paper import competitors, figures, tables
from benchmarks.paper.cells import Cell, Cells
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import ScoreSettings
from tests.conftest import make_images, make_ladder

CELL = Cell("scores", "a" * 64, "c" * 16, "MNIST", "b" * 64, n=3, samples=16, seed=0)
COLUMNS = {"lower_bound": np.arange(6.0).reshape(3, 2)}


def scorer() -> Scorer:
    return Scorer.on(make_ladder(), ScoreSettings(n_importance_samples=1), torch.device("cpu"))


def made_up(shift: float) -> dict[str, np.ndarray]:
    return {"L^{>0}": np.random.default_rng(int(shift)).normal(shift, 1.0, 50)}


def test_a_cell_is_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return COLUMNS

    for _ in range(2):
        found = Cells(tmp_path).get(CELL, compute)
        np.testing.assert_array_equal(found["lower_bound"], COLUMNS["lower_bound"])
        assert set(found) == {"lower_bound"}
    assert len(calls) == 1


def test_a_cell_of_other_images_is_computed_anew(tmp_path):
    Cells(tmp_path).get(CELL, lambda: COLUMNS)
    other = {"lower_bound": np.zeros((3, 2))}
    found = Cells(tmp_path).get(replace(CELL, content="c" * 64), lambda: other)
    np.testing.assert_array_equal(found["lower_bound"], other["lower_bound"])


def test_a_cell_that_was_cut_off_leaves_no_file_that_counts(tmp_path):
    def compute():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path).get(CELL, compute)
    assert Cells(tmp_path).get(CELL, lambda: COLUMNS).keys() == COLUMNS.keys()


def test_rows_stand_beside_the_papers_and_say_what_is_lacking():
    of = {("FashionMNIST", name): [made_up(shift)]
          for name, shift in (("FashionMNIST", 0.0), ("MNIST", 3.0))}  # fmt: skip
    lacking = {("FashionMNIST", "KMNIST"): "no data: KMNIST", ("SVHN", "SVHN"): "no model of SVHN"}
    rows = tables.detection_rows(of, lacking, samples=16)
    by = {(row[0], row[1], row[2], row[3], row[4]): row for row in rows}
    ours = by["7", "FashionMNIST", "MNIST", "L^{>0}", "HVAE"]
    assert ours[5:8] == ("0.268", "0.363", "0.882")
    assert ours[8].startswith("0.9") and "[" in ours[8] and ours[-1] == "50"
    assert by["7", "FashionMNIST", "KMNIST", "L^{>0}", "HVAE"][8] == "no data: KMNIST"
    assert by["5", "SVHN", "CIFAR10", "L^{>0}", "HVAE"][8] == "no model of SVHN"
    assert by["2", "FashionMNIST", "MNIST", "ODIN", "classifier"][8] == "another model"
    assert all(len(row) == len(tables.DETECTION_HEAD) for row in rows)


def test_several_models_give_mean_and_spread():
    inside, outside = [np.arange(4.0)] * 2, [np.arange(4.0) + 10.0, np.arange(4.0)]
    auroc, *_, n = tables.cell(inside, outside)
    assert auroc == "0.750 ± 0.354"
    assert n == "4"


def test_markdown_and_csv_hold_the_same_rows(tmp_path):
    rows = [("p(y|x)", "0.734")]
    tables.write(tmp_path, "table", ("score", "AUROC"), rows)
    with (tmp_path / "table.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["score", "AUROC"], ["p(y|x)", "0.734"]]
    assert (tmp_path / "table.md").read_text().splitlines()[-1] == r"| p(y\|x) | 0.734 |"


def test_competitors_by_hand():
    elbo = np.array([-10.0, -30.0])
    np.testing.assert_allclose(competitors.typicality(elbo, np.array([-12.0, -16.0])), [4.0, 16.0])
    np.testing.assert_allclose(
        competitors.input_complexity(elbo * np.log(2.0), np.array([8.0, 50.0])), [2.0, -20.0]
    )
    np.testing.assert_allclose(competitors.waic(np.array([[-1.0], [-3.0]])), [3.0])


def test_a_plain_image_is_shorter_than_noise_and_fitting_q_raises_the_bound():
    images = make_images(2)
    images[0] = 0
    plain, noisy = competitors.codec_bits(scorer(), images)
    assert plain < noisy
    assert (competitors.regret(scorer(), images, n_steps=40) > 0).all()


def test_figures_are_xml_and_a_model_agrees_with_itself():
    found = figures.correlations_of(scorer(), scorer(), make_images(40))
    assert list(found) == ["h_1", "z_1", "h_2", "z_2", "h_3", "z_3"]
    assert found["z_1"] == pytest.approx(1.0, abs=1e-3)
    pictures = scorer().reconstruct(make_images(2))
    for text in (figures.correlations({"A": found}), figures.reconstructions({"A": pictures})):
        ElementTree.fromstring(text)


def test_arguments_are_named():
    assert named(["MNIST=a=b.gz"]) == {"MNIST": "a=b.gz"}
    with pytest.raises(SystemExit):
        named(["MNIST"])
