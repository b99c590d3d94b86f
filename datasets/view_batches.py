"""Endless batches of depth views of objects in known rotations, as a depth camera would see them.

G objects a batch, V views of each, S side in pixels.

    step -> G objects, one after the other of a shuffled order; for each a pose R_0, uniform, and V-1 more:
            R_i = turn R_0, axis uniform, angle uniform in 0-180 degrees; offsets and noise anew in every view
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
from vidssl.rotation.clouds import FEWEST_POINTS

from .depth_sensor import DepthSensor
from .loading import ahead
from .mesh_views import MeshRenderer
from .view_clouds import TRIES

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ViewBatches:
    """What `vidssl.train.fit` takes as a loader; batch s depends on (seed, s) alone.

    Raises:
        VidsslError: numbers out of range.
    """

    renderer: MeshRenderer
    objects: int = 24
    """G, at least 1"""
    views: int = 3
    """V, at least 2"""
    centre: float = 0.01
    """an object's middle is off by up to this along each axis, metres, 0 or more"""
    belief: float = 0.18
    """the radius a learner is told is off by up to this share, 0 or more, below 1"""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objects < 1 or self.views < 2:
            raise VidsslError(
                f"view batches: got objects={self.objects}, views={self.views}; give at least 1 object, 2 views"
            )
        if not (0 <= self.centre < np.inf and 0 <= self.belief < 1):
            raise VidsslError(
                f"view batches: got centre={self.centre}, belief={self.belief}; give centre >= 0, 0 <= belief < 1"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every object was seen once."""
        return -(-len(self.renderer.meshes) // self.objects)

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        """Batches from `start_step` on: `depth` float32 [G,V,S,S] and `centre` [G,V,3] in metres, `rotation` [G,V,3,3],
        `radius` [G] metres, `K` [3,3], and the objects' `names`. Rendered two ahead, on a thread of its own."""
        yield from ahead((self.draw(step) for step in count(start_step)), 2)

    def draw(self, step: int) -> dict[str, Any]:
        """Batch `step`."""
        rng = np.random.default_rng([self.seed, step])
        places = np.arange(step * self.objects, (step + 1) * self.objects)
        epochs, at = np.divmod(places, len(self.renderer.meshes))
        order = {
            epoch: np.random.default_rng([self.seed, epoch, 1]).permutation(len(self.renderer.meshes))
            for epoch in set(epochs)
        }
        meshes = np.array([order[epoch][place] for epoch, place in zip(epochs, at, strict=True)])
        base = Rotation.random(self.objects, rng).as_matrix()
        axes = rng.standard_normal((self.objects, self.views - 1, 3))
        axes /= np.linalg.norm(axes, axis=2, keepdims=True)
        turns = Rotation.from_rotvec(
            (axes * rng.uniform(0, np.pi, axes.shape[:2])[..., None]).reshape(-1, 3)
        ).as_matrix()
        others = turns.reshape(self.objects, self.views - 1, 3, 3) @ base[:, None]
        poses = np.concatenate([base[:, None], others], axis=1).astype(np.float32)
        offsets = rng.uniform(-self.centre, self.centre, (self.objects, self.views, 3)).astype(np.float32)
        depth = self.renderer.depth(np.repeat(meshes, self.views), poses.reshape(-1, 3, 3), offsets.reshape(-1, 3))
        noisy = np.concatenate(
            [_sensor(rng)(part, rng, rng.random(len(part)) < 0.5) for part in np.array_split(depth, 8)]
        )
        self._seen_again(noisy, meshes, poses, offsets, step)
        middle = offsets + np.array([0, 0, self.renderer.camera.distance], np.float32)
        radii = np.array([np.linalg.norm(self.renderer.meshes[mesh].vertices, axis=1).max() for mesh in meshes])
        believed = radii * np.exp(rng.uniform(-self.belief, self.belief, self.objects))
        return {
            "depth": torch.from_numpy(noisy).unflatten(0, (self.objects, self.views)),
            "rotation": torch.from_numpy(poses),
            "centre": torch.from_numpy(middle),
            "radius": torch.from_numpy(believed.astype(np.float32)),
            "K": torch.from_numpy(self.renderer.camera.K.astype(np.float32)),
            "names": [self.renderer.meshes[mesh].name for mesh in meshes],
        }

    def _seen_again(self, noisy: Floats, meshes: NDArray[np.int64], poses: Floats, offsets: Floats, step: int) -> None:
        """Views with next to nothing in them, as of a thin thing from its end, drawn anew in place, in other poses.

        What is no better after TRIES shows what another view of the object does.

        Raises:
            VidsslError: an object of which nothing can be seen.
        """
        flat, moved, which = poses.reshape(-1, 3, 3), offsets.reshape(-1, 3), np.repeat(meshes, self.views)

        def scarce() -> NDArray[np.int64]:
            return np.flatnonzero(np.count_nonzero(noisy, axis=(1, 2)) < FEWEST_POINTS)

        for attempt in range(TRIES):
            if not len(few := scarce()):
                return
            rng = np.random.default_rng([self.seed, step, 2, attempt])
            flat[few] = Rotation.random(len(few), rng).as_matrix()
            depth = self.renderer.depth(which[few], flat[few], moved[few])
            noisy[few] = _sensor(rng)(depth, rng, rng.random(len(few)) < 0.5)
        for view in scarce():
            own = np.arange(self.views) + view // self.views * self.views
            best = own[np.count_nonzero(noisy[own], axis=(1, 2)).argmax()]
            if not noisy[best].any():
                name = self.renderer.meshes[which[view]].name
                raise VidsslError(f"{name}: nothing of it can be seen; it is too thin for this camera, leave it out")
            noisy[view], flat[view], moved[view] = noisy[best], flat[best], moved[best]


def _sensor(rng: np.random.Generator) -> DepthSensor:
    """From a clean camera to one worse than the benchmark's."""
    return DepthSensor(noise=rng.uniform(0, 0.0015), dropout=rng.uniform(0, 0.25), stripe=0.3)
