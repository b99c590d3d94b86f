"""Speed of views of meshes: depth alone, depth with normals and shaded RGB, and noisy pairs ready for training.

python -m vidssl.scripts.bench_render --meshes objects --rounds 7
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import tyro

from vidssl.datasets.depth_sensor import CLEAN, HARD
from vidssl.datasets.mesh_views import CHANNELS, MeshRenderer, PinholeCamera
from vidssl.datasets.meshes import load_meshes
from vidssl.datasets.rotation_pairs import draw_pairs


@dataclass
class Config:
    """What is measured and how often."""

    meshes: Path = Path("default")
    """Folder of meshes; generated solids when not given."""
    limit: int = 200
    """Meshes at most."""
    size: int = 128
    """Side of a view, pixels."""
    threads: int = 2
    """Threads of the renderer."""
    rounds: int = 7
    """Rounds of each measurement; the median is reported."""
    views: int = 1000
    """Depth views a round; a fifth as many with all channels."""


def main(argv: list[str] | None = None) -> None:
    """Print the median of each measurement, search trees already built."""
    config = tyro.cli(Config, args=argv, prog="bench_render", description=__doc__)
    meshes = load_meshes(config.meshes, config.limit).meshes
    camera = PinholeCamera(config.size, focal=300 * config.size / 128)
    renderer = MeshRenderer(meshes, camera, config.threads)
    poses = np.linalg.qr(np.random.default_rng(0).normal(size=(config.views, 3, 3)))[0]
    poses *= np.linalg.det(poses)[:, None, None]  # uniform reflections made rotations
    which = np.arange(config.views) % len(meshes)
    fewer = max(1, config.views // 5)

    def all_channels() -> None:
        for view in range(fewer):
            renderer.render(int(which[view]), poses[view], channels=CHANNELS)

    pairs = max(1, config.views // 2)
    measured: dict[str, tuple[Callable[[], object], int]] = {
        "depth views/s": (lambda: renderer.depth(which, poses), config.views),
        "views/s of depth, normals and RGB, one thread": (all_channels, fewer),
        "views/s in clean pairs": (lambda: draw_pairs(renderer, pairs, (0, 180), CLEAN, 0), 2 * pairs),
        "views/s in hard pairs": (lambda: draw_pairs(renderer, pairs, (0, 180), HARD, 0), 2 * pairs),
    }
    rates: dict[str, list[float]] = {name: [] for name in measured}
    for work, _ in measured.values():
        work()
    for _ in range(config.rounds):  # interleaved, so that a busy moment hits all of them
        for name, (work, count) in measured.items():
            begin = time.perf_counter()
            work()
            rates[name].append(count / (time.perf_counter() - begin))
    triangles = np.mean([len(mesh.triangles) for mesh in meshes])
    print(f"{len(meshes)} meshes of {triangles:.0f} triangles, {config.size}x{config.size}, {config.threads} threads")
    for name, values in rates.items():
        print(f"{median(values):8.0f}  {name}  (least {min(values):.0f}, most {max(values):.0f})")
    print(f"{renderer.kept_mb():8.1f}  MB of search trees kept")


if __name__ == "__main__":
    main()
