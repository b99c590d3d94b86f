"""Layouts of the rover's world: ground, rocks, start, goal and daylight, all a function of one number.

Axis letters: N nodes a side of the height grid, R rocks of a layout, G cells a side of the planning grid.
World frame: x east, y north, z up, metres; the arena is the square |x|, |y| <= HALF.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SPLITS = ("train", "test")
HALF = 9.0  # half the side of the arena, m
NODES = 41  # height grid nodes a side: cells of 0.45 m
TOP = 1.5  # height that a stored elevation of 1 stands for, m
PLAN_CELL = 0.25  # side of a planning cell, m
ROCKS = 28  # size of the rock bank; a layout shows 14 to 26 of them
ROVER_RADIUS = 0.55  # the rover's footprint as a disc, m
PASSAGE = 1.5  # least gap between two rocks: the rover can drive through any, so that detours stay short, m
GOAL_DISTANCE = (4.0, 8.0)  # start to goal, m
GOAL_BEARING = np.deg2rad(40.0)  # the goal lies within this angle of the start heading, so that the camera sees it


@dataclass(frozen=True)
class Rock:
    """One stone of the bank: a low-poly mesh. `vertices` [V,3] m with z = 0 where the ground cuts it, `faces` [F,3]."""

    vertices: Floats
    faces: NDArray[np.int64]
    radius: float  # of the smallest upright cylinder about its origin, m


@dataclass(frozen=True)
class Layout:
    """One world. Even `number`s are training layouts and odd ones test layouts, so the two never share one."""

    number: int
    heights: Floats  # [N,N] m, row = y, column = x
    rock: NDArray[np.int64]  # [R] index into the bank
    rock_xy: Floats  # [R,2] m
    rock_yaw: Floats  # [R] rad
    rock_shade: Floats  # [R,3] RGB in [0,1]
    start: Floats  # x, y (m), yaw (rad)
    goal: Floats  # x, y (m)
    sun: Floats  # azimuth, elevation (rad)
    tint: Floats  # [3] RGB of the sunlight in [0,1]

    @cached_property
    def rock_radius(self) -> Floats:
        """[R] m."""
        return np.array([rock_bank()[k].radius for k in self.rock])

    def height(self, xy: Floats) -> Floats:
        """Ground height [...] in m at points [...,2], bilinear between nodes."""
        cell = np.clip((np.asarray(xy) + HALF) * (NODES - 1) / (2 * HALF), 0, NODES - 1.000001)
        low = cell.astype(int)
        (c, r), (fx, fy) = np.moveaxis(low, -1, 0), np.moveaxis(cell - low, -1, 0)
        h = self.heights
        south = h[r, c] * (1 - fx) + h[r, c + 1] * fx
        north = h[r + 1, c] * (1 - fx) + h[r + 1, c + 1] * fx
        return south * (1 - fy) + north * fy

    @cached_property
    def cost_to_go(self) -> Floats:
        """[G,G] m: path length from each planning cell to the goal, clear of rocks; inf where there is none."""
        xy = plan_centres()
        gap = np.sqrt(((xy[:, :, None] - self.rock_xy) ** 2).sum(axis=-1)) - self.rock_radius  # [G,G,R]
        clearance = gap.min(axis=-1) - ROVER_RADIUS
        # Dearer from a hand's breadth on and steeply more inside the footprint, without a cliff: a rover that slid
        # too close is led on past the rock, not thrown sideways.
        price = 1.0 + 2.0 * np.clip(1 - clearance / 0.3, 0, 1) + 60.0 * np.clip(-clearance, 0, None)
        return _wavefront(price, plan_cell(self.goal))


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


def layout_number(split: str, draw: int) -> int:
    """The number of the `draw`-th layout of a split: train 0, 2, 4, …; test 1, 3, 5, …"""
    return 2 * int(draw) + SPLITS.index(split)


def make_layout(number: int) -> Layout:
    """The layout of that number.

    A way from start to goal always exists: both are clear of rocks, and no two rocks are closer than PASSAGE, which is
    more than the rover's width, so rocks never form a wall.
    """
    rng = np.random.default_rng([0x726F766572, number])
    start, goal = _start_and_goal(rng)
    rock, xy = _scatter(rng, start[:2], goal)
    count = len(rock)
    dark = rng.uniform(0.6, 1.15, (count, 1))
    shades = np.array([(0.62, 0.40, 0.29), (0.52, 0.38, 0.31), (0.72, 0.56, 0.44), (0.47, 0.44, 0.44)])
    warm = rng.uniform(0, 1)
    return Layout(
        number=number,
        heights=_ground(rng),
        rock=rock,
        rock_xy=xy,
        rock_yaw=rng.uniform(-np.pi, np.pi, count),
        rock_shade=np.clip(shades[rng.integers(len(shades), size=count)] * dark, 0, 1),
        start=start,
        goal=goal,
        sun=np.array([rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(22, 60))]),
        tint=rng.uniform(0.75, 1) * ((1 - warm) * np.array([1.0, 0.97, 0.92]) + warm * np.array([1.0, 0.82, 0.64])),
    )


def _ground(rng: np.random.Generator) -> Floats:
    """[N,N] m: 40 plane waves of random direction, long ones higher, faded to zero at the arena's edge."""
    waves = 40
    axis = np.linspace(-HALF, HALF, NODES)
    length = np.exp(rng.uniform(np.log(2.2), np.log(9.0), waves))
    angle = rng.uniform(-np.pi, np.pi, waves)
    kx, ky = 2 * np.pi / length * np.cos(angle), 2 * np.pi / length * np.sin(angle)
    # cos(kx·x + ky·y + phase) = Re(e^{i·ky·y} · e^{i·kx·x} · e^{i·phase}): one sum of products for all nodes; by
    # einsum, since a threaded matrix product may round differently on another machine, and stalls on a busy one.
    weight = length**1.2 * np.exp(1j * rng.uniform(-np.pi, np.pi, waves))
    heights = np.einsum("yk,kx->yx", np.exp(1j * np.outer(axis, ky)) * weight, np.exp(1j * np.outer(kx, axis))).real
    slope = np.hypot(*np.gradient(heights, axis[1] - axis[0]))
    heights *= rng.uniform(0.08, 0.13) / np.sqrt((slope**2).mean())  # root-mean-square slope 4.6 to 7.4 degrees
    heights = np.minimum(heights - heights.min(), TOP)
    edge = np.clip((HALF - np.abs(axis)) / 2.0, 0, 1)
    edge = edge * edge * (3 - 2 * edge)
    return heights * np.minimum.outer(edge, edge)


def _start_and_goal(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Start (x, y, yaw) and goal (x, y), both inside the part of the arena that is not faded."""
    while True:
        start = rng.uniform(-6, 6, 2)
        bearing, distance = rng.uniform(-np.pi, np.pi), rng.uniform(*GOAL_DISTANCE)
        goal = start + distance * np.array([np.cos(bearing), np.sin(bearing)])
        if np.abs(goal).max() < 6.5:
            return np.append(start, bearing + rng.uniform(-GOAL_BEARING, GOAL_BEARING)), goal


def _scatter(rng: np.random.Generator, start: Floats, goal: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Bank indices [R] and places [R,2] of rocks: every third one about the line from start to goal."""
    bank = np.array([rock.radius for rock in rock_bank()])
    along = goal - start
    across = np.array([-along[1], along[0]]) / np.linalg.norm(along)
    tries = 30
    chosen: list[int] = []
    places = np.empty((0, 2))
    for n, k in enumerate(rng.permutation(ROCKS)[: rng.integers(20, ROCKS + 1)]):
        if n % 3:
            xy = (start + goal) / 2 + rng.uniform(-6.5, 6.5, (tries, 2))
        else:
            xy = start + rng.uniform(0.1, 0.95, (tries, 1)) * along + rng.normal(0, 0.8, (tries, 1)) * across
        ends = np.minimum(np.linalg.norm(xy - start, axis=1), np.linalg.norm(xy - goal, axis=1))
        others = np.linalg.norm(xy[:, None] - places, axis=-1) - bank[chosen] - bank[k]
        clear = (
            (ends > bank[k] + ROVER_RADIUS + 0.6)
            & (others > PASSAGE).all(axis=1)
            & (np.abs(xy).max(axis=1) < HALF - 1.2)
        )
        if clear.any():
            chosen.append(int(k))
            places = np.append(places, xy[[clear.argmax()]], axis=0)
    return np.array(chosen), places


def plan_centres() -> Floats:
    """[G,G,2] m: centres of the planning cells, row = y, column = x."""
    axis = np.arange(-HALF + PLAN_CELL / 2, HALF, PLAN_CELL)
    return np.stack(np.meshgrid(axis, axis), axis=-1)


def plan_cell(xy: Floats) -> tuple[int, int]:
    """(row, column) of the planning cell that holds a point [2] in m; points outside go to the nearest one."""
    last = round(2 * HALF / PLAN_CELL) - 1
    column, row = np.clip(np.floor((np.asarray(xy) + HALF) / PLAN_CELL), 0, last).astype(int)
    return int(row), int(column)


def _wavefront(price: Floats, source: tuple[int, int]) -> Floats:
    """Cheapest cost [G,G] from each cell to `source` over 8 neighbours, by relaxing all cells until nothing changes.

    A step costs its length times the mean price of its two cells, so the result equals Dijkstra's.
    """
    size = len(price)
    cost = np.full((size + 2, size + 2), np.inf)  # a border of inf spares the edge cases
    cost[source[0] + 1, source[1] + 1] = 0.0
    walls = np.pad(price, 1, constant_values=np.inf)
    steps = []
    for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1), (0, -1), (-1, 0), (-1, -1), (-1, 1)):
        near = (slice(1 + dr, size + 1 + dr), slice(1 + dc, size + 1 + dc))
        steps.append((near, PLAN_CELL * np.hypot(dr, dc) * (price + walls[near]) / 2))
    inner = cost[1:-1, 1:-1]
    while True:
        before = inner.copy()
        for near, step in steps:
            np.minimum(inner, cost[near] + step, out=inner)
        if np.array_equal(before, inner):
            return inner.copy()
