"""The stones of the rover's world: one bank of low-poly meshes for all layouts. Metres."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROCKS = 28  # size of the bank


@dataclass(frozen=True)
class Rock:
    """One stone of the bank: a low-poly mesh. `vertices` [V,3] m with z = 0 where the ground cuts it, `faces` [F,3]."""

    vertices: Floats
    faces: NDArray[np.int64]
    radius: float  # of the smallest upright cylinder about its origin, m


_bank: list[Rock] = []


def rock_bank() -> list[Rock]:
    """The ROCKS stones of every layout: always the same ones, in order of size."""
    if not _bank:
        rng = np.random.default_rng(20180710)
        ball, faces = _icosphere()
        for size in np.linspace(0.16, 0.5, ROCKS):
            # Chipped off by random planes, then roughened: a broken stone rather than an egg.
            cuts = rng.normal(size=(9, 3))
            cuts /= np.linalg.norm(cuts, axis=1, keepdims=True)
            facing = (ball[:, None] * cuts).sum(axis=-1)  # [V,9]
            reach = np.min(np.where(facing > 0.2, rng.uniform(0.62, 0.95, 9) / np.maximum(facing, 0.2), 1.0), axis=1)
            points = ball * (np.minimum(reach, 1.0) * rng.uniform(0.95, 1.05, len(ball)))[:, None]
            points *= rng.uniform((0.85, 0.85, 0.7), (1.2, 1.2, 1.2)) * size
            points[:, 2] += 0.2 * size
            points[:, 2] = np.maximum(points[:, 2], -0.3 * size)
            _bank.append(Rock(points, faces, float(np.linalg.norm(points[:, :2], axis=1).max())))
    return _bank


def _icosphere() -> tuple[Floats, NDArray[np.int64]]:
    """Unit vectors [42,3] and faces [80,3], outward: an icosahedron whose edges are halved once."""
    p = (1 + 5**0.5) / 2
    corners = np.array([(0, a, b * p) for a in (-1, 1) for b in (-1, 1)], dtype=float)
    points = list(np.concatenate([np.roll(corners, k, axis=1) for k in range(3)]))
    edge = [[j for j in range(12) if np.isclose(np.linalg.norm(points[i] - points[j]), 2.0)] for i in range(12)]
    middle: dict[tuple[int, int], int] = {}
    for i in range(12):
        for j in edge[i]:
            if i < j:
                middle[i, j] = middle[j, i] = len(points)
                points.append((points[i] + points[j]) / 2)
    faces = []
    for a, b, c in [(i, j, k) for i in range(12) for j in edge[i] for k in edge[i] if i < j < k and k in edge[j]]:
        if np.linalg.det([points[a], points[b], points[c]]) < 0:
            b, c = c, b
        ab, bc, ca = middle[a, b], middle[b, c], middle[c, a]
        faces += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return np.array(points) / np.linalg.norm(points, axis=1, keepdims=True), np.array(faces)
