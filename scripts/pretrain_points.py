"""Train an encoder of point clouds on what a depth camera sees of objects from any side.

MESHES is a folder of meshes, or "default" for generated solids; the test split is left out. Nothing is labelled: two
views of one object belong together, and so do a view's points and its picture.

Example:

    vidssl pretrain-points default --out runs/points --minutes 4 --probe

With --probe a linear model on the frozen features tells kinds of objects that no training saw, beside the untrained
encoder and shape statistics. A kind is the family of a generated solid, or the first folder that a mesh lies in.

In Python: `encoder = vidssl.encoders.points.load_point_encoder("runs/points")`, then `encoder(points)` of float32
`[B,P,3]` is `[B,D]`. A run that was stopped goes on with the same command and --resume.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vidssl.errors import VidsslError
from vidssl.scripts.settings import Flag

if TYPE_CHECKING:
    from torch import Tensor

    from vidssl.datasets.meshes import MeshSet
    from vidssl.datasets.view_clouds import ViewClouds

TEST_VIEWS = 6  # of each test object, and the most of each training object that a probe is trained on


@dataclass(frozen=True)
class Config:
    """See the text above."""

    meshes: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MESHES|default")]]
    """folder of meshes, searched recursively, or "default" for generated solids"""
    out: Path
    """run folder to write"""
    encoder: str = "pointnet"
    """network: pointnet or dgcnn"""
    learn: Literal["both", "pictures", "views"] = "both"
    """what a cloud is contrasted with: its picture, another view's cloud, or both"""
    pictures: str = "control"
    """network for pictures: a name (an unknown one lists them all)"""
    dim: int = 256
    """width of a feature"""
    views: int = 12
    """views of each object to render"""
    points: int = 128
    """points of a cloud"""
    batch_size: int = 64
    """objects a batch, two views of each"""
    minutes: float | None = None
    """train for so many minutes, rendering not counted; 4 when no budget is given"""
    steps: int | None = None
    """train for so many steps"""
    lr: float = 2e-3
    """peak learning rate"""
    precision: Literal["32", "bf16"] = "32"
    """32 bit floats, or bf16 mixed"""
    device: Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda}")] = "auto"
    """where to train"""
    limit: int | None = None
    """take so many meshes at most"""
    probe: bool = False
    """probe the trained encoder; writes probe.json into the run folder"""
    seed: int = 0
    """random seed"""
    resume: Flag = False
    """go on with the run in --out from its last checkpoint; the same views are rendered again"""


def main(argv: list[str] | None = None) -> int:
    """The `vidssl pretrain-points` command; returns its exit status (143 or 130 when a signal stopped it)."""
    return run(tyro.cli(Config, args=argv, prog="vidssl pretrain-points", description=__doc__))


def run(config: Config) -> int:
    """Train as configured; the function behind the command."""
    import torch

    from vidssl.datasets.mesh_views import MeshRenderer
    from vidssl.datasets.view_clouds import CloudLoader, draw_view_clouds
    from vidssl.datasets.view_groups import SIZE, crop_camera
    from vidssl.encoders import build_encoder
    from vidssl.encoders.points import build_point_encoder
    from vidssl.methods.point_contrast import PointContrast
    from vidssl.scripts.mesh_reading import read_meshes
    from vidssl.scripts.pretrain import check_run
    from vidssl.train import Budget, TrainConfig, fit, make_fabric

    minutes = 4.0 if config.steps is config.minutes is None else config.minutes
    budget = Budget(config.steps, None, minutes)
    check_run(config.out, config.resume)  # said before the views are rendered
    fabric = make_fabric(config.device, 1, config.precision)
    torch.manual_seed(config.seed)
    encoder = build_point_encoder(config.encoder, config.dim)
    pictures = None if config.learn == "views" else build_encoder(config.pictures, (SIZE, SIZE))
    method = PointContrast(encoder, pictures, learn=config.learn)
    if config.points < encoder.fewest:
        raise VidsslError(f"--points: got {config.points}; {config.encoder} needs at least {encoder.fewest} a cloud")
    meshes = read_meshes(config.meshes, config.limit)
    train = meshes.split("train")
    if config.probe:
        check_kinds([mesh.name for mesh in train], [mesh.name for mesh in meshes.split("test")])
    seen = draw_view_clouds(MeshRenderer(train, crop_camera()), config.views, 2 * config.points, seed=config.seed)
    run_config: dict[str, Any] = {
        "kind": "points",
        "encoder": {"name": config.encoder, "dim": config.dim},
        "method": {"name": "vidssl.methods.point_contrast:PointContrast", "options": {"learn": config.learn}},
        "pictures": None if pictures is None else config.pictures,
        "data": meshes.facts(train) | {"views": config.views},
        "batch": {"objects": config.batch_size, "points": config.points},
        "seed": config.seed,
    }
    outcome = fit(
        fabric,
        method,
        CloudLoader(seen, config.batch_size, config.points, config.seed),
        config.out,
        budget,
        TrainConfig(lr=config.lr, precision=config.precision, seed=config.seed),
        run_config=run_config,
        resume=config.resume,
    )
    print(f"{config.out}: {outcome.step} steps in {outcome.seconds:.0f} s on {len(train)} objects")
    if outcome.stopped_by:
        probed = ", not probed" if config.probe else ""
        then = "go on with the same command and --resume"
        print(f"stopped by {outcome.stopped_by}, saved{probed}; {then}", file=sys.stderr)
        return outcome.exit_status
    if config.probe:
        report(config.out, probe(config, meshes, seen))
    return 0


def probe(config: Config, meshes: "MeshSet", seen: "ViewClouds") -> list[dict[str, Any]]:
    """One row a kind of features, trained on views of the training objects, judged on views of the test objects."""
    import torch

    from vidssl.datasets.mesh_views import MeshRenderer
    from vidssl.datasets.view_clouds import draw_view_clouds
    from vidssl.datasets.view_groups import crop_camera
    from vidssl.encoders.points import build_point_encoder, load_point_encoder
    from vidssl.evaluate.shape_probe import Views, shape_distances, shape_moments, shape_probe

    renderer = MeshRenderer(meshes.split("test"), crop_camera())
    held = draw_view_clouds(renderer, TEST_VIEWS, 2 * config.points, seed=config.seed + 1)
    torch.manual_seed(config.seed)
    arms: dict[str, Callable[[Tensor], Tensor]] = {
        "moments": shape_moments,
        "D2": shape_distances,
        "D2 and moments": lambda points: torch.cat([shape_distances(points), shape_moments(points)], dim=1),
        f"{config.encoder}, untrained": build_point_encoder(config.encoder, config.dim).eval(),
        f"{config.encoder}, trained": load_point_encoder(config.out),
    }
    rows = []
    for name, encode in arms.items():
        sides = []
        for of in (seen, held):
            clouds = torch.from_numpy(of.points[:, :TEST_VIEWS, : config.points])
            views = clouds.shape[1]
            with torch.inference_mode():
                features = torch.cat([encode(part) for part in clouds.flatten(0, 1).split(128)])
            kinds, names = ([x for x in given for _ in range(views)] for given in (kinds_of(of.names), of.names))
            sides.append(Views(features, kinds, names))
        found = shape_probe(*sides)
        numbers = {"balanced": found.balanced, "chance": found.chance, "strength": found.strength}
        rows.append({"features": name, **asdict(found.accuracy), **numbers, "test_objects": len(held.names)})
    return rows


def report(out: Path, rows: list[dict[str, Any]]) -> None:
    """Prints the rows and writes them to `probe.json`."""
    from rich.console import Console
    from rich.table import Table

    from vidssl.checkpoint import write_json

    first = rows[0]
    table = Table(
        title=f"kinds of {first['test_objects']} unseen objects, a view at a time; chance {first['chance']:.2f}"
    )
    for name in ("features", "accuracy", "95 %", "balanced"):
        table.add_column(name, justify="left" if name == "features" else "right", no_wrap=True)
    for row in rows:
        interval = f"{row['low']:.3f}-{row['high']:.3f}"
        table.add_row(row["features"], f"{row['mean']:.3f}", interval, f"{row['balanced']:.3f}")
    Console().print(table)
    write_json(out / "probe.json", {"rows": rows})


def check_kinds(train: list[str], test: list[str]) -> None:
    """Says before the training what a probe after it would stumble over.

    Raises:
        VidsslError: a mesh of no kind, one kind only, or a kind with fewer than two training objects.
    """
    counts = Counter(kinds_of(train))
    few = sorted(kind for kind in {*counts, *kinds_of(test)} if counts[kind] < 2)
    if few or len(counts) < 2:
        raise VidsslError(
            f"--probe: needs two kinds or more with at least 2 training objects each, got {dict(counts)}; add objects "
            f"of {', '.join(few) or 'another kind'}, or leave --probe out"
        )


def kinds_of(names: list[str]) -> list[str]:
    """The kind of each mesh by its name: `solid-SEED-FAMILY`, or `FOLDER/…`.

    Raises:
        VidsslError: a mesh that lies in no folder of its kind.
    """
    found = []
    for name in names:
        folder, inside, _ = name.partition("/")
        solid = name.split("-")
        if not inside and (len(solid) != 3 or solid[0] != "solid"):
            raise VidsslError(
                f"--probe: {name} has no kind; give a folder with a subfolder for each kind, or leave --probe out"
            )
        found.append(folder if inside else solid[2])
    return found


if __name__ == "__main__":
    sys.exit(main())
