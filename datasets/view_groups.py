"""Groups of pictures of one object, turned a little from one to the next: what learns rotations without depth.

g groups, m views a group, S side of a picture in pixels.

    base pose, uniform on SO(3) --turned about any axis by an angle of `spread`--> view 0, view 1, … view m-1

Any two views of a group are a pair whose rotation is known, R = R_b R_aᵀ, so m views give m (m − 1) pairs. The object
turns under a lamp that stands still, and its paint turns with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidssl.core.random import sample_key
from vidssl.errors import VidsslError
from vidssl.rotation.views2d_training import quarter_turned

from .loading import ahead
from .mesh_light import Light
from .mesh_views import MeshRenderer, PinholeCamera

Floats = NDArray[np.float32]

SIZE, CROP, FOCAL = 64, 96, 300.0  # pictures of 64x64: the middle 96x96 of a view at 128x128, scaled down


@dataclass(frozen=True)
class ViewGroups:
    """Groups of views of objects.

    Attributes:
        images: uint8 `[g,m,S,S,3]` RGB.
        rotations: float32 `[g,m,3,3]`, from the object's frame to the camera's axes.
        object: int64 `[g]`, the object of each group, its place in the renderer's meshes.
    """

    images: NDArray[np.uint8]
    rotations: Floats
    object: NDArray[np.int64]

    def between(self, a: int, b: int) -> Floats:
        """The rotations `[g,3,3]` that take the object from view a of each group to view b."""
        return np.matmul(self.rotations[:, b], np.swapaxes(self.rotations[:, a], 1, 2))


def crop_camera() -> PinholeCamera:
    """The camera whose whole picture is the middle 96×96 of the default camera's 128×128."""
    return PinholeCamera(size=CROP, focal=FOCAL)


def draw_view_groups(
    renderer: MeshRenderer,
    groups: int,
    views: int = 2,
    spread: tuple[float, float] = (0.0, 30.0),
    seed: int = 0,
    centre: float = 0.0,
    lamp: str = "fixed",
    first: int = 0,
) -> ViewGroups:
    """Random groups; group i is a function of (seed, i) and of its object alone, and the objects take turns.

    Args:
        renderer: of the objects, with `crop_camera()` (or another, whose whole picture is then scaled to 64×64).
        groups, views: g and m.
        spread: least and greatest angle in degrees of each view but the first from the group's first, which is a
            base pose uniform on SO(3); about an axis uniform on the sphere, the angle uniform. With two views this is
            the angle between them; with more, pairs of later views are up to twice as far apart.
        seed: of poses, places and lamps. Not of the paint: that is the group's number, with every seed, so each group
            of an object has another one, and groups of the same object and number in other sets have the same.
        centre: metres; each view's object is off the axis by up to this much in each direction, uniformly. Without
            depth that looks much like a turn about an axis across the picture: both move the front of the object.
        lamp: "fixed": one lamp for all views of a group; "moving": another for each view.
        first: number of the first group, to go on where an earlier call ended.

    Raises:
        VidsslError: numbers out of range.
    """
    low, high = spread
    if groups < 1 or views < 2 or not 0 <= low <= high <= 180 or centre < 0 or lamp not in ("fixed", "moving"):
        raise VidsslError(
            f"view groups: got groups={groups}, views={views}, spread={spread}, centre={centre}, lamp={lamp!r}; give "
            'at least 1 group of 2 views, 0 <= low <= high <= 180 degrees, centre >= 0, lamp "fixed" or "moving"'
        )
    size = renderer.camera.size
    images = np.empty((groups, views, SIZE, SIZE, 3), np.uint8)
    rotations = np.empty((groups, views, 3, 3), np.float32)
    objects = np.arange(first, first + groups) % len(renderer.meshes)
    full: NDArray[Any] = np.empty((views, size, size, 3), np.uint8)
    for group, index in enumerate(objects):
        number = first + group
        rng = np.random.default_rng([seed, number])
        rotations[group] = _poses(rng, views, low, high)
        light = Light.random(rng, paint=number)
        for view in range(views):
            if lamp == "moving":
                light = Light.random(rng, paint=number)
            offset = rng.uniform(-centre, centre, 3)
            full[view] = renderer.render(int(index), rotations[group, view], offset, ("shade",), light)["shade"]
        images[group] = _shrunk(full)
    return ViewGroups(images, rotations, objects)


def _poses(rng: np.random.Generator, views: int, low: float, high: float) -> Floats:
    """A uniform base pose and `views - 1` poses around it: float32 `[m,3,3]`."""
    quaternion = rng.normal(size=4)
    base = _matrix(quaternion / np.linalg.norm(quaternion))
    poses = [base]
    for _ in range(views - 1):
        axis = rng.normal(size=3)
        half = np.radians(rng.uniform(low, high)) / 2
        turn = np.concatenate([[np.cos(half)], np.sin(half) * axis / np.linalg.norm(axis)])
        poses.append(_matrix(turn) @ base)
    return np.stack(poses).astype(np.float32)


def _matrix(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation [3,3] of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _shrunk(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`[m,S,S,3]` scaled down to `[m,64,64,3]`, each pixel the mean of the area it covers."""
    import cv2

    return np.stack([cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for picture in pictures])


class PairLoader:
    """Two-frame clips with the known rotation between them, for the training loop (`vidssl.train.Loader`).

    Batch s is a function of (seed, s): which groups, which two of a group's views, and one of the eight ways to turn
    and mirror both pictures by quarters, after which the rotation is another, exactly.
    """

    def __init__(self, groups: ViewGroups, batch_size: int, seed: int = 0) -> None:
        if not 2 <= batch_size <= len(groups.images):
            raise VidsslError(f"batch_size: got {batch_size}; give 2 to {len(groups.images)}, the number of groups")
        self.groups, self.batch_size, self.seed = groups, batch_size, seed
        self.steps_per_epoch = len(groups.images) // batch_size

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        """`clips` uint8 `[B,2,3,S,S]`, `rotation` `[B,3,3]`, `key`, `video` (the object) and `names`, without end."""
        yield from ahead((self.batch(step) for step in count(start_step)), 2)

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        rng = np.random.default_rng([self.seed, step])
        chosen = rng.choice(len(self.groups.images), self.batch_size, replace=False)
        pair = np.argsort(rng.random((self.batch_size, self.groups.images.shape[1])), axis=1)[:, :2]
        images, poses = (
            torch.from_numpy(x[chosen[:, None], pair]) for x in (self.groups.images, self.groups.rotations)
        )
        clips = images.permute(0, 1, 4, 2, 3).contiguous()
        how = torch.from_numpy(rng.integers(0, 8, self.batch_size))
        for number in range(8):
            clips[how == number], poses[how == number] = quarter_turned(
                clips[how == number], poses[how == number], number
            )
        objects = self.groups.object[chosen]
        keys = [sample_key(self.seed, step, place) for place in range(self.batch_size)]
        return {
            "clips": clips,
            "rotation": poses[:, 1] @ poses[:, 0].mT,
            "key": torch.tensor(keys),
            "video": torch.from_numpy(objects),
            "names": [f"object {index}" for index in objects],
        }
