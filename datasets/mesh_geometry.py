"""Facts of triangle meshes: exact surface moments, closedness, and a fingerprint that finds copies.

V vertices, F triangles. Vertices [V,3] in any unit, triangles [F,3] indices into them.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Indices = NDArray[np.integer[Any]]

# Six points a triangle that integrate polynomials up to degree 4 exactly (Dunavant 1985, table for p = 4).
_W = np.repeat([0.223381589678011, 0.109951743655322], 3)
_A, _B = 0.445948490915965, 0.091576213509771
_POINTS = np.array(
    [
        *([_A, _A, 1 - 2 * _A], [_A, 1 - 2 * _A, _A], [1 - 2 * _A, _A, _A]),
        *([_B, _B, 1 - 2 * _B], [_B, 1 - 2 * _B, _B], [1 - 2 * _B, _B, _B]),
    ]
)
FINE = 0.01  # copies differ by less than this in each number of the fingerprint
COARSE = 0.05  # cell of `geometry_key`


@dataclass(frozen=True, eq=False)
class SurfaceMoments:
    """Of the surface as a thin shell: area, centroid [3], principal standard deviations [3] (largest first), their
    axes [3,3] (columns, right-handed), and two shape numbers of degree 3 and 4 that no rotation changes."""

    area: float
    centroid: Floats
    deviations: Floats
    axes: Floats
    skewness: float
    kurtosis: float


def surface_moments(vertices: Array, triangles: Indices) -> SurfaceMoments:
    """Moments of the surface, the same however it is cut into triangles.

    Args:
        vertices, triangles: [V,3] and [F,3], of non-zero area.
    """
    corners = np.asarray(vertices, np.float64)[triangles]
    areas = triangle_areas(vertices, triangles)
    points = np.einsum("qc,fcd->fqd", _POINTS, corners).reshape(-1, 3)
    weights = (areas[:, None] * _W).ravel() / areas.sum()
    centroid = weights @ points
    points = points - centroid
    covariance = (points * weights[:, None]).T @ points
    values, axes = np.linalg.eigh(covariance)
    axes = axes[:, ::-1] * np.sign(np.linalg.det(axes[:, ::-1]))
    squared = (points**2).sum(1)
    spread = np.sqrt(np.trace(covariance))
    return SurfaceMoments(
        area=float(areas.sum()),
        centroid=centroid,
        deviations=np.sqrt(np.maximum(values[::-1], 0.0)),
        axes=axes,
        skewness=float(np.linalg.norm((weights * squared) @ points) / spread**3),
        kurtosis=float((weights * squared) @ squared / spread**4),
    )


def triangle_areas(vertices: Array, triangles: Indices) -> Floats:
    """[F] float64, in the unit of the vertices squared."""
    a, b, c = np.moveaxis(np.asarray(vertices, np.float64)[triangles], 1, 0)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def is_closed(vertices: Array, triangles: Indices) -> bool:
    """Whether the surface has no rim: each edge is run through as often one way as the other.

    Vertices at the same place count as one (an STL file repeats them for each triangle). Several closed parts that
    overlap are closed; what they do inside each other does not matter here.
    """
    vertices = np.asarray(vertices, np.float64)
    low, high = vertices.min(0), vertices.max(0)
    grid = np.rint((vertices - low) / max(float((high - low).max()), 1e-300) * (2**20 - 1)).astype(np.int64)
    _, point = np.unique((grid[:, 0] << 40) + (grid[:, 1] << 20) + grid[:, 2], return_inverse=True)
    corners = point.reshape(-1)[triangles].astype(np.int64)
    start, end = corners.reshape(-1), np.roll(corners, -1, axis=1).reshape(-1)
    count = len(vertices)
    edges = np.where(start < end, start * count + end, end * count + start)
    way = np.where(start < end, 1, np.where(start > end, -1, 0))
    _, edge = np.unique(edges, return_inverse=True)
    return not np.bincount(edge.reshape(-1), weights=way).any()


def fingerprint(vertices: Array, triangles: Indices) -> Floats:
    """Five numbers [5] that neither moving, turning, mirroring, scaling nor another triangulation changes."""
    moments = surface_moments(vertices, triangles)
    spread = np.linalg.norm(moments.deviations)
    ratios = np.log(np.maximum(moments.deviations[1:] / moments.deviations[0], 1e-3))
    return np.array([*ratios, np.log(moments.area / spread**2), moments.skewness, np.log(moments.kurtosis)])


def geometry_key(prints: Floats) -> str:
    """A short hash of a fingerprint [5] rounded to cells of 5%: copies under other names have the same."""
    return hashlib.sha256(np.rint(prints / COARSE).astype("<i8").tobytes()).hexdigest()[:16]
