"""Free nats, schedules and the semantic term, by hand."""

from __future__ import annotations

import pytest
import torch

from hvaeood_cli.scoring.bounds import lower_bound
from hvaeood_cli.settings import TrainSettings
from hvaeood_cli.training.objective import Objective, free_kl, pressure_at
from tests.conftest import make_noise

PAPER = TrainSettings(
    kl_warmup=0.1,
    free_nats=(2.0,),
    free_nats_constant=0.1,
    free_nats_anneal=0.1,
    schedule="constant",
)


def test_free_nats_per_layer_clamp_the_mean_over_the_batch():
    kl = torch.tensor([[1.0, 2.0], [5.0, 4.0]])  # two images: 3 and 9 nats, 6 on average
    assert free_kl(kl, 4.0, "layer") == 6.0
    assert free_kl(kl, 8.0, "layer") == 8.0


def test_free_nats_per_element_clamp_every_element():
    """lambda / C for each: the reference code's reading."""
    kl = torch.tensor([[1.0, 2.0], [5.0, -4.0]])  # C = 2, lambda = 3: 1.5 each
    assert free_kl(kl, 3.0, "element") == (1.5 + 2.0 + 5.0 + 1.5) / 2


def test_a_14x14x8_layer_has_392_free_nats_per_element():
    assert free_kl(torch.zeros(3, 8, 14, 14), 2.0, "element") == pytest.approx(392.0)


@pytest.mark.parametrize(
    ("progress", "beta", "nats"),
    [(0.0, 0.0, 2.0), (0.05, 0.5, 2.0), (0.1, 1.0, 2.0), (0.15, 1.0, 1.0), (0.2, 1.0, 0.0)],
)
def test_the_papers_schedule(progress, beta, nats):
    """Of 2000 epochs: 200 of warm-up, 200 of constant free nats, 200 of annealing."""
    pressure = pressure_at(PAPER, progress)
    assert pressure.beta == pytest.approx(beta)
    assert pressure.free_nats[0] == pytest.approx(nats, abs=1e-6)
    assert pressure.learning_rate == 1.0


def test_the_cosine_schedule_falls_from_one_to_nearly_nothing():
    settings = TrainSettings(schedule="cosine")
    rates = [pressure_at(settings, p / 10).learning_rate for p in range(11)]
    assert rates[0] == 1.0 and rates == sorted(rates, reverse=True) and rates[-1] < 0.01


def test_the_loss_is_minus_the_elbo_and_minus_alpha_times_the_bound(ladder):
    x = (torch.rand(6, 1, 8, 8) > 0.5).float()
    noise = make_noise(ladder, 1, 6)
    settings = TrainSettings(semantic_weight=0.7, semantic_proposal="mean", kl_warmup=0.0)
    pressure = pressure_at(settings, 1.0)
    for k in (1, 2):
        loss, terms = Objective(ladder, settings)(x, noise, k, pressure)
        elbo = lower_bound(ladder, x, noise).lower_bound.mean()
        bound = lower_bound(ladder, x, noise, k, proposal="mean").lower_bound.mean()
        torch.testing.assert_close(loss, -elbo - 0.7 * bound, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(terms.elbo, elbo, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(terms.semantic, bound, rtol=1e-4, atol=1e-2)


def test_without_the_semantic_term_the_loss_is_the_papers(ladder):
    x = (torch.rand(6, 1, 8, 8) > 0.5).float()
    noise = make_noise(ladder, 1, 6)
    settings = TrainSettings(free_nats=(5.0, 5.0, 5.0))
    loss, terms = Objective(ladder, settings)(x, noise, None, pressure_at(settings, 0.1))
    paid = sum(kl.clamp(min=5.0) for kl in terms.kl)
    torch.testing.assert_close(loss, -terms.log_px + 0.5 * paid)
    assert torch.isnan(terms.semantic)
