"""What a safety monitor looks at: how unusual a tick of the camera is, by several measures fitted on usual episodes.

    frame ──> pixel statistics [S] ───────────── Gaussian ──> `signal`      light, colours, sharpness, noise
      │
      ├─> encoder ──> map [C,h,w] ── Gaussian a row ── the oddest cells ──> `detail`      part of the picture
      │        └────> feature f_t [D] ────────── Gaussian ──> `density`     the whole of it
      │                   f_t - prediction ───── Gaussian ──> `prediction`  moves otherwise than it is driven
      │                   |f_t - f_t-1| ──────── too small ──> `stillness`  moves less than driven: a frozen picture
      └─> energy of the past and the last frames ───────────> `energy`      they do not go together

Every measure is a number a tick, the larger the odder; NaN where there is none yet. `Tail` turns it into a surprise
-ln P(usual >= measured).

Letters: T ticks of an episode, D feature dim, C, h, w of the encoder's map, S statistics, A action, P proprioception,
K principal directions.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError

Floats = NDArray[np.float64]
PAIRS = ((0, 1), (0, 2), (1, 2))  # of the colours red, green, blue


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian with a shrunk covariance (Ledoit and Wolf 2004), by its mean [D] and whitening matrix [D,D].

    A direction that hardly varied in the fit (a dead channel, pixels that were never clipped) is given a twentieth of
    the widest one's spread: else its first small change would outshout everything.
    """

    mean: Floats
    whiten: Floats
    FLOOR: ClassVar[float] = 0.05

    @classmethod
    def fit(cls, x: Floats) -> "Gaussian":
        """Of samples [n,D]."""
        from sklearn.covariance import ledoit_wolf

        mean, spread = x.mean(0), x.std(0)
        spread = np.maximum(spread, max(cls.FLOOR * spread.max(), 1e-6))
        values, vectors = np.linalg.eigh(ledoit_wolf((x - mean) / spread, assume_centered=True)[0])
        return cls(mean, (vectors / np.sqrt(np.maximum(values, 1e-9))) / spread[:, None])

    def distance(self, x: Floats) -> Floats:
        """Mahalanobis distance [...] of points [...,D], about 1 for a usual one: divided by sqrt(D)."""
        return np.linalg.norm((x - self.mean) @ self.whiten, axis=-1) / np.sqrt(len(self.mean))


@dataclass(frozen=True)
class Tail:
    """The upper tail of a usual measure: its ranks, and beyond the 98 % quantile an exponential.

    The excess over a high threshold of most distributions is about exponential or heavier (Pickands 1975): beyond the
    data a surprise is an order, not a probability, and one tick's is at most `MOST`, so that a single odd usual episode
    does not set the threshold for all. `quantiles` [Q] at even ranks up to 0.98, `scale` the mean excess.
    """

    quantiles: Floats
    scale: float
    SHARE: ClassVar[float] = 0.02
    MOST: ClassVar[float] = 30.0

    @classmethod
    def fit(cls, measures: Floats) -> "Tail":
        """Of usual measures [n]; NaN are left out."""
        usual = np.sort(measures[np.isfinite(measures)])
        if len(usual) < 50:
            raise VidsslError(
                f"the monitor needs at least 50 ticks of usual episodes to scale a score, got {len(usual)}"
            )
        quantiles = np.quantile(usual, np.linspace(0, 1 - cls.SHARE, 200))
        excess = float(np.mean(usual[usual >= quantiles[-1]] - quantiles[-1]))
        return cls(quantiles, max(excess, 1e-6 * (1 + abs(quantiles[-1]))))

    def surprise(self, measures: Floats) -> Floats:
        """-ln of the probability that a usual measure is as large, [...]; 0 for NaN: nothing is known yet."""
        known = np.nan_to_num(measures, nan=-np.inf)
        rank = np.interp(known, self.quantiles, np.linspace(0, 1 - self.SHARE, len(self.quantiles)))
        beyond = np.maximum(known - self.quantiles[-1], 0) / self.scale
        return np.where(np.isnan(measures), 0.0, np.minimum(-np.log1p(-rank) + beyond, self.MOST))


@dataclass(frozen=True)
class Rows:
    """A Gaussian for every row of the encoder's map: sky is odd where the ground should be, and not above it.

    Its measure is the mean distance of the oddest twentieth of the cells, at least one.
    """

    rows: list[Gaussian]

    @classmethod
    def fit(cls, maps: Floats) -> "Rows":
        """Of maps [n,C,h,w]."""
        return cls(
            [
                Gaussian.fit(np.moveaxis(maps[:, :, row], 1, -1).reshape(-1, maps.shape[1]))
                for row in range(maps.shape[2])
            ]
        )

    def measure(self, maps: Floats) -> Floats:
        """[n] of maps [n,C,h,w]."""
        cells = [g.distance(np.moveaxis(maps[:, :, row], 1, -1)) for row, g in enumerate(self.rows)]
        distance = np.concatenate(cells, axis=1)
        odd = max(1, distance.shape[1] // 20)
        return np.partition(distance, -odd, axis=1)[:, -odd:].mean(1)


@dataclass(frozen=True)
class OneStep:
    """Ridge regression of the next feature, in its K principal directions, from the one before, what was done and felt.

        [f_t-1, action_t-1, proprio_t-1, proprio_t, their products with f_t-1's first directions, 1] -> f_t

    and of ln |f_t - f_t-1| from the same motions. `residual` is the Gaussian of what is left.
    """

    centre: Floats  # [D]
    basis: Floats  # [D,K], scaled to unit spread
    next: Floats  # [inputs,K]
    motion: Floats  # [A+2P, 2]: mean and spread
    change: Floats  # [inputs of the change]
    residual: Gaussian
    spread: float  # of ln |change| about what is expected

    CROSSED: ClassVar[int] = 16
    SMALLEST: ClassVar[float] = 1e-4  # feature change in spreads: less is no change at all

    @classmethod
    def fit(cls, features: list[Floats], motions: list[Floats], directions: int = 64) -> "OneStep":
        """Of episodes: features [T,D] and what belongs to the step to each of them, [T,A+2P] (row 0 is not used)."""
        x = np.concatenate(features)
        centre = x.mean(0)
        values, vectors = np.linalg.eigh(np.cov((x - centre).T))
        top = np.argsort(values)[::-1][: min(directions, x.shape[1], len(x) - 1)]
        basis = vectors[:, top] / np.sqrt(np.maximum(values[top], 1e-9))
        moves = np.concatenate([m[1:] for m in motions])
        motion = np.stack([moves.mean(0), np.maximum(moves.std(0), 1e-4)], axis=1)
        z = [(f - centre) @ basis for f in features]
        before, after = np.concatenate([e[:-1] for e in z]), np.concatenate([e[1:] for e in z])
        inputs = _inputs(before, _standard(moves, motion))
        following = _ridge(inputs, after)
        size = np.log(np.maximum(np.linalg.norm(after - before, axis=1), cls.SMALLEST))
        causes = _causes(_standard(moves, motion))
        change = _ridge(causes, size[:, None])[:, 0]
        left = size - causes @ change
        return cls(
            centre, basis, following, motion, change, Gaussian.fit(after - inputs @ following), float(left.std())
        )

    def measure(self, features: Floats, motions: Floats) -> tuple[Floats, Floats]:
        """`prediction` and `stillness`, [T] each, of an episode's features [T,D] and motions; NaN at its first tick."""
        z, moves = (features - self.centre) @ self.basis, _standard(motions[1:], self.motion)
        before, after = z[:-1], z[1:]
        error = self.residual.distance(after - _inputs(before, moves) @ self.next)
        size = np.log(np.maximum(np.linalg.norm(after - before, axis=1), self.SMALLEST))
        still = (_causes(moves) @ self.change - size) / max(self.spread, 1e-6)
        return np.concatenate([[np.nan], error]), np.concatenate([[np.nan], still])


def _standard(moves: Floats, motion: Floats) -> Floats:
    return np.clip((moves - motion[:, 0]) / motion[:, 1], -5, 5)


def _inputs(z: Floats, moves: Floats) -> Floats:
    few = z[:, : OneStep.CROSSED]
    crossed = (few[:, :, None] * moves[:, None]).reshape(len(z), few.shape[1] * moves.shape[1])
    return np.concatenate([z, moves, crossed, np.ones((len(z), 1))], axis=1)


def _causes(moves: Floats) -> Floats:
    return np.concatenate([moves, np.abs(moves), moves**2, np.ones((len(moves), 1))], axis=1)


def _ridge(x: Floats, y: Floats) -> Floats:
    penalty = 1e-3 * len(x) * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(x.T @ x + penalty, x.T @ y), np.float64)


def signal_statistics(frames: NDArray[np.uint8]) -> Floats:
    """Statistics [n,18] of images uint8 [n,H,W,3]: mean, spread and correlation of colours, sharpness of colour and at
    three scales, and how much is clipped; in units of full scale."""
    x = frames.astype(np.float32) / 255
    flat = x.reshape(len(x), -1, 3)
    mean = flat.mean(1)  # [n,3]
    centred = flat - mean[:, None]
    covariance = centred.transpose(0, 2, 1) @ centred / flat.shape[1]  # [n,3,3]
    std = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    links = np.stack([covariance[:, a, b] / ((std[:, a] + 1e-3) * (std[:, b] + 1e-3)) for a, b in PAIRS], axis=1)
    grey = x @ np.full(3, 1 / 3, np.float32)
    sharp = [np.abs(np.diff(x[..., 0] - x[..., 2], axis=2)).mean((1, 2))]
    for _ in range(3):
        sharp += [np.abs(np.diff(grey, axis=axis)).mean((1, 2)) for axis in (1, 2)]
        even = grey[:, : grey.shape[1] // 2 * 2, : grey.shape[2] // 2 * 2]
        grey = (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4
    clipped = np.stack([(frames <= 2).mean((1, 2, 3)), (frames >= 253).mean((1, 2, 3))], axis=1)
    parts = [mean, std, links, np.log(np.stack(sharp, axis=1) + 1e-4), np.sqrt(clipped)]
    return np.concatenate(parts, axis=1).astype(np.float64)
