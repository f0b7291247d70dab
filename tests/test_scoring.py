"""Scores belong to an image: not to its batch, its place, the workers or the run's luck."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hvaeood_cli.detector import Detector
from hvaeood_cli.device import float32_products, make_fabric
from hvaeood_cli.errors import UsageError
from hvaeood_cli.images import content
from hvaeood_cli.images.content import content_key
from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.presets import PRESETS
from hvaeood_cli.scoring import scorer as scorer_module
from hvaeood_cli.scoring import statistics
from hvaeood_cli.scoring.bounds import Scores
from hvaeood_cli.scoring.engines import local
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.scoring.side_by_side import side_by_side
from hvaeood_cli.settings import ScoreSettings
from hvaeood_cli.store.columns import columns
from tests.conftest import SMALL, make_images, make_ladder


def scorer(**settings) -> Scorer:
    return Scorer.on(make_ladder(), ScoreSettings(**settings), torch.device("cpu"))


@pytest.mark.parametrize("n_samples", [1, 4, 5, 15, 16, 31, 64])
def test_neither_batch_nor_order_nor_neighbours_matter(n_samples):
    """For as many images a pass as there are, and for latents that fill no vector."""
    images = make_images(150)
    score = scorer(n_importance_samples=n_samples).score
    whole = score(images)
    order = np.random.default_rng(0).permutation(150)
    shuffled = score(images[order])
    one_by_one = [score(image[None]) for image in images[:10]]
    assert set(whole) == {column.name for column in columns("scores", asked=())}
    for name, values in whole.items():
        assert np.array_equal(shuffled[name], values[order]), name
        alone = np.concatenate([score[name] for score in one_by_one])
        assert np.array_equal(alone, values[:10]), name


def test_bfloat16_scores_are_close_and_their_sums_are_not_in_it():
    images = make_images(20)
    full, low = scorer().score(images), scorer(precision="bfloat16").score(images)
    assert low["llr"].dtype == np.float32 and not np.array_equal(full["llr"], low["llr"])
    # on an untrained ladder's scores, of hundreds to thousands of nats
    np.testing.assert_allclose(low["lower_bound"][:, 2], full["lower_bound"][:, 2], rtol=0.1)


def test_nobody_looks_at_what_is_scored(monkeypatch):
    """E[x|z] is worked out for pictures alone."""
    scores_of = scorer()
    monkeypatch.setattr(type(scores_of.ladder.likelihood), "mean", None)
    assert scores_of.score(make_images(3))["llr"].shape == (3, 2)
    with pytest.raises(TypeError):
        scores_of.reconstruct(make_images(3))


def test_pixels_are_hashed_once(bundle, folder, monkeypatch):
    hashed = []

    def counted(pixels):
        hashed.append(pixels.shape)
        return content_key(pixels)

    for module in (content, local, scorer_module):
        monkeypatch.setattr(module, "content_key", counted)
    scores = Detector(bundle.folder).score(str(folder))
    assert len(hashed) == len(scores.llr) == 12


def test_only_keys_cross_to_another_device():
    """Threads that read leave the noise to it; meta stands for it."""
    there = Scorer.on(make_ladder(), ScoreSettings(), torch.device("meta"))
    (drawn,), (left,) = scorer().noises([bytes(32)]), there.noises([bytes(32)])
    assert left == (drawn.key, None, None) and len(left.key) == 16
    assert drawn.normal is not None and drawn.normal.dtype == torch.float32


@pytest.mark.parametrize(
    ("preset", "n_samples", "images", "images_on_a_cpu"),
    [
        ("compact-gray", 1, 1024, 128),  # the most images
        ("compact-gray", 16, 512, 32),  # 8192 rows, and 512 on a CPU
        ("paper-rgb-code", 16, 64, 32),  # 256 features of 32 x 32 in each of 1024 rows: 2^28
        ("paper-rgb-code", 2000, 1, 1),
        ("compact-gray", 5, 1024, 64),
        ("compact-gray", 32, 256, 32),
        ("compact-gray", 33, 248, 1),  # fewer than 32 would leave vectors half full
    ],
)
def test_a_pass_is_as_large_as_its_device_likes(preset, n_samples, images, images_on_a_cpu):
    settings = ScoreSettings(n_importance_samples=n_samples)
    with torch.device("meta"):
        ladder = build_ladder(PRESETS[preset].model)
    assert Scorer(ladder, settings, torch.device("cuda")).images_per_pass == images
    on_cpu = Scorer(ladder, settings, torch.device("cpu")).images_per_pass
    assert on_cpu == images_on_a_cpu


# -- precision ------------------------------------------------------------------------------------

SWITCHES = {
    "cpu": lambda: [torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv],
    "cuda": lambda: [torch.backends.cuda.matmul, torch.backends.cudnn.conv],
}


@pytest.mark.parametrize("how", ["ieee", "tf32"])
@pytest.mark.parametrize("kind", SWITCHES)
def test_float32_is_what_it_is_called_for_as_long_as_it_takes(kind, how):
    """PyTorch's own switches, put back afterwards, an error or not."""
    switches = SWITCHES[kind]()
    before = [switch.fp32_precision for switch in switches]
    assert not torch.backends.cudnn.deterministic
    with pytest.raises(KeyError), float32_products(torch.device(kind), how):
        assert [switch.fp32_precision for switch in switches] == [how, how]
        assert torch.backends.cudnn.deterministic == (kind == "cuda")
        raise KeyError
    assert [switch.fp32_precision for switch in switches] == before
    assert not torch.backends.cudnn.deterministic
    torch.get_float32_matmul_precision()  # raises where old and new settings are mixed


def test_a_pass_runs_in_float32_whatever_the_host_has_chosen(monkeypatch):
    seen, bounds = [], scorer_module.score

    def noted(*arguments):
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return bounds(*arguments)

    monkeypatch.setattr(scorer_module, "score", noted)
    torch.set_float32_matmul_precision("medium")
    try:
        scorer().score(make_images(2))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["ieee"]


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_tf32_is_for_nvidia(device):
    settings = ScoreSettings(precision="tf32")
    with pytest.raises(UsageError, match=f"tf32 is not for {device}"):
        Scorer.on(make_ladder(), settings, torch.device(device))
    with pytest.raises(UsageError, match=f"tf32 is not for {device}"):
        make_fabric(torch.device(device), "tf32")


def test_another_seed_gives_other_scores_and_settings_matter():
    images = make_images(5)
    first = scorer(n_importance_samples=2).score(images)["lower_bound"]
    assert not np.allclose(
        first, scorer(n_importance_samples=2, seed=1).score(images)["lower_bound"]
    )
    sampled = scorer(n_importance_samples=2, proposal="sample").score(images)["lower_bound"]
    assert np.array_equal(first[:, 0], sampled[:, 0])
    assert not np.allclose(first[:, 1:], sampled[:, 1:])


@pytest.mark.parametrize(
    "settings", [{"batch_size": 1}, {"batch_size": 5}, {"workers": 0}, {"workers": 4}]
)
def test_neither_batch_size_nor_workers_matter(bundle, folder, settings):
    usual = Detector(bundle.folder).score(str(folder))
    other = Detector(bundle.folder, **settings).score(str(folder))
    assert np.array_equal(other.llr, usual.llr)


def test_passes_side_by_side_leave_the_hosts_threads_as_they_were(bundle, folder):
    """Scores of a machine with more cores are the same to the last bit."""
    alone = Detector(bundle.folder, workers=0).score(str(folder))
    torch.set_num_threads(3)
    try:
        detector = Detector(bundle.folder, batch_size=1, n_importance_samples=128)
        several = Detector(bundle.folder).score(str(folder))
        views, ratios = detector.reconstruct(str(folder)), detector.likelihood_ratio(str(folder), 1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert np.array_equal(several.llr, alone.llr)
    np.testing.assert_allclose(views.from_k, detector.reconstruct(str(folder)).from_k, atol=1e-5)
    assert np.array_equal(ratios, detector.likelihood_ratio(str(folder), 1))


@pytest.mark.parametrize("n_threads", [0, 1, 3])
def test_results_come_in_order_and_an_error_in_its_place(n_threads):
    begun, taken = [], []

    def half(i: int) -> float:
        begun.append(i)
        return 6 / (i - 20)

    with pytest.raises(ZeroDivisionError):
        for value in side_by_side(half, range(1000), n_threads):
            taken.append(value)
            assert len(begun) <= len(taken) + n_threads + 1
    assert taken == [6 / (i - 20) for i in range(20)]
    assert max(begun) <= 20 + n_threads + 2


def test_the_same_pixels_score_the_same_in_any_container(bundle, folder, tmp_path):
    images = make_images(12)
    np.save(tmp_path / "images.npy", images[:, 0])
    for i, image in enumerate(images):
        Image.fromarray(image[0]).convert("RGB").save(folder / f"{i:02d}.bmp")
    detector = Detector(bundle.folder, batch_size=6)
    array = detector.score(str(tmp_path / "images.npy"))
    memory = detector.score(images[:, 0])
    files = detector.score([str(folder / f"{i:02d}.bmp") for i in range(12)])
    assert np.array_equal(array.llr, memory.llr)
    assert np.array_equal(files.llr, array.llr)


def test_ratios_one_by_one_agree_with_the_scores(bundle, folder):
    detector = Detector(bundle.folder, n_importance_samples=4, n_importance_samples_k=2)
    llr = detector.score(str(folder)).llr
    for k in (1, 2):
        np.testing.assert_allclose(
            detector.likelihood_ratio(str(folder), k), llr[:, k - 1], rtol=1e-4, atol=1e-2
        )
    top = detector.likelihood_ratio(str(folder), k=1, l=3)
    assert top.shape == (12,) and not np.allclose(top, llr[:, 0])
    with pytest.raises(ValueError, match="no bound"):
        detector.likelihood_ratio(str(folder), k=3)


def test_reconstructions_have_a_view_for_each_k(bundle, folder):
    detector = Detector(bundle.folder)
    views = detector.reconstruct(str(folder))
    assert views.from_k.shape == (3, 12, 1, 8, 8) and views.observed.shape == (12, 1, 8, 8)
    assert set(np.unique(views.observed)) <= {0.0, 1.0}
    assert views.from_k.min() >= 0.0 and views.from_k.max() <= 1.0
    assert not np.allclose(views.from_k[0], views.from_k[2])


@pytest.mark.parametrize("dequantize", ["none", "uniform"])
def test_a_colour_image_is_shown_as_it_is(dequantize):
    """What the mixture scores lies in [-1, 1]; what is shown of it is the image."""
    config = SMALL.model_dump() | {"image_channels": 3, "likelihood": "logistics"}
    ladder = make_ladder(ModelConfig.model_validate(config | {"dequantize": dequantize}))
    pixels = make_images(3, channels=3)
    settings = ScoreSettings(n_importance_samples=1)
    views = Scorer.on(ladder, settings, torch.device("cpu")).reconstruct(pixels)
    np.testing.assert_allclose(views.observed, pixels / 255.0, atol=0.006)
    assert views.from_k.min() >= 0.0 and views.from_k.max() <= 1.0


def test_what_residuals_have_in_common_is_measured():
    """Independent ones have nothing; smooth ones much, and negative at what they alternate by."""
    ladder, random = make_ladder(SMALL), torch.Generator().manual_seed(0)
    independent = torch.rand(2, 1, 64, 64, generator=random)
    stripes = torch.where(torch.arange(64) % 2 == 0, 0.1, 0.9).expand(2, 1, 64, 64)

    def residual(pit: torch.Tensor) -> np.ndarray:
        one = torch.zeros(2, 3)
        bounds = Scores(one, one[:, 1:], one, one, torch.zeros(2, 3, 64, 64), pit, one)
        return statistics.residual(statistics.Evaluation(ladder, pit, bounds)).numpy()

    np.testing.assert_allclose(residual(independent), 0.0, atol=0.06)
    spread, beside, two_apart, diagonal = residual(stripes)[0]
    assert spread == pytest.approx(np.log(1.2816**2), abs=1e-3)  # the normal quantile of 0.9
    assert (beside, two_apart, diagonal) == pytest.approx((0.0, 1.0, -1.0), abs=0.04)


def test_a_spot_costs_what_one_pixel_in_a_hundred_exceeds():
    cost = torch.arange(10_000.0).view(1, 1, 100, 100).expand(2, 3, 100, 100)
    one = torch.zeros(2, 3)
    bounds = Scores(one, one[:, 1:], one, one, -cost, cost[:, :1], one)
    found = statistics.spot_cost(statistics.Evaluation(make_ladder(SMALL), cost, bounds))
    assert found.tolist() == [[9900.0, 9900.0]] * 2
