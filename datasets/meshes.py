"""Meshes of objects from any folder, checked and brought to one size, in object-disjoint splits.

V vertices, F triangles. Lengths in metres.

    folder -> read -> checked: finite, not flat, not enormous -> centred, radius 0.1 -> MeshSet
                                   '- else MeshSet.skipped[name] = reason
"""

import hashlib
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError
from vidssl.splits import check_split

from .files import natural_key, walk_files
from .mesh_files import MALFORMED, Soup, TooLarge, read_obj, read_off, read_ply, read_stl
from .mesh_geometry import FINE, fingerprint, geometry_key, is_closed, surface_moments, triangle_areas
from .mesh_gltf import read_gltf

if TYPE_CHECKING:
    from .symmetry import Symmetry

GLTF = [".glb", ".gltf"]
MESH_EXTENSIONS = [*GLTF, ".obj", ".off", ".ply", ".stl"]
MAX_TRIANGLES = 200_000
BYTES = 400  # most that a triangle may take in a file; STL as text takes about 270
FLAT = 1e-4  # least thickness, as a share of the longest direction (standard deviations of the surface)
DEFAULT_SOLIDS = 1000
OPEN = "not watertight: an open surface, or triangles that run against their neighbours"

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Mesh:
    """One object: vertices float32 [V,3] in metres, triangles int32 [F,3].

    Generated solids have outward normals by the right-hand rule; a file's triangles are kept as they run there.
    """

    name: str
    vertices: NDArray[np.float32]
    triangles: NDArray[np.int32]

    def normalised(self, radius: float = 0.1) -> "Mesh":
        """The same with the middle of its bounding box at the origin and its farthest vertex `radius` metres away."""
        vertices = self.vertices.astype(np.float64)
        vertices -= (vertices.min(0) + vertices.max(0)) / 2
        vertices *= radius / np.linalg.norm(vertices, axis=1).max()
        return Mesh(self.name, vertices.astype(np.float32), self.triangles)

    @property
    def closed(self) -> bool:
        """Whether the surface has no rim and its triangles run alike (watertight; overlapping closed parts are)."""
        return is_closed(self.vertices, self.triangles)


@dataclass(frozen=True, eq=False)
class MeshSet:
    """Objects, and what was said of the others.

    Attributes:
        meshes: the usable ones, normalised.
        skipped: name -> why it was left out.
        notes: name -> what is unusual with a mesh that is in (`not watertight: …`).
        source, limit: what `load_meshes` was asked for; empty and None for meshes from elsewhere.
    """

    meshes: list[Mesh]
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    source: str = ""
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.meshes)

    def split(self, which: str, seed: int = 0, test_share: float = 0.2) -> list[Mesh]:
        """The objects of one split; see `sides`.

        Raises:
            VidsslError: there is no such split, or it is empty.
        """
        check_split(which)
        chosen = [mesh for mesh, side in zip(self.meshes, self.sides(seed, test_share), strict=True) if side == which]
        if not chosen:
            raise VidsslError(
                f"split {which!r}: none of the {len(self.meshes)} objects falls in it with seed {seed} and test_share "
                f"{test_share}; add objects, or choose another seed or share"
            )
        return chosen

    def sides(self, seed: int = 0, test_share: float = 0.2) -> list[Split]:
        """The split of each mesh, by its shape alone: names, order and number of the others do not matter.

        Copies of a shape (renamed, moved, turned, mirrored, scaled, cut into other triangles) have the same key. Where
        two near-copies fall in different cells of it, the whole chain of them is for training; so an object can leave
        the test split when a near-copy of it is added, and by nothing else.
        """
        from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
        from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
        from scipy.spatial import cKDTree  # type: ignore[import-untyped]

        sides = [split_of(geometry_key(row), seed, test_share) for row in self._fingerprints]
        pairs = cKDTree(self._fingerprints).query_pairs(FINE, p=np.inf, output_type="ndarray")
        links = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(sides), len(sides)))
        _, group = connected_components(links, directed=False)
        training = {group[index] for index, side in enumerate(sides) if side == "train"}
        return ["train" if of in training else "test" for of in group]

    def facts(self, learned: Sequence[Mesh]) -> dict[str, Any]:
        """What a run folder keeps of its data: where it came from, the number of objects learned from, and a hash of
        all shapes in their order, so that a run goes on with the same ones only."""
        keys = "\n".join(geometry_key(row) for row in self._fingerprints)
        digest = hashlib.sha256(keys.encode()).hexdigest()
        return {"meshes": self.source, "limit": self.limit, "objects": len(learned), "hash": digest}

    @cached_property
    def symmetries(self) -> "dict[str, Symmetry]":
        """Of each mesh by its name, at the usual tolerance: the rotations that turn it into itself."""
        from .symmetry import symmetries

        return {mesh.name: symmetries(mesh) for mesh in self.meshes}

    @cached_property
    def _fingerprints(self) -> NDArray[np.float64]:
        return np.stack([fingerprint(mesh.vertices, mesh.triangles) for mesh in self.meshes])


def split_of(key: str, seed: int = 0, test_share: float = 0.2) -> Split:
    """The split of one key (`geometry_key` of a shape, or any name) by its hash: `test_share` of all keys are "test".

    Raises:
        VidsslError: `test_share` is not between 0 and 1.
    """
    if not 0 < test_share < 1:
        raise VidsslError(f"test_share: expected a share between 0 and 1 (both left out), got {test_share}")
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < test_share * 2**64 else "train"


def load_mesh(path: str | Path, max_triangles: int = MAX_TRIANGLES) -> Mesh:
    """One mesh file, normalised (see `Mesh.normalised`), named by its file.

    Args:
        path: a file with one of MESH_EXTENSIONS; polygons are cut into triangles, the parts of a scene are joined.
        max_triangles: more are refused.

    Raises:
        VidsslError: it is no such file, or it is unreadable, empty, degenerate or too large.
    """
    path = Path(path)
    if not path.is_file():
        raise VidsslError(f"{path}: no such file; pass a mesh file ({' '.join(MESH_EXTENSIONS)})")
    try:
        return _read(path, path.name, max_triangles)
    except _Unusable as reason:
        raise VidsslError(f"{path}: {reason}") from reason


def load_meshes(
    source: str | Path, limit: int | None = None, *, watertight: bool = False, max_triangles: int = MAX_TRIANGLES
) -> MeshSet:
    """All usable meshes of a folder, normalised; the others are named with a reason.

    Args:
        source: a folder (searched recursively, in natural order of names), one mesh file, or "default" for generated
            solids (`solids.make_solid` with seeds 0, 1, ...).
        limit: stop after so many usable ones; None takes all ("default": 1000).
        watertight: leave out meshes that are not `Mesh.closed` too, which else are taken and noted.
        max_triangles: meshes with more are left out.

    Raises:
        VidsslError: there is no such path, or not one usable mesh in it.
    """
    if limit is not None and limit < 1:
        raise VidsslError(f"limit: expected at least 1, got {limit}; leave it out to take all")
    if str(source) == "default":
        from .solids import make_solid

        return MeshSet([make_solid(seed) for seed in range(limit or DEFAULT_SOLIDS)], source="default", limit=limit)
    found = MeshSet([], source=str(Path(source)), limit=limit)
    for path, name in _find(Path(source)):
        if len(found) == limit:
            break
        try:
            mesh = _read(path, name, max_triangles)
        except _Unusable as reason:
            found.skipped[name] = str(reason)
            continue
        if not mesh.closed:
            if watertight:
                found.skipped[name] = f"{OPEN}, and only watertight meshes were asked for"
                continue
            found.notes[name] = OPEN
        found.meshes.append(mesh)
    if not found.meshes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(found.skipped.items())[:3])
        raise VidsslError(f"{source}: none of {len(found.skipped)} meshes is usable, e.g. {reasons}")
    return found


_READERS: dict[str, Callable[[bytes], Soup]] = {".obj": read_obj, ".off": read_off, ".ply": read_ply, ".stl": read_stl}


class _Unusable(Exception):
    """Why a mesh is left out."""


def _find(source: Path) -> list[tuple[Path, str]]:
    if not source.exists():
        raise VidsslError(f"{source}: no such file or folder; pass a folder of meshes, one mesh file, or 'default'")
    if source.is_file():
        return [(source, source.name)]
    files = list(walk_files(source))
    meshes = [(path, path.relative_to(source).as_posix()) for path in files if path.suffix.lower() in MESH_EXTENSIONS]
    if not meshes:
        inside = Counter(path.suffix.lower() or "(no extension)" for path in files)
        held = ", ".join(f"{count} {suffix}" for suffix, count in inside.most_common(5)) or "nothing"
        raise VidsslError(
            f"{source}: no meshes; found {held}, looked for {' '.join(MESH_EXTENSIONS)} in all subfolders"
        )
    return sorted(meshes, key=lambda item: natural_key(item[1]))


def _read(path: Path, name: str, max_triangles: int) -> Mesh:
    if path.suffix.lower() not in MESH_EXTENSIONS:
        raise _Unusable(f"not a mesh by its extension ({path.suffix or 'none'}); known: {' '.join(MESH_EXTENSIONS)}")
    try:
        vertices, triangles = _soup(path, max_triangles)
    except OSError as error:
        raise _Unusable(f"unreadable: {error.strerror}") from error
    except TooLarge as error:
        raise _Unusable(f"enormous: {error}") from error
    except MALFORMED as error:
        raise _Unusable(f"unreadable: {error}") from error
    _check_triangles(vertices, triangles, max_triangles)
    used, triangles = np.unique(triangles, return_inverse=True)
    triangles = triangles.reshape(-1, 3)
    vertices = vertices[used]
    vertices = vertices - (vertices.min(0) / 2 + vertices.max(0) / 2)  # far from its origin float32 would round it
    vertices /= max(np.abs(vertices).max(), 1e-300)  # in range of float32, whatever the unit was
    _check_shape(vertices, triangles)
    return Mesh(name, vertices.astype(np.float32), triangles.astype(np.int32)).normalised()


def _soup(path: Path, max_triangles: int) -> Soup:
    facts, limit = path.stat(), BYTES * max_triangles
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("no regular file")  # reading a pipe would wait for ever
    if facts.st_size > limit:  # not even opened
        raise TooLarge(
            f"{facts.st_size / 1e6:.0f} MB, at most {limit / 1e6:.0f} MB for the limit of {max_triangles} triangles; "
            "simplify it or raise max_triangles"
        )
    suffix, data = path.suffix.lower(), path.read_bytes()
    return read_gltf(data, path.parent, max_triangles, limit) if suffix in GLTF else _READERS[suffix](data)


def _check_triangles(vertices: NDArray[np.float64], triangles: NDArray[np.int64], max_triangles: int) -> None:
    if not len(vertices) or not len(triangles):
        raise _Unusable("empty: no triangles")
    if len(triangles) > max_triangles:
        raise _Unusable(
            f"enormous: {len(triangles)} triangles, the limit is {max_triangles}; simplify it or raise max_triangles"
        )
    if triangles.min() < 0 or triangles.max() >= len(vertices):
        raise _Unusable(f"broken: a triangle uses vertex {triangles.max()}, there are {len(vertices)}")
    if not np.isfinite(vertices[triangles]).all():
        raise _Unusable("degenerate: vertices that are NaN or infinite")


def _check_shape(vertices: NDArray[np.float64], triangles: NDArray[np.int64]) -> None:
    if triangle_areas(vertices, triangles).sum() <= 1e-9 * np.ptp(vertices, axis=0).max() ** 2:
        raise _Unusable("degenerate: no area")
    deviations = surface_moments(vertices, triangles).deviations
    if deviations[2] < FLAT * deviations[0]:
        raise _Unusable("degenerate: flat, it has no thickness")
