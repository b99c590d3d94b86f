"""Point clouds and shaded pictures of objects, as a depth camera with a colour sensor sees them from any side.

n objects, m views of each, Q points kept of a view, P points a sample, B objects a batch, S side of a picture.

    object --m rotations, uniform on SO(3); lamp and paint anew--> depth, noisy --> points [Q,3], camera axes
                                                              '--> shade        --> picture [S,S,3]

Nothing is labelled: what a learner is told is which clouds and pictures are of one object.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from vidssl.errors import VidsslError
from vidssl.rotation.clouds import FEWEST_POINTS, backproject

from .depth_sensor import HARD, DepthSensor
from .loading import ahead
from .mesh_light import Light
from .mesh_views import MeshRenderer
from .view_groups import SIZE

TRIES = 8  # rotations tried for a view of enough points: a thin object may be seen edge on


@dataclass(frozen=True)
class ViewClouds:
    """What was seen of objects.

    Attributes:
        points: float32 `[n,m,Q,3]` metres, camera axes.
        pictures: uint8 `[n,m,3,S,S]` RGB.
        names: of the n objects.
    """

    points: NDArray[np.float32]
    pictures: NDArray[np.uint8]
    names: list[str]


def draw_view_clouds(
    renderer: MeshRenderer,
    views: int,
    points: int = 512,
    sensor: DepthSensor = HARD,
    seed: int = 0,
) -> ViewClouds:
    """Random views of every object of a renderer; a view is a function of (seed, object, view) alone.

    Args:
        renderer: of the objects, with `view_groups.crop_camera()` or another.
        views: m, at least 2.
        points: Q, at least 50, drawn from the pixels with a return; where there are fewer, some come twice.
        sensor: noise of the depth; the stripe hides part of every other view.
        seed: of everything random.

    Raises:
        VidsslError: numbers out of range, or an object of which no view has 50 points.
    """
    if views < 2 or points < FEWEST_POINTS:
        raise VidsslError(
            f"view clouds: got views={views}, points={points}; give at least 2 views, {FEWEST_POINTS} points"
        )
    count = len(renderer.meshes)
    clouds = np.empty((count, views, points, 3), np.float32)
    pictures = np.empty((count, views, 3, SIZE, SIZE), np.uint8)
    for index in range(count):
        for view in range(views):
            rng = np.random.default_rng([seed, index, view])
            cloud, picture = _view(renderer, index, sensor, rng, striped=view % 2 == 1)
            chosen = rng.choice(len(cloud), points, replace=len(cloud) < points)
            clouds[index, view], pictures[index, view] = cloud[chosen], picture
    return ViewClouds(clouds, pictures, [mesh.name for mesh in renderer.meshes])


def _view(
    renderer: MeshRenderer, index: int, sensor: DepthSensor, rng: np.random.Generator, striped: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """One view with enough points: `[p,3]`, and its picture `[3,S,S]`."""
    import cv2

    for _ in range(TRIES):
        rotation = Rotation.random(None, rng).as_matrix()
        light = Light.random(rng, paint=int(rng.integers(2**31)))
        seen = renderer.render(index, rotation, channels=("depth", "shade"), light=light)
        depth = sensor(seen["depth"][None], rng, np.array([striped]))[0]
        cloud = backproject(depth, renderer.camera.K)
        if len(cloud) >= FEWEST_POINTS:
            small = cv2.resize(seen["shade"], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            return cloud, np.asarray(small, np.uint8).transpose(2, 0, 1)
    raise VidsslError(
        f"{renderer.meshes[index].name}: {TRIES} views in a row have fewer than {FEWEST_POINTS} points; "
        "leave the object out, bring the camera nearer or lower the sensor's dropout"
    )


class CloudLoader:
    """Two clouds of each of B objects and the first one's picture, for the training loop (`vidssl.train.Loader`).

    Batch s is a function of (seed, s): which objects, which two of their views, which P points of each.
    """

    def __init__(self, seen: ViewClouds, batch_size: int, points: int = 256, seed: int = 0) -> None:
        count, _, kept, _ = seen.points.shape
        if not 2 <= batch_size <= count:
            raise VidsslError(f"batch size: got {batch_size}; choose 2 to {count}, the number of objects")
        if not 1 <= points <= kept:
            raise VidsslError(f"points: got {points} a cloud; choose 1 to {kept}, as many as were kept of a view")
        self.seen, self.batch_size, self.points, self.seed = seen, batch_size, points, seed
        self.steps_per_epoch = count // batch_size

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        """`points` float32 `[B,2,P,3]`, `pictures` uint8 `[B,3,S,S]`, `object` int64 `[B]` and `names`, without end."""
        yield from ahead((self.batch(step) for step in count(start_step)), 2)

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        rng = np.random.default_rng([self.seed, step])
        count, views, kept, _ = self.seen.points.shape
        chosen = rng.choice(count, self.batch_size, replace=False)
        pair = np.argsort(rng.random((self.batch_size, views)), axis=1)[:, :2]
        which = np.argsort(rng.random((self.batch_size, 2, kept)), axis=2)[:, :, : self.points]
        clouds = self.seen.points[chosen[:, None, None], pair[:, :, None], which]
        return {
            "points": torch.from_numpy(clouds),
            "pictures": torch.from_numpy(self.seen.pictures[chosen, pair[:, 0]]),
            "object": torch.from_numpy(chosen),
            "names": [self.seen.names[index] for index in chosen],
        }
