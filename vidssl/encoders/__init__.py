"""Encoders: clips `[B,T,C,H,W]` in [0, 1] -> features `[B,T,D]`.

A new encoder is a function `(size) -> nn.Module` and one line in `ENCODERS`.
"""

from collections.abc import Callable
from functools import partial

from vidssl.encoders.frame import FrameEncoder, control_encoder, fine_encoder, resnet_encoder, small_encoder
from vidssl.errors import VidsslError, unknown_name

ENCODERS: dict[str, Callable[[tuple[int, int]], FrameEncoder]] = {
    "resnet18": partial(resnet_encoder, "resnet18"),
    "resnet18-motion": partial(resnet_encoder, "resnet18", sees="motion"),
    "resnet18-both": partial(resnet_encoder, "resnet18", sees="both"),
    "resnet34": partial(resnet_encoder, "resnet34"),
    "resnet50": partial(resnet_encoder, "resnet50"),
    "small": small_encoder,
    "small-motion": partial(small_encoder, sees="motion"),
    "small-both": partial(small_encoder, sees="both"),
    "small-grey": partial(small_encoder, sees="grey"),
    "fine-both": partial(fine_encoder, sees="both"),
    "fine-grey": partial(fine_encoder, sees="grey"),
    "control": control_encoder,
}


def build_encoder(name: str, size: tuple[int, int]) -> FrameEncoder:
    """An untrained encoder by its name in `ENCODERS`; weights come from torch's global generator.

    Args:
        name: a key of `ENCODERS`.
        size: (height, width) in pixels of the frames it will see; at least 32 each.
    Raises:
        VidsslError: unknown name (lists the valid ones) or frames too small.
    """
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    if min(size) < 32:
        raise VidsslError(f"frame size: got {size[0]}x{size[1]}, encoders need at least 32x32; raise --size")
    return ENCODERS[name](size)
