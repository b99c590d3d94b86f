"""Train a network that tells the rotation between two pictures of an object, without depth.

MESHES is a folder of meshes, or "default" for generated solids. Pictures are rendered, shaded and painted; what the
network learns from is the rotation they were rendered with. A fifth of the objects is kept aside, and the network is
judged on pairs of them, up to 30 degrees apart.

Example:

    vidssl train-views2d meshes/ --out runs/views --minutes 20

The run folder then holds config.json, model.safetensors and evaluation.json; load it with
`vidssl.rotation.views2d.load_views_estimator("runs/views")`. Ctrl-C or SIGTERM ends the training early: what was
learned till then is saved and judged. Before the training there is nothing to save.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vidssl.errors import VidsslError

RENDERING = 0.2  # share of the minutes spent on rendering, at most
CHUNK = 100  # groups rendered at a time


@dataclass(frozen=True)
class Config:
    """See the text above."""

    meshes: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MESHES|default")]]
    """folder of meshes, or "default" for generated solids"""
    out: Path
    """run folder to write"""
    minutes: float = 20.0
    """wall-clock of rendering (about a fifth at most) and training; reading meshes and judging are on top"""
    groups: int = 16_000
    """most groups of four pictures to render"""
    pairs: int = 500
    """pairs of pictures of unseen objects that it is judged on"""
    centre: float = 0.0
    """metres; objects are off the camera's axis by up to this much in each direction, in training and in judging"""
    precision: Literal["32", "bf16"] = "bf16"
    """32 bit floats, or bf16 mixed"""
    device: Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda}")] = "auto"
    """where to train; pictures are rendered, and the network judged, on the CPU"""
    seed: int = 0
    """random seed"""


def main(argv: list[str] | None = None) -> int:
    """The `vidssl train-views2d` command."""
    from vidssl.scripts.mesh_reading import read_meshes

    config = tyro.cli(Config, args=argv, prog="vidssl train-views2d", description=__doc__)
    meshes = read_meshes(config.meshes)
    train_views(
        meshes,
        config.out,
        config.minutes,
        config.groups,
        config.pairs,
        centre=config.centre,
        precision=config.precision,
        device=config.device,
        seed=config.seed,
    )
    return 0


def train_views(
    meshes: Any,
    out: Path,
    minutes: float,
    groups: int = 16_000,
    pairs: int = 500,
    centre: float = 0.0,
    precision: Literal["32", "bf16"] = "bf16",
    device: str = "auto",
    seed: int = 0,
) -> dict[str, float]:
    """Render, train, write the run folder, judge on unseen objects.

    Args:
        meshes: a `MeshSet`, split here.
        out, minutes, groups, pairs, centre, precision, device, seed: as the command's.

    Returns:
        What `evaluate_views` says of the 0-30 degree pairs of the test split.

    Raises:
        VidsslError: a run folder in use or that cannot be written, numbers out of range, no such device, a split
            without objects; all of it before anything is learned.
    """
    from vidssl.checkpoint import check_writable, write_json
    from vidssl.datasets.mesh_views import MeshRenderer
    from vidssl.datasets.view_groups import crop_camera, draw_view_groups
    from vidssl.device import choose_device
    from vidssl.rotation.views2d import ViewsEstimator
    from vidssl.rotation.views2d_training import fit_views
    from vidssl.train import stop_signals

    if (out / "config.json").exists():
        raise VidsslError(f"{out} holds a run already; choose another --out")
    if minutes <= 0 or groups < 8:
        raise VidsslError(f"train-views2d: got minutes={minutes}, groups={groups}; give minutes above 0 and 8 groups")
    if pairs < 1:
        raise VidsslError(f"--pairs: got {pairs}; give at least 1 to judge by")
    accelerator = choose_device(device)
    check_writable(out / "config.json")
    learned, unseen = meshes.split("train"), MeshRenderer(meshes.split("test"), crop_camera())
    judging = draw_view_groups(unseen, pairs, 2, (0.0, 30.0), seed + 1, centre)
    began = time.perf_counter()
    images, rotations = render_groups(learned, groups, 60 * minutes * RENDERING, centre, seed)
    print(f"{len(images)} groups of {images.shape[1]} pictures rendered in {time.perf_counter() - began:.0f} s")

    def report(step: int, spent: float, means: dict[str, float]) -> None:
        print(f"{spent:4.0%} step {step}: loss {means['loss']:.3f} nats, mean angle {means['degrees']:.1f} degrees")

    left = max(60 * minutes - (time.perf_counter() - began), 60 * minutes * (1 - RENDERING))
    with stop_signals() as stop:
        network = fit_views(
            images.to(accelerator),
            rotations.to(accelerator),
            left,
            seed=seed,
            precision=precision,
            report=report,
            stop=lambda: stop.name is not None,
        )
        estimator = ViewsEstimator(network.cpu())
        described = {"minutes": minutes, "groups": len(images), "centre": centre, "seed": seed, "precision": precision}
        estimator.save(out, {"train": described | {"stopped_by": stop.name}, "data": meshes.facts(learned)})
    if stop.name:
        print(f"stopped by {stop.name} before the {minutes:g} minutes were over; saved in {out}", file=sys.stderr)
    found = evaluate_views(estimator, judging)
    print("unseen objects, 0-30 degrees: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    write_json(out / "evaluation.json", found)
    return found


def render_groups(meshes: list[Any], groups: int, seconds: float, centre: float, seed: int) -> tuple[Any, Any]:
    """Luma uint8 `[g,4,64,64]` and poses float32 `[g,4,3,3]`, at most `groups` of them in about `seconds`."""
    import torch

    from vidssl.datasets.mesh_views import MeshRenderer
    from vidssl.datasets.view_groups import crop_camera, draw_view_groups
    from vidssl.rotation.views2d import LUMA

    renderer = MeshRenderer(meshes, crop_camera())
    images, rotations = [], []
    began = time.perf_counter()
    for first in range(0, groups, CHUNK):
        count = min(CHUNK, groups - first)
        drawn = draw_view_groups(renderer, count, 4, (0.0, 30.0), seed, centre, first=first)
        images.append((torch.from_numpy(drawn.images).float() @ torch.tensor(LUMA)).round().byte())
        rotations.append(torch.from_numpy(drawn.rotations))
        if time.perf_counter() - began > seconds:
            break
    return torch.cat(images), torch.cat(rotations)


def evaluate_views(estimator: Any, pairs: Any) -> dict[str, float]:
    """Errors in degrees on `ViewGroups` of two pictures each: median, p90, mean, root mean square, share within 5.

    `r2` is the share of the squared rotation vectors that is explained, beside a guess of no rotation.
    `expected` is the root mean square that the network itself expects, to be compared with `rms`; `still` is the
    median angle between the views, which a guess of no rotation misses by.
    """
    import torch

    from vidssl.rotation.so3 import geodesic, log
    from vidssl.rotation.views2d import LUMA, normalised

    grey = torch.from_numpy(pairs.images).float() @ torch.tensor(LUMA)  # [n,2,64,64]
    between = torch.from_numpy(pairs.between(0, 1))
    found, expected = [], []
    with torch.no_grad():
        for part in grey.split(100):
            mixture = estimator.pooled(normalised(part[:, :1]), normalised(part[:, 1:]))
            best = mixture.centres[torch.arange(len(part)), mixture.best()]
            found.append(best)
            expected.append(mixture.expected_angle(best))
    errors = torch.rad2deg(geodesic(torch.cat(found), between))
    still = torch.rad2deg(geodesic(between, torch.eye(3)))
    return {
        "median": float(errors.median()),
        "p90": float(errors.quantile(0.9)),
        "mean": float(errors.mean()),
        "rms": float(errors.square().mean().sqrt()),
        "r2": float(1 - (log(torch.cat(found)) - log(between)).square().sum() / log(between).square().sum()),
        "within5": float((errors <= 5).float().mean()),
        "expected": float(torch.rad2deg(torch.cat(expected).square().mean().sqrt())),
        "still": float(still.median()),
    }
