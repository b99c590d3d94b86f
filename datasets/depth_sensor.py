"""What a real depth camera makes of a clean depth image.

n views, S side in pixels, m pixels of a view that see the object.

    clean depth -> flying pixels at edges -> noise -> disparity steps -> dropout -> stripe
                   (a pixel that sees two                                (lost pixels: depth 0)
                    surfaces mixes them)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

JUMP = 0.01  # metres: neighbours further apart than this lie on two surfaces
BEHIND = 0.05  # metres: how far behind an edge to the open its flying pixels reach


@dataclass(frozen=True)
class DepthSensor:
    """A noise model. The defaults are those of the benchmark's hard pairs, `HARD`; `CLEAN` changes nothing.

    >>> noisy = HARD(depth, np.random.default_rng(0))
    """

    noise: float = 0.001
    """standard deviation of Gaussian noise, metres"""
    dropout: float = 0.15
    """share of the pixels lost, each by itself, 0 to 1"""
    stripe: float = 0.3
    """a straight stripe hides up to this share of the object's pixels, 0 to 1: share and direction are uniform"""
    quantisation: float = 0.0
    """step of the inverse depth, 1/m: a stereo camera with f pixels of focal length, base b metres and 1/8 pixel steps
    of disparity has 1 / (8 f b); depths come as 1 / (k * step), whole k, so steps grow with the depth's square"""
    flying: float = 0.0
    """share, 0 to 1, of the pixels at depth edges that see two surfaces and report a depth between them"""
    growth: float = 0.0
    """standard deviation of the noise that grows with the square of the depth, per metre: noise + growth * z^2"""

    def __post_init__(self) -> None:
        for name in ("dropout", "stripe", "flying"):
            if not 0 <= getattr(self, name) <= 1:
                raise VidsslError(f"sensor: {name} is a share, 0 to 1; got {getattr(self, name)}")
        for name in ("noise", "quantisation", "growth"):
            if not 0 <= getattr(self, name) < np.inf:
                raise VidsslError(f"sensor: {name} must be 0 or more and finite; got {getattr(self, name)}")

    def __call__(self, depth: Floats, rng: np.random.Generator, striped: Mask | None = None) -> Floats:
        """A noisy copy of views.

        Args:
            depth: float32 [n,S,S] metres, 0 = no return; also [n,H,W].
            rng: all that is random; the same state gives the same views.
            striped: bool [n], which views have the stripe; all when not given.

        Returns:
            float32 of the same shape; no pixel without a return gets one.

        Raises:
            VidsslError: other shapes.
        """
        if depth.ndim != 3 or (striped is not None and striped.shape != depth.shape[:1]):
            raise VidsslError(
                f"sensor: expected depth [n,S,S] and striped [n], got {depth.shape}"
                + ("" if striped is None else f" and {striped.shape}")
            )
        depth = depth.astype(np.float32)  # a copy
        seen = depth > 0
        if self.flying:
            depth = fly(depth, self.flying, rng)
        pixels = np.flatnonzero(seen)
        z = depth.reshape(-1)[pixels]  # what follows works on these alone
        if self.noise or self.growth:
            z += (self.noise + self.growth * z**2) * rng.standard_normal(z.shape, np.float32)
        if self.quantisation:
            z = quantise(z, self.quantisation)
        if self.dropout:
            z *= rng.random(z.shape, np.float32) >= self.dropout
        depth.reshape(-1)[pixels] = np.maximum(z, 0)
        if self.stripe:
            for view in range(len(depth)) if striped is None else np.flatnonzero(striped):
                depth[view][hidden(seen[view], self.stripe, rng)] = 0
        return depth


CLEAN = DepthSensor(noise=0.0, dropout=0.0, stripe=0.0)
HARD = DepthSensor()
SENSORS = {"clean": CLEAN, "hard": HARD}


def quantise(z: Floats, step: float) -> Floats:
    """Depths [m] whose inverse is a whole multiple of `step` (1/m); those beyond 2 / step, of disparity 0, are 0."""
    whole = np.round(1 / (z * np.float32(step)))
    return np.divide(1, whole * np.float32(step), out=np.zeros_like(z), where=whole > 0)


def hidden(seen: Mask, most: float, rng: np.random.Generator) -> Mask:
    """A stripe over a view.

    Args:
        seen: bool [S,S], the object's pixels.
        most: the stripe hides a share of them that is uniform in 0 … `most`.
        rng: draws the share, the direction of the stripe and its place.

    Returns:
        bool [S,S]: the object's pixels between two parallel lines.
    """
    share, place, angle = rng.uniform(0, most), rng.uniform(), rng.uniform(0, np.pi)
    y, x = np.nonzero(seen)
    across = x * np.cos(angle) + y * np.sin(angle)
    count = round(share * len(across))
    first = int(place * (len(across) - count + 1))
    mask = np.zeros_like(seen)
    order = np.argsort(across, kind="stable")[first : first + count]
    mask[y[order], x[order]] = True
    return mask


def fly(depth: Floats, share: float, rng: np.random.Generator) -> Floats:
    """Views [n,S,S] in which `share` of the edge pixels have a depth between their own and that of what lies behind.

    An edge pixel has, among its four neighbours, one that is more than 1 cm deeper, or one without a return, which
    counts as 5 cm deeper; the deepest such neighbour is what lies behind. The mixture is uniform.
    """
    seen = depth > 0
    reach = np.pad(depth, ((0, 0), (1, 1), (1, 1)), mode="edge")
    behind = depth.copy()
    for neighbour in (reach[:, :-2, 1:-1], reach[:, 2:, 1:-1], reach[:, 1:-1, :-2], reach[:, 1:-1, 2:]):
        np.maximum(behind, np.where(neighbour > 0, neighbour, depth + np.float32(BEHIND)), out=behind)
    edges = np.flatnonzero(seen & (behind - depth > JUMP))
    edges = edges[rng.random(len(edges)) < share]
    flown = depth.copy()
    step = behind.reshape(-1)[edges] - depth.reshape(-1)[edges]
    flown.reshape(-1)[edges] += step * rng.random(len(edges), np.float32)
    return flown
