"""How hard the rover's world can be: the difficulties."""

from dataclasses import dataclass

TOP = 1.5  # height of the highest ground without hills, m
HILL_TOP = 6.0  # the same with hills
STEEPEST = 25.0  # slope of hills that can be asked for, degrees
MOST_SAND = 0.8  # share of the arena under sand that can be asked for
PASSAGE = 1.5  # least gap between two rocks of a standard world: the rover can drive through any, m


@dataclass(frozen=True)
class World:
    """How hard layouts are; the defaults are those of "standard"."""

    distance: tuple[float, float] = (4.0, 8.0)  # start to goal, m
    rocks: tuple[int, int] = (20, 28)  # how many, where there is room for them
    on_the_way: int = 3  # every so many-th rock lies about the straight way to the goal
    passage: float = PASSAGE  # least gap between two rocks, m; more than the rover's width, so rocks form no wall
    roughness: float = 1.0  # factor on the unevenness, whose root-mean-square slope is 4.6 to 7.4 degrees at 1
    slope: float = 0.0  # steepest slope of hills, degrees; 0: no hills
    sand: float = 0.0  # share of the arena under loose sand
    steps: int = 200  # until time-out

    @property
    def top(self) -> float:
        """Height that a stored elevation of 1 stands for, m."""
        return HILL_TOP if self.slope > 0 or self.roughness > 1 else TOP


DIFFICULTIES = {
    "easy": World(distance=(3.0, 5.0), rocks=(6, 12), on_the_way=6, roughness=0.6),
    "standard": World(),
    "hard": World((6.0, 10.0), (24, 28), 2, 1.4, roughness=1.2, slope=12.0, sand=0.2, steps=300),
    "extreme": World((8.0, 12.0), (28, 28), 2, 1.3, roughness=1.5, slope=20.0, sand=0.35, steps=400),
}
