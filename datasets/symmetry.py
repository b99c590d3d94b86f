"""The rotations that turn an object into itself, found by trying them on its surface.

n rotations of the group, p points of the surface, a axes. Lengths in metres, angles in radians.

The convex hull knows the centre and the axes to try, however the surface is cut into parts and triangles: a rotation of
the object leaves its hull's tensor of inertia alone, so that (deviations along the principal axes)

    three different        only half turns about the principal axes
    two alike (nearly)     n-fold turns about the third axis e, half turns about axes perpendicular to e
    three alike            n-fold turns about normals and corners of the hull (cube, tetrahedron, ball)

A rotation is in the group if it takes every point of the surface that can be seen to within a tolerance of the surface.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError
from vidssl.open3d_library import load_open3d

from .mesh_geometry import surface_moments, triangle_areas
from .meshes import Mesh
from .solid_parts import about, facing, hull

Floats = NDArray[np.float64]

MAX_FOLD = 16
POINTS = 800
SCREEN = 64  # points of the first, quick test
SAME = np.radians(3.0)  # rotations nearer to each other than this are one
LARGEST = 60  # finite group: the icosahedron's
STEP = np.radians(0.5)  # between axes of half turns that are tried


@dataclass(frozen=True, eq=False)
class Symmetry:
    """The rotations [3,3] of the object's own frame under which its surface coincides with itself, about one point c.

    c is the centroid of the surface of the convex hull: a rotation S takes a point x to c + S (x - c). The origin of a
    normalised mesh is the middle of its bounding box, and where that is another point than c, the surface turned about
    the origin coincides with itself only up to the shift c - S c.

    Attributes:
        rotations: float32 [n,3,3], about c, the identity first. With a continuous axis: the identity, and a half turn
            about a perpendicular axis if the ends are alike; every turn about `axis` comes on top.
        axis: float32 [3], direction of the axis of revolution, which runs through c; None if there is none, or any will
            do.
        continuous: "none", "axis" (a revolution), or "all" (a ball).
    """

    rotations: NDArray[np.float32]
    axis: NDArray[np.float32] | None = None
    continuous: Literal["none", "axis", "all"] = "none"

    @property
    def symmetric(self) -> bool:
        """Whether there is any rotation but the identity."""
        return self.continuous != "none" or len(self.rotations) > 1

    def __str__(self) -> str:
        if self.continuous == "all":
            return "ball: every rotation"
        if self.axis is not None:
            x, y, z = self.axis
            ends = ", either end up" if len(self.rotations) > 1 else ""
            return f"revolution about ({x:.2f}, {y:.2f}, {z:.2f}){ends}"
        return f"{len(self.rotations)} rotations" if self.symmetric else "none"

    def sampled(self, steps: int = 72) -> NDArray[np.float32]:
        """The group as finitely many rotations [n,3,3]: a continuous axis by `steps` turns.

        Raises:
            VidsslError: every rotation belongs to the group (`continuous` is "all").
        """
        if self.continuous == "all":
            raise VidsslError("a ball coincides with itself under every rotation; leave it out, or treat it apart")
        if self.axis is None:
            return self.rotations
        turns = np.stack([_turn(self.axis, angle) for angle in np.arange(steps) * 2 * np.pi / steps])
        return np.einsum("sij,njk->nsik", turns, self.rotations).reshape(-1, 3, 3).astype(np.float32)


def symmetries(mesh: Mesh, tolerance: float = 0.02) -> Symmetry:
    """The group of rotations, about the centroid of its hull's surface, under which a surface coincides with itself.

    Args:
        mesh: any; what cannot be seen from outside (parts inside others) does not count.
        tolerance: how far a point may come to lie from the surface, as a share of the object's radius.

    Raises:
        VidsslError: `tolerance` is below 0.01 (half turns are looked for in steps of 0.5 degrees) or above 0.2.
    """
    if not 0.01 <= tolerance <= 0.2:
        raise VidsslError(f"tolerance: expected a share of the radius from 0.01 to 0.2, got {tolerance}")
    body = hull(mesh.vertices)
    moments = surface_moments(body.vertices, body.triangles)
    centre = moments.centroid
    radius = np.linalg.norm(body.vertices - centre, axis=1).max()
    fits = _surface_test(mesh, body.vertices, centre, tolerance * radius)
    first, second = -np.diff(moments.deviations) <= tolerance * radius  # a deviation moves by no more than the surface
    if first and second:
        return _of_equal_axes(fits, body.vertices - centre, body.triangles, moments.axes.T)
    if first or second:
        return _of_one_axis(fits, moments.axes[:, 2 if first else 0])
    turns = np.stack([_turn(axis, np.pi) for axis in moments.axes.T])
    return _group(turns[fits(turns)], fits)


Fits = Callable[[Floats], NDArray[np.bool_]]


def _surface_test(mesh: Mesh, corners: Floats, centre: Floats, tolerance: float) -> Fits:
    """A function from rotations [n,3,3] to bool [n]: does each take the surface to itself?"""
    o3d = load_open3d()
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(mesh.vertices, mesh.triangles.astype(np.uint32))
    seen = np.concatenate([corners, _visible(scene, *_surface_points(mesh))]) - centre
    spread = seen[np.argsort(-np.linalg.norm(seen, axis=1), kind="stable")]
    few = np.concatenate([spread[: SCREEN // 2], seen[:: max(1, 2 * len(seen) // SCREEN)]])

    def farthest(rotations: Floats, points: Floats) -> Floats:
        moved = np.einsum("nij,pj->npi", rotations, points) + centre
        distance = scene.compute_distance(o3d.core.Tensor(moved.astype(np.float32)), nthreads=1).numpy()
        return distance.max(axis=1)

    def fits(rotations: Floats) -> NDArray[np.bool_]:
        good = farthest(rotations, few) <= tolerance
        if good.any():
            good[good] = farthest(rotations[good], seen) <= tolerance
        return good

    return fits


def _surface_points(mesh: Mesh) -> tuple[Floats, Floats]:
    """POINTS points [p,3] spread evenly over the surface, and their normals [p,3]; always the same."""
    corners = mesh.vertices.astype(np.float64)[mesh.triangles]
    reached = np.cumsum(triangle_areas(mesh.vertices, mesh.triangles))
    chosen = np.searchsorted(reached, (np.arange(POINTS) + 0.5) / POINTS * reached[-1])
    index = np.arange(POINTS)[:, None]
    u, v = ((index * [0.7548776662, 0.5698402910]) % 1).T  # the R2 sequence
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    a, b, c = np.moveaxis(corners[np.minimum(chosen, len(corners) - 1)], 1, 0)
    normals = np.cross(b - a, c - a)
    return a + u[:, None] * (b - a) + v[:, None] * (c - a), normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _visible(scene: Any, points: Floats, normals: Floats) -> Floats:
    """The points [q,3] from which a ray in one of the 14 directions of a cube's faces and corners gets away."""
    corners = np.array(np.meshgrid(*[(-1.0, 1.0)] * 3)).reshape(3, 8).T / np.sqrt(3)
    directions = np.concatenate([np.eye(3), -np.eye(3), corners])
    side = np.sign(normals @ directions.T)[:, :, None] * normals[:, None]  # a surface seen from either side counts
    starts = points[:, None] + 1e-3 * np.ptp(points, axis=0).max() * side
    rays = np.concatenate([starts, np.broadcast_to(directions, starts.shape)], axis=2)
    hits = scene.test_occlusions(rays.astype(np.float32), nthreads=1).numpy()
    return points[~hits.all(axis=1)]


def _turn(axis: Sequence[float] | NDArray[np.floating[Any]], angle: float) -> Floats:
    frame = facing(axis)
    return frame @ about(2, angle) @ frame.T


def _of_one_axis(fits: Fits, axis: Floats) -> Symmetry:
    """With `axis` [3] as the only possible one of more than two-fold turns."""
    odd = np.stack([_turn(axis, angle) for angle in (0.1, 0.37, 1.0, 1.618, 2.3, 2.9)])
    revolved = bool(fits(odd).all())
    if revolved:
        flip = _perpendicular_flip(fits, axis, np.zeros(1))
        found = np.stack([np.eye(3), *flip]).astype(np.float32)
        return Symmetry(found, axis.astype(np.float32), "axis")
    folds = np.arange(MAX_FOLD, 0, -1)
    turns = np.stack([_turn(axis, 2 * np.pi / fold) for fold in folds])
    largest = int(np.argmax(fits(turns)))  # one-fold always fits
    flip = _perpendicular_flip(fits, axis, np.arange(0, np.pi / folds[largest], STEP))
    return _group(np.concatenate([turns[[largest]], flip]), fits)


def _perpendicular_flip(fits: Fits, axis: Floats, angles: Floats) -> Floats:
    """A half turn about an axis perpendicular to `axis`, as [1,3,3]; [0,3,3] if there is none.

    Args:
        angles: where to look for it [a], one period of the n-fold `axis`: half turns come at every pi/n.
    """
    frame = facing(axis)
    across = np.cos(angles)[:, None] * frame[:, 0] + np.sin(angles)[:, None] * frame[:, 1]
    flips = 2 * across[:, :, None] * across[:, None, :] - np.eye(3)
    fitting = fits(flips)
    start = int(np.argmin(fitting))  # the angles go round: begin at one that does not fit
    flips, good = np.roll(flips, -start, axis=0), np.flatnonzero(np.roll(fitting, -start))
    if not len(good):
        return flips[:0]
    run = np.split(good, np.flatnonzero(np.diff(good) > 1) + 1)[0]  # neighbours of the best are within the tolerance
    return flips[[run[len(run) // 2]]]


def _of_equal_axes(fits: Fits, corners: Floats, triangles: NDArray[np.int64], principal: Floats) -> Symmetry:
    """Cubes and the like, balls, and whatever happens to have equal moments: corners [v,3] about the centre."""
    rng = np.random.default_rng(0)
    if fits(np.stack([_turn(rng.normal(size=3), angle) for angle in rng.uniform(0.3, 3, 12)])).all():
        return Symmetry(np.eye(3, dtype=np.float32)[None], None, "all")
    axes = np.concatenate([_likely_axes(corners, triangles), principal])
    turns = np.stack([_turn(axis, 2 * np.pi / fold) for axis in axes for fold in (5, 4, 3, 2)]).reshape(-1, 4, 3, 3)
    good = fits(turns.reshape(-1, 3, 3)).reshape(-1, 4)
    for axis in axes[good.all(axis=1)]:
        return _of_one_axis(fits, axis)
    return _group(turns[good], fits)


def _likely_axes(corners: Floats, triangles: NDArray[np.int64], most: int = 20) -> Floats:
    """Normals of the hull's faces (the largest first) and directions of its corners (the farthest first) [a,3]."""
    a, b, c = np.moveaxis(corners[triangles], 1, 0)
    found = []
    for directions in (np.cross(b - a, c - a), corners):
        length = np.linalg.norm(directions, axis=1)
        left = np.argsort(-length, kind="stable")
        for _ in range(most):
            if len(left):
                found.append(directions[left[0]] / length[left[0]])
                left = left[np.abs(directions[left] @ found[-1]) < np.cos(SAME) * length[left]]
    return np.array(found)


def _group(generators: Floats, fits: Fits) -> Symmetry:
    """The group that rotations [g,3,3] make; one that would make something that does not fit is left out."""
    group, accepted = np.eye(3)[None], generators[:0]
    for rotation in generators:
        if not _contains(group, rotation):
            larger = _products(np.concatenate([accepted, rotation[None]]))
            if len(larger) <= LARGEST and fits(larger).all():
                group, accepted = larger, np.concatenate([accepted, rotation[None]])
    return Symmetry(group.astype(np.float32))


def _products(generators: Floats) -> Floats:
    """The identity and all products of rotations [g,3,3], as [n,3,3]; stops once there are more than LARGEST."""
    found, done = [np.eye(3)], 0
    while done < len(found) <= LARGEST:
        for rotation in generators @ found[done]:
            if not _contains(np.array(found), rotation):
                found.append(rotation)
        done += 1
    return np.array(found)


def _contains(rotations: Floats, rotation: Floats) -> bool:
    """Whether one of rotations [n,3,3] is within SAME of the given [3,3]."""
    return bool((np.einsum("nij,ij->n", rotations, rotation) > 1 + 2 * np.cos(SAME)).any())
