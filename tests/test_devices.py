"""Every path of a tensor, on every device that is here or that a CPU can stand for."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import SingleDeviceStrategy

from hvaeood_cli.device import make_fabric
from hvaeood_cli.model.build import build_ladder
from hvaeood_cli.model.config import ModelConfig
from hvaeood_cli.model.initialisation import narrow_posteriors
from hvaeood_cli.model.presets import PRESETS
from hvaeood_cli.scoring import noise as noise_module
from hvaeood_cli.scoring.bounds import lower_bound, score
from hvaeood_cli.scoring.noise import normals, uniforms
from hvaeood_cli.scoring.scorer import Scorer
from hvaeood_cli.settings import ScoreSettings, TrainSettings
from hvaeood_cli.training import loop
from hvaeood_cli.training.checkpoint import Checkpoints
from hvaeood_cli.training.learner import Share
from hvaeood_cli.training.objective import pressure_at
from hvaeood_cli.training.pixels import PixelRows
from tests.conftest import SMALL, make_images, make_ladder, make_noise
from tests.devices import PRESENT, Place, real

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter"),
    pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda', but CUDA"),
]

CPU = torch.device("cpu")
SETTINGS = TrainSettings(batch_size=8, free_nats=(2.0, 1.0, 1.0), semantic_weight=0.5)
CONFIGS = {
    f"{kind}-{likelihood}-{channels}": ModelConfig.model_validate(
        SMALL.model_dump()
        | {"kind": kind, "likelihood": likelihood, "image_channels": channels}
        | {"dequantize": "uniform" if likelihood == "logistics" else "none"}
    )
    for kind in ("hvae", "biva", "lvae")
    for likelihood, channels in (("bernoulli", 1), ("logistics", 1), ("logistics", 3))
}


@pytest.fixture(params=CONFIGS)
def config(request) -> ModelConfig:
    return CONFIGS[request.param]


def pixels_of(config: ModelConfig, n: int = 8):
    return make_images(n, channels=config.image_channels)


# -- scoring --------------------------------------------------------------------------------------


class _Tensors(str):
    """The CPU, under a type for which noise is made of tensors, as on a GPU."""

    type = "tensors"


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 1001, 70_000])
@pytest.mark.parametrize("draw", [uniforms, normals])
def test_the_noise_is_the_same_to_the_last_bit(place, draw, n):
    """Made of tensors on every device, and by NumPy."""
    keys = [bytes([i]) * 16 for i in range(3)]
    by_numpy = draw(keys, n, CPU)
    device = _Tensors("cpu") if place.device == CPU else place.device
    with place.here():
        made = draw(keys, n, device)
    assert made.device.type == place.device.type
    assert made.shape == by_numpy.shape and made.dtype == by_numpy.dtype
    if place.has_values:
        assert torch.equal(made.cpu().view(torch.int32), by_numpy.view(torch.int32))


def test_on_a_cpu_tensors_and_numpy_are_two_ways(monkeypatch):
    """Else the test above would compare one with itself."""
    monkeypatch.setattr(noise_module, "torch_words", None)
    normals([bytes(16)], 8, CPU)
    for draw in (uniforms, normals):
        with pytest.raises(TypeError):
            draw([bytes(16)], 8, _Tensors("cpu"))


def test_bounds(place, config):
    ladder = make_ladder(config)
    noise = make_noise(ladder, 3, 4)
    x = ladder.likelihood.observe(torch.from_numpy(pixels_of(config, 4)), torch.full((), 0.5))
    expected = score(ladder, x, noise, 3, 2, "sample")
    with place.here():
        ladder.to(place.device)
        there = x.to(place.device), [eps.to(place.device) for eps in noise]
        scores = score(ladder, *there, 3, 2, "sample")
        complementary = lower_bound(ladder, *there, l=2, proposal="sample")
    for made, on_cpu in zip(scores, expected, strict=True):
        assert made.device.type == place.device.type and made.shape == on_cpu.shape
        if place.has_values:
            torch.testing.assert_close(made.cpu(), on_cpu, rtol=1e-3, atol=1e-2)
    assert complementary.lower_bound.device.type == place.device.type


def test_a_pass_of_the_scorer_and_its_pictures(place, config):
    """From 8-bit pixels on; the device makes the noise where it is not a CPU."""
    ladder = make_ladder(config)
    pixels, means = pixels_of(config, 5), []
    with place.here():
        scorer = Scorer.on(ladder, ScoreSettings(n_importance_samples=2), place.device)
        (one,) = scorer.passes(pixels, size=8)
        scores = scorer.bounds(one, lambda k, descent: means.append(descent.parameters))
        shown = [ladder.likelihood.mean(parameters) for parameters in means]
    assert one.n == 5 and scores.lower_bound.shape == (8, 3)
    assert [mean.shape[1:] for mean in shown] == [pixels.shape[1:]] * 3
    assert {t.device.type for t in (*one[1:], *scores, *shown)} == {place.device.type}
    if place.has_values:
        on_cpu = Scorer.on(make_ladder(config), scorer.settings, CPU).passes(pixels, size=8)
        torch.testing.assert_close(one.x.cpu(), next(on_cpu).x)


@pytest.mark.parametrize("device", PRESENT)
def test_scores_are_the_same_to_the_last_bit_every_time(device):
    """In any batch and order, with kernels as large as those of the models that ship."""
    settings = ScoreSettings(n_importance_samples=4)
    there = Scorer.on(build_ladder(PRESETS["compact-gray"].model), settings, torch.device(device))
    pixels = make_images(130, size=28)
    first, again, backwards, few = (
        there.score(some) for some in (pixels, pixels, pixels[::-1].copy(), pixels[:3])
    )
    for name, values in first.items():
        assert values.tobytes() == again[name].tobytes(), name
        assert values.tobytes() == backwards[name][::-1].tobytes(), name
        assert values[:3].tobytes() == few[name].tobytes(), name


# -- training -------------------------------------------------------------------------------------


@pytest.fixture
def fabric(place: Place, monkeypatch) -> Fabric:
    """One whose device is the place's; Fabric itself knows no device without values."""
    if place.fake:
        monkeypatch.setattr(Fabric, "backward", lambda self, loss: None)
        monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", give_zeros)
    if not place.has_values:
        built = loop.build_seeded
        monkeypatch.setattr(loop, "build_seeded", lambda *args: real_one(built, *args))
        strategy = SingleDeviceStrategy(device=place.device)
        return Fabric(accelerator="cpu", strategy=strategy)
    return make_fabric(place.device)


def give_zeros(optimizer, set_to_none: bool = True) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)


def real_one(built, *args):
    with real():
        return built(*args)


def step(run: loop.Run, fabric: Fabric, pixels, number: int) -> bool:
    batch = torch.from_numpy(pixels).to(fabric.device)
    x, noise, k = loop._draw(run.ladder, batch, SETTINGS, number)
    parts = list(Share.of(len(x), fabric).parts(x, noise, 2))
    return run.learner.step(parts, k, pressure_at(SETTINGS, 0.1), number, lambda terms, n: None)


def begun(config, fabric, saved=None) -> loop.Run:
    return loop.begin(PixelRows.of(pixels_of(config)), config, SETTINGS, fabric, saved)


@pytest.mark.parametrize("weight_norm", [False, True])
def test_a_step(place, fabric, config, weight_norm):
    config = config.model_copy(update={"weight_norm": weight_norm})
    with place.here():
        run = begun(config, fabric)
        narrow_posteriors(run.ladder, (0.5, 0.5, 0.5))
        before = [parameter.detach().clone() for parameter in run.ladder.parameters()]
        assert step(run, fabric, pixels_of(config), 0)
    after = list(run.ladder.parameters())
    assert {parameter.device.type for parameter in after} == {place.device.type}
    if place.has_values:
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_run_goes_on_from_a_checkpoint(place, fabric, config, tmp_path):
    """One that a CPU has saved: its moments join their parameters, and a further step works."""
    pixels, cpu = pixels_of(config), make_fabric(CPU)
    first = begun(config, cpu)
    step(first, cpu, pixels, 0)
    checkpoints = Checkpoints(tmp_path, {})
    first.save(checkpoints)
    saved = checkpoints.latest()
    with place.here():
        run = begun(config, fabric, saved)
        assert step(run, fabric, pixels, 1)
        moments = run.learner.optimizer.state_dict()["state"].values()
    assert len(moments) == len(list(run.ladder.parameters()))
    for moment in moments:
        assert moment["exp_avg"].device.type == place.device.type
        assert moment["exp_avg_sq"].device.type == place.device.type
        assert moment["step"].device.type == "cpu"  # where the optimiser keeps it
    if place.has_values:
        step(first, cpu, pixels, 1)
        run.save(Checkpoints(tmp_path / "again", {}))
        again = Checkpoints(tmp_path / "again", {}).latest()
        for name, value in first.ladder.state_dict().items():
            torch.testing.assert_close(again.tensors[f"model.{name}"], value, rtol=1e-3, atol=1e-4)


MIXED = [(device, "bf16-mixed") for device in PRESENT]
MIXED += [("cuda", "16-mixed")] if "cuda" in PRESENT else []


@pytest.mark.parametrize(("device", "precision"), MIXED)
def test_a_step_in_mixed_precision(device, precision, config):
    """Products are rounded, and what is observed is not: a pixel needs more than 8 bits."""
    fabric, seen = make_fabric(torch.device(device), precision), []
    run = begun(config, fabric)
    forward = run.learner.objective.module.forward
    run.learner.objective.module.forward = lambda x, *more: (seen.append(x), forward(x, *more))[1]
    step(run, fabric, pixels_of(config), 0)
    assert {x.dtype for x in seen} == {torch.float32}


@pytest.mark.parametrize("first", [0, 5])
def test_noise_that_is_drawn_ahead_is_each_steps_own(place, first):
    """Whichever step a run goes on from, and for a last batch that is smaller."""
    ladder, settings = make_ladder(), SETTINGS.model_copy(update={"seed": 3})
    batches = [torch.from_numpy(make_images(n)) for n in (8, 8, 8, 5)]
    with place.here():
        ahead = loop._Ahead.on(place.device, ladder, settings)
        assert ahead.n_steps == (1 if place.device == CPU else 64)
        ahead.n_steps = 3
        for step, batch in enumerate(batches, start=first):
            pixels = batch.to(place.device)
            made = loop._draw(ladder, pixels, settings, step, ahead)
            alone = loop._draw(ladder, pixels, settings, step)
            pairs = zip((made[0], *made[1]), (alone[0], *alone[1]), strict=True)
            for a, b in pairs:
                assert a.shape == b.shape and a.device.type == place.device.type
                assert not place.has_values or torch.equal(a, b)
            assert made[2] == alone[2]


def test_mixing_devices_is_caught():
    """Without this, what passes on fake-cuda would prove nothing."""
    from tests.devices import PLACES

    place = PLACES["fake-cuda"]
    ladder = make_ladder(SMALL)
    noise, x = make_noise(ladder, 1, 4), torch.zeros(4, 1, 8, 8)
    with place.here(), pytest.raises(Exception, match="cuda"):
        score(ladder.to(place.device), x, noise)


@pytest.mark.skipif(sys.platform != "linux", reason="it looks at /proc, and glibc's allocator")
def test_large_blocks_are_kept_while_a_run_computes_and_a_hosts_own_are_not():
    code = """
        import numpy as np
        from pathlib import Path
        from hvaeood_cli.allocator import keep_memory, keeping_large_blocks

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) >> 8  # MiB

        keep_memory()
        before = resident()
        with keeping_large_blocks():
            np.ones(64 << 17)  # 64 MiB, freed at once
            kept = resident() - before
        large = np.ones(256 << 17)
        small = [bytes(1000) for _ in range(1000)]  # behind it
        del large
        print(kept, resident() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    kept, after = map(int, done.stdout.split())
    assert kept > 48 and after < 96
