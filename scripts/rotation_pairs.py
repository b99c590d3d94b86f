"""Write pairs of depth views of objects with the rotation between them: the benchmark of rotation estimators.

Example:

    vidssl rotation-pairs objects/ --out pairs.npz --count 100
    vidssl evaluate-rotation runs/rotation --pairs pairs.npz

Four sets, each with as many pairs of the objects held out (--split test). The splits are disjoint for the same meshes
and the same --limit: an estimator trained on the others, with the same two, has seen none of these shapes.

    clean_0_30     no noise, 0 to 30 degrees
    hard_0_30      1 mm noise, 15% of the pixels lost, up to 30% of one of the views hidden by a stripe
    hard_30_60     the same, 30 to 60 degrees
    hard_60_180    the same, 60 to 180 degrees

In all of them the object's middle is off by up to 1 cm along each axis, anew in each view. For each prefix X the file
has X_a and X_b (depth float32 [n,S,S], metres, 0 = no return), X_R (float32 [n,3,3], from view a to view b in camera
axes), X_object (int64 [n]), and one K for all. `vidssl.datasets.rotation_pairs.load_pairs` reads it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

SETS = {
    "clean_0_30": ("clean", (0.0, 30.0)),
    "hard_0_30": ("hard", (0.0, 30.0)),
    "hard_30_60": ("hard", (30.0, 60.0)),
    "hard_60_180": ("hard", (60.0, 180.0)),
}  # prefix -> sensor and degrees


@dataclass(frozen=True)
class Config:
    meshes: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MESHES|default")]]
    """folder of meshes, searched recursively, or `default` for generated solids"""
    out: Path
    """.npz to write"""
    count: int = 100
    """pairs of each of the four sets"""
    split: Literal["train", "test"] = "test"
    """objects to draw from; those of the two splits, of the same meshes and limit, have no shape in common"""
    limit: int | None = None
    """take so many meshes at most, before they are split; the training's own, for disjoint splits"""
    seed: int = 0
    """random seed of the pairs; pair i of a set depends on the seed, i and the meshes alone"""
    centre: float = 0.01
    """the middle of the object is off by up to this along each axis, metres"""
    size: int = 128
    """side of the views, pixels"""
    focal: float = 300.0
    """focal length, pixels"""
    distance: float = 0.8
    """from the camera to the object's place, metres; objects have a radius of 0.1"""


def main(argv: list[str] | None = None) -> int:
    """The `vidssl rotation-pairs` command."""
    config = tyro.cli(Config, args=argv, prog="vidssl rotation-pairs", description=__doc__)
    from vidssl.datasets.depth_sensor import SENSORS
    from vidssl.datasets.mesh_views import MeshRenderer, PinholeCamera
    from vidssl.datasets.rotation_pairs import check_target, draw_pairs, save_pairs
    from vidssl.scripts.mesh_reading import read_meshes

    check_target(config.out)  # before an hour's work rather than after
    camera = PinholeCamera(config.size, config.focal, config.distance)
    found = read_meshes(config.meshes, config.limit)
    renderer = MeshRenderer(found.split(config.split), camera)
    sets = {}
    for number, (prefix, (sensor, degrees)) in enumerate(SETS.items()):
        seed = len(SETS) * config.seed + number  # the sets show different poses
        sets[prefix] = draw_pairs(renderer, config.count, degrees, SENSORS[sensor], seed, config.centre)
    save_pairs(config.out, sets)
    for prefix, pairs in sets.items():
        angles = np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(pairs.R - np.eye(3), axis=(1, 2)) / np.sqrt(8), 0, 1)))
        returns = np.median((np.stack([pairs.a, pairs.b]) > 0).sum((2, 3)))
        print(
            f"{prefix:<12} {len(pairs)} pairs of {len(np.unique(pairs.object))} objects, {angles.min():.1f}° to "
            f"{angles.max():.1f}°, median {returns:.0f} pixels a view"
        )
    print(f"{config.out}: {config.split} split, {len(renderer.meshes)} of {len(found)} objects")
    return 0
