"""Make a run folder of a network that others have trained: what features of your own are to be compared with.

ENCODER is `timm:NAME`, a model of the timm library with the weights that it publishes (fetched by timm, once, from the
internet) or those of --weights; or `module:callable`, of yours, which gives an encoder with its weights in place.

Example:

    vidssl import-encoder timm:vit_small_patch14_dinov2 --size 112 --out runs/dinov2
    vidssl evaluate runs/dinov2 videos/
    vidssl robot-eval runs/rover --encoders dinov2=runs/dinov2 --demos demos

The folder serves wherever that of `vidssl pretrain` does: probes, controllers, export, `pretrain --init`. Smaller
frames are faster. A controller needs to know where things are, which the mean over a picture forgets: `timm:NAME@4`
keeps the means over 4x4 cells side by side, 16 times as many features.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vidssl.errors import VidsslError

if TYPE_CHECKING:
    from vidssl.encoders import Encoder

TIMM = "timm:"


@dataclass(frozen=True)
class Config:
    """See the text above."""

    encoder: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="ENCODER")]]
    """timm:NAME, timm:NAME@CELLS or module:callable"""
    out: Path
    """run folder to write"""
    weights: Path | None = None
    """file of the timm model's weights, whole, with the classifier it is published with, as timm reads them
    (.safetensors, .pth); those it publishes when not given"""
    size: int | None = None
    """frames are scaled to size x size pixels; those the timm model was made for when not given"""
    frames: int = 10
    """frames of the clips that `evaluate` and others look at"""
    stride: int = 2
    """of which every stride-th is taken"""


def main(argv: list[str] | None = None) -> None:
    """The `vidssl import-encoder` command."""
    run(tyro.cli(Config, args=argv, prog="vidssl import-encoder", description=__doc__))


def run(config: Config) -> None:
    """Build, check and write it; the function behind the command.

    Raises:
        VidsslError: no such encoder or weights, numbers out of range, a folder that holds a run.
    """
    import torch

    from vidssl.checkpoint import check_writable, write_config, write_model
    from vidssl.features import FeatureExtractor
    from vidssl.scripts.pretrain import check_run

    if min(config.frames, config.stride) < 1:
        raise VidsslError(f"--frames, --stride: got {config.frames} and {config.stride}; at least 1 each")
    check_run(config.out, resume=False)
    check_writable(config.out / "config.json")
    encoder, size, origin = _built(config)
    # Nothing was trained here, so it has no views; a rate is nothing to encoders of single frames.
    facts: dict[str, Any] = {
        "encoder": {"name": config.encoder, "dim": encoder.dim},
        "context": None,
        "energy": None,
        "output": "encoder",
        "image_size": [size, size],
        "fps": None,
        "clip": {"frames": config.frames, "stride": config.stride, "batch_size": None},
        "method": {"name": config.encoder, "options": {}, "views": None},
        "data": origin,
        "seed": None,
    }
    extractor = FeatureExtractor(encoder, None, (size, size), config=facts)
    if not extractor(torch.zeros(1, size, size, 3, dtype=torch.uint8)).isfinite().all():
        raise VidsslError(f"{config.encoder}: its features of a black picture are not finite; the weights are broken")
    write_model(config.out, {f"encoder.{name}": value for name, value in encoder.state_dict().items()})
    write_config(config.out, facts)  # last: a folder without it is no run
    print(f"{config.out}: {config.encoder}, {size}x{size} pixels -> {extractor.dim} features, {origin['weights']}")


def _built(config: Config) -> "tuple[Encoder, int, dict[str, Any]]":
    """The encoder with its weights, the side of its frames in pixels, and where the weights come from."""
    from vidssl.encoders import build_encoder
    from vidssl.encoders.timm import PUBLISHED, timm_encoder, timm_size

    if config.encoder.startswith(TIMM):
        name = config.encoder.removeprefix(TIMM)
        size = max(timm_size(name)) if config.size is None else config.size
        encoder = timm_encoder(name, (size, size), config.weights or PUBLISHED)
        if config.weights is None:
            return encoder, size, {"weights": "as timm publishes them", "tag": encoder.tag}
        digest = hashlib.sha256(config.weights.read_bytes()).hexdigest()
        return encoder, size, {"weights": f"of {config.weights.name}", "sha256": digest}
    if ":" not in config.encoder:
        raise VidsslError(
            f"ENCODER: got {config.encoder!r}, which has no weights of its own; give timm:NAME or module:callable"
        )
    if config.weights is not None or config.size is None:
        raise VidsslError(f"{config.encoder}: give --size, and no --weights: it brings its own")
    return build_encoder(config.encoder, (config.size, config.size)), config.size, {"weights": "its own"}
