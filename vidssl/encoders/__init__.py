"""Encoders: clips `[B,T,3,H,W]` in [0, 1] -> features `[B,T',D]`.

- A frame encoder has a feature a frame, T' = T; `past` says how many earlier frames (0 or 1) it depends on.
- A clip encoder has fewer times, T' < T, each of which sees the whole clip; `window` says how many frames a stream of
  single frames is encoded by.
- A token encoder (`vit`, `vit-video`) also gives `tokens` of a clip, all or only those asked for: what masked
  prediction needs.

A new encoder is a function `(size) -> nn.Module` and one line in `ENCODERS`; one that lives elsewhere is named
`"module:callable"`.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from vidssl.encoders.clip import ClipEncoder, video_resnet_encoder
from vidssl.encoders.frame import FrameEncoder, control_encoder, fine_encoder, resnet_encoder, small_encoder
from vidssl.encoders.timm import timm_encoder
from vidssl.encoders.vit import FrameViT, VideoViT
from vidssl.errors import VidsslError, unknown_name
from vidssl.outside import import_named

Encoder = FrameEncoder | ClipEncoder | VideoViT
TokenEncoder = FrameViT | VideoViT

ENCODERS: dict[str, Callable[[tuple[int, int]], Encoder]] = {
    "resnet18": partial(resnet_encoder, "resnet18"),
    "resnet18-motion": partial(resnet_encoder, "resnet18", sees="motion"),
    "resnet18-both": partial(resnet_encoder, "resnet18", sees="both"),
    "resnet34": partial(resnet_encoder, "resnet34"),
    "resnet50": partial(resnet_encoder, "resnet50"),
    "r2plus1d-18": partial(video_resnet_encoder, "r2plus1d_18"),
    "r3d-18": partial(video_resnet_encoder, "r3d_18"),
    "small": small_encoder,
    "small-motion": partial(small_encoder, sees="motion"),
    "small-both": partial(small_encoder, sees="both"),
    "small-grey": partial(small_encoder, sees="grey"),
    "fine-both": partial(fine_encoder, sees="both"),
    "fine-grey": partial(fine_encoder, sees="grey"),
    "control": control_encoder,
    "vit": FrameViT,
    "vit-video": VideoViT,
}


def build_encoder(name: str, size: tuple[int, int]) -> Encoder:
    """An untrained encoder; weights come from torch's global generator.

    Args:
        name: a key of `ENCODERS`, `"timm:NAME"` for a model of the timm library, or `"module:callable"` for a function
            `(size) -> encoder` that lives elsewhere.
        size: (height, width) in pixels of the frames it will see; at least 32 each.
    Raises:
        VidsslError: unknown name (lists the valid ones), frames too small or not of a size that it takes, a module that
            cannot be imported, or something from it that is no encoder.
    """
    if name not in ENCODERS and ":" not in name:
        raise unknown_name("encoder", name, [*ENCODERS, "timm:NAME", "module:callable"])
    if min(size) < 32:
        raise VidsslError(f"frame size: got {size[0]}x{size[1]}, encoders need at least 32x32; raise --size")
    if name.startswith("timm:"):
        return timm_encoder(name.removeprefix("timm:"), size)
    return ENCODERS[name](size) if name in ENCODERS else _from_elsewhere(name, size)


def untrained_encoder(name: str, size: tuple[int, int]) -> Encoder:
    """As `build_encoder`, and random also where a callable from elsewhere brings weights: the same each time it is
    called, they are drawn anew, as each module draws its own, or with a deviation of 0.02 where it has no way to."""
    encoder = build_encoder(name, size)
    if name in ENCODERS or name.startswith("timm:"):
        return encoder
    again = build_encoder(name, size).state_dict()
    if any(not torch.equal(value, again[key]) for key, value in encoder.state_dict().items()):
        return encoder
    for module in encoder.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
            continue
        for parameter in module.parameters(recurse=False):
            nn.init.normal_(parameter, std=0.02)
    return encoder


def _from_elsewhere(name: str, size: tuple[int, int]) -> Encoder:
    encoder = import_named("encoder", name, "module:callable")(size)
    if not isinstance(encoder, Encoder):
        raise VidsslError(
            f"encoder {name!r}: got a {type(encoder).__name__}; return a FrameEncoder(trunk, head, dim) or a "
            "ClipEncoder of vidssl.encoders"
        )
    return encoder


def token_encoder(method: str, encoder: object) -> TokenEncoder:
    """`encoder`, where it gives tokens, which `method` needs; otherwise a VidsslError that names those that do."""
    if not isinstance(encoder, TokenEncoder):
        raise VidsslError(f"{method} masks tokens and needs an encoder that has them: use --encoder vit-video or vit")
    return encoder
