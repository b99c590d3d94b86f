"""Pairs of views of one object with the rotation between them known.

n pairs, S side in pixels.

    pair i = f(seed, i):  object      uniform among those given
                          base pose   uniform on SO(3):                          R_a
                          rotation    axis uniform, angle uniform in the band:   R
                          views       of R_a and of R_b = R R_a, each with its middle off by up to 1 cm an axis,
                                      each through the sensor; one of the two, drawn, has the stripe

So a pair does not depend on how many are drawn, or from which one on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile, is_zipfile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidssl.errors import VidsslError

from .depth_sensor import DepthSensor
from .mesh_views import MeshRenderer
from .pinhole import check_camera, rotation_mask

Floats = NDArray[np.float32]

PARTS = ("a", "b", "R")  # the arrays PREFIX_a, PREFIX_b, PREFIX_R that a file of pairs must have for a prefix
UNKNOWN = -1  # object of a pair in a file that does not say


@dataclass(frozen=True)
class RotationPairs:
    """Pairs of depth views; R turns the object, about its middle and in the camera's axes, from view a to view b.

    Raises:
        VidsslError: shapes that don't fit, depths that are negative or not finite, an R that is not a rotation, a K
            that is not the matrix of a pinhole camera.
    """

    a: Floats
    """depth float32 [n,H,W], metres, 0 = no return"""
    b: Floats
    """the same after the rotation"""
    R: Floats
    """float32 [n,3,3], p_b = R p_a"""
    K: NDArray[np.float64]
    """intrinsics [3,3], pixel centres at integers"""
    object: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 [n], which object; -1 (`UNKNOWN`, also when not given) where nobody knows"""

    def __post_init__(self) -> None:
        for name, dtype in (("a", np.float32), ("b", np.float32), ("R", np.float32), ("K", np.float64)):
            object.__setattr__(self, name, _numbers(getattr(self, name), name, dtype))
        if self.a.ndim != 3 or self.b.shape != self.a.shape:
            raise VidsslError(f"a and b: expected depth [n,H,W] of one shape, got {self.a.shape} and {self.b.shape}")
        if self.a.size == 0:
            raise VidsslError(f"a and b: got no pairs, or views without pixels {self.a.shape}; at least one of each")
        n = len(self.a)
        if self.object.size == 0:
            object.__setattr__(self, "object", np.full(n, UNKNOWN))
        if self.R.shape != (n, 3, 3) or self.object.shape != (n,):
            raise VidsslError(
                f"R and object: expected [{n},3,3] and [{n}] for {n} pairs, got {self.R.shape} and {self.object.shape}"
            )
        for name, depth in (("a", self.a), ("b", self.b)):
            wrong = ~((depth.min((1, 2)) >= 0) & (depth.max((1, 2)) < np.inf))  # also of NaN
            if wrong.any():
                raise VidsslError(
                    f"{name}[{int(wrong.argmax())}]: holds NaN, infinite or negative depths; expected metres, "
                    "0 = no return"
                )
        turned = ~rotation_mask(self.R)
        if turned.any():
            raise VidsslError(
                f"R[{int(turned.argmax())}] is not a rotation matrix (orthonormal, determinant 1): "
                f"{self.R[turned.argmax()].round(3).tolist()}"
            )
        check_camera(self.K)

    def __len__(self) -> int:
        return len(self.a)


def draw_pairs(
    renderer: MeshRenderer,
    count: int,
    degrees: tuple[float, float],
    sensor: DepthSensor,
    seed: int,
    centre: float = 0.01,
    objects: Sequence[int] | None = None,
    start: int = 0,
) -> RotationPairs:
    """Pairs `start`, …, `start + count - 1` of a seed.

    Args:
        renderer: of the objects and the camera.
        count: n.
        degrees: least and largest angle of the rotations, 0 to 180.
        sensor: the noise; its stripe falls on one of the two views.
        seed: 0 or more.
        centre: each view's middle is off by up to this along each axis, metres.
        objects: indices of meshes of the renderer to draw from; all when not given.
        start: number of the first pair, to go on where another call ended.

    Returns:
        n pairs, 131 kB each at S = 128; pair i is a function of (seed, start + i) and the other arguments but `count`.

    Raises:
        VidsslError: numbers out of range, or no objects.
    """
    from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

    chosen = np.arange(len(renderer.meshes)) if objects is None else np.asarray(objects, np.int64)
    if not 0 <= degrees[0] <= degrees[1] <= 180:
        raise VidsslError(f"degrees: expected 0 ≤ least ≤ largest ≤ 180, got {degrees}")
    if count < 1 or start < 0 or seed < 0 or centre < 0 or len(chosen) == 0:
        raise VidsslError(
            f"pairs: got count {count}, start {start}, seed {seed}, centre {centre} and {len(chosen)} objects; at "
            "least 1, 0, 0, 0 and 1"
        )
    draws = [np.random.default_rng([seed, start + i]) for i in range(count)]
    which = np.array([rng.integers(len(chosen)) for rng in draws])
    normal = np.stack([rng.standard_normal(7) for rng in draws])
    even = np.stack([rng.random(8) for rng in draws])
    angles = np.radians(degrees[0] + (degrees[1] - degrees[0]) * even[:, 0])
    axes = normal[:, 4:] / np.linalg.norm(normal[:, 4:], axis=1, keepdims=True)
    base = Rotation.from_quat(normal[:, :4]).as_matrix()  # a uniform direction in 4D is a uniform rotation
    turn = Rotation.from_rotvec(angles[:, None] * axes).as_matrix()
    poses = np.concatenate([base, turn @ base])
    offsets = centre * (2 * np.concatenate([even[:, 1:4], even[:, 4:7]]) - 1)
    meshes = chosen[which]
    views = renderer.depth(np.concatenate([meshes, meshes]), poses, offsets).reshape(
        2, count, *[renderer.camera.size] * 2
    )
    first = even[:, 7] < 0.5  # the stripe falls on view a
    for i, rng in enumerate(draws):
        views[:, i] = sensor(views[:, i], rng, np.array([first[i], not first[i]]))
    return RotationPairs(views[0], views[1], turn.astype(np.float32), renderer.camera.K, meshes)


def save_pairs(path: str | Path, sets: Mapping[str, RotationPairs]) -> None:
    """Write pairs as one .npz: for each prefix X the arrays X_a, X_b, X_R and X_object, and one K.

    The file is written whole, then renamed.

    Raises:
        VidsslError: not a name for an .npz, no pairs, or sets of different cameras.
    """
    path = check_target(path)
    if not sets:
        raise VidsslError(f"{path}: got no sets of pairs to write; give at least one")
    cameras = [pairs.K for pairs in sets.values()]
    if any((cameras[0] != K).any() for K in cameras):
        raise VidsslError(f"{path}: a file has one K for all its pairs, and these have several; write several files")
    arrays: dict[str, NDArray[np.generic]] = {"K": cameras[0]}
    for prefix, pairs in sets.items():
        for name in (*PARTS, "object"):
            arrays[f"{prefix}_{name}"] = getattr(pairs, name)
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_target(path: str | Path) -> Path:
    """The path, if pairs can be written there.

    Raises:
        VidsslError: it does not end in .npz, or is a folder.
    """
    path = Path(path)
    if path.suffix != ".npz" or path.is_dir():
        raise VidsslError(f"{path}: expected the name of a file ending in .npz")
    return path


def load_pairs(path: str | Path) -> dict[str, RotationPairs]:
    """Read pairs, whoever wrote them.

    Args:
        path: an .npz with `K` [3,3] and, for each prefix X, `X_a` and `X_b` [n,H,W] depth in metres and `X_R` [n,3,3];
            `X_object` [n] integers may be there; other arrays, those with no `X_R` among them, are left alone.

    Returns:
        prefix -> pairs, in the file's order.

    Raises:
        VidsslError: no such file, not an .npz, no K, no prefix or an incomplete one, or arrays that `RotationPairs`
            refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise VidsslError(f"{path}: no such file; pass an .npz of pairs, e.g. one of `vidssl rotation-pairs`")
    if not is_zipfile(path):
        raise VidsslError(f"{path}: not a readable .npz; pass one written by numpy.savez or `vidssl rotation-pairs`")
    try:
        with np.load(path, allow_pickle=False) as file:
            return _read(file, path)
    except (ValueError, BadZipFile, EOFError, OSError) as error:
        raise VidsslError(f"{path}: not a readable .npz of plain arrays ({error})") from error


def _read(file: Mapping[str, NDArray[np.generic]], path: Path) -> dict[str, RotationPairs]:
    names = list(file)
    prefixes = [name.removesuffix("_R") for name in names if name.endswith("_R")]
    if "K" not in names or not prefixes:
        raise VidsslError(
            f"{path}: expected arrays K and, for a prefix X, X_a, X_b and X_R; it holds {', '.join(names) or 'nothing'}"
        )
    sets = {}
    for prefix in prefixes:
        lacking = [f"{prefix}_{end}" for end in PARTS if f"{prefix}_{end}" not in names]
        if lacking:
            raise VidsslError(
                f"{path}: prefix {prefix!r} has no {' and no '.join(lacking)}; a prefix X needs X_a, X_b and X_R"
            )
        a, b, turns = (file[f"{prefix}_{end}"] for end in PARTS)
        known = f"{prefix}_object" in names
        objects = _numbers(file[f"{prefix}_object"], "object", np.int64) if known else np.zeros(0)
        try:
            sets[prefix] = RotationPairs(a, b, turns, file["K"], objects)  # type: ignore[arg-type]  # it converts
        except VidsslError as error:
            raise VidsslError(f"{path}: prefix {prefix!r}: {error}") from error
    return sets


def _numbers(array: ArrayLike, name: str, dtype: type) -> NDArray[np.generic]:
    """The array in another type of number."""
    given = np.asarray(array)
    if given.dtype.kind not in "fiu":
        raise VidsslError(f"{name}: expected numbers, got an array of {given.dtype}")
    return given.astype(dtype, copy=False)
