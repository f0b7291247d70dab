"""Training: deterministic, resumable, honest about what goes wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from hvaeood_cli.calibration.calibration import Calibration
from hvaeood_cli.calibration.usual_maps import place_of
from hvaeood_cli.detector import Detector
from hvaeood_cli.device import make_fabric
from hvaeood_cli.errors import TrainingError
from hvaeood_cli.images.content import short_key
from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.bundle import read_bundle
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.initialisation import initialise_from_data
from hvaeood_cli.model.layers import fold_weight_norm
from hvaeood_cli.scoring.bounds import bits_per_dim, lower_bound
from hvaeood_cli.settings import TrainSettings
from hvaeood_cli.training import checkpoint
from hvaeood_cli.training.checkpoint import Checkpoints
from hvaeood_cli.training.learner import Learner
from hvaeood_cli.training.loop import begin, build_seeded, train
from hvaeood_cli.training.objective import Objective
from hvaeood_cli.training.run import TrainingRun
from tests.conftest import SMALL, make_images, make_noise

SETTINGS = TrainSettings(
    epochs=3, batch_size=16, validation=8, free_nats=(2.0, 1.0, 1.0), semantic_weight=0.5
)
CPU = make_fabric(torch.device("cpu"))


EVERY_STEP = {"checkpoint_seconds": -1.0}


class Killed(Exception):
    """Stands for kill -9 at a moment of the run."""


def run(folder, images, settings=SETTINGS, config=SMALL, kill_after=None, monkeypatch=None):
    checkpoints = Checkpoints(folder, {"images": len(images)})
    if kill_after is not None:
        saved = Checkpoints.save

        def save_then_die(self, model, optimizer, average, state, step):
            saved(self, model, optimizer, average, state, step)
            if step == kill_after:
                raise Killed

        monkeypatch.setattr(Checkpoints, "save", save_then_die)
    try:
        return train(
            images[8:],
            images[:8],
            config,
            settings,
            checkpoints,
            CPU,
            **EVERY_STEP,
        )
    finally:
        monkeypatch and monkeypatch.undo()


@pytest.mark.parametrize("kill_after", [1, 4, 7])
def test_a_killed_run_ends_with_the_same_weights(tmp_path, monkeypatch, kill_after):
    images = make_images(60)
    whole = run(tmp_path / "whole", images)
    with pytest.raises(Killed):
        run(tmp_path / "cut", images, kill_after=kill_after, monkeypatch=monkeypatch)
    resumed = run(tmp_path / "cut", images)
    for name, value in whole.ladder.state_dict().items():
        assert torch.equal(value, resumed.ladder.state_dict()[name]), name
    assert whole.state.step == resumed.state.step == 12
    assert [e["validation_lower_bound"] for e in whole.state.curve] == [
        e["validation_lower_bound"] for e in resumed.state.curve
    ]


def test_a_torn_checkpoint_gives_way_to_the_one_before(tmp_path, monkeypatch):
    images = make_images(60)
    with pytest.raises(Killed):
        run(tmp_path, images, kill_after=5, monkeypatch=monkeypatch)
    newest = sorted(tmp_path.glob("step-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    assert run(tmp_path, images).state.step == 12


def test_training_learns(tmp_path):
    """A set of one repeated image is soon cheap."""
    images = np.repeat(make_images(1, seed=5) // 128 * 255, 64, axis=0)
    settings = SETTINGS.model_copy(update={"epochs": 40, "free_nats": (), "learning_rate": 3e-3})
    curve = run(tmp_path, images, settings).state.curve
    assert curve[-1]["validation_bits_per_dim"][0] < 0.5 * curve[0]["validation_bits_per_dim"][0]


def diverging(monkeypatch, term, after=2):
    """Objective.forward with one of its terms gone after some steps."""
    forward, calls = Objective.forward, []

    def broken(self, x, noise, k, pressure):
        loss, terms = forward(self, x, noise, k, pressure)
        calls.append(k)
        if len(calls) <= after:
            return loss, terms
        nan = float("nan")
        if term == "semantic":
            kl_k = terms.kl_k.clone()
            kl_k[-1] = float("inf")
            return loss * nan, terms._replace(kl_k=kl_k)
        if term == "log_px":
            return loss * nan, terms._replace(log_px=terms.log_px * nan)
        kl = terms.kl.clone()
        kl[term - 1] = float("inf")
        return loss * nan, terms._replace(kl=kl)

    monkeypatch.setattr(Objective, "forward", broken)


@pytest.mark.parametrize(
    ("term", "named"),
    [
        ("log_px", r"step 2: log p\(x\|z\)"),
        (2, r"step 2: KL of z_2"),
        ("semantic", r"step 2: KL of z_3 in L\^\{>[12]\}$"),
    ],
)
def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path, monkeypatch, term, named):
    """And the checkpoint of the step before is still there, and good."""
    diverging(monkeypatch, term)
    checkpoints = Checkpoints(tmp_path, {})
    with pytest.raises(TrainingError, match=named) as caught:
        train(
            make_images(60),
            make_images(2),
            SMALL,
            SETTINGS,
            checkpoints,
            CPU,
            **EVERY_STEP,
        )
    assert "checkpoint is kept" in caught.value.hint
    saved = checkpoints.latest()
    assert saved.state["step"] == 2
    assert all(torch.isfinite(value).all() for value in saved.tensors.values())


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path, monkeypatch):

    forward = Objective.forward

    def broken(self, x, noise, k, pressure):
        if len(list(tmp_path.iterdir())) == 2:  # two checkpoints
            weight = self.ladder.up["2"][0].first.weight
            weight.register_hook(lambda grad: grad * float("inf"))
        return forward(self, x, noise, k, pressure)

    monkeypatch.setattr(Objective, "forward", broken)
    checkpoints = Checkpoints(tmp_path, {})
    with pytest.raises(TrainingError, match=r"gradient is not finite at step 2: up.2.0.first"):
        train(
            make_images(60),
            make_images(2),
            SMALL,
            SETTINGS,
            checkpoints,
            CPU,
            **EVERY_STEP,
        )
    assert all(torch.isfinite(value).all() for value in checkpoints.latest().tensors.values())


TINY_RGB = SMALL.model_dump() | {"image_channels": 3, "likelihood": "logistics"}


@pytest.mark.parametrize("weight_norm", [False, True])
@pytest.mark.parametrize("kind", ["hvae", "lvae", "biva"])
def test_every_kind_learns_colour_images(tmp_path, kind, weight_norm):
    """A few steps on four images: the bounds rise, whatever k the semantic term draws."""
    config = ModelConfig.model_validate(TINY_RGB | {"kind": kind, "weight_norm": weight_norm})
    images = np.repeat(make_images(4, channels=3, seed=5) // 2, 10, axis=0)
    settings = SETTINGS.model_copy(update={"epochs": 12, "free_nats": (), "learning_rate": 1e-2})
    trained = run(tmp_path, images, settings, config)
    bits = [entry["validation_bits_per_dim"] for entry in trained.state.curve]
    assert bits[0][0] < 9.5 and bits[-1][0] < bits[0][0] - 0.2
    assert bits[-1][2] < bits[0][2] - 0.2  # L^{>2} as well


@pytest.mark.parametrize("kind", ["hvae", "lvae", "biva"])
def test_data_dependent_initialisation_starts_every_kind_below_nine_bits(kind):
    """On uniform noise, of which no model can say less than 8."""
    config = ModelConfig.model_validate(TINY_RGB | {"kind": kind, "weight_norm": True})
    torch.manual_seed(0)
    ladder = build_ladder(config)
    x = ladder.likelihood.observe(torch.from_numpy(make_images(64, channels=3)), torch.zeros(()))
    noise = make_noise(ladder, 1, 64)
    initialise_from_data(ladder, lambda: lower_bound(ladder, x, noise))
    log_px = lower_bound(ladder, x, noise).log_px.mean()
    assert 8.0 < bits_per_dim(log_px, config.n_dims).item() < 9.0


def test_a_bundle_records_what_made_it(tmp_path):
    images = make_images(60)
    bundle = TrainingRun(
        SMALL, SETTINGS, CPU, tmp_path / "m", "m", command=["hvaeood", "train"]
    ).of(images)
    training = json.loads((tmp_path / "m" / "training.json").read_text())
    assert training["n_trained_on"] == 52 and training["n_validation"] == 8
    assert training["command"] == ["hvaeood", "train"]
    assert len(training["curve"]) == 3
    assert not (tmp_path / "m" / "checkpoints").exists()
    kept = set(bundle.training_hashes().tolist())
    hashes = {short_key(image) for image in images}
    assert len(kept) == 52 and kept < hashes


def test_a_finished_run_is_not_run_again_and_not_replaced(tmp_path):
    images = make_images(60)
    first = TrainingRun(SMALL, SETTINGS, CPU, tmp_path, "m").of(images)
    stamp = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert TrainingRun(SMALL, SETTINGS, CPU, tmp_path, "m").of(images).sha256 == first.sha256
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(TrainingError, match="already holds"):
        other = SETTINGS.model_copy(update={"seed": 1})
        TrainingRun(SMALL, other, CPU, tmp_path, "m").of(images)


def test_other_settings_do_not_continue_a_run(tmp_path, monkeypatch):
    images = make_images(60)
    with pytest.raises(Killed):
        run(tmp_path, images, kill_after=2, monkeypatch=monkeypatch)
    with pytest.raises(TrainingError, match="images: 60 there, 61 here"):
        Checkpoints(tmp_path, {"images": 61}).latest()


def test_a_run_of_another_version_is_called_that(tmp_path, monkeypatch):
    images = make_images(60)
    with pytest.raises(Killed):
        run(tmp_path, images, kill_after=2, monkeypatch=monkeypatch)
    monkeypatch.setattr(checkpoint, "_FORMAT", 1 + checkpoint._FORMAT)
    later = Checkpoints(tmp_path, {"images": 60})
    with pytest.raises(TrainingError, match="another version of this program") as caught:
        later.latest()
    assert "--force" in caught.value.hint and "the same settings" not in caught.value.hint
    assert later.latest(force=True) is None and not later._files()


def test_too_few_images(tmp_path):
    with pytest.raises(TrainingError, match="too few"):
        TrainingRun(SMALL, SETTINGS, CPU, tmp_path, "m").of(make_images(20))


def test_data_dependent_initialisation_and_folding():
    """Each weight-normalised layer starts with outputs of mean 0 and deviation 1."""
    torch.manual_seed(0)
    ladder = build_ladder(SMALL.model_copy(update={"weight_norm": True}))
    x = (torch.rand(64, 1, 8, 8) > 0.5).float()
    outputs = {}
    initialise_from_data(ladder, lambda: ladder.first_rung(x))
    hooks = [
        layer.register_forward_hook(lambda m, i, o, name=name: outputs.setdefault(name, o))
        for name, layer in ladder.named_modules()
        if name in ("stem", "up.1.0.first", "up.1.0.second", "posterior.1.project")
    ]
    rung = ladder.first_rung(x)
    assert len(outputs) == 4
    # in place, y.add_(x) has since changed the second convolution's output
    for name in ("stem", "posterior.1.project"):
        channels = outputs[name].transpose(0, 1).flatten(1)
        torch.testing.assert_close(channels.mean(1), torch.zeros(len(channels)), atol=1e-4, rtol=0)
        torch.testing.assert_close(channels.std(1), torch.ones(len(channels)), atol=1e-3, rtol=0)
    for hook in hooks:
        hook.remove()
    fold_weight_norm(ladder)
    assert set(ladder.state_dict()) == set(build_ladder(SMALL).state_dict())
    torch.testing.assert_close(ladder.first_rung(x).posterior.mean, rung.posterior.mean)


def test_the_paper_preset_trains_with_weight_norm(tmp_path):
    config = SMALL.model_copy(update={"weight_norm": True})
    settings = SETTINGS.model_copy(
        update={"optimizer": "adam", "semantic_weight": 0.0, "free_nats_per": "element"}
    )
    trained = run(tmp_path, make_images(60), settings, config)
    assert set(trained.ladder.state_dict()) == set(build_ladder(SMALL).state_dict())


def test_a_weight_normed_run_resumes(tmp_path, monkeypatch):
    config = SMALL.model_copy(update={"weight_norm": True})
    images = make_images(60)
    whole = run(tmp_path / "whole", images, config=config)
    with pytest.raises(Killed):
        run(tmp_path / "cut", images, config=config, kill_after=5, monkeypatch=monkeypatch)
    resumed = run(tmp_path / "cut", images, config=config)
    for name, value in whole.ladder.state_dict().items():
        assert torch.equal(value, resumed.ladder.state_dict()[name]), name


def test_the_generators_of_the_process_stay_where_they_were(tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    run(tmp_path, make_images(60))
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1])
    assert before[2] == after[2]


@pytest.mark.parametrize("minutes", [None, 1e-9])
def test_a_kill_after_the_last_step_costs_no_training(tmp_path, monkeypatch, minutes):
    """However long ago the last checkpoint was: one is there before the model is written."""
    images, settings = make_images(60), SETTINGS.model_copy(update={"minutes": minutes})

    def die(*arguments):
        raise Killed

    monkeypatch.setattr("hvaeood_cli.training.run.write_bundle", die)
    with pytest.raises(Killed):
        TrainingRun(SMALL, settings, CPU, tmp_path / "cut", "m").of(images)
    monkeypatch.undo()
    monkeypatch.setattr(Learner, "step", die)
    resumed = TrainingRun(SMALL, settings, CPU, tmp_path / "cut", "m").of(images)
    monkeypatch.undo()
    if minutes is None:
        whole = TrainingRun(SMALL, settings, CPU, tmp_path / "whole", "m").of(images)
        assert resumed.sha256 == whole.sha256
    assert not (tmp_path / "cut" / "checkpoints").exists()


@pytest.mark.parametrize(("part", "calls"), [("scores", 2), ("maps", 8)])
def test_interrupted_while_it_calibrates_a_model_is_calibrated_by_the_same_command(
    tmp_path, monkeypatch, part, calls
):
    images = make_images(260)
    settings = SETTINGS.model_copy(update={"calibration": 140, "epochs": 1})
    stop, seen = [False], []

    def calibrating(what, done, total):
        seen.append(what)
        stop[0] = len(seen) == calls

    cut = TrainingRun(SMALL, settings, CPU, tmp_path / "cut", "m")
    with pytest.raises(KeyboardInterrupt):
        cut.of(images, stop=lambda: stop[0], calibrating=calibrating)
    assert seen[-1] == part and len(seen) == calls
    assert not read_bundle(tmp_path / "cut").calibrations
    monkeypatch.setattr(Learner, "step", lambda *_: pytest.fail("it was trained"))
    bundle = cut.of(images)
    monkeypatch.undo()
    whole = TrainingRun(SMALL, settings, CPU, tmp_path / "whole", "m").of(images)
    assert bundle.sha256 == whole.sha256
    ((here,), (there,)) = bundle.calibrations, whole.calibrations
    assert Calibration.load(here).id == Calibration.load(there).id
    assert place_of(here).read_bytes() == place_of(there).read_bytes()
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_a_resumed_run_knows_how_often_it_has_skipped(tmp_path):
    """Twenty-one unusable steps in a row are an error, a cut between them or not."""
    images = make_images(60)
    settings = SETTINGS.model_copy(update={"gradient_skip": 1e-9, "epochs": 10})
    steps = iter(range(12))
    checkpoints = Checkpoints(tmp_path, {})
    arguments = (images[8:], images[:8], SMALL, settings, checkpoints, CPU)
    with pytest.raises(KeyboardInterrupt):
        train(*arguments, stop=lambda: next(steps) == 11)
    assert checkpoints.latest().state["learner"]["skipped_in_a_row"] == 12
    with pytest.raises(TrainingError, match="21 steps, up to step 20"):
        train(*arguments)


def test_the_scaler_of_mixed_precision_is_in_the_checkpoint(tmp_path):
    """A CPU can scale too, though in bfloat16; the scaler's factor is what is looked at."""

    def fabric(factor):
        scaler = torch.amp.GradScaler("cpu", init_scale=factor)
        return Fabric(accelerator="cpu", plugins=MixedPrecision("16-mixed", "cpu", scaler))

    images, checkpoints = make_images(60), Checkpoints(tmp_path, {})
    data = torch.from_numpy(images)
    first = begin(data, SMALL, SETTINGS, fabric(2.0**7))
    first.save(checkpoints)
    resumed = begin(data, SMALL, SETTINGS, fabric(2.0**16), checkpoints.latest())
    assert resumed.learner._scaler.get_scale() == 2.0**7
    assert begin(data, SMALL, SETTINGS, CPU).learner.state()["scaler"] is None


def weights_of(trained):
    return trained.ladder.state_dict()


@pytest.mark.parametrize("n_parts", [2, 3, 100])
def test_a_batch_in_parts_takes_the_same_steps(tmp_path, n_parts):
    """Without free nats, whose maximum over a layer is of the batch it sees."""
    images, settings = make_images(60), SETTINGS.model_copy(update={"free_nats": ()})
    whole = run(tmp_path / "whole", images, settings)
    in_parts = settings.model_copy(update={"accumulate": n_parts})
    parts = run(tmp_path / "parts", images, in_parts)
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(value, weights_of(parts)[name], atol=2e-4, rtol=2e-3)


def test_averaged_weights_are_the_average(tmp_path, monkeypatch):
    """Of every step's weights, by the decay; they are what the model is, and they resume."""
    images = make_images(60)
    settings = SETTINGS.model_copy(update={"ema": 0.7})
    last = run(tmp_path / "last", images)
    averaged = run(tmp_path / "averaged", images, settings)
    expected = {}
    seen = []
    saved = Checkpoints.save

    def keep(self, model, *rest):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        saved(self, model, *rest)

    monkeypatch.setattr(Checkpoints, "save", keep)
    train(images[8:], images[:8], SMALL, SETTINGS, Checkpoints(tmp_path, {}), CPU, **EVERY_STEP)
    monkeypatch.undo()
    for name in seen[0]:
        value = seen[0][name]
        for step in seen[1:]:
            value = 0.7 * value + 0.3 * step[name]
        expected[name] = value
    for name, value in weights_of(averaged).items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)
    assert any(not torch.equal(v, weights_of(last)[n]) for n, v in weights_of(averaged).items())
    with pytest.raises(Killed):
        run(tmp_path / "cut", images, settings, kill_after=5, monkeypatch=monkeypatch)
    resumed = run(tmp_path / "cut", images, settings)
    for name, value in weights_of(averaged).items():
        assert torch.equal(value, weights_of(resumed)[name]), name


def test_a_gradient_above_the_limit_is_skipped_and_counted(tmp_path):
    images = make_images(60)
    settings = SETTINGS.model_copy(update={"gradient_skip": 1e9})
    assert run(tmp_path / "a", images, settings).state.skipped == 0
    settings = SETTINGS.model_copy(update={"gradient_skip": 1e-9})
    trained = run(tmp_path / "b", images, settings)
    assert trained.state.skipped == 12 and trained.state.curve[-1]["skipped"] == 12
    for name, value in build_seeded(SMALL, SETTINGS.seed).state_dict().items():
        assert torch.equal(value, weights_of(trained)[name]), "no step was taken"
    more = settings.model_copy(update={"epochs": 10})
    with pytest.raises(TrainingError, match="21 steps, up to step 20, is longer than") as caught:
        run(tmp_path / "c", images, more)
    assert "gradient_skip" in caught.value.hint


@pytest.mark.parametrize("weight_norm", [False, True])
def test_posteriors_start_as_narrow_as_the_settings_say(tmp_path, weight_norm):
    scales = (0.1, 0.5, 1.0)
    settings = SETTINGS.model_copy(update={"posterior_scale": scales, "learning_rate": 1e-9})
    config = SMALL.model_copy(update={"weight_norm": weight_norm})
    ladder = run(tmp_path, make_images(60), settings, config).ladder
    for i, scale in enumerate(scales, start=1):
        (head,) = ladder.posterior_heads(i)
        raw_scale = head.project.bias.detach().chunk(2)[1]
        started = Gaussian.from_raw(torch.cat((raw_scale, raw_scale))[None]).scale
        torch.testing.assert_close(started, torch.full_like(started, scale), rtol=1e-4, atol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the compiler's insides
def test_compiled_training_takes_the_same_steps(tmp_path, monkeypatch):
    """Through the compiler's front end; its code generator is not what is tested."""
    compiled, compile_ = [], torch.compile

    def compile_eagerly(module, **options):
        compiled.append(module)
        return compile_(module, **options | {"backend": "eager", "fullgraph": True})

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    images = make_images(60)
    checkpoints = Checkpoints(tmp_path / "c", {})
    arguments = (images[8:], images[:8], SMALL, SETTINGS, checkpoints, CPU)
    trained = train(*arguments, compiled=True)
    whole = run(tmp_path / "w", images)
    assert compiled
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(value, weights_of(trained)[name], atol=1e-4, rtol=1e-3)


# -- what is set aside ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "shares"),
    [
        (60_000, (57_000, 1000, 2000)),
        (3000, (2250, 150, 600)),
        (650, (468, 32, 150)),  # enough to flag at 1 %
        (320, (198, 16, 106)),
        (150, (93, 7, 50)),
        (149, (142, 7, 0)),  # too few to calibrate on
    ],
)
def test_shares_of_any_number_of_images(n, shares):
    settings = SETTINGS.model_copy(update={"validation": None, "calibration": None})
    split = TrainingRun(SMALL, settings, CPU, Path("m"), "m").split(n)
    assert tuple(map(len, split)) == shares
    assert sorted(np.concatenate(split)) == list(range(n))
    again = TrainingRun(SMALL, settings, CPU, Path("m"), "m").split(n)
    assert all(np.array_equal(one, other) for one, other in zip(split, again, strict=True))


def test_a_model_calibrates_itself_on_what_it_has_not_seen(tmp_path):
    images = make_images(400)
    images[:40] = images[40:80]  # copies, some of them on either side
    settings = SETTINGS.model_copy(update={"validation": None, "epochs": 1})
    run = TrainingRun(SMALL, settings, CPU, tmp_path / "m", "m")
    bundle = run.of(images)
    (path,) = bundle.calibrations
    calibration = Calibration.load(path)
    split = run.split(400)
    trained = {short_key(images[i]) for i in split.trained_on}
    fresh = [short_key(images[i]) for i in split.calibration if short_key(images[i]) not in trained]
    assert len(fresh) < len(split.calibration) == 133
    assert sorted(calibration.content) == sorted(fresh)
    assert bundle.training["n_calibration"] == 133
    detector = Detector(tmp_path / "m")
    assert detector.calibration is not None and detector.calibration.id == calibration.id
    assert detector.p_values(images[:5, 0]).shape == (5,)


def test_none_is_made_where_none_is_wanted(tmp_path):
    settings = SETTINGS.model_copy(update={"calibration": 0, "epochs": 1})
    assert not TrainingRun(SMALL, settings, CPU, tmp_path, "m").of(make_images(400)).calibrations
