"""Videos of reorientation episodes, replayed from seed and actions.

+-----------+-----------+-----------+-----------+
| depth now | goal      | the object, now and   |
|           | depth     | at the goal, shaded   |
+-----------+-----------+-----------+-----------+
| error over time, degrees, logarithmic         |
+-----------------------------------------------+
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import gymnasium
import numpy as np
from numpy.typing import NDArray

from vidssl.datasets.mp4 import write_video

from .reorient import CLOSE, PICTURE, RATE
from .showreel import GREEN, HOLD, RED, WHITE
from .video import caption, fit_height
from .wrist import DISTANCE

NEAR, FAR = DISTANCE - 0.12, DISTANCE + 0.12  # m; ends of the depth images' colours
CURVE = 160  # height in pixels of the plot
LOWEST, HIGHEST = 0.01, 180.0  # degrees at its ends
BAND = round(float(np.rad2deg(CLOSE)))


@dataclass(frozen=True)
class ReorientEpisode:
    """One episode of `vidssl/Reorient-v0`.

    `errors` [T+1] degrees, at the reset and after each step; `actions` float32 [T,3] replay it. `failure` is None on
    success, else "time-out", or "refused" when the controller raised VidsslError, which is the `reason`.
    """

    seed: int
    object: str
    symmetric: bool
    success: bool
    failure: str | None
    reason: str | None
    errors: tuple[float, ...]
    actions: NDArray[np.float32]


def write_reorient_video(
    path: Path,
    arm: str,
    env: gymnasium.Env[dict[str, NDArray[np.float32]], NDArray[np.float32]],
    episode: ReorientEpisode,
) -> None:
    """The episode as MP4; `env` was made as for the episode, with `render_mode="rgb_array"`."""
    write_video(path, _frames(arm, env, episode), RATE)


def _frames(
    arm: str, env: gymnasium.Env[dict[str, NDArray[np.float32]], NDArray[np.float32]], episode: ReorientEpisode
) -> Iterator[NDArray[np.uint8]]:
    observation, _ = env.reset(seed=episode.seed)
    outcome = "success" if episode.success else f"failed: {episode.failure}"
    for step, error in enumerate(episode.errors):
        if step > 0:
            observation, *_ = env.step(episode.actions[step - 1])
        last = step == len(episode.errors) - 1
        shaded = np.asarray(env.render())
        tiles = [
            caption(depth_colours(observation["depth"]), "depth now"),
            caption(depth_colours(observation["goal"]), "goal depth"),
            caption(shaded[:, :PICTURE], "object now"),
            caption(shaded[:, PICTURE:], "object at the goal"),
        ]
        picture = np.concatenate([np.concatenate(tiles, axis=1), curve(episode.errors, step, 4 * PICTURE)])
        text = f"{arm}   {episode.object}   {step / RATE:.1f} s   error {error:.2f} degrees"
        colour = (GREEN if episode.success else RED) if last else WHITE
        for _ in range(HOLD if last else 1):
            yield caption(picture, text + (f"   {outcome}" if last else ""), colour)


def depth_colours(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A depth image [S,S] in colours, near = bright, 0 = black: uint8 [256,256,3]."""
    scaled = np.clip((FAR - depth) / (FAR - NEAR), 0, 1)
    colours = cv2.applyColorMap((255 * scaled).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return fit_height(np.where(depth[..., None] > 0, colours, 0).astype(np.uint8), PICTURE)


def curve(errors: Sequence[float], now: int, width: int) -> NDArray[np.uint8]:
    """The errors up to step `now` over the whole episode's time, uint8 [160,width,3]; the band of success is green."""
    picture = np.full((CURVE, width, 3), 24, np.uint8)
    left, right, top, bottom = 60, width - 12, 8, CURVE - 10

    def y(degrees: float) -> int:
        share = np.log(np.clip(degrees, LOWEST, HIGHEST) / LOWEST) / np.log(HIGHEST / LOWEST)
        return round(bottom - share * (bottom - top))

    cv2.rectangle(picture, (left, y(BAND)), (right, bottom), (28, 56, 32), -1)
    for tick in (0.01, 0.1, 1, BAND, 30, 180):
        cv2.line(picture, (left, y(tick)), (right, y(tick)), (70, 70, 70), 1)
        cv2.putText(picture, f"{tick:g}", (8, y(tick) + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, WHITE, 1, cv2.LINE_AA)
    xs = np.linspace(left, right, max(len(errors), 2))
    points = np.array([(round(xs[k]), y(errors[k])) for k in range(now + 1)], np.int32)
    cv2.polylines(picture, [points], False, (255, 210, 90), 2, cv2.LINE_AA)
    cv2.circle(picture, tuple(map(int, points[-1])), 4, WHITE, -1, cv2.LINE_AA)
    return picture
