"""Linear-Gaussian ladders of every kind of inference, whose bounds are known in closed form.

Each pixel is a chain of its own. Layer i < 3 has n_i numbers (BIVA: z_i^BU, then z_i^TD), the top
has one, and everything is linear and Gaussian:

    z_3 ~ N(0, 1),  z_i ~ N(A_i z_{i+1}, s^2),  x ~ N(A_0 z_1, s^2)
    q(up part of z_i)   = N(B_i u_i, t^2)            u_i = (x, up parts of z_1 ... z_{i-1})
    q(down part of z_i) = N(C_i (u_i, z_{i+1}), t^2)

The weights of q are the best linear ones, then made worse by a few percent. `proposal` follows the
same definitions once more in NumPy, on affine functions of unit normals, so mean and covariance
of what a bound samples from are exact.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hvaeood_cli.model.config import LayerConfig, ModelConfig
from hvaeood_cli.model.gaussian import Gaussian
from hvaeood_cli.model.ladder import Descent, Ladder, Route, Rung
from tests.linear_gaussian import SCALES, GaussianPixels

L = 3
S_X = SCALES[0]  # of x given z_1, as GaussianPixels has it
S_Z = (0.8, 0.6)  # of z_1, z_2 given the layer above

N_UP = {"hvae": (1, 1, 1), "lvae": (0, 0, 1), "biva": (1, 1, 1)}
N_DOWN = {"hvae": (0, 0, 0), "lvae": (1, 1, 0), "biva": (1, 1, 0)}


class LinearLadder(Ladder):
    """The ladder of one kind. off: how far q is from the best of its family, as a fraction."""

    def __init__(self, kind: str, off: float = 0.1, size: int = 4, seed: int = 0) -> None:
        layer = LayerConfig(latent=1, spatial=True, channels=1)
        super().__init__(
            ModelConfig(kind=kind, image_size=size, layers=(layer,) * L), GaussianPixels()
        )
        random = np.random.default_rng(seed)
        self.n_up, self.n_down = N_UP[kind], N_DOWN[kind]
        n = [up + down for up, down in zip(self.n_up, self.n_down, strict=True)]
        self.a = [random.uniform(0.4, 0.9, (1, n[0]))]  # x from z_1
        self.a += [random.uniform(0.4, 0.9, (n[i], n[i + 1])) for i in range(L - 1)]
        self.b, self.c, self.t_up, self.t_down = [], [], [], []
        covariance, places = self.joint(), self.places()
        for i in range(L):
            up, down = places[i][: self.n_up[i]], places[i][self.n_up[i] :]
            u = [0, *(p for j in range(i) for p in places[j][: self.n_up[j]])]
            z_above = places[i + 1] if i + 1 < L else []
            for part, given, weights, scales in (
                (up, u, self.b, self.t_up),
                (down, u + z_above, self.c, self.t_down),
            ):
                w = covariance[np.ix_(part, given)] @ np.linalg.inv(
                    covariance[np.ix_(given, given)]
                )
                rest = covariance[np.ix_(part, part)] - w @ covariance[np.ix_(given, part)]
                weights.append(w * (1.0 + off * random.standard_normal(w.shape)))
                scales.append(np.sqrt(np.diag(rest)) * (1.0 + off))

    def places(self) -> list[list[int]]:
        """Where z_1, z_2, z_3 stand in (x, z_1, z_2, z_3)."""
        n = [up + down for up, down in zip(self.n_up, self.n_down, strict=True)]
        ends = 1 + np.cumsum([0, *n])
        return [list(range(ends[i], ends[i + 1])) for i in range(L)]

    def joint(self) -> np.ndarray:
        """Covariance of (x, z_1, z_2, z_3) of one pixel under p; its mean is 0."""
        places = [[0], *self.places()]
        size = places[-1][-1] + 1
        rows = np.eye(size)
        for i in range(L - 1, -1, -1):  # row by row from the top: A_i z_{i+1} + s eps
            scale = S_X if i == 0 else S_Z[i - 1]
            rows[places[i]] = self.a[i] @ rows[places[i + 1]] + scale * np.eye(size)[places[i]]
        return rows @ rows.T

    def first_rung(self, x: Tensor) -> Rung:
        return self._rung(1, x)

    def next_rung(self, i: int, below: Rung, z: Tensor | None) -> Rung:
        (u,) = below.features
        if z is None:
            return self._rung(i, u)
        u = u.repeat(len(z) // len(u), 1, 1, 1)
        return self._rung(i, torch.cat((u, z), dim=1))

    def _rung(self, i: int, u: Tensor) -> Rung:
        if not self.n_up[i - 1]:
            return Rung(None, (u,))
        return Rung(linear(self.b[i - 1], self.t_up[i - 1], u), (u,))

    def descend(self, rungs: dict[int, Rung], z: dict[int, Tensor], route: Route) -> Descent:
        z, priors, posteriors = dict(z), {}, {}
        for i in range(L, 0, -1):
            if i == L:
                zeros = torch.zeros(1, *self.latent_shape(L))
                priors[i] = Gaussian(zeros, zeros + 1.0)
            else:
                priors[i] = linear(self.a[i], np.full(len(self.a[i]), S_Z[i - 1]), z[i + 1])
            if i not in rungs:
                z[i] = route.draw_prior(i, priors[i])
                continue
            parts = [(rungs[i].posterior, z.get(i))]
            if self.n_down[i - 1]:
                (u,) = rungs[i].features
                u = u.repeat(len(z[i + 1]) // len(u), 1, 1, 1)
                down = linear(self.c[i - 1], self.t_down[i - 1], torch.cat((u, z[i + 1]), dim=1))
                parts.append((down, route.draw_down(i, down)))
            parts = [(q, sample) for q, sample in parts if q is not None]
            n_rows = len(parts[0][1])
            z[i] = torch.cat([sample for _, sample in parts], dim=1)
            posteriors[i] = Gaussian(
                *(
                    torch.cat([p.repeat(n_rows // len(p), 1, 1, 1) for p in both], dim=1)
                    for both in zip(*(q for q, _ in parts), strict=True)
                )
            )
        a_0 = torch.from_numpy(self.a[0]).float()
        return Descent(z, priors, posteriors, torch.einsum("oc,nchw->nohw", a_0, z[1]))


def linear(weights: np.ndarray, scales: np.ndarray, given: Tensor) -> Gaussian:
    """N(weights given, scales^2), pixel by pixel."""
    mean = torch.einsum("oc,nchw->nohw", torch.from_numpy(weights).float(), given)
    scale = torch.from_numpy(scales).float()[:, None, None].expand(mean.shape)
    return Gaussian(mean, scale)


def proposal(ladder: LinearLadder, k: int) -> tuple[np.ndarray, np.ndarray]:
    """What L^{>k} draws (z_1, z_2, z_3) from, for one pixel: slope of the mean in x, covariance.

    p(z_{<=k}|z_{>k}) q(z_{>k}|d_k(x)): a variable is a row, its coefficients of x and of one unit
    normal for each variable.
    """
    places = ladder.places()
    size = places[-1][-1] + 1
    rows = np.zeros((size, size))  # column 0 is x's, column j that of variable j's own normal
    rows[0, 0] = 1.0
    own = np.eye(size)
    u = rows[:1]
    us = []
    for i in range(L):
        us.append(u)
        up = places[i][: ladder.n_up[i]]
        mean = ladder.b[i] @ u
        sample = mean + np.diag(ladder.t_up[i]) @ own[up]
        if i >= k:
            rows[up] = sample
        u = np.concatenate((u, sample if i >= k else mean))
    for i in range(L - 1, -1, -1):
        down = places[i][ladder.n_up[i] :]
        if i >= k and down:
            given = np.concatenate((us[i], rows[places[i + 1]]))
            rows[down] = ladder.c[i] @ given + np.diag(ladder.t_down[i]) @ own[down]
        elif i < k:
            rows[places[i]] = ladder.a[i + 1] @ rows[places[i + 1]] + S_Z[i] * own[places[i]]
    mixing = rows[1:, 1:]
    return rows[1:, 0], mixing @ mixing.T


def posterior(ladder: LinearLadder) -> tuple[np.ndarray, np.ndarray]:
    """p(z|x) of one pixel: slope of the mean in x, covariance."""
    covariance = ladder.joint()
    gain = covariance[1:, 0] / covariance[0, 0]
    return gain, covariance[1:, 1:] - np.outer(gain, covariance[0, 1:])
