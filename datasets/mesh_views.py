r"""Depth, normals and shaded RGB of meshes by ray casting: no OpenGL, no display.

n views, S side of the image in pixels, h vertices of the convex hull, p pixels inside the object's outline.

    vertices --R, offset--> outline of the convex hull --> the p pixels inside --> rays, turned into the object's frame
                            +-------+
                            |  /\   |   only these rays are cast: the hull's outline holds the object's,
                            | /__\  |   so all other pixels are known to see nothing
                            +-------+

The camera is a pinhole (x right, y down, z forward, pixel centres at integers) and the object's middle lies on its
axis. A ray runs through a pixel with a direction whose z is 1, so the distance to the hit, in units of the direction,
is the depth itself. Rays are turned rather than the mesh, so a mesh's search tree is built once.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidssl.errors import VidsslError, unknown_name
from vidssl.open3d_library import load_open3d

from .mesh_light import Light, shade
from .meshes import Mesh
from .pinhole import NEAREST, PinholeCamera, rotation_mask

Floats = NDArray[np.float32]

CHANNELS = ("depth", "normal", "shade")
BYTES_PER_TRIANGLE = 200  # of a search tree, its mesh and hull: 93 measured for Embree 4 on 638,400 triangles
FEW = 8  # vertices
BYTES_PER_SCENE = 50_000  # of the smallest: 21,000 measured


@dataclass(frozen=True)
class _Scene:
    rays: Any  # open3d's RaycastingScene
    hull: Floats  # [h,3]
    bytes: int


class MeshRenderer:
    """Views of meshes as one camera sees them.

    >>> renderer = MeshRenderer(load_meshes("objects").meshes)
    >>> renderer.depth([3, 3], rotations)                    # float32 [2,128,128], metres
    >>> renderer.render(3, rotation, channels=("shade",))["shade"]    # uint8 [128,128,3]

    A view is a function of its own arguments alone, not of the others in the batch, of `threads` or of `memory_mb`.
    Not for a forked worker: Open3D's threads do not survive a fork. Render in the parent, or spawn.

    Args:
        meshes: at least one, each with its origin in its middle.
        camera: the camera of all views.
        threads: views rendered at a time.
        memory_mb: bound on the search trees that are kept (a mesh of 400 triangles takes 0.13 MB, one of 100,000 takes
            20 MB); the longest unused is dropped, and built again when asked for. The last one used always stays.

    Raises:
        VidsslError: no meshes, or numbers out of range.
    """

    def __init__(
        self,
        meshes: Sequence[Mesh],
        camera: PinholeCamera | None = None,
        threads: int = 2,
        memory_mb: float = 512.0,
    ) -> None:
        if len(meshes) == 0:
            raise VidsslError("renderer: got no meshes; pass at least one, e.g. load_meshes(…).meshes")
        if threads < 1 or memory_mb <= 0:
            raise VidsslError(f"renderer: got threads {threads}, memory_mb {memory_mb}; both must be positive")
        self.meshes = list(meshes)
        self.camera = camera or PinholeCamera()
        self.threads = threads
        self.memory_mb = memory_mb
        self._scenes: OrderedDict[int, _Scene] = OrderedDict()
        self._lock = threading.Lock()

    def render(
        self,
        index: int,
        rotation: ArrayLike,
        offset: ArrayLike = (0.0, 0.0, 0.0),
        channels: Sequence[str] = ("depth",),
        light: Light | None = None,
    ) -> dict[str, NDArray[Any]]:
        """One view of one mesh.

        Args:
            index: of the mesh.
            rotation: [3,3], from the mesh's frame to the camera's axes.
            offset: [3] metres, of the object's middle from its place on the camera's axis, along the camera's axes.
            channels: some of `CHANNELS`.
            light: of "shade"; a lamp above the camera's left shoulder when not given.

        Returns:
            For each channel an array: "depth" float32 [S,S], metres along the axis, 0 = no return; "normal" float32
            [S,S,3], unit, camera axes, turned towards the camera, 0 = no return; "shade" uint8 [S,S,3] RGB, black = no
            return.

        Raises:
            VidsslError: no such mesh or channel, wrong shapes, not a rotation, an offset that is not finite, or an
                object too near to the camera.
        """
        for name in channels:
            if name not in CHANNELS:
                raise unknown_name("channel", name, CHANNELS)
        indices, rotations, offsets = self._poses([index], np.asarray(rotation)[None], np.asarray(offset)[None])
        turn, size = rotations[0], self.camera.size
        inside, hits = self._cast(indices[0], turn, offsets[0])
        seen = np.isfinite(hits["t_hit"])
        depth, facing = hits["t_hit"][seen], hits["primitive_normals"][seen]
        inside = inside[seen]
        directions = self.camera.directions[inside]
        normals = facing @ turn.T
        normals *= np.where((normals * directions).sum(1, keepdims=True) > 0, np.float32(-1), np.float32(1))
        found: dict[str, NDArray[Any]] = {"depth": depth, "normal": normals}
        if "shade" in channels:
            points = directions * depth[:, None]
            places = (points - self._middle(offsets[0])) @ turn  # in the mesh's frame: paint sticks to the object
            places /= np.linalg.norm(self._scene(index).hull, axis=1).max()
            found["shade"] = shade(normals, places, self.meshes[index].name, light or Light())
        views = {}
        for name in channels:
            view = np.zeros((size * size, *found[name].shape[1:]), found[name].dtype)
            view[inside] = found[name]
            views[name] = view.reshape(size, size, *view.shape[1:])
        return views

    def depth(self, indices: ArrayLike, rotations: ArrayLike, offsets: ArrayLike | None = None) -> Floats:
        """Depth of many views, fast.

        Args:
            indices: integers [n], the mesh of each view.
            rotations: [n,3,3], from the mesh's frame to the camera's axes.
            offsets: [n,3] metres, as in `render`; none when not given.

        Returns:
            float32 [n,S,S], metres along the axis, 0 = no return.

        Raises:
            VidsslError: as `render`.
        """
        meshes, turns, shifts = self._poses(indices, rotations, offsets)
        views = np.zeros((len(meshes), self.camera.size, self.camera.size), np.float32)

        def fill(part: NDArray[np.int64]) -> None:
            for view in part:
                inside, hits = self._cast(meshes[view], turns[view], shifts[view])
                depth = hits["t_hit"]
                depth[np.isinf(depth)] = 0
                views[view].reshape(-1)[inside] = depth

        # views of a mesh one after the other, so that a search tree is not dropped and built again in one batch
        order = np.argsort(meshes, kind="stable")
        if self.threads == 1 or len(order) < 2:
            fill(order)
        else:
            parts = np.array_split(order, min(len(order), self.threads))
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(fill, parts))
        return views

    def kept_mb(self) -> float:
        """Estimated memory of the search trees now kept, MB."""
        return sum(scene.bytes for scene in list(self._scenes.values())) / 1e6

    def _poses(
        self, indices: ArrayLike, rotations: ArrayLike, offsets: ArrayLike | None
    ) -> tuple[NDArray[np.int64], Floats, Floats]:
        """The same as arrays, checked."""
        meshes = np.asarray(indices)
        turns = np.asarray(rotations, np.float32)
        shifts = np.zeros((len(meshes), 3), np.float32) if offsets is None else np.asarray(offsets, np.float32)
        n = len(meshes) if meshes.ndim == 1 else -1
        if n < 0 or turns.shape != (n, 3, 3) or shifts.shape != (n, 3):
            raise VidsslError(
                f"views: expected indices [n], rotations [n,3,3] and offsets [n,3], got {meshes.shape}, {turns.shape} "
                f"and {shifts.shape}"
            )
        if n and (meshes.dtype.kind not in "iu" or meshes.min() < 0 or meshes.max() >= len(self.meshes)):
            raise VidsslError(f"views: expected integer indices from 0 to {len(self.meshes) - 1}, got {meshes}")
        off = ~rotation_mask(turns)
        if off.any():
            raise VidsslError(
                f"views: rotations[{int(off.argmax())}] is not a rotation matrix (orthonormal, determinant 1)"
            )
        bad = ~np.isfinite(shifts).all(1)
        if bad.any():
            raise VidsslError(f"views: offsets[{int(bad.argmax())}] holds NaN or infinity; expected metres")
        return meshes.astype(np.int64), turns, shifts

    def _middle(self, offset: Floats) -> Floats:
        """Place of the object's middle, float32 [3], metres."""
        middle = offset.copy()
        middle[2] += np.float32(self.camera.distance)
        return middle

    def _cast(self, index: int, turn: Floats, offset: Floats) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
        """Pixels [p] inside the outline, and what Open3D says of each: t_hit [p], primitive_normals [p,3], …"""
        scene = self._scene(int(index))
        middle = self._middle(offset)
        inside = self._outline(scene.hull @ turn.T + middle, index)
        rays = np.empty((len(inside), 6), np.float32)
        rays[:, :3] = -(middle @ turn)
        np.matmul(self.camera.directions[inside], turn, out=rays[:, 3:])
        hits = scene.rays.cast_rays(rays, nthreads=1)
        return inside, {name: hits[name].numpy() for name in ("t_hit", "primitive_normals")}

    def _outline(self, corners: Floats, index: int) -> NDArray[np.int64]:
        """Pixels, as flat indices [p], in or on the convex outline of points [h,3]."""
        import cv2

        nearest = corners[:, 2].min()
        if nearest < NEAREST:
            raise VidsslError(
                f"{self.meshes[index].name}: comes to {nearest:.3g} m before the camera; allowed from {NEAREST} m: "
                "move the camera away, or normalise the mesh (Mesh.normalised)"
            )
        pixels = corners[:, :2] / corners[:, 2:] * self.camera.focal + (self.camera.size - 1) / 2
        fixed = np.round(np.clip(pixels, -1e6, 1e6) * 16).astype(np.int32)  # 4 bits of a pixel's fraction
        mask = np.zeros((self.camera.size, self.camera.size), np.uint8)
        cv2.fillConvexPoly(mask, cv2.convexHull(fixed), 1, cv2.LINE_8, 4)
        return np.flatnonzero(mask)

    def _scene(self, index: int) -> _Scene:
        with self._lock:  # a thread waits for a tree that another builds: two would take twice the memory
            if index in self._scenes:
                self._scenes.move_to_end(index)
                return self._scenes[index]
            scene = self._scenes[index] = _build(self.meshes[index])
            while self.kept_mb() > self.memory_mb and len(self._scenes) > 1:
                self._scenes.popitem(last=False)
            return scene


def _build(mesh: Mesh) -> _Scene:
    from scipy.spatial import ConvexHull  # type: ignore[import-untyped]

    scene = load_open3d().t.geometry.RaycastingScene(nthreads=1)
    vertices = np.ascontiguousarray(mesh.vertices, np.float32)
    scene.add_triangles(vertices, np.ascontiguousarray(mesh.triangles, np.uint32))
    scene.cast_rays(np.zeros((1, 6), np.float32), nthreads=1)  # the first cast builds the tree: here, by one thread
    used = vertices[np.unique(mesh.triangles)]
    # QJ: joggled, so that a flat mesh has a hull as well; a few points are as good as theirs
    hull = used[ConvexHull(used, qhull_options="QJ").vertices] if len(used) > FEW else used
    size = BYTES_PER_SCENE + BYTES_PER_TRIANGLE * len(mesh.triangles)
    return _Scene(scene, hull, size)
