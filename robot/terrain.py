"""Layouts of the rover's world: ground, rocks, start, goal and daylight, a function of one number and a `World`.

Axis letters: N nodes a side of the height grid, R rocks of a layout, G cells a side of the planning grid.
World frame: x east, y north, z up, metres; the arena is the square |x|, |y| <= HALF.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vidssl.splits import SPLITS

from .rover_rocks import ROCKS, rock_bank
from .rover_worlds import DIFFICULTIES, HILL_TOP, TOP, World

Floats = NDArray[np.float64]

HALF = 9.0  # half the side of the arena, m
NODES = 41  # height grid nodes a side: cells of 0.45 m
PLAN_CELL = 0.25  # side of a planning cell, m
ROVER_RADIUS = 0.55  # the rover's footprint as a disc, m
GOAL_BEARING = np.deg2rad(40.0)  # the goal lies within this angle of the start heading, so that the camera sees it


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
    sand: Floats | None = None  # [G,G] in [0,1]: how loose the ground is; None: firm everywhere
    world: World = DIFFICULTIES["standard"]

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
        if self.world.slope > 0:
            price += 20.0 * self._steepness() ** 2
        if self.sand is not None:  # uphill it may hold the rover for good
            price += self.sand * (2.0 + 25.0 * self._steepness())
        return _wavefront(price, plan_cell(self.goal))

    def _steepness(self) -> Floats:
        """[G,G] slope of the ground (tangent) about each planning cell, over the rover's length."""
        xy, reach = plan_centres(), ROVER_RADIUS
        east, north = np.array([reach, 0.0]), np.array([0.0, reach])
        rise = [self.height(xy + way) - self.height(xy - way) for way in (east, north)]
        return np.hypot(*rise) / (2 * reach)

    def looseness(self, xy: Floats) -> Floats:
        """How loose the ground is at points [...,2] (m), in [0,1]: that of the planning cell they lie in."""
        if self.sand is None:
            return np.zeros(np.shape(xy)[:-1])
        cell = np.floor((np.asarray(xy) + HALF) / PLAN_CELL).astype(int)
        column, row = np.moveaxis(np.clip(cell, 0, len(self.sand) - 1), -1, 0)
        return self.sand[row, column]


def layout_number(split: str, draw: int) -> int:
    """The number of the `draw`-th layout of a split: train 0, 2, 4, …; test 1, 3, 5, …"""
    return 2 * int(draw) + SPLITS.index(split)


def make_layout(number: int, world: World = DIFFICULTIES["standard"]) -> Layout:
    """The layout of that number in a world.

    A way from start to goal always exists: both are clear of rocks, and no two rocks are closer than the world's
    passage, which is more than the rover's width, so rocks never form a wall. Hills and sand have random numbers of
    their own: switched on in a world, they leave everything else of its layouts where it was.
    """
    rng = np.random.default_rng([0x726F766572, number])
    start, goal = _start_and_goal(rng, world)
    rock, xy = _scatter(rng, start[:2], goal, world)
    count = len(rock)
    dark = rng.uniform(0.6, 1.15, (count, 1))
    shades = np.array([(0.62, 0.40, 0.29), (0.52, 0.38, 0.31), (0.72, 0.56, 0.44), (0.47, 0.44, 0.44)])
    warm = rng.uniform(0, 1)
    return Layout(
        number=number,
        heights=_with_hills(_ground(rng, world), number, world),
        rock=rock,
        rock_xy=xy,
        rock_yaw=rng.uniform(-np.pi, np.pi, count),
        rock_shade=np.clip(shades[rng.integers(len(shades), size=count)] * dark, 0, 1),
        start=start,
        goal=goal,
        sun=np.array([rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(22, 60))]),
        tint=rng.uniform(0.75, 1) * ((1 - warm) * np.array([1.0, 0.97, 0.92]) + warm * np.array([1.0, 0.82, 0.64])),
        sand=_sand(number, world.sand) if world.sand > 0 else None,
        world=world,
    )


def _ground(rng: np.random.Generator, world: World) -> Floats:
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
    return world.roughness * heights * _fade(axis, 2.0)


def _fade(axis: Floats, width: float) -> Floats:
    """[N,N]: 1 inside, falling smoothly to 0 over the last `width` m before the arena's edge."""
    edge = np.clip((HALF - np.abs(axis)) / width, 0, 1)
    edge = edge * edge * (3 - 2 * edge)
    return np.minimum.outer(edge, edge)


def _waves(rng: np.random.Generator, axis: Floats, lengths: tuple[float, float], count: int) -> Floats:
    """[n,n] sum of `count` plane waves of random direction and phase, 1 high, on the square grid of `axis` [n]."""
    length, angle = rng.uniform(*lengths, count), rng.uniform(-np.pi, np.pi, count)
    phase = rng.uniform(-np.pi, np.pi, count)
    kx, ky = 2 * np.pi / length * np.cos(angle), 2 * np.pi / length * np.sin(angle)
    return np.cos(axis[:, None, None] * ky + axis[:, None] * kx + phase).sum(axis=-1)


def _with_hills(ground: Floats, number: int, world: World) -> Floats:
    """[N,N] m: the ground with hills of 7 to 14 m from crest to crest, whose steepest slope is the world's."""
    if world.slope == 0:
        return ground
    axis = np.linspace(-HALF, HALF, NODES)
    hills = _waves(np.random.default_rng([0x68696C6C, number]), axis, (7.0, 14.0), 6)
    hills = (hills - hills.min()) * _fade(axis, 5.0)
    steepest = np.hypot(np.diff(hills, axis=0)[:, :-1], np.diff(hills, axis=1)[:-1]).max() / (axis[1] - axis[0])
    return np.minimum(ground + hills * np.tan(np.deg2rad(world.slope)) / steepest, HILL_TOP)


def _sand(number: int, share: float) -> Floats:
    """[G,G] in [0,1]: patches of loose sand, half a metre from firm to loose, on `share` of the arena."""
    axis = plan_centres()[0, :, 0]
    field = _waves(np.random.default_rng([0x73616E64, number]), axis, (3.0, 8.0), 16)
    slope = np.hypot(*np.gradient(field, PLAN_CELL)).mean()
    return np.clip(0.5 + (field - np.quantile(field, 1 - share)) / (0.5 * slope), 0, 1)


def _start_and_goal(rng: np.random.Generator, world: World) -> tuple[Floats, Floats]:
    """Start (x, y, yaw) and goal (x, y), both inside the part of the arena that is not faded."""
    while True:
        start = rng.uniform(-6, 6, 2)
        bearing, distance = rng.uniform(-np.pi, np.pi), rng.uniform(*world.distance)
        goal = start + distance * np.array([np.cos(bearing), np.sin(bearing)])
        if np.abs(goal).max() < 6.5:
            return np.append(start, bearing + rng.uniform(-GOAL_BEARING, GOAL_BEARING)), goal


def _scatter(rng: np.random.Generator, start: Floats, goal: Floats, world: World) -> tuple[NDArray[np.int64], Floats]:
    """Bank indices [R] and places [R,2] of rocks, some of them about the line from start to goal."""
    bank = np.array([rock.radius for rock in rock_bank()])
    along = goal - start
    across = np.array([-along[1], along[0]]) / np.linalg.norm(along)
    tries = 30
    chosen: list[int] = []
    places = np.empty((0, 2))
    for n, k in enumerate(rng.permutation(ROCKS)[: rng.integers(world.rocks[0], world.rocks[1] + 1)]):
        if n % world.on_the_way:
            xy = (start + goal) / 2 + rng.uniform(-6.5, 6.5, (tries, 2))
        else:
            xy = start + rng.uniform(0.1, 0.95, (tries, 1)) * along + rng.normal(0, 0.8, (tries, 1)) * across
        ends = np.minimum(np.linalg.norm(xy - start, axis=1), np.linalg.norm(xy - goal, axis=1))
        others = np.linalg.norm(xy[:, None] - places, axis=-1) - bank[chosen] - bank[k]
        clear = (
            (ends > bank[k] + ROVER_RADIUS + 0.6)
            & (others > world.passage).all(axis=1)
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
