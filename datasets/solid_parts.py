r"""Closed parts that solids are put together from.

V vertices, F triangles, k rings, n points a ring. Lengths in any unit; z is a part's long axis.

    loft        rings of n points joined by strips, closed by caps (or into a torus)
                     ___       each ring may have its own outline: round below, square above
                    /___\      a profile that turns back down inside is a cut: cup, pipe, pocket
    extrude     any simple polygon (L, T, U, gear), cut into ears for its caps
    hull        of points: bevelled and chopped boxes
    tube        an outline along a path: handles, hooks, arms

Unions need no boolean operation: parts that overlap show their outer surface to a ray, and to a depth camera. Cuts are
made by the parts' own shape, which is exact and always closed. (Open3D's `boolean_difference` was tried on 60 boxes
cut by boxes and cylinders: 10 results were closed, at 110 ms each.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
SIDES = 24  # points of a round outline; a multiple of 3, 4, 6, 8 and 12, so that such polygons keep their corners


@dataclass(frozen=True, eq=False)
class Part:
    """A closed surface: vertices float64 [V,3], triangles int64 [F,3], normals outward by the right hand."""

    vertices: Floats
    triangles: NDArray[np.int64]

    def moved(self, x: float, y: float, z: float) -> "Part":
        return Part(np.add(self.vertices, [x, y, z]), self.triangles)

    def turned(self, rotation: Floats) -> "Part":
        """By a rotation [3,3], about the origin."""
        return Part(self.vertices @ rotation.T, self.triangles)

    def scaled(self, x: float, y: float, z: float) -> "Part":
        """By positive factors along the axes."""
        return Part(self.vertices * [x, y, z], self.triangles)


def join(parts: Sequence[Part]) -> Part:
    """All parts in one; they may overlap."""
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    return Part(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.triangles + start for part, start in zip(parts, starts, strict=False)]),
    )


def facing(direction: ArrayLike) -> Floats:
    """A rotation [3,3] that takes the z axis to `direction` [3] (of any length but 0)."""
    z = np.asarray(direction, np.float64)
    z = z / np.linalg.norm(z)
    x = np.cross([0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def about(axis: int, angle: float) -> Floats:
    """Rotation [3,3] by `angle` radians about x (0), y (1) or z (2)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.eye(3)
    rotation[[i, j], [i, j]] = np.cos(angle)
    rotation[j, i], rotation[i, j] = np.sin(angle), -np.sin(angle)
    return rotation


# Outlines: closed polygons [n,2] about the origin, counter-clockwise


def circle(count: int = SIDES) -> Floats:
    """Of radius 1."""
    angles = np.arange(count) * 2 * np.pi / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def regular(corners: int, count: int = SIDES) -> Floats:
    """A regular polygon around the unit circle, as `count` points (a multiple of twice `corners` keeps it exact)."""
    angles = np.arange(count) * 2 * np.pi / count
    step = 2 * np.pi / corners
    return circle(count) / np.cos((angles + step / 2) % step - step / 2)[:, None]


def squircle(power: float, count: int = SIDES) -> Floats:
    """|x|^p + |y|^p = 1: a circle at p = 2, towards the square as p grows (Lamé's superellipse)."""
    points = circle(count)
    return points / ((np.abs(points) ** power).sum(1) ** (1 / power))[:, None]


def wavy(teeth: int, depth: float) -> Floats:
    """A circle with `teeth` teeth, `depth` of the radius deep, six points each: gears, knobs, splined shafts."""
    return circle(6 * teeth) * np.where(np.arange(6 * teeth) % 6 < 3, 1.0, 1.0 - depth)[:, None]


# Parts


def loft(rings: Floats, torus: bool = False) -> Part:
    """Strips between successive rings, with a fan over the first and the last.

    Args:
        rings: [k,n,3]; the first and last must be star-shaped as seen from their mean (any convex outline is).
        torus: join the last ring to the first instead of closing both.
    """
    k, n, _ = rings.shape
    index = np.arange(k * n).reshape(k, n)
    below, above = (index, np.roll(index, -1, axis=0)) if torus else (index[:-1], index[1:])
    a, b, c, d = below, np.roll(below, -1, axis=1), np.roll(above, -1, axis=1), above
    faces = [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    points = rings.reshape(-1, 3)
    if not torus:
        points = np.concatenate([points, rings[[0, -1]].mean(1)])
        first, last = index[0], index[-1]
        faces.append(np.stack([np.roll(first, -1), first, np.full(n, k * n)], -1))
        faces.append(np.stack([last, np.roll(last, -1), np.full(n, k * n + 1)], -1))
    return _outward(points, np.concatenate(faces))


def turned_part(profile: Sequence[tuple[float, float]], outline: Floats | Sequence[Floats] | None = None) -> Part:
    """Rings at the heights and radii of a profile: a revolution if the outline is a circle (the default).

    Args:
        profile: (radius, height) from one end to the other. Radius 0 makes a tip.
        outline: [n,2] for all rings, or one [n,2] for each.
    """
    outlines = [circle() if outline is None else outline] if not isinstance(outline, list) else outline
    each = outlines * len(profile) if len(outlines) == 1 else outlines
    rings = [
        np.column_stack([max(radius, 1e-6) * ring, np.full(len(ring), height)])
        for (radius, height), ring in zip(profile, each, strict=True)
    ]
    return loft(np.stack(rings))


def box(x: float, y: float, z: float) -> Part:
    """Edge lengths x, y, z, about the origin."""
    square = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]) * [x / 2, y / 2]
    return extrude(square, z).moved(0, 0, -z / 2)


def cylinder(radius: float, height: float, top: float | None = None) -> Part:
    """From z = 0 to `height`; with another radius at the `top` a cone, whole (0) or cut off."""
    return turned_part([(radius, 0), (radius if top is None else top, height)])


def dome(radius: float, height: float, outline: Floats | None = None, rings: int = 7) -> Part:
    """The upper half of an ellipsoid, from z = 0 to `height`."""
    angles = np.linspace(0, np.pi / 2, rings)
    return turned_part([(radius * np.cos(a), height * np.sin(a)) for a in angles], outline)


def capsule(radius: float, length: float, bottom: float | None = None) -> Part:
    """Round at both ends, `length` between the centres of the ends (0: a sphere), from z = 0 up; may taper."""
    low = radius if bottom is None else bottom
    angles = np.linspace(0, np.pi / 2, 7)
    lower = [(low * np.sin(a), -low * np.cos(a)) for a in angles]
    upper = [(radius * np.cos(a), length + radius * np.sin(a)) for a in angles]
    return turned_part(lower + upper)


def rounded(outline: Floats, height: float, edge: float) -> Part:
    """An outline pulled up along z from 0 to `height`, its rims rounded by `edge` (a length)."""
    angles = np.linspace(0, np.pi / 2, 4)
    size = np.abs(outline).max()
    low = [(1 - edge / size * (1 - np.sin(a)), edge * (1 - np.cos(a))) for a in angles]
    return turned_part(low + [(radius, height - z) for radius, z in reversed(low)], outline)


def ring(outer: Floats, inner: Floats, height: float) -> Part:
    """A plate from z = 0 to `height` with a hole: outlines [n,2] of the same n, `inner` inside `outer`."""
    low, high = np.zeros((len(outer), 1)), np.full((len(outer), 1), height)
    return loft(
        np.stack([np.hstack(pair) for pair in [(outer, low), (outer, high), (inner, high), (inner, low)]]), torus=True
    )


def tube(path: ArrayLike, radius: float | Floats, outline: Floats | None = None, torus: bool = False) -> Part:
    """An outline carried along a path without twist.

    Args:
        path: [k,3] points.
        radius: scale of the outline, one number or [k].
        outline: [n,2]; by default a circle of 12 points.
        torus: the path is closed (its end is not repeated, and it lies in a plane).
    """
    path = np.asarray(path, np.float64)
    outline = circle(12) if outline is None else outline
    ahead = (np.roll(path, -1, 0) - np.roll(path, 1, 0)) if torus else np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    frame = facing(ahead[0])[:, :2]
    rings = []
    for point, direction, scale in zip(path, ahead, np.broadcast_to(radius, len(path)), strict=True):
        x = frame[:, 0] - direction * (direction @ frame[:, 0])
        x /= np.linalg.norm(x)
        frame = np.stack([x, np.cross(direction, x)], axis=1)
        rings.append(point + scale * outline @ frame.T)
    return loft(np.stack(rings), torus)


def extrude(polygon: ArrayLike, height: float, top: float = 1.0) -> Part:
    """A simple polygon [n,2] (either way round) from z = 0 to `height`, scaled by `top` there about the origin."""
    polygon = np.asarray(polygon, np.float64)
    n = len(polygon)
    cap = np.array(ears(polygon))
    points = np.concatenate(
        [np.column_stack([polygon, np.zeros(n)]), np.column_stack([polygon * top, np.full(n, height)])]
    )
    i, j = np.arange(n), (np.arange(n) + 1) % n
    if _area(polygon) < 0:
        i, j = j, i
    sides = np.concatenate([np.stack([i, j, j + n], -1), np.stack([i, j + n, i + n], -1)])
    return _outward(points, np.concatenate([sides, cap[:, ::-1], cap + n]))


def hull(points: ArrayLike) -> Part:
    """The convex hull of points [p,3]."""
    from scipy.spatial import ConvexHull  # type: ignore[import-untyped]

    points = np.asarray(points, np.float64)
    found = ConvexHull(points)
    used, triangles = np.unique(found.simplices, return_inverse=True)
    corners, triangles = points[used], triangles.reshape(-1, 3).astype(np.int64)
    a, b, c = np.moveaxis(corners[triangles], 1, 0)
    inward = (np.cross(b - a, c - a) * (a - corners.mean(0))).sum(1) < 0
    return Part(corners, np.where(inward[:, None], triangles[:, ::-1], triangles))


def _outward(points: Floats, triangles: NDArray[np.int64]) -> Part:
    """With all triangles turned over if the volume they hold is negative."""
    a, b, c = np.moveaxis((points - points.mean(0))[triangles], 1, 0)
    volume = (np.cross(a, b) * c).sum()
    return Part(points, triangles if volume > 0 else triangles[:, ::-1])


def _area(polygon: Floats) -> float:
    x, y = polygon.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def ears(polygon: Floats) -> list[tuple[int, int, int]]:
    """Triangles of a simple polygon [n,2], counter-clockwise, by cutting ears (Meisters 1975); empty if it has none."""
    points = [(float(x), float(y)) for x, y in polygon]
    left = list(range(len(points)))
    if _area(polygon) < 0:
        left.reverse()
    found = []
    while len(left) > 3:
        ear = next((at for at in range(len(left)) if _is_ear(points, left, at)), None)
        if ear is None:
            return []
        found.append((left[ear - 1], left[ear], left[(ear + 1) % len(left)]))
        left.pop(ear)
    return [*found, (left[0], left[1], left[2])]


def _is_ear(points: list[tuple[float, float]], left: list[int], at: int) -> bool:
    corner = (left[at - 1], left[at], left[(at + 1) % len(left)])
    a, b, c = (points[index] for index in corner)
    if _cross(a, b, c) <= 0:
        return False
    inside = (points[index] for index in left if index not in corner)
    return not any(_cross(a, b, p) >= 0 and _cross(b, c, p) >= 0 and _cross(c, a, p) >= 0 for p in inside)


def _cross(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
