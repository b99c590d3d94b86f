"""Meshes whose views can be worked out by hand."""

import numpy as np

from vidssl.datasets.meshes import Mesh

FACES = [[0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7], [0, 1, 5], [0, 5, 4]]
FACES += [[1, 2, 6], [1, 6, 5], [2, 3, 7], [2, 7, 6], [3, 0, 4], [3, 4, 7]]


def box(size: tuple[float, float, float], middle: tuple[float, float, float] = (0, 0, 0), name: str = "box") -> Mesh:
    """A box with its sides along the axes."""
    corners = [[-1, -1, -1], [1, -1, -1], [1, 1, -1], [-1, 1, -1], [-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]
    vertices = np.array(corners) * np.array(size) / 2 + np.array(middle)
    return Mesh(name, vertices.astype(np.float32), np.array(FACES, np.int32))


def ball(radius: float = 0.1, rings: int = 60) -> Mesh:
    """A sphere of `rings` rings of latitude."""
    down, around = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.arange(2 * rings) * np.pi / rings, indexing="ij")
    points = np.stack([np.sin(down) * np.cos(around), np.sin(down) * np.sin(around), np.cos(down)], -1)
    row, column = np.meshgrid(np.arange(rings), np.arange(2 * rings), indexing="ij")
    a, c = (row * 2 * rings + column).ravel(), (row * 2 * rings + (column + 1) % (2 * rings)).ravel()
    triangles = np.concatenate([np.stack([a, a + 2 * rings, c], 1), np.stack([c, a + 2 * rings, c + 2 * rings], 1)])
    return Mesh("ball", (radius * points.reshape(-1, 3)).astype(np.float32), triangles.astype(np.int32))


def plate(side: float = 0.1) -> Mesh:
    """A square without thickness, across the z axis."""
    corners = side / 2 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    return Mesh("plate", corners.astype(np.float32), np.array([[0, 1, 2], [0, 2, 3]], np.int32))
