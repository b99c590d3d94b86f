"""Bodies of solids and what sticks out of them. Lengths are of the order of 1; z is what sticks out's long axis."""

from itertools import pairwise

import numpy as np

from . import solid_parts as parts
from .solid_parts import Floats, Part, about, facing, join

Rng = np.random.Generator
AXES = np.concatenate([np.eye(3), -np.eye(3)])  # the six directions of the axes


def block(rng: Rng, size: Floats) -> Part:
    """A box-like body of the given edge lengths [3], about the origin: sharp, rounded, bevelled, chopped or tapered."""
    kind = rng.choice(5, p=[0.45, 0.15, 0.15, 0.15, 0.10])
    x, y, z = size
    if kind == 0:
        return parts.box(x, y, z)
    if kind == 1:
        edge = rng.uniform(0.1, 0.45) * min(1.0, z)
        return parts.rounded(parts.squircle(rng.uniform(4, 10)), z, edge).moved(0, 0, -z / 2).scaled(x / 2, y / 2, 1)
    corners = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, 8).T
    if kind == 2:  # each corner becomes three points, on its edges
        shift = np.eye(3) * rng.uniform(0.05, 0.3)
        corners = (corners[:, None] - np.sign(corners)[:, None] * shift).reshape(-1, 3)
    elif kind == 3:  # one corner or edge is cut away
        lost = corners[:, :2].sum(1) if rng.random() < 0.5 else corners.sum(1)
        far = corners[lost > lost.max() - 0.1]
        cut = [point - np.sign(point) * np.eye(3)[axis] * rng.uniform(0.2, 0.6) for point in far for axis in range(3)]
        corners = np.concatenate([corners[lost <= lost.max() - 0.1], cut])
    else:
        top = corners[:, 2] > 0
        corners[top, :2] = corners[top, :2] * rng.uniform(0.3, 0.9, 2) + rng.uniform(-0.15, 0.15, 2)
    return parts.hull(corners * size)


def stick_out(rng: Rng, length: float, width: float) -> Part:
    """Something to attach: its base about the origin, reaching to z = `length`."""
    kind = rng.choice(7, p=[0.34, 0.16, 0.1, 0.1, 0.1, 0.1, 0.1])
    if kind == 0:
        return parts.box(width, width * rng.uniform(0.4, 1.6), length).moved(0, 0, length / 2)
    if kind == 1:
        return parts.cylinder(width / 2, length)
    if kind == 2:
        return parts.cylinder(width / 2, length, top=width * rng.uniform(0, 0.4))
    if kind == 3:
        return parts.capsule(width / 2, length, bottom=width * rng.uniform(0.4, 0.8))
    if kind == 4:  # a knob on a neck
        neck = parts.cylinder(width * 0.25, length)
        return join([neck, parts.dome(width * 0.6, width * 0.5).moved(0, 0, length - width * 0.4)])
    if kind == 5:  # a bent arm
        bend = width * 0.45
        reach = rng.uniform(0.5, 1.2) * length
        return tube_arm([(0, 0, 0), (0, 0, length), (reach, 0, length)], bend)
    blade = [(-width, 0), (width * rng.uniform(0.5, 1.5), 0), (width * rng.uniform(-0.5, 0.8), length)]
    thick = width * rng.uniform(0.3, 0.7)
    return parts.extrude(blade, thick).moved(0, 0, -thick / 2).turned(about(0, np.pi / 2))


def tube_arm(corners: list[tuple[float, float, float]], radius: float) -> Part:
    """A round rod along a broken line, a ball at each inner corner."""
    points = np.array(corners, np.float64)
    found = []
    for start, end in pairwise(points):
        rod = parts.cylinder(radius, float(np.linalg.norm(end - start)))
        found.append(rod.turned(facing(end - start)).moved(*start))
    found += [parts.capsule(radius, 0.0).moved(*corner) for corner in points[1:-1]]
    return join(found)


def attached(rng: Rng, body: Part, extra: Part, tilt: float = 0.0, direction: Floats | None = None) -> Part:
    """`extra` moved with its base onto a random point of the body's surface, pointing outward there.

    Args:
        tilt: up to so many radians off the surface's normal.
        direction: [3], draws only from the parts of the surface that face it.
    """
    a, b, c = np.moveaxis(body.vertices[body.triangles], 1, 0)
    normals = np.cross(b - a, c - a)
    area = np.linalg.norm(normals, axis=1)
    share = area if direction is None else area * (normals @ direction > 0.7 * area)
    share = share if share.sum() > 0 else area
    at = rng.choice(len(area), p=share / share.sum())
    u, v = 0.15 + 0.7 * rng.random(2)
    u, v = (u, v) if u + v < 1 else (1 - u, 1 - v)
    base = a[at] + u * (b[at] - a[at]) + v * (c[at] - a[at])
    normal = normals[at] / area[at]
    sunk = 0.15 * np.ptp(extra.vertices[:, 2])
    spin = about(2, rng.choice([0, np.pi / 2, np.pi, -np.pi / 2]))
    lean = about(0, rng.uniform(-tilt, tilt)) @ about(1, rng.uniform(-tilt, tilt))
    return extra.moved(0, 0, -sunk).turned(facing(normal) @ lean @ spin).moved(*base)
