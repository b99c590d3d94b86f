"""Two rooms, one wall, one door: layouts, motion that stops at walls, and pictures, for many agents at once in numpy.

    ################
    #      #       #     The world is the unit square; x runs right, y down, as pixels do. A border stands around it.
    #  o   #       #     One vertical wall with one door parts it into two rooms. Where wall and door stand differs
    #              #     from layout to layout. The agent is a disc; what may not overlap a wall is the square
    #      #    x  #     around it, so the disc never touches one.
    ################

Lengths are in units of the world's side, written as n/64: pixels of a 64x64 picture.
Letters: N agents, each in a layout of its own; S pixels a side.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.splits import check_split

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BORDER = 4 / 64  # thickness of the outer walls
WALL = 3 / 64  # thickness of the wall between the rooms
DOOR = 9 / 64  # width of the door
RADIUS = 1.5 / 64  # of the agent
STEP = 2.45 / 64  # displacement along x or y that an action of 1 stands for
GAP = 1e-4  # what is left between agent and wall after a stop

# Cells of 1/64 in which the wall's x and the door's y (their middles) are drawn.
WALL_CELLS = np.arange(20, 44)
DOOR_CELLS = np.arange(12, 52)
FLOOR_COLOUR, WALL_COLOUR, AGENT_COLOUR, GOAL_COLOUR = (24, 26, 34), (190, 190, 186), (240, 70, 50), (70, 210, 110)


@dataclass(frozen=True)
class Layouts:
    """N layouts: middle of the wall (x) and of the door (y), float64 [N]; number of the cell both are in, int64 [N]."""

    wall: Floats
    door: Floats
    number: Ints

    def repeat(self, times: int) -> "Layouts":
        """Each layout `times` times, one after the other."""
        return Layouts(self.wall.repeat(times), self.door.repeat(times), self.number.repeat(times))


def split_cells(split: str) -> Ints:
    """Numbers of the layout cells of a split, int64: a fifth of all, spread out evenly, is kept for "test".

    Raises VidsslError for an unknown split.
    """
    check_split(split)
    wall, door = np.divmod(np.arange(len(WALL_CELLS) * len(DOOR_CELLS)), len(DOOR_CELLS))
    test = (wall + 2 * door) % 5 == 0
    return np.flatnonzero(test if split == "test" else ~test)


def draw_layouts(rng: np.random.Generator, count: int, split: str) -> Layouts:
    """`count` random layouts of a split: a cell of it, and a place inside the cell, both uniform."""
    number = rng.choice(split_cells(split), count)
    wall, door = np.divmod(number, len(DOOR_CELLS))
    inside = rng.random((2, count))
    return Layouts((WALL_CELLS[wall] + inside[0]) / 64, (DOOR_CELLS[door] + inside[1]) / 64, number)


def draw_places(rng: np.random.Generator, layouts: Layouts, right: NDArray[np.bool_]) -> Floats:
    """Uniform free places [N,2] for the agent's middle, in the right room where `right` [N], else in the left one."""
    clear = RADIUS + 0.5 / 64
    low, high = BORDER + clear, 1 - BORDER - clear
    side = WALL / 2 + clear
    left_end = np.where(right, layouts.wall + side, low)
    right_end = np.where(right, high, layouts.wall - side)
    draws = rng.random((2, len(layouts.wall)))
    return np.stack([left_end + draws[0] * (right_end - left_end), low + draws[1] * (high - low)], axis=1)


def draw_doorways(rng: np.random.Generator, layouts: Layouts) -> Floats:
    """Uniform free places [N,2] in the doors, and up to two agents' widths before and behind them."""
    half = np.array([WALL / 2 + 4 * RADIUS, DOOR / 2 - RADIUS])
    return np.stack([layouts.wall, layouts.door], axis=1) + rng.uniform(-0.98, 0.98, (len(layouts.wall), 2)) * half


def forbidden(layouts: Layouts) -> Floats:
    """The two rectangles that the agent's middle can't enter, above and below the door: [N, 2, (low, high), (x, y)]."""
    half, opening = WALL / 2 + RADIUS, DOOR / 2 - RADIUS
    rectangles = np.empty((len(layouts.wall), 2, 2, 2))
    rectangles[:, :, 0, 0], rectangles[:, :, 1, 0] = (layouts.wall - half)[:, None], (layouts.wall + half)[:, None]
    rectangles[:, 0, 0, 1], rectangles[:, 0, 1, 1] = -1.0, layouts.door - opening
    rectangles[:, 1, 0, 1], rectangles[:, 1, 1, 1] = layouts.door + opening, 2.0
    return rectangles


def move(places: Floats, ways: Floats, rectangles: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Move in straight lines up to the first wall: the whole way is tested, so no step is long enough to jump one.

    Args:
        places, ways: [N,2], where the agents' middles are and the displacements they try.
        rectangles: from `forbidden`.

    Returns:
        Places [N,2] after, and who was stopped [N].
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # Slabs: the line is in the rectangle while it is between both pairs of sides.
        times = (rectangles - places[:, None, None]) / ways[:, None, None]  # [N,2,2,2]
        still = ways == 0
        within = (rectangles[:, :, 0] < places[:, None]) & (places[:, None] < rectangles[:, :, 1])
        enter = np.where(still[:, None], np.where(within, -np.inf, np.inf), times.min(axis=2)).max(axis=2)
        leave = np.where(still[:, None], np.inf, times.max(axis=2)).min(axis=2)
        hit = np.where((enter < leave) & (enter >= 0), enter, np.inf).min(axis=1)
        edge = np.where(ways > 0, 1 - BORDER - RADIUS, BORDER + RADIUS)
        out = np.where(still, np.inf, (edge - places) / ways).min(axis=1)
        first = np.minimum(hit, out)
        stopped = first <= 1
        share = np.where(stopped, np.maximum(first - GAP / np.linalg.norm(ways, axis=1), 0), 1)
    return places + share[:, None] * ways, stopped


def free_way(places: Floats, targets: Floats, layouts: Layouts) -> NDArray[np.bool_]:
    """Whether straight lines from `places` [N,2] to `targets` [N,2] meet no wall: [N]."""
    return ~move(places, targets - places, forbidden(layouts))[1]


def draw_rooms(layouts: Layouts, size: int) -> NDArray[np.uint8]:
    """Pictures of the empty rooms, uint8 [N,S,S,3]; edges between pixels are mixed by area."""
    x = _covered(layouts.wall - WALL / 2, layouts.wall + WALL / 2, size)
    y = _covered(layouts.door - DOOR / 2, layouts.door + DOOR / 2, size)
    inside = _covered(np.array([BORDER]), np.array([1 - BORDER]), size)
    free = inside[:, :, None] * inside[:, None] * (1 - x[:, None] * (1 - y[:, :, None]))  # [N,S,S]
    floor, wall = np.array(FLOOR_COLOUR, np.float32), np.array(WALL_COLOUR, np.float32)
    return np.rint(wall + free[..., None].astype(np.float32) * (floor - wall)).astype(np.uint8)


def draw_agents(
    rooms: NDArray[np.uint8], places: Floats, colour: tuple[int, int, int] = AGENT_COLOUR
) -> NDArray[np.uint8]:
    """The rooms [N,S,S,3] with a disc at `places` [N,2] each; the rim is anti-aliased. A copy."""
    size = rooms.shape[1]
    radius = RADIUS * size
    reach = int(np.ceil(radius)) + 1
    centre = places * size
    corner = np.clip(np.floor(centre).astype(np.int64) - reach, 0, size - 2 * reach - 1)  # [N,2], x and y
    pixels = corner[:, :, None] + np.arange(2 * reach + 1)  # [N,2,P]
    square = ((pixels + 0.5 - centre[:, :, None]) ** 2).astype(np.float32)
    distance = np.sqrt(square[:, 1, :, None] + square[:, 0, None])  # [N,P,P]
    share = np.clip(np.float32(radius + 0.5) - distance, 0, 1)[..., None]
    pictures = rooms.copy()
    index = (np.arange(len(rooms))[:, None, None], pixels[:, 1, :, None], pixels[:, 0, None])
    under = pictures[index].astype(np.float32)
    pictures[index] = (under + share * (np.array(colour, np.float32) - under) + 0.5).astype(np.uint8)
    return pictures


def _covered(low: Floats, high: Floats, size: int) -> Floats:
    """Share of each of `size` pixels that lies between `low` and `high` [N]: [N,S]."""
    edges = np.arange(size) / size
    overlap = np.minimum(edges + 1 / size, high[:, None]) - np.maximum(edges, low[:, None])
    return np.clip(overlap * size, 0, 1)
