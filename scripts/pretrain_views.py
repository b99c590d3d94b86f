"""Train an encoder on rendered pairs of views of objects, between which the rotation is known.

MESHES is a folder of meshes, or "default" for generated solids. A pair is a clip of two frames, so any method for
frames can be trained on them, such as vicreg beside equivariant, which is told the rotation.

Example:

    vidssl pretrain-views meshes/ --out runs/equivariant --minutes 10
    vidssl rotation-probe meshes/ runs/equivariant

The run folder is one of `vidssl pretrain`: load it with `vidssl.load_encoder("runs/equivariant")`. A run that was
stopped goes on with the same command and --resume.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vidssl.scripts.settings import Flag


@dataclass(frozen=True)
class Config:
    """See the text above."""

    meshes: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MESHES|default")]]
    """folder of meshes, or "default" for generated solids; the test split is left out"""
    out: Path
    """run folder to write"""
    method: str = "equivariant"
    """what to learn by: a name (an unknown one lists them all) or module:Class"""
    encoder: str | None = None
    """network: a name (an unknown one lists them all); the method's own choice when not given"""
    options: Annotated[list[str], tyro.conf.arg(metavar="NAME=VALUE ...")] = field(default_factory=list)
    """settings of the method, e.g. --options action=hypernetwork (an unknown one lists them all)"""
    groups: int = 8000
    """groups of four views to render; any two of a group are a pair"""
    degrees: float = 30.0
    """greatest angle of a view from the first of its group"""
    centre: float = 0.0
    """metres; objects are off the camera's axis by up to this much in each direction"""
    batch_size: int = 128
    """pairs a batch"""
    minutes: float | None = None
    """train for so many minutes, rendering not counted; 10 when no budget is given"""
    steps: int | None = None
    """train for so many steps"""
    lr: float = 2e-3
    """peak learning rate"""
    precision: Literal["32", "bf16"] = "32"
    """32 bit floats, or bf16 mixed"""
    device: Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda}")] = "auto"
    """where to train"""
    seed: int = 0
    """random seed"""
    resume: Flag = False
    """go on with the run in --out from its last checkpoint; the same views are rendered again"""


def main(argv: list[str] | None = None) -> int:
    """The `vidssl pretrain-views` command; returns its exit status (143 or 130 when a signal stopped it)."""
    return run(tyro.cli(Config, args=argv, prog="vidssl pretrain-views", description=__doc__))


def run(config: Config) -> int:
    """Train as configured; the function behind the command."""
    import torch

    from vidssl.datasets.mesh_views import MeshRenderer
    from vidssl.datasets.view_groups import SIZE, PairLoader, crop_camera, draw_view_groups
    from vidssl.encoders import build_encoder
    from vidssl.methods import find_method
    from vidssl.scripts.mesh_reading import read_meshes
    from vidssl.scripts.pretrain import check_run, default_encoder, method_options
    from vidssl.train import Budget, TrainConfig, fit, make_fabric

    minutes = 10.0 if config.steps is config.minutes is None else config.minutes
    budget = Budget(config.steps, None, minutes)
    training = TrainConfig(lr=config.lr, precision=config.precision, seed=config.seed)
    check_run(config.out, config.resume)  # said before the views are rendered
    method_class = find_method(config.method)
    options = method_options(method_class, config.method, config.options)
    encoder_name = config.encoder or default_encoder(method_class)
    fabric = make_fabric(config.device, 1, config.precision)
    torch.manual_seed(config.seed)
    size = (SIZE, SIZE)
    method = method_class(build_encoder(encoder_name, size), method_class.default_views(size), **options)
    meshes = read_meshes(config.meshes)
    train = meshes.split("train")
    renderer = MeshRenderer(train, crop_camera())
    drawn = draw_view_groups(renderer, config.groups, 4, (0.0, config.degrees), config.seed, config.centre)
    run_config: dict[str, Any] = {
        "encoder": {"name": encoder_name, "dim": method.encoder.dim},
        "context": None if method.context is None else {"name": method.context.name, "dim": method.context.dim},
        "energy": energy.sizes if (energy := getattr(method, "energy", None)) else None,
        "output": method.output,
        "image_size": list(size),
        "fps": None,
        "clip": {"frames": 2, "stride": 1, "batch_size": config.batch_size},
        "method": {"name": config.method, "options": options, "views": asdict(method.views)},
        "data": meshes.facts(train) | {"groups": config.groups, "degrees": config.degrees, "centre": config.centre},
        "seed": config.seed,
    }
    outcome = fit(
        fabric,
        method,
        PairLoader(drawn, config.batch_size, config.seed),
        config.out,
        budget,
        training,
        run_config=run_config,
        resume=config.resume,
    )
    print(f"{config.out}: {outcome.step} steps in {outcome.seconds:.0f} s on {len(train)} objects")
    if outcome.stopped_by:
        print(f"stopped by {outcome.stopped_by}, saved; go on with the same command and --resume", file=sys.stderr)
        return outcome.exit_status
    return 0
