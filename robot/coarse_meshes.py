"""Fewer triangles for the small pictures of a camera: a robot's meshes have ten times those that its pixels show.

Vertices of one cell of a grid become one (Rossignac & Borrel 1993), triangles left without an area are dropped; the
corners that stay keep their normals and texture. Only what is drawn changes: MuJoCo's collisions go by the meshes'
vertices and hulls, and the model has its own triangles back as soon as the renderer has taken its copy.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco

CORNERS = ("mesh_face", "mesh_facenormal", "mesh_facetexcoord")  # int [F,3] each


@contextmanager
def coarse_meshes(model: "mujoco.MjModel", cell: float) -> Iterator[None]:
    """Within the block the model's meshes are coarser; `cell`: side of the grid's cells, m."""
    kept = {name: getattr(model, name).copy() for name in (*CORNERS, "mesh_facenum")}
    try:
        for mesh in range(model.nmesh):
            faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
            first = model.mesh_vertadr[mesh]
            vertices = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
            triangles, which = merged(vertices, model.mesh_face[faces], cell)
            left = slice(faces.start, faces.start + len(which))
            for name in CORNERS:
                getattr(model, name)[left] = kept[name][faces][which]
            model.mesh_face[left] = triangles
            model.mesh_facenum[mesh] = len(which)
        yield
    finally:
        for name, values in kept.items():
            getattr(model, name)[:] = values


def merged(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], cell: float
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Triangles [f,3] between one vertex of each cell, of vertices [V,3] and faces [F,3]; and which [f] of the faces
    they were. A mesh smaller than a cell keeps its triangles."""
    _, one, inverse = np.unique(np.floor(vertices / cell), axis=0, return_index=True, return_inverse=True)
    triangles = one[inverse.ravel()][faces].astype(np.int32)
    a, b, c = triangles.T
    which = np.flatnonzero((a != b) & (b != c) & (c != a))
    if len(which) == 0:
        return faces, np.arange(len(faces))
    _, alone = np.unique(np.sort(triangles[which], axis=1), axis=0, return_index=True)
    which = which[np.sort(alone)]
    return triangles[which], which
