"""An encoder's maps beside its features. B clips, T' times, D feature dim, D' channels and h x w cells of a map."""

from typing import Any

import torch
from torch import Tensor


def map_shape(encoder: Any, size: tuple[int, int], frames: int = 1) -> tuple[int, int, int]:
    """(D', h, w) of the maps of clips of `frames` frames of `size` pixels."""
    training = encoder.training
    with torch.no_grad():
        encoder.eval()  # a look at the shape must not move batch statistics
        channels, height, width = encoder.maps(torch.zeros(1, frames, 3, *size)).shape[2:]
    encoder.train(training)
    return channels, height, width


def maps_and_features(encoder: Any, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one pass: `[B,T,3,H,W]` -> maps `[B,T',D',h,w]` and features `[B,T',D]`, which are `encoder(clips)`.

    Frame encoders have a `head` between the two; clip encoders take the mean over the cells.
    """
    maps = encoder.maps(clips)
    if hasattr(encoder, "head"):
        return maps, encoder.head(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
    return maps, maps.mean((-2, -1))
