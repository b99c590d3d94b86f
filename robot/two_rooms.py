"""`vidssl/TwoRooms-v0`: an agent seen from above goes to where a picture shows it, through the door in a wall.

`TwoRoomsBatch` is the same world for many agents at once. Letters: N agents, S pixels a side.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vidssl.errors import VidsslError, unknown_name
from vidssl.splits import check_split

from .rooms import (
    DOOR,
    GOAL_COLOUR,
    RADIUS,
    STEP,
    WALL,
    Floats,
    Layouts,
    draw_agents,
    draw_layouts,
    draw_places,
    draw_rooms,
    forbidden,
    free_way,
    move,
)

REACHED = 2 / 64  # distance to the goal that counts as there
VIDEO = 256  # side of `render()`'s picture, pixels
IDLE = 0.005  # cost of a step in the reward

Observation = dict[str, NDArray[np.uint8]]


class TwoRoomsBatch:
    """N agents, each in a layout of its own, stepped and drawn together.

    Args:
        count: N.
        split: "train" or "test": which layouts are drawn.
        size: S, side of the pictures.
        seed: of layouts, starts and goals.
    """

    def __init__(self, count: int, split: str = "train", size: int = 64, seed: int = 0) -> None:
        self._rng, self._split, self._size = np.random.default_rng(seed), split, _checked_size(size)
        self.begin(draw_layouts(self._rng, count, split))

    def begin(self, layouts: Layouts) -> None:
        """Start in given layouts [N]; start and goal are uniform in different rooms."""
        self.layouts = layouts
        self._forbidden = forbidden(layouts)
        self._rooms = draw_rooms(layouts, self._size)
        right = self._rng.random(len(layouts.wall)) < 0.5
        self.places = draw_places(self._rng, layouts, right)
        self.goals = draw_places(self._rng, layouts, ~right)

    def step(
        self, actions: NDArray[np.floating[Any]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
        """Move every agent: actions [N,2] in [-1,1] -> (pictures uint8 [N,S,S,3], at the goal [N], stopped [N])."""
        ways = STEP * np.clip(np.asarray(actions, np.float64), -1, 1)
        self.places, stopped = move(self.places, ways, self._forbidden)
        return self.pictures(), np.linalg.norm(self.places - self.goals, axis=1) < REACHED, stopped

    def pictures(self) -> NDArray[np.uint8]:
        """What the camera sees now, uint8 [N,S,S,3]."""
        return draw_agents(self._rooms, self.places)

    def goal_pictures(self) -> NDArray[np.uint8]:
        """What it would see at the goals, uint8 [N,S,S,3]."""
        return draw_agents(self._rooms, self.goals)


class TwoRoomsEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Go to where the goal picture shows the agent: always in the other room.

    Observation: `image` uint8 [size,size,3], the rooms from above; `goal`, the same with the agent at its goal. No
    position is told. Action: float [2] in [-1,1], a displacement along x and y, 1 = 2.45/64 of the world's side; values
    outside are clipped. A wall stops the agent where it would touch it: it neither slides along nor passes through.

    Ends: success within 2/64 of the goal. Failure: "time-out" (truncated) after `max_steps`.
    Reward: 1 for success, - 0.005 a step.
    Info: `success`, `failure` (None or "time-out"), `distance` to the goal as the crow flies, `bumps` (steps stopped by
    a wall so far), `layout` (number of the cell of wall and door; those of the splits are disjoint).

    The same seed gives the same episode, on any machine. No GL is needed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  gymnasium declares it so

    def __init__(
        self, split: str = "train", size: int = 64, max_steps: int = 200, render_mode: str | None = None
    ) -> None:
        """
        Args:
            split: "train" or "test": which layouts are drawn.
            size: side of the square pictures, 16 to 512 pixels.
            max_steps: steps until time-out.
            render_mode: None or "rgb_array".
        """
        check_split(split)
        if max_steps < 1:
            raise VidsslError(f"max_steps: got {max_steps!r}; at least 1")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise unknown_name("render mode", str(render_mode), self.metadata["render_modes"])
        self.layout_split, self.max_steps, self.render_mode = split, max_steps, render_mode
        self._size = _checked_size(size)
        picture = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space: spaces.Dict = spaces.Dict({"image": picture, "goal": picture})  # type: ignore[assignment]
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.layouts: Layouts
        self.place: Floats
        self.goal: Floats
        self._steps, self._bumps = 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in a random layout of the split."""
        super().reset(seed=seed)
        self.layouts = draw_layouts(self.np_random, 1, self.layout_split)
        right = self.np_random.random(1) < 0.5
        self.place = draw_places(self.np_random, self.layouts, right)
        self.goal = draw_places(self.np_random, self.layouts, ~right)
        self._rooms = draw_rooms(self.layouts, self._size)
        self._goal_picture = draw_agents(self._rooms, self.goal)[0]
        self._steps, self._bumps = 0, 0
        return self.observe(), self._info(None)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move by one action."""
        self.place, stopped = move(self.place, STEP * _checked_action(action)[None], forbidden(self.layouts))
        self._steps += 1
        self._bumps += int(stopped[0])
        success = self._distance() < REACHED
        failure = "time-out" if not success and self._steps >= self.max_steps else None
        return self.observe(), success - IDLE, success, failure is not None, self._info(failure)

    def observe(self) -> Observation:
        """The observation of the present state."""
        return {"image": draw_agents(self._rooms, self.place)[0], "goal": self._goal_picture.copy()}

    def render(self) -> NDArray[np.uint8] | None:
        """A larger picture uint8 [256,256,3] with the goal in green; None without a render mode."""
        if self.render_mode is None:
            return None
        rooms = draw_agents(draw_rooms(self.layouts, VIDEO), self.goal, GOAL_COLOUR)
        return draw_agents(rooms, self.place)[0]

    def _distance(self) -> float:
        return float(np.linalg.norm(self.place - self.goal))

    def _info(self, failure: str | None) -> dict[str, Any]:
        distance = self._distance()
        return {
            "success": distance < REACHED,
            "failure": failure,
            "distance": distance,
            "bumps": self._bumps,
            "layout": int(self.layouts.number[0]),
        }


class TwoRoomsExpert:
    """Goes straight to the farthest of goal, far and near end of the door that it can reach in a straight line."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        unwrapped = env.unwrapped
        if not isinstance(unwrapped, TwoRoomsEnv):
            raise TypeError(f"TwoRoomsExpert walks in TwoRoomsEnv, got {type(unwrapped).__name__}")
        self._env = unwrapped

    def __call__(self, obs: object, info: dict[str, Any]) -> NDArray[np.float32]:
        """The action float32 [2]; `obs` and `info` are not looked at."""
        env = self._env
        wall, door = env.layouts.wall[0], env.layouts.door[0]
        aside = (WALL / 2 + RADIUS + (DOOR / 2 - RADIUS) / 2) * np.sign(env.goal[0, 0] - wall)
        for target in (env.goal[0], np.array([wall + aside, door]), np.array([wall - aside, door])):
            if free_way(env.place, target[None], env.layouts)[0]:
                break
        action = (target - env.place[0]) / STEP
        return (action / max(1.0, np.abs(action).max())).astype(np.float32)


def _checked_size(size: int) -> int:
    if not isinstance(size, int) or not 16 <= size <= 512:
        raise VidsslError(f"size: got {size!r}; the side of the picture is a whole number from 16 to 512 pixels")
    return size


def _checked_action(action: object) -> Floats:
    try:
        values = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if values.shape != (2,) or not np.isfinite(values).all():
        raise VidsslError(f"action: expected 2 finite numbers in [-1,1], a displacement; got {action!r}")
    return np.clip(values, -1, 1)
