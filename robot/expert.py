"""Scripted experts with privileged knowledge: they read the environment's state, not its images."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError, unknown_name

from .benchmark_experts import FetchReachExpert, MetaWorldExpert
from .rover import RoverEnv
from .terrain import PLAN_CELL, ROVER_RADIUS, Floats, plan_cell, plan_centres
from .two_rooms import TwoRoomsExpert

Expert = Callable[[Any, dict[str, Any]], NDArray[np.float32]]


class RoverExpert:
    """Drives to the beacon around the rocks; its action is a function of the rover's pose and the layout alone.

    It looks down the slope of the cost-to-go field and steers for the farthest point on that path that it can reach
    straight ahead and clear of rocks: the beacon itself, when nothing is in the way. The farther off its heading, the
    slower it drives and the harder it turns.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], margin: float = 0.1) -> None:
        """`margin`: gap to rocks beyond the rover's own radius, m."""
        unwrapped = env.unwrapped
        if not isinstance(unwrapped, RoverEnv):
            raise TypeError(f"RoverExpert drives RoverEnv, got {type(unwrapped).__name__}")
        self._env = unwrapped
        self._gap = ROVER_RADIUS + margin
        self._centres = plan_centres()

    def __call__(self, obs: object, info: dict[str, Any]) -> NDArray[np.float32]:
        """The action float32 [2]; `obs` and `info` are not looked at."""
        return self.act(self._env.pose)

    def act(self, pose: Floats) -> NDArray[np.float32]:
        """The action float32 [2] for a rover at `pose` [3]: x, y (m) and yaw (rad) in the present layout."""
        x, y, yaw = pose
        target = self._target(np.array([x, y]))
        error = (np.arctan2(target[1] - y, target[0] - x) - yaw + np.pi) % (2 * np.pi) - np.pi
        turn = np.clip(1.5 * error, -0.8, 0.8)
        forward = np.clip(1.1 - 1.6 * abs(error), 0.0, 1.0)
        action = np.array([forward - turn, forward + turn])
        return (action / max(1.0, np.abs(action).max())).astype(np.float32)

    def _target(self, here: Floats) -> Floats:
        path = self._path(here)
        clear = self._clear(here, path)
        return path[np.flatnonzero(clear)[-1]] if clear.any() else path[min(1, len(path) - 1)]

    def _path(self, here: Floats, reach: float = 4.0) -> Floats:
        """Points [P,2] down the cost field from `here`, at most `reach` m of them, then the beacon if it is nearer."""
        cost = self._env.layout.cost_to_go
        row, column = plan_cell(here)
        points = []
        for _ in range(round(reach / PLAN_CELL)):
            r, c = max(row - 1, 0), max(column - 1, 0)
            block = cost[r : row + 2, c : column + 2]
            down = np.unravel_index(block.argmin(), block.shape)
            if (r + down[0], c + down[1]) == (row, column):
                break
            row, column = int(r + down[0]), int(c + down[1])
            points.append(self._centres[row, column])
        goal = self._env.layout.goal
        return np.array([*points, goal]) if self._clear(here, goal[None])[0] or not points else np.array(points)

    def _clear(self, here: Floats, points: Floats) -> NDArray[np.bool_]:
        """[P]: whether the straight way from `here` to each point [P,2] keeps its gap to all rocks."""
        layout = self._env.layout
        way = points - here  # [P,2]
        rocks = layout.rock_xy - here  # [R,2]
        length = np.maximum((way**2).sum(axis=1), 1e-9)[:, None]
        t = np.clip((way[:, None] * rocks).sum(axis=-1) / length, 0, 1)  # [P,R]
        distance = np.linalg.norm(rocks - t[..., None] * way[:, None], axis=-1)
        # A rock that is already closer than the gap only blocks ways that lead nearer to it.
        gap = np.minimum(layout.rock_radius + self._gap, np.linalg.norm(rocks, axis=-1) - 1e-6)
        return (distance >= gap).all(axis=1)


def _reorient(env: gymnasium.Env[Any, Any]) -> Expert:
    from .reorient_control import ReorientExpert  # its meshes are slow to import

    return ReorientExpert(env)


EXPERTS: dict[str, Callable[[gymnasium.Env[Any, Any]], Expert]] = {
    "vidssl/Reorient-v0": _reorient,
    "vidssl/TwoRooms-v0": TwoRoomsExpert,
}
FAMILIES: dict[str, Callable[[gymnasium.Env[Any, Any]], Expert]] = {  # by the beginning of the id
    "FetchReach": FetchReachExpert,
    "vidssl/Rover": RoverExpert,  # in every difficulty
    "Meta-World/": MetaWorldExpert,
}


def expert_for(env: gymnasium.Env[Any, Any]) -> Expert:
    """The expert of an environment made by `gymnasium.make`, or by `make_env` where it is of another package: call it
    with (observation, info) for an action.

    Raises VidsslError for an environment that has none.
    """
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    if name in EXPERTS:
        return EXPERTS[name](env)
    for prefix, make in FAMILIES.items():
        if name.startswith(prefix):
            return make(env)
    if name.startswith("gym_pusht/"):
        raise VidsslError(
            f"{name} has no scripted expert; clone demonstrations by people, and leave out the arm `expert`"
        )
    raise unknown_name("expert", name, [*EXPERTS, *(f"{prefix}*" for prefix in FAMILIES)])
