"""An encoder's maps beside its features. B clips, T' times, D feature dim, D' channels and h x w cells of a map."""

from typing import Any

import torch
from torch import Tensor

from vidssl.errors import VidsslError


def map_shape(method: str | None, encoder: Any, frames: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """What `encoder.maps` gives for clips of `frames` frames of `size`: times, channels, height and width.

    Args:
        method: its name; None where the layers behind the map are trained by something else.

    Raises:
        VidsslError: layers behind the map, which a loss on the map would never train.
    """
    head = getattr(encoder, "head", None)
    if method is not None and head is not None and any(True for _ in head.parameters()):
        raise VidsslError(
            f"{method} learns through the encoder's map, and the layers that this encoder has behind it would stay "
            "untrained; choose one whose feature is the mean of its map, such as --encoder small-both or fine-both"
        )
    training = encoder.training
    encoder.eval()  # a look at the map's shape must not move batch statistics
    with torch.no_grad():
        times, channels, height, width = encoder.maps(torch.zeros(1, frames, 3, *size)).shape[1:]
    encoder.train(training)
    return times, channels, height, width


def maps_and_features(encoder: Any, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one pass: `[B,T,3,H,W]` -> maps `[B,T',D',h,w]` and features `[B,T',D]`, which are `encoder(clips)`.

    Frame encoders have a `head` between the two; clip encoders take the mean over the cells.
    """
    maps = encoder.maps(clips)
    if hasattr(encoder, "head"):
        return maps, encoder.head(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
    return maps, maps.mean((-2, -1))
