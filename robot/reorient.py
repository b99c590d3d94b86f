"""`vidssl/Reorient-v0`: a wrist turns an object that nobody has seen until its depth image looks like the goal's.

S side of the depth image in pixels, n rotations of a symmetry group.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from vidssl.datasets.depth_sensor import DepthSensor
from vidssl.datasets.mesh_views import MeshRenderer, PinholeCamera
from vidssl.datasets.meshes import Mesh, load_meshes
from vidssl.datasets.symmetry import Symmetry, symmetries
from vidssl.errors import VidsslError, unknown_name
from vidssl.splits import check_split

from .wrist import DISTANCE, Floats, Wrist

RATE = 10  # control steps a second
TOP_SPEED = 1.5  # of the wrist, rad/s
CLOSE = np.deg2rad(5.0)  # to the goal, counts as there
HOLD = 1.0  # s that the object has to stay there
DEPTH_RANGE = 2.0  # m; farther is "no return"
PICTURE = 256  # height and half the width of `render()`, pixels

Observation = dict[str, NDArray[Any]]


class ReorientEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Turn the object to the orientation in the goal image.

    An object of the split, new every episode, is held off its centre in a three-axis wrist (`Wrist`: limited torque,
    gravity) 0.8 m before a depth camera. The goal is a depth image of the same object, taken once at the reset with its
    centre elsewhere, so that only the orientation can be compared. The pictures show the object alone: the wrist's own
    pixels are taken to be masked out, as they can be where its shape and joint angles are known.

    Observation: `depth` and `goal` float32 [S,S], metres along the optical axis, 0 = no return; `proprio` float32 [9],
    the rotation [3,3] (row by row, camera frame) since the start, from the wrist's encoders.
    Action: float [3], the angular velocity in the camera frame, 1 = 1.5 rad/s; a vector longer than 1 is shortened to
    1. One step is 0.1 s.

    Ends: success when the error has been below 5° at every step of one second. Failure: "time-out" (truncated) after
    `max_steps`. The error is the angle to the goal, for a symmetric object to the nearest of the orientations in which
    it looks the same.
    Reward: radians gained towards the goal, - 0.01 a step, + 1 for success.
    Info: `success`, `failure` (None or a name above), `error` (rad), `object` (its name), `symmetric`, `K` float64
    [3,3], the camera's intrinsics.

    The same seed gives the same episode on the same machine. Objects of the splits are disjoint, for
    the same meshes and the same limit: another limit, as other meshes, can move an object to the other split.
    """

    metadata = {  # noqa: RUF012  gymnasium declares it so
        "render_modes": ["rgb_array"],
        "render_fps": RATE,
    }

    def __init__(
        self,
        split: str = "train",
        meshes: str | Path | Sequence[Mesh] = "default",
        limit: int | None = 100,
        degrees: tuple[float, float] = (0.0, 30.0),
        sensor: DepthSensor | None = None,
        centre: float = 0.01,
        size: int = 128,
        max_steps: int = 100,
        render_mode: str | None = None,
    ) -> None:
        """
        Args:
            split: "train" or "test": which objects are drawn.
            meshes: folder of meshes, or "default" for generated solids; or meshes of the split, loaded already.
            limit: how many meshes of the folder, or solids, are loaded and split; None for all. Train and test with the
                same one.
            degrees: lowest and highest angle between start and goal, within 0 to 180.
            sensor: noise of the depth camera; None for none. Its stripe, if it has one, hides parts of `depth` only.
            centre: the object is held, and the goal image taken, off centre by up to this on each axis, m.
            size: S, 32 to 512; the focal length is 300 pixels for 128.
            max_steps: steps until time-out.
            render_mode: None or "rgb_array".

        Raises VidsslError for values outside these, and a split without objects.
        """
        check_split(split)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise unknown_name("render mode", str(render_mode), self.metadata["render_modes"])
        if len(degrees) != 2 or not 0 <= degrees[0] <= degrees[1] <= 180:
            raise VidsslError(f"degrees: got {degrees!r}; give the lowest and the highest angle, within 0 to 180")
        if not isinstance(size, int) or not 32 <= size <= 512:
            raise VidsslError(f"size: got {size!r}; the depth image's side is a whole number from 32 to 512 pixels")
        if not 0 <= centre <= 0.03:
            raise VidsslError(f"centre: got {centre!r}; from 0 to 0.03 m, beyond that objects leave the picture")
        if max_steps < 1:
            raise VidsslError(f"max_steps: got {max_steps!r}; at least 1")
        self.render_mode = render_mode
        self.max_steps = max_steps
        self.meshes = _of_split(meshes, split, limit)
        self.camera = PinholeCamera(size, 300.0 * size / 128, DISTANCE)
        self.observation_space: spaces.Dict = spaces.Dict(  # type: ignore[assignment]
            {
                "depth": spaces.Box(0.0, DEPTH_RANGE, (size, size), np.float32),
                "goal": spaces.Box(0.0, DEPTH_RANGE, (size, size), np.float32),
                "proprio": spaces.Box(-1.0, 1.0, (9,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._degrees, self._centre = degrees, centre
        self._sensor = sensor
        self._still = None if sensor is None else replace(sensor, stripe=0.0)  # what the goal is seen with
        self._renderer = MeshRenderer(self.meshes, self.camera, threads=1)
        self._large: MeshRenderer | None = None  # for `render`
        self._symmetry: dict[int, Symmetry] = {}
        self._wrist = Wrist()
        self._steps = self._close = self._object = 0
        self._error = 0.0
        self._grip = self._goal_offset = np.zeros(3)
        self._start = self._goal = np.eye(3)
        self._goal_depth = np.zeros((size, size), np.float32)

    @property
    def K(self) -> Floats:
        """Intrinsics [3,3] of the camera, pixels."""
        return self.camera.K

    @property
    def remaining(self) -> Floats:
        """The smallest rotation [3,3] from here to the goal or one that looks the same: privileged, not observed."""
        return smallest_rest(self._goal, self._wrist.rotation, self._symmetry_of(self._object))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode with another object of the split."""
        super().reset(seed=seed)
        rng = self.np_random
        self._object = self._draw_object()
        self._start = Rotation.random(None, rng).as_matrix()
        axis = rng.normal(size=3)
        angle = np.deg2rad(rng.uniform(*self._degrees))
        self._goal = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix() @ self._start
        self._grip, self._goal_offset = rng.uniform(-self._centre, self._centre, (2, 3))
        self._wrist.hold(self.meshes[self._object].vertices, self._grip, self._start)
        self._goal_depth = self._seen(self._goal, self._goal_offset, self._still)
        self._steps = self._close = 0
        self._measure()
        return self._observe(), self._info(None)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Turn for 0.1 s."""
        self._wrist.turn(_checked(action) * TOP_SPEED, 1 / RATE)
        self._steps += 1
        before = self._error
        self._measure()
        success = self._close > round(HOLD * RATE)  # that many steps apart are the first and the last
        timed_out = not success and self._steps >= self.max_steps
        reward = before - self._error - 0.01 + 1.0 * success
        return self._observe(), float(reward), success, timed_out, self._info("time-out" if timed_out else None)

    def render(self) -> NDArray[np.uint8] | None:
        """The object, shaded, as it is and at the goal, side by side: uint8 [256,512,3]; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._large is None:
            self._large = MeshRenderer(self.meshes, PinholeCamera(PICTURE, 300.0 * PICTURE / 128, DISTANCE), threads=1)
        poses = ((self._wrist.rotation, self._wrist.rotation @ self._grip), (self._goal, self._goal_offset))
        shades = [self._large.render(self._object, *pose, channels=("shade",))["shade"] for pose in poses]
        return np.concatenate(shades, axis=1)

    def _draw_object(self) -> int:
        """One that has an orientation: balls are passed over."""
        for index in self.np_random.permutation(len(self.meshes)):
            if self._symmetry_of(int(index)).continuous != "all":
                return int(index)
        raise VidsslError("meshes: all are balls, which look the same from everywhere; give others too")

    def _measure(self) -> None:
        """The error, and for how many steps on end it has been small."""
        self._error = float(Rotation.from_matrix(self.remaining).magnitude())
        self._close = self._close + 1 if self._error < CLOSE else 0

    def _symmetry_of(self, index: int) -> Symmetry:
        if index not in self._symmetry:
            self._symmetry[index] = symmetries(self.meshes[index])
        return self._symmetry[index]

    def _seen(self, rotation: Floats, offset: Floats, sensor: DepthSensor | None) -> NDArray[np.float32]:
        depth = self._renderer.depth(np.array([self._object]), rotation[None], offset[None])
        if sensor is not None:
            depth = sensor(depth, self.np_random)
        return np.where(depth[0] < DEPTH_RANGE, depth[0], np.float32(0))

    def _observe(self) -> Observation:
        now = self._wrist.rotation
        return {
            "depth": self._seen(now, now @ self._grip, self._sensor),
            "goal": self._goal_depth.copy(),
            "proprio": np.clip(now @ self._start.T, -1, 1).astype(np.float32).ravel(),
        }

    def _info(self, failure: str | None) -> dict[str, Any]:
        return {
            "success": self._close > round(HOLD * RATE),
            "failure": failure,
            "error": self._error,
            "object": self.meshes[self._object].name,
            "symmetric": self._symmetry_of(self._object).symmetric,
            "K": self.K,
        }


def smallest_rest(goal: Floats, now: Floats, symmetry: Symmetry) -> Floats:
    """The smallest rotation [3,3] from `now` [3,3] to an orientation that looks like `goal` [3,3].

    Those are `goal` G S for every S of the group. About a continuous axis a, all turns A(φ) S are in it, and the angle
    of G A(φ) S Nᵀ is smallest where its trace, tr A(φ) M with M = S Nᵀ G, is largest. By Rodrigues' formula that is
    cos φ (tr M - aᵀMa) + sin φ tr([a]ₓ M) + aᵀMa.
    """
    if symmetry.continuous == "all":
        return np.eye(3)
    group = symmetry.rotations.astype(np.float64)
    if symmetry.axis is not None:
        axis = symmetry.axis.astype(np.float64)
        inner = group @ now.T @ goal  # M [n,3,3]
        cosine = np.trace(inner, axis1=1, axis2=2) - axis @ inner @ axis
        sine = np.einsum("ij,nji->n", np.cross(np.eye(3), axis), inner)
        turns = Rotation.from_rotvec(np.arctan2(sine, cosine)[:, None] * axis).as_matrix()
        group = turns @ group
    rests = goal @ group @ now.T
    return rests[np.argmax(np.trace(rests, axis1=1, axis2=2))]


def _of_split(meshes: str | Path | Sequence[Mesh], split: str, limit: int | None) -> list[Mesh]:
    if isinstance(meshes, str | Path):
        return load_meshes(meshes, limit).split(split)
    if not meshes:
        raise VidsslError("meshes: got an empty list; give at least one mesh")
    return list(meshes)


def _checked(action: object) -> Floats:
    try:
        values = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise VidsslError(f"action: expected 3 finite numbers, the angular velocity in [-1,1]; got {action!r}")
    return values / max(1.0, float(np.linalg.norm(values)))
