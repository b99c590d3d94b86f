"""Methods: what is learned from a batch of clips. One file a method, one line in `METHODS`.

A method is an `nn.Module` built as `Method(encoder, views, **options)` with

- `loss(batch) -> (loss, metrics)`: a batch has `clips` uint8 `[B,T,C,H,W]`, `key` int64
  `[B]` (the seed of a sample's views), `video` int64 `[B]`, `step` int64 (the number of the batch, alike on all ranks)
  and `progress` float32 in [0, 1], on the CPU (share of the budget spent, for schedules); metrics are scalar tensors,
  those that cost time only where `vidssl.core.monitor.measured()` says so. Where the data know it, also `rotation`
  float32 `[B,3,3]`, from the first frame to the last;
- `default_views(size)`: the augmentation it is published with; `default_encoder`: the network it takes by default;
- `ablations`: settings in which it collapses, see `vidssl.methods.ablation`;
- `encoder` and `context` (a module or None): what a run exports; `output`, `"encoder"` or `"context"`: which of the
  two is the feature;
- `needs_rotation`, where it is True: it cannot learn from videos alone;
- `after_step()`, where it has one: called after every optimiser step (EMA, queues).
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from vidssl.errors import VidsslError, unknown_name
from vidssl.methods.barlow import BarlowTwins
from vidssl.methods.byol import BYOL
from vidssl.methods.colorize import Colorize
from vidssl.methods.cpc import CPC
from vidssl.methods.cpc_image import ImageCPC
from vidssl.methods.dino import DINO
from vidssl.methods.dpc import DPC
from vidssl.methods.ebm import EBM
from vidssl.methods.equivariant import Equivariant
from vidssl.methods.lejepa import LeJEPA
from vidssl.methods.moco import MoCo, MoCoV3
from vidssl.methods.motion import Motion
from vidssl.methods.order import Order
from vidssl.methods.predict import Predict
from vidssl.methods.simclr import SimCLR
from vidssl.methods.simsiam import SimSiam
from vidssl.methods.swav import SwAV
from vidssl.methods.vicreg import VICReg
from vidssl.methods.videomae import VideoMAE
from vidssl.methods.vjepa import VJEPA
from vidssl.methods.wmse import WMSE
from vidssl.outside import import_named

METHODS: dict[str, Callable[..., nn.Module]] = {
    "barlow": BarlowTwins,
    "byol": BYOL,
    "colorize": Colorize,
    "cpc": CPC,
    "cpc-image": ImageCPC,
    "dino": DINO,
    "dpc": DPC,
    "ebm": EBM,
    "equivariant": Equivariant,
    "lejepa": LeJEPA,
    "moco": MoCo,
    "moco-v3": MoCoV3,
    "motion": Motion,
    "order": Order,
    "predict": Predict,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "swav": SwAV,
    "vicreg": VICReg,
    "videomae": VideoMAE,
    "vjepa": VJEPA,
    "wmse": WMSE,
}


def find_method(name: str) -> Any:
    """The class of a method: a key of `METHODS`, or `"module:Class"` for one that lives elsewhere.

    Raises:
        VidsslError: unknown name (lists the valid ones), a module or class that cannot be imported, or one that is no
            method.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise unknown_name("method", name, METHODS)
    found = import_named("method", name)
    if missing := [part for part in ("loss", "default_views") if not hasattr(found, part)]:
        raise VidsslError(
            f"method {name!r} has no {' and no '.join(missing)}; CONTRIBUTING.md shows a whole method in a few lines"
        )
    return found


def video_methods() -> list[str]:
    """The names of all methods that learn from videos alone."""
    return [name for name, method in METHODS.items() if not needs_rotation(method)]


def needs_rotation(method: Any) -> bool:
    """Whether a method's class says that its batches must hold a rotation, which those of videos do not."""
    return getattr(method, "needs_rotation", False)
