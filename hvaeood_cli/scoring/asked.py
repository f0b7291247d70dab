"""Scores beside ours, which others have proposed. They are measured where somebody asks for them.

Each is a function of an evaluation that returns columns of `hvaeood_cli.store.columns.TABLE`. All
of them but the first run the network again, on one sample; docs/scores.md says how long they take.
To add one: its function and its name in `ASKED` here, its name in `settings.STATISTICS`, and its
columns in the table.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from hvaeood_cli.model.gaussian import Gaussian, log_ratio
from hvaeood_cli.model.ladder import Descent, Ladder, Noise, Route
from hvaeood_cli.scoring.bounds import climb_means, follow, lower_bound
from hvaeood_cli.scoring.evaluation import Evaluation

_STEPS, _STEP = 20, 0.1  # of the fit of q to an image: how many, and how long each is
_AT_ONCE = 1 << 22  # numbers in the gradients that are held at once
_LEAST = 1e-12  # of a squared length: a stage may not matter to an image


def complexity(of: Evaluation) -> dict[str, Tensor]:
    """-L minus the length of the image as a PNG file, in nats: (B,).

    Serra et al., "Input complexity and out-of-distribution detection with likelihood-based
    generative models", ICLR 2020, eq. 4: a likelihood ratio whose other model is a compressor.
    """
    assert of.pixels is not None
    lengths = [8 * math.log(2.0) * _png_bytes(image) for image in of.pixels.cpu()]
    cost = -of.bounds.lower_bound[:, 0]
    return {"complexity": cost - torch.tensor(lengths, dtype=torch.float32, device=cost.device)}


def path(of: Evaluation) -> dict[str, Tensor]:
    """Lengths of what lies on the way from x to its reconstruction: (B, L), (B, L) and (B,).

    |mean| and |scale| of each q(z_i), and |x - E[x|z]|: the statistics that are sufficient for the
    likelihood of a VAE, after Huang et al., "The likelihood path principle and its application to
    OOD detection", 2024.
    """
    with torch.inference_mode():
        descent = follow(of.ladder, climb_means(of.ladder, of.x, 1), _elbo(of.ladder, of.noise))
        posteriors = [descent.posteriors[i] for i in range(1, of.ladder.n_layers + 1)]
        shown = of.ladder.likelihood.shown(of.x)
        return {
            "path_mean": torch.stack([_length(q.mean) for q in posteriors], dim=1),
            "path_scale": torch.stack([_length(q.scale) for q in posteriors], dim=1),
            "path_error": _length(shown - of.ladder.likelihood.mean(descent.parameters)),
        }


def perturbed(of: Evaluation) -> dict[str, Tensor]:
    """L(x) - L(Tx), T that inverts the pixels, or exchanges the image's quarters: (B, 2) nats.

    A model that has learnt what its images show loses much by either; one that sees texture alone
    does not. After the perturbations of Ren et al., 2019, on the image instead of the training set.
    """
    assert of.pixels is not None and of.uniform is not None
    half = [n // 2 for n in of.pixels.shape[2:]]
    variants = [of.pixels, 255 - of.pixels, of.pixels.roll(half, dims=(2, 3))]
    with torch.inference_mode():
        found = [
            lower_bound(of.ladder, _observed(of, pixels), of.noise).lower_bound
            for pixels in variants
        ]
    return {"perturbed": torch.stack([found[0] - other for other in found[1:]], dim=1)}


def regret(of: Evaluation) -> dict[str, Tensor]:
    """How much the ELBO rises when q is fitted to each image alone, by a few steps: (B,) nats.

    Xiao et al., "Likelihood regret: an out-of-distribution detection score for variational
    auto-encoders", NeurIPS 2020, in their variant that moves mean and scale of q and leaves the
    encoder as it is. Of each z_i a shift of the mean, in scales, and the logarithm of a factor of
    the scale, by Adam. Of the ELBO the KL of each layer is taken in closed form, given the sample
    of the others: q would else be fitted to the one noise. The best step counts, so that it is
    never negative.
    """
    ladder = of.ladder
    route = _Fitted(of.noise, 0, ladder.n_layers + 1, "mean", {})
    elbos: list[Tensor] = []  # (B,) nats, of every step
    with torch.no_grad():
        first_rungs = climb_means(ladder, of.x, 1)
        follow(ladder, first_rungs, route)  # which makes the shifts, all 0
    shifts = [part for parts in route.shifts.values() for part in parts]
    optimizer = torch.optim.Adam(shifts, lr=_STEP)
    with torch.enable_grad():
        for _ in range(_STEPS + 1):
            descent = follow(ladder, first_rungs, route)
            of_pixels = ladder.likelihood.log_prob_of_pixels(descent.parameters, of.x)
            cost = sum(_kl(q, descent.priors[i]) for i, q in descent.posteriors.items())
            elbo = of_pixels.flatten(1).sum(1) - cost
            elbos.append(elbo.detach())
            pull = torch.autograd.grad(-elbo.sum(), shifts)  # of the weights none is kept
            for shift, its_gradient in zip(shifts, pull, strict=True):
                shift.grad = its_gradient
            optimizer.step()
    return {"regret": torch.stack(elbos).amax(0) - elbos[0]}


def gradient(of: Evaluation) -> dict[str, Tensor]:
    """log |d L / d w|^2 of the weights w of each stage of the network: (B, L).

    Dauncey et al., "Approximations to the Fisher information metric of deep generative models for
    out-of-distribution detection", 2024: of an image that belongs, the gradient in each layer is as
    long as usual. Stage i is what stands between z_{i-1} and z_i, both ways; those at the pixels
    belong to stage 1.
    """
    # `functional_call` exchanges the weights of a module while it runs, and other threads may be
    # running the ladder: so it gets one of its own.
    ladder = copy.deepcopy(of.ladder)
    elbo = _Elbo(ladder)
    weights = {f"ladder.{name}": one.detach() for name, one in ladder.named_parameters()}
    # d log p(x|z) / d w = d log p(x|z) / d r . d r / d w, r the parameters of p(x|z): the first
    # factor is computed for all images together, as the likelihood does it best.
    with torch.no_grad():
        raw = elbo.descent(of.x, of.noise).parameters
    with torch.enable_grad():
        raw.requires_grad_()
        log_px = ladder.likelihood.log_prob_of_pixels(raw, of.x).sum()
        (pull,) = torch.autograd.grad(log_px, raw)

    def loss(weights: dict[str, Tensor], x: Tensor, pull: Tensor, *noise: Tensor) -> Tensor:
        one = (x[None], pull[None], [eps[:, None] for eps in noise])
        found: Tensor = functional_call(elbo, weights, one)
        return found

    of_each = vmap(grad(loss), in_dims=(None, 0, 0, *[1 for _ in of.noise]))
    at_once = max(1, _AT_ONCE // sum(one.numel() for one in weights.values()))
    parts = []
    for start in range(0, len(of.x), at_once):
        # the same number each time, so that each is computed alike
        rows = torch.arange(start, start + at_once, device=of.x.device).clamp(max=len(of.x) - 1)
        found = of_each(weights, of.x[rows], pull[rows], *(eps[:, rows] for eps in of.noise))
        parts.append(torch.stack([_squared(found, stage) for stage in _stages(weights, of)], dim=1))
    return {"gradient": torch.cat(parts)[: len(of.x)].clamp(min=_LEAST).log()}


ASKED: dict[str, Callable[[Evaluation], dict[str, Tensor]]] = {
    "complexity": complexity,
    "gradient": gradient,
    "path": path,
    "perturbed": perturbed,
    "regret": regret,
}


@dataclass(frozen=True)
class _Fitted(Route):
    """The ELBO's pass with each posterior moved.

    shifts: of the mean and the scale of each part of z_i, inferred on the way up or down. They are
    tensors of their own, as the exponential of a slice may round otherwise from image to image.
    """

    shifts: dict[tuple[int, bool], tuple[Tensor, Tensor]]

    def inferred(self, i: int, posterior: Gaussian, up: bool) -> Gaussian:
        if (i, up) not in self.shifts:
            mean, scale = (
                torch.zeros(part.shape, device=part.device, requires_grad=True)
                for part in posterior
            )
            self.shifts[i, up] = mean, scale
        mean, scale = self.shifts[i, up]
        return Gaussian(posterior.mean + mean * posterior.scale, posterior.scale * scale.exp())


class _Elbo(nn.Module):
    """What has the ELBO's gradient of one sample, as a module whose weights can be exchanged."""

    def __init__(self, ladder: Ladder) -> None:
        super().__init__()
        self.ladder = ladder

    def descent(self, x: Tensor, noise: Noise) -> Descent:
        return follow(self.ladder, climb_means(self.ladder, x, 1), _elbo(self.ladder, noise))

    def forward(self, x: Tensor, pull: Tensor, noise: Noise) -> Tensor:
        """pull: d log p(x|z) / d r, r the parameters of p(x|z)."""
        descent = self.descent(x, noise)
        kls = [log_ratio(q, descent.priors[i], descent.z[i]) for i, q in descent.posteriors.items()]
        return (descent.parameters * pull).sum() - torch.stack(kls).sum()


def _elbo(ladder: Ladder, noise: Noise) -> Route:
    return Route(noise, 0, ladder.n_layers + 1, "mean")


def _observed(of: Evaluation, pixels: Tensor) -> Tensor:
    """Other pixels, observed with the noise that x was."""
    assert of.uniform is not None
    observed = of.ladder.likelihood.observe(pixels, of.uniform)
    return observed.contiguous(memory_format=torch.channels_last)


def _png_bytes(image: Tensor) -> int:
    """The length of an image, (C, H, W) uint8, as a PNG file."""
    pixels = image.permute(1, 2, 0).squeeze(2).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=9)
    return file.tell()


def _length(of_images: Tensor) -> Tensor:
    """(B, ...) -> (B,)."""
    return of_images.flatten(1).square().sum(1).sqrt()


def _kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p), (B,) nats. p may have one row, which all images share."""
    variance = (q.scale.square() + (q.mean - p.mean).square()) / p.scale.square()
    return (0.5 * variance - 0.5 + (p.scale / q.scale).log()).flatten(1).sum(1)


def _stages(names: Iterable[str], of: Evaluation) -> Iterator[list[str]]:
    """The names of the weights of each stage: `ladder.up.2...` is in stage 2."""
    numbers = {name: name.split(".")[2] for name in names}
    for i in range(1, of.ladder.n_layers + 1):
        others = i == 1  # have no number, or are at the pixels
        yield [
            name
            for name, number in numbers.items()
            if number == str(i) or (others and (number == "0" or not number.isdigit()))
        ]


def _squared(gradients: dict[str, Tensor], names: list[str]) -> Tensor:
    """The squared length of some gradients together, (B,)."""
    return torch.stack([gradients[name].flatten(1).square().sum(1) for name in names]).sum(0)
