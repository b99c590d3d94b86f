"""Push-T: human demonstrations of pushing a T-shaped block onto its goal, from the zarr of Diffusion Policy.

Chi et al. 2023, arXiv 2303.04137. The pusher is a disc in a square of 512 x 512 units seen from above, at 10 steps
a second; the picture of 96 x 96 pixels shows the whole square, x right, y down.

    data/img, state, action, keypoint  [n, ...] of all episodes end to end        meta/episode_ends  [episodes]

T steps of an episode.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidssl.errors import VidsslError

from .zarr import ZarrStore

FPS = 10  # steps a second
SQUARE = 512.0  # side of the square in units of states and actions

SUCCESS = 0.95  # coverage of the goal beyond which gym-pusht counts an episode as solved
# Corners of the two bars of the T about its origin, in units, y down.
BAR = np.array([(-60, 0), (60, 0), (60, 30), (-60, 30)], np.float64)
STEM = np.array([(-15, 30), (15, 30), (15, 120), (-15, 120)], np.float64)


@dataclass(frozen=True)
class PushTEpisode:
    """One demonstration; the action t was chosen on seeing image t.

    Attributes:
        image: uint8 RGB [T,96,96,3].
        state: float32 [T,5]: pusher x, y; block x, y (0..512); block angle in radians.
        action: float32 [T,2]: where the pusher is to go, x, y in 0..512.
        keypoint: float32 [T,9,2]: points of the block, x, y.
    """

    image: np.ndarray
    state: np.ndarray
    action: np.ndarray
    keypoint: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.action)


def read_pusht(path: str | Path) -> list[PushTEpisode]:
    """All demonstrations: 206 in the published set, 25,650 steps, 710 MB of images.

    Args:
        path: the zarr v2 store, a folder with it, or a tar of it.

    Raises:
        VidsslError: no such store, an array is missing or damaged, or the arrays do not fit together.
    """
    store = ZarrStore(path)
    ends = store.array("meta/episode_ends")
    columns = [np.concatenate([np.empty((0, 96, 96, 3), np.uint8), *_images(store)])]
    columns += [store.array(f"data/{name}").astype(np.float32) for name in ("state", "action", "keypoint")]
    total = int(ends[-1]) if len(ends) else 0
    if not total or any(len(column) != total for column in columns) or not (np.diff(ends, prepend=0) > 0).all():
        held = ", ".join(str(len(column)) for column in columns)
        raise VidsslError(
            f"{path}: episodes end at step {total}, but img, state, action, keypoint hold {held} steps; "
            "fetch the data set again"
        )
    starts = [0, *ends[:-1].tolist()]
    return [
        PushTEpisode(*(column[start:end] for column in columns))
        for start, end in zip(starts, ends.tolist(), strict=True)
    ]


def _images(store: ZarrStore) -> Iterator[np.ndarray]:
    """The images, stored as float32 of whole numbers, as uint8; chunk by chunk, or they would take 2.8 GB."""
    for chunk in store.chunks("data/img"):
        image = chunk.astype(np.uint8)
        if image.shape[1:] != (96, 96, 3) or not np.array_equal(image, chunk):
            raise VidsslError(f"{store.path}: data/img is not of whole numbers 0..255, [n,96,96,3]; got {chunk.shape}")
        yield image


def coverage(state: np.ndarray) -> np.ndarray:
    """The share of the goal that the block covers, float32 [T] in 0..1.

    The block is a T, its origin in the middle of the bar's upper side; the goal is the same T at (256, 256), turned by
    45 degrees (gym-pusht, `envs/pusht.py`). Bar and stem do not overlap, so their common areas with the goal's add up.

    Args:
        state: [T,5], as of `PushTEpisode`.
    """
    import cv2

    goal = _placed(256.0, 256.0, np.pi / 4)
    area = sum(cv2.contourArea(part) for part in goal)
    shares = [
        sum(cv2.intersectConvexConvex(part, other)[0] for part in _placed(*row) for other in goal) / area
        for row in np.asarray(state, np.float64)[:, 2:]
    ]
    return np.array(shares, np.float32)


def _placed(x: float, y: float, angle: float) -> list[np.ndarray]:
    """Corners float32 [4,2] of bar and stem, in the square."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [(part @ turn + (x, y)).astype(np.float32) for part in (BAR, STEM)]
