"""Probe frozen encoders for the rotation between two views of objects that none of them saw.

MESHES is a folder of meshes, or "default" for generated solids; RUNS are folders of `vidssl pretrain-views` (or
`pretrain`). Beside each stand its own network untrained, and raw pixels.

Example:

    vidssl rotation-probe meshes/ runs/equivariant runs/vicreg

The protocol is 3DIEBench's, object-disjoint: a network of two hidden layers reads the features of both views and is
trained on views of the training split, each group in all eight ways to turn and mirror its pictures by quarters; judged
on pairs of the test split. It prints R² of canonical quaternions, of the
nine numbers of the matrix and of the rotation vector, and degrees, for each range of angles.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vidssl.errors import VidsslError

if TYPE_CHECKING:
    from vidssl.datasets.view_groups import ViewGroups

PIXELS = 16  # side of the pictures that stand for raw pixels


@dataclass(frozen=True)
class Config:
    """See the text above."""

    meshes: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MESHES|default")]]
    """folder of meshes, or "default" for generated solids"""
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUNS")]]
    """run folders; the tables name them as they are given here"""
    degrees: tuple[float, ...] = (30.0, 60.0)
    """ranges of angles: from 0 to each of these; a view is up to half of the greatest off its group's first"""
    groups: int = 20_000
    """groups of four views that probes are trained on, at least 4; judged on a quarter as many. With few of them it is
    the probe that is judged"""
    centre: float = 0.0
    """metres; objects are off the camera's axis by up to this much in each direction"""
    epochs: int = 4
    """passes over the training pairs"""
    seed: int = 1
    """random seed of views and probes"""
    out: Path | None = None
    """write the numbers to this JSON file"""


def main(argv: list[str] | None = None) -> int:
    """The `vidssl rotation-probe` command."""
    config = tyro.cli(Config, args=argv, prog="vidssl rotation-probe", description=__doc__)
    from rich.console import Console
    from rich.table import Table

    from vidssl.checkpoint import write_json

    rows = run(config)
    for degrees in config.degrees:
        table = Table(title=f"0-{degrees:g} degrees, unseen objects")
        for name in ("features", "R² quaternion", "R² nine", "R² vector", "median °", "p90 °", "no turn °"):
            table.add_column(name, justify="left" if name == "features" else "right", no_wrap=True)
        for row in rows:
            if row["degrees"] == degrees:
                numbers = [f"{row[name]:.2f}" for name in ("r2_quaternion", "r2_nine", "r2_vector")]
                angles = [f"{row[name]:.1f}" for name in ("median", "p90", "still")]
                table.add_row(row["features"], *numbers, *angles)
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    if config.out is not None:
        write_json(config.out, {"rows": rows, "groups": config.groups, "seed": config.seed})
    return 0


def run(config: Config) -> list[dict[str, Any]]:
    """One row a range and kind of features: its name, the range and the fields of `RotationProbeResult` but errors.

    Raises:
        VidsslError: numbers out of range, a run named twice or that cannot be loaded, meshes that leave a split empty.
    """
    from vidssl.checkpoint import check_writable
    from vidssl.datasets.mesh_views import MeshRenderer
    from vidssl.datasets.view_groups import crop_camera, draw_view_groups
    from vidssl.evaluate.rotation_probe import group_pairs, rotation_probe
    from vidssl.scripts.mesh_reading import read_meshes

    if not config.runs:
        raise VidsslError("rotation-probe: got no RUNS; name one or more run folders of `vidssl pretrain-views`")
    if not config.degrees or not all(0 < degrees <= 180 for degrees in config.degrees):
        raise VidsslError(f"--degrees: got {config.degrees}; give one or more ranges above 0, up to 180")
    for name, least in (("groups", 4), ("epochs", 1), ("seed", 0)):
        if (number := getattr(config, name)) < least:
            raise VidsslError(f"--{name}: got {number}; at least {least}")
    if config.out is not None:
        check_writable(config.out)
    compared = arms(config.runs)
    meshes = read_meshes(config.meshes)
    drawn = {}
    for which, groups in (("train", config.groups), ("test", config.groups // 4)):
        renderer = MeshRenderer(meshes.split(which), crop_camera())
        spread = (0.0, max(config.degrees) / 2)
        drawn[which] = draw_view_groups(renderer, groups, 4, spread, config.seed + (which == "test"), config.centre)
    rows = []
    for name, encode in compared.items():
        learned, judged = _all_ways(drawn["train"], encode), drawn["test"]
        features = encode(judged.images)
        for degrees in config.degrees:
            train = group_pairs(*learned, (0.0, degrees))
            test = group_pairs(features, judged.rotations, judged.object + len(meshes.meshes), (0.0, degrees))
            found = asdict(rotation_probe(train, test, epochs=config.epochs, seed=config.seed))
            del found["errors"]
            rows.append({"features": name, "degrees": degrees, **found})
    return rows


def _all_ways(groups: "ViewGroups", encode: Any) -> tuple[Any, Any, Any]:
    """Features `[8g,m,d]`, poses and objects of groups in all ways to turn and mirror their pictures by quarters."""
    import numpy as np
    import torch

    from vidssl.rotation.views2d import QUARTERS, quarter_turned

    channels_first = torch.from_numpy(groups.images).permute(0, 1, 4, 2, 3)
    features, poses = [], []
    for number in range(QUARTERS):
        images, turned = quarter_turned(channels_first, torch.from_numpy(groups.rotations), number)
        features.append(encode(np.ascontiguousarray(images.permute(0, 1, 3, 4, 2).numpy())))
        poses.append(turned)
    return torch.cat(features), torch.cat(poses), np.tile(groups.object, QUARTERS)


def arms(runs: tuple[Path, ...]) -> dict[str, Any]:
    """Functions from pictures uint8 `[g,m,S,S,3]` to features `[g,m,d]`, by name; a run's is its path as given.

    Raises:
        VidsslError: a run is named twice, or cannot be loaded.
    """
    from vidssl.evaluate.baselines import untrained
    from vidssl.features import load_encoder

    found: dict[str, Any] = {"raw pixels": raw_pixels}
    for run in runs:
        if str(run) in found:
            raise VidsslError(f"RUNS: {run} stands there twice; name every run once")
        extractor = load_encoder(run)
        found[str(run)] = encoding(extractor)
        parts = [extractor.config[part]["name"] for part in ("encoder", extractor.output)]
        found.setdefault(f"{' and '.join(dict.fromkeys(parts))}, untrained", encoding(untrained(extractor, 0)))
    return found


def encoding(extractor: Any) -> Any:
    """The features of pictures one by one."""
    import numpy as np
    import torch

    def encode(images: Any) -> Any:
        frames = images.reshape(-1, 1, *images.shape[2:])
        parts = [torch.as_tensor(np.asarray(extractor(frames[i : i + 256]))) for i in range(0, len(frames), 256)]
        return torch.cat(parts)[:, 0].unflatten(0, images.shape[:2]).float()

    return encode


def raw_pixels(images: Any) -> Any:
    """Luma at 16x16 pixels, side by side: `[g,m,256]`."""
    import torch
    from torch.nn import functional as F

    from vidssl.rotation.views2d import LUMA

    parts = []
    for some in torch.from_numpy(images).split(256):
        grey = some.float() @ torch.tensor(LUMA)
        parts.append(F.interpolate(grey, (PIXELS, PIXELS), mode="area").flatten(2))
    return torch.cat(parts)
