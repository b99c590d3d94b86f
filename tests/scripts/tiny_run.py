"""A run folder of an untrained encoder, and labelled videos that motion tells apart."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from vidssl.checkpoint import write_config, write_model
from vidssl.encoders import build_encoder
from vidssl.encoders.context import build_context


def write_run(folder: Path, output: str = "encoder", fps: float | None = None) -> Path:
    """A run folder as `vidssl pretrain` leaves it, with fresh weights."""
    torch.manual_seed(0)
    encoder = build_encoder("small-motion", (32, 32))
    context = build_context("gru", encoder.dim, 16)
    folder.mkdir(parents=True)
    config = {
        "encoder": {"name": "small-motion", "dim": encoder.dim},
        "context": {"name": "gru", "dim": 16},
        "output": output,
        "image_size": [32, 32],
        "fps": fps,
        "clip": {"frames": 4, "stride": 2},
        "method": {"name": "cpc", "options": {}},
        "data": {"hash": "", "manifest": {"videos": [{"name": "still/0.mp4"}]}},
        "seed": 0,
    }
    write_config(folder, config)
    write_model(folder, torch.nn.ModuleDict({"encoder": encoder, "context": context}).state_dict())
    return folder


def write_clip(path: Path, frames: int, speed: int, seed: int) -> None:
    """A bright square on noise that moves `speed` pixels a frame, 25 frames/s, lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    background = np.random.default_rng(seed).integers(0, 120, (32, 32, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=25, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "rgb24"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(frames):
            image = background.copy()
            image[8:16, (np.arange(8) + seed + speed * number) % 32] = 255
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_videos(folder: Path, each: int = 10, frames: int = 12) -> Path:
    """`each` videos of the classes still and moving, and sources.csv with `each` sources of one of both."""
    for number in range(each):
        write_clip(folder / "still" / f"{number}.mp4", frames, 0, seed=number)
        write_clip(folder / "moving" / f"{number}.mp4", frames, 3, seed=number)
    rows = [f"{label}/{number}.mp4,{number}" for label in ("still", "moving") for number in range(each)]
    (folder / "sources.csv").write_text("path,source\n" + "\n".join(rows) + "\n")
    return folder
