"""What learned features must beat: the pixels themselves, their changes, and the same network untrained.

All take the same frames as the learned encoder: uint8 [W, T, H, W', 3], W windows of T frames.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidssl.encoders import untrained_encoder
from vidssl.encoders.context import build_context
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor

PIXEL_SIZE = 64  # frames are shrunk to 64x64 pixels
CELLS = 8  # differences are averaged over 8x8 cells


def pixels(frames: Tensor) -> Tensor:
    """Raw pixels at 64x64 or the frames' size if smaller: uint8 [W,T,H,W',3] -> [W,T,12288 or fewer] in [0, 1]."""
    x = _channels_first(frames)
    size = (min(PIXEL_SIZE, x.shape[-2]), min(PIXEL_SIZE, x.shape[-1]))
    if x.shape[-2:] != size:
        x = interpolate(x, size, mode="area")
    return x.reshape(*frames.shape[:2], -1)


def frame_differences(frames: Tensor) -> Tensor:
    """|x_t - x_{t-1}| averaged over 8x8 cells, by colour: uint8 [W,T,H,W',3] -> [W,T-1,192] in [0, 1].

    A window of one frame gives one row of zeros: nothing was seen to move.
    """
    x = _channels_first(frames).unflatten(0, frames.shape[:2])
    change = x.diff(dim=1).abs() if x.shape[1] > 1 else torch.zeros_like(x)
    pooled = interpolate(change.flatten(0, 1), (CELLS, CELLS), mode="area")
    return pooled.reshape(*change.shape[:2], -1)


def untrained(extractor: FeatureExtractor, seed: int) -> FeatureExtractor:
    """The architecture of a run with fresh weights, a function of `seed` alone: what training must improve on.

    Raises:
        VidsslError: the extractor does not come from a run folder, so its architecture isn't known.
    """
    if "encoder" not in extractor.config:
        raise VidsslError("untrained: this extractor has no run config; make it with load_encoder(run)")
    return fresh({**extractor.config, "output": extractor.output}, seed, extractor.device)


def fresh(config: dict[str, Any], seed: int, device: str | torch.device = "cpu") -> FeatureExtractor:
    """The architecture of a run's config with fresh weights, a function of `seed` alone.

    Args:
        config: as in `config.json`: `encoder`, `context`, `image_size`, `fps` and `output` are read.
        seed: of the weights.
        device: where to run it.
    """
    size = (int(config["image_size"][0]), int(config["image_size"][1]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = untrained_encoder(config["encoder"]["name"], size)
        context = None
        if config["context"] is not None:
            context = build_context(config["context"]["name"], encoder.dim, config["context"]["dim"])
    return FeatureExtractor(encoder, context, size, config["fps"], config["output"], config, device)


def _channels_first(frames: Tensor) -> Tensor:
    """uint8 [W,T,H,W',3] -> float32 [W T,3,H,W'] in [0, 1]."""
    if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise VidsslError(f"baseline: expected uint8 frames [W,T,H,W,3], got {frames.dtype} {tuple(frames.shape)}")
    return frames.flatten(0, 1).movedim(-1, -3).float() / 255
