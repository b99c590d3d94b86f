"""Train the rotation estimator on rendered depth views of objects.

MESHES is a folder of meshes, or "default" for generated solids; the test split is left out. Nothing is labelled by
anyone: objects are drawn in random rotations, and the rotations are known.

Example:

    vidssl train-rotation meshes/ --out runs/rotation --minutes 50
    vidssl rotation-pairs meshes/ --out pairs.npz
    vidssl evaluate-rotation runs/rotation --pairs pairs.npz

In Python: `estimator = vidssl.rotation.load_estimator("runs/rotation")`, then
`estimator.estimate(depth_a, depth_b, K).rotation`.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vidssl.rotation.config import EnergyConfig, NetworkConfig

if TYPE_CHECKING:
    from vidssl.datasets.meshes import Mesh

BANDS = ((0.0, 30.0), (30.0, 60.0), (60.0, 180.0))  # degrees, of the pairs for calibration


@dataclass(frozen=True)
class Config:
    """See the text above."""

    meshes: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MESHES|default")]]
    """folder of meshes, searched recursively, or "default" for generated solids"""
    out: Path
    """run folder to write"""
    minutes: float | None = None
    """train for so many minutes; 50 when no budget is given"""
    steps: int | None = None
    """train for so many steps"""
    objects: int = 24
    """objects a batch"""
    views: int = 3
    """views of each object"""
    lr: float = 1.5e-3
    """peak learning rate"""
    precision: Literal["32", "bf16"] = "bf16"
    """32 bit floats, or bf16 mixed"""
    device: Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda}")] = "auto"
    """where to train"""
    limit: int | None = None
    """take so many meshes at most"""
    calibration: int = 3000
    """pairs of views of objects held back, on which it is learned how far estimates can be trusted"""
    seed: int = 0
    """random seed"""
    resume: bool = False
    """go on with the run in --out"""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    energy: EnergyConfig = field(default_factory=EnergyConfig)


def main(argv: list[str] | None = None) -> int:
    """The `vidssl train-rotation` command; returns its exit status (143 or 130 when a signal stopped it)."""
    return run(tyro.cli(Config, args=argv, prog="vidssl train-rotation", description=__doc__))


def run(config: Config) -> int:
    """Train as configured; the function behind the command."""
    import torch

    from vidssl.datasets.mesh_views import MeshRenderer
    from vidssl.datasets.meshes import MeshSet
    from vidssl.datasets.view_batches import ViewBatches
    from vidssl.device import choose_device
    from vidssl.errors import VidsslError
    from vidssl.rotation.calibration import FEWEST, FEWEST_OBJECTS
    from vidssl.rotation.training import RotationLearner
    from vidssl.scripts.mesh_reading import read_meshes
    from vidssl.scripts.pretrain import check_run
    from vidssl.train import Budget, TrainConfig, fit, make_fabric

    minutes = 50.0 if config.steps is config.minutes is None else config.minutes
    budget = Budget(config.steps, None, minutes)
    choose_device(config.device)
    for name, least in (("calibration", FEWEST), ("seed", 0)):
        if (number := getattr(config, name)) < least:
            raise VidsslError(f"--{name}: got {number}; at least {least}")
    check_run(config.out, config.resume)  # said before the meshes are read
    found = read_meshes(config.meshes, config.limit)
    train = found.split("train")
    sides = MeshSet(train).sides(seed=2, test_share=0.2)  # by shape, as the test split
    learned, held = ([mesh for mesh, s in zip(train, sides, strict=True) if s == side] for side in ("train", "test"))
    if not learned or len(held) < FEWEST_OBJECTS:
        raise VidsslError(
            f"{config.meshes}: of {len(found.meshes)} meshes {len(learned)} are left to learn from and {len(held)} to "
            f"calibrate on; at least 1 and {FEWEST_OBJECTS} are needed: pass more meshes, or a larger --limit"
        )
    torch.manual_seed(config.seed)
    learner = RotationLearner(config.network, config.energy).to(memory_format=torch.channels_last)
    run_config = {
        "kind": "rotation",
        "network": asdict(config.network),
        "energy": asdict(config.energy),
        "data": found.facts(learned) | {"held": len(held)},
        "batch": {"objects": config.objects, "views": config.views},
        "seed": config.seed,
    }
    fabric = make_fabric(config.device, 1, config.precision)  # speaks of mixed precision: after the mistakes
    outcome = fit(
        fabric,
        learner,
        ViewBatches(MeshRenderer(learned), config.objects, config.views, seed=config.seed),
        config.out,
        budget,
        TrainConfig(config.lr, weight_decay=0.02, precision=config.precision, seed=config.seed),
        run_config=run_config,
        resume=config.resume,
        doctor="off",
    )
    print(f"{config.out}: {outcome.step} steps in {outcome.seconds:.0f} s on {len(learned)} objects")
    if outcome.stopped_by:
        then = "go on with the same command and --resume"
        print(f"stopped by {outcome.stopped_by}, saved, not calibrated; {then}", file=sys.stderr)
        return outcome.exit_status
    _calibrate(config, held)
    return 0


def _calibrate(config: Config, held: "list[Mesh]") -> None:
    """Fit which candidate is chosen, and how surely, on objects that were held back; write it into the run."""
    from rich.progress import track

    from vidssl.checkpoint import read_model, write_model
    from vidssl.datasets.depth_sensor import HARD
    from vidssl.datasets.mesh_views import MeshRenderer
    from vidssl.datasets.rotation_pairs import draw_pairs
    from vidssl.rotation import load_estimator
    from vidssl.rotation.calibration import Example, calibrate

    renderer = MeshRenderer(held)
    count = -(-config.calibration // len(BANDS))
    pairs = []
    for number, degrees in enumerate(BANDS):
        band = draw_pairs(renderer, count, degrees, HARD, len(BANDS) * config.seed + number)  # other poses in each
        parts = zip(band.a, band.b, band.R, band.object, strict=True)
        pairs += [Example(a, b, band.K, R, int(shown)) for a, b, R, shown in parts]
    estimator = load_estimator(config.out)
    found = calibrate(estimator, track(pairs, "calibrating", disable=not sys.stderr.isatty()), config.seed)
    write_model(config.out, read_model(config.out) | estimator.calibration())
    print(
        f"calibrated on {found.pairs} hard pairs of {len(held)} objects held back, 0 to 180 degrees"
        + (f" ({len(pairs) - found.pairs} more show too little)" if found.pairs < len(pairs) else "")
        + ": a right candidate "
        f"(within 5°) is there in {found.present:.0%}, and then chosen in {found.chosen:.0%}; {found.quick:.0%} are "
        f"sure at once; estimates are given a probability of {found.chance:.2f} in the mean, and {found.right:.2f} are "
        "right"
    )


if __name__ == "__main__":
    sys.exit(main())
