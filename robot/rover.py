"""`vidssl/Rover-v0`: a six-wheeled rover drives over uneven ground, among rocks, to a beacon its camera sees."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vidssl.errors import VidsslError
from vidssl.rendering import SceneRenderer, load_mujoco

from .rover_model import ROVER_SKIN, TIMESTEP, TOP_SPEED, WHEEL_RADIUS, WHEELS, Sand, build_model, write_layout
from .rover_options import RENDER_MODES, check_view, conditions
from .terrain import Floats, Layout, layout_number, make_layout

mujoco = load_mujoco()

RATE = 10  # control steps a second
REACHED = 1.0  # rover centre to beacon axis, m
IMPACT = 40.0  # force between wheel and rock that counts as a collision, N; the rover weighs 76 N
TIPPED = np.deg2rad(50.0)  # roll or pitch that counts as tipped over
DEPTH_RANGE = 20.0  # m; farther is "no return"
VIDEO = (240, 320)  # default height and width of `render()`, pixels
# Proprioception and its bounds: rim speed of left and right wheels (m/s), roll (left side up positive) and pitch (nose
# down positive) in rad, yaw rate (rad/s, left turn positive). Values outside are clipped.
PROPRIO = np.array([2.0, 2.0, np.pi, np.pi / 2, 5.0], dtype=np.float32)

Observation = dict[str, NDArray[Any]]


class RoverEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Drive to the beacon.

    Observation: `image` uint8 [size,size,3], the mast camera (90° both ways); `proprio` float32 [5], see `PROPRIO`;
    with `depth`, `depth` float32 [size,size,1]: metres along the optical axis, 0 = nothing within 20 m.
    Action: float [2] in [-1,1], the target speed of the left and the right wheels, 1 = 0.9 m/s at the rim; values
    outside are clipped. One step is 0.1 s.

    Ends: success when the rover's centre is within 1 m of the beacon. Failure, checked after every step:
    "collision" when chassis or mast touches a rock or a wheel presses on one with more than 40 N; "tip-over" when roll
    or pitch exceeds 50°; "time-out" (truncated) after `max_steps`.
    Reward: metres gained towards the beacon, - 0.01 a step, + 10 for success, - 5 for collision or tip-over.
    Info: `success`, `failure` (None or a name above), `distance` to the beacon (m), `layout` (its number).

    The same seed gives the same episode, pixels and noise included, on the same machine. Layouts of the splits are
    disjoint. Weather, noise, hills and sand leave everything else of a seed's layout as it is, so that each can be
    judged by itself, in pairs.
    """

    metadata = {  # noqa: RUF012  gymnasium declares it so
        "render_modes": RENDER_MODES,
        "render_fps": RATE,
    }

    def __init__(
        self,
        split: str = "train",
        size: int = 64,
        depth: bool = False,
        max_steps: int | None = None,
        render_mode: str | None = None,
        render_size: tuple[int, int] = VIDEO,
        pixels: bool = True,
        difficulty: str = "standard",
        slope: float | None = None,
        sand: float | None = None,
        daylight: str = "day",
        dust: float = 0.0,
        camera_noise: float = 0.0,
        depth_noise: float = 0.0,
        proprio_noise: float = 0.0,
    ) -> None:
        """
        Args:
            split: "train" or "test": which layouts are drawn.
            size: side of the square camera image, 16 to 512 pixels.
            depth: also observe depth.
            max_steps: steps until time-out; by default the difficulty's, 200 for "standard".
            render_mode: None or "rgb_array".
            render_size: height and width of `render()`'s picture.
            pixels: False leaves the camera black and needs no GL, for controllers that do not look. The attribute of
                this name can be changed between episodes.
            difficulty: "easy", "standard", "hard" or "extreme": how far the goal is, how many rocks, how uneven the
                ground; the last two have hills and sand. See `rover_worlds.DIFFICULTIES`.
            slope: steepest slope of the hills in degrees, 0 to 25, instead of the difficulty's.
            sand: share of the ground under loose sand, on which wheels slip, 0 to 0.8, instead of the difficulty's.
            daylight: "day" or "dusk": dim and red, low sun, long shadows.
            dust: dust in the air, 0 to 1: haze, specks before the camera, lost depth.
            camera_noise, depth_noise, proprio_noise: strength of the sensors' noise, 0 to 10; 1 is a plain cheap
                sensor's. See `rover_sensors`.

        Raises VidsslError for unknown names and numbers out of range.
        """
        check_view(split, size, max_steps, render_mode, render_size)
        self._options = conditions(difficulty, slope, sand, daylight, dust, (camera_noise, depth_noise, proprio_noise))
        world = self._options.world
        self.layout_split = split
        self.render_mode = render_mode
        self.max_steps = world.steps if max_steps is None else max_steps
        self.layout: Layout
        self._size, self._depth, self.pixels, self._video = size, depth, pixels, render_size
        boxes: dict[str, spaces.Space[Any]] = {
            "image": spaces.Box(0, 255, (size, size, 3), np.uint8),
            "proprio": spaces.Box(-PROPRIO, PROPRIO, dtype=np.float32),
        }
        if depth:
            boxes["depth"] = spaces.Box(0.0, DEPTH_RANGE, (size, size, 1), np.float32)
        self.observation_space: spaces.Dict = spaces.Dict(boxes)  # type: ignore[assignment]
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        height, width = render_size if render_mode else (0, 0)
        self._model = build_model((max(size, 2 * width), max(size, 2 * height)), world, self._options.weather)
        self._data = mujoco.MjData(self._model)
        self._sand = Sand(self._model) if world.sand > 0 else None
        self._renderer: SceneRenderer | None = None
        self._camera = mujoco.MjvCamera()
        self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self._model.camera("mast").id
        self._rocks = np.zeros(self._model.ngeom, bool)
        self._rocks[[g for g in range(self._model.ngeom) if self._model.geom(g).name.startswith("rock")]] = True
        self._hull = np.zeros(self._model.ngeom, bool)
        self._hull[[self._model.geom(name).id for name in ("chassis", "mast")]] = True
        self._wheel_speed = self._model.jnt_dofadr[[self._model.joint(f"wheel{k}").id for k in range(len(WHEELS))]]
        self._steps, self._distance = 0, 0.0

    @property
    def pose(self) -> Floats:
        """x, y (m) and yaw (rad) of the rover: privileged, no part of the observation."""
        forward = self._data.body("rover").xmat[[0, 3]]
        return np.array([*self._data.qpos[:2], np.arctan2(forward[1], forward[0])])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode on the next layout of the split."""
        super().reset(seed=seed)
        number = layout_number(self.layout_split, self.np_random.integers(2**40).item())
        self.layout = make_layout(number, self._options.world)
        write_layout(self._model, self._data, self.layout, self._options.weather)
        if self.pixels or self._renderer:
            self._gl().upload(texture=self._model.texture("ground").id, hfield=0)
        if self._sand is not None:
            self._sand.apply(self._model, self._data, self.layout)
        mujoco.mj_step(self._model, self._data, nstep=20)  # settle on the springs
        mujoco.mj_forward(self._model, self._data)
        self._steps, self._distance = 0, self._goal_distance()
        return self.observe(), self._info(None)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Drive for 0.1 s."""
        left, right = _checked(action) * (TOP_SPEED / WHEEL_RADIUS)
        self._data.ctrl[:3], self._data.ctrl[3:] = left, right
        if self._sand is not None:
            self._sand.apply(self._model, self._data, self.layout)
        mujoco.mj_step(self._model, self._data, nstep=round(1 / (RATE * TIMESTEP)))
        self._steps += 1
        before, self._distance = self._distance, self._goal_distance()
        success = self._distance < REACHED
        failure = None if success else self._failure()
        terminated = success or failure in ("collision", "tip-over")
        reward = before - self._distance - 0.01 + 10.0 * success - 5.0 * (terminated and not success)
        return self.observe(), float(reward), terminated, failure == "time-out", self._info(failure)

    def render(self) -> NDArray[np.uint8] | None:
        """A picture uint8 [H,W,3] from behind the rover with the mast camera's view in the corner.

        None without a render mode.
        """
        if self.render_mode is None:
            return None
        x, y, yaw = self.pose
        camera = mujoco.MjvCamera()
        camera.lookat[:] = (x + 1.3 * np.cos(yaw), y + 1.3 * np.sin(yaw), self._data.qpos[2] + 0.5)
        camera.distance, camera.azimuth, camera.elevation = 4.6, np.rad2deg(yaw), -20
        height, width = self._video
        # Rendered at twice the size and averaged down: smooth edges for a few milliseconds.
        picture, _ = self._gl().render(self._data, camera, (2 * height, 2 * width))
        side = 2 * (height // 3)
        inset, _ = self._gl().render(self._data, self._camera, (side, side), hide=ROVER_SKIN)
        picture[: side + 4, -side - 4 :] = 255
        picture[:side, -side:] = inset
        return picture.reshape(height, 2, width, 2, 3).mean(axis=(1, 3)).astype(np.uint8)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _gl(self) -> SceneRenderer:
        if self._renderer is None:
            self._renderer = SceneRenderer(self._model)
        return self._renderer

    def _goal_distance(self) -> float:
        return float(np.hypot(*(self._data.qpos[:2] - self.layout.goal)))

    def _attitude(self) -> tuple[float, float]:
        """Roll and pitch in rad."""
        m = self._data.body("rover").xmat
        return float(np.arctan2(m[7], m[8])), float(-np.arcsin(np.clip(m[6], -1, 1)))

    def _failure(self) -> str | None:
        if self._hit_rock():
            return "collision"
        if max(map(abs, self._attitude())) > TIPPED:
            return "tip-over"
        return "time-out" if self._steps >= self.max_steps else None

    def _hit_rock(self) -> bool:
        pairs = self._data.contact.geom  # [contacts,2]
        on_rock = self._rocks[pairs].any(axis=1)
        if not on_rock.any():
            return False
        if self._hull[pairs[on_rock]].any():
            return True
        force = np.empty(6)
        for k in np.flatnonzero(on_rock):
            mujoco.mj_contactForce(self._model, self._data, k, force)
            if np.linalg.norm(force[:3]) > IMPACT:
                return True
        return False

    def observe(self) -> Observation:
        """The observation of the present state."""
        speed = self._data.qvel[self._wheel_speed] * WHEEL_RADIUS
        proprio = np.array([speed[:3].mean(), speed[3:].mean(), *self._attitude(), self._data.qvel[5]], np.float32)
        sensors, now = self._options.sensors, (self.layout.number, self._steps)
        seen: Observation = {"proprio": np.clip(sensors.feel(proprio, *now), -PROPRIO, PROPRIO)}
        shape = (self._size, self._size)
        if self.pixels:
            image, depth = self._gl().render(self._data, self._camera, shape, self._depth, hide=ROVER_SKIN)
        else:
            image, depth = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.float32) if self._depth else None
        seen["image"] = sensors.see(image, *now) if self.pixels else image
        if depth is not None:
            returns = np.where(depth < DEPTH_RANGE, depth, np.float32(0))
            seen["depth"] = (sensors.range(returns, *now, DEPTH_RANGE) if self.pixels else returns)[..., None]
        return seen

    def _info(self, failure: str | None) -> dict[str, Any]:
        return {
            "success": self._distance < REACHED,
            "failure": failure,
            "distance": self._distance,
            "layout": self.layout.number,
        }


def _checked(action: object) -> Floats:
    try:
        values = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if values.shape != (2,) or not np.isfinite(values).all():
        raise VidsslError(
            f"action: expected 2 finite numbers in [-1,1], the left and the right wheel speed; got {action!r}"
        )
    return np.clip(values, -1, 1)
