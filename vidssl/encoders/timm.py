"""Frame encoders from the timm library, by name: `timm:convnext_atto`, `timm:vit_small_patch14_dinov2@2`, …

They begin with random weights, as all encoders do; `timm_encoder(…, weights=…)`, behind `vidssl import-encoder`, gives
them the weights that timm publishes, or those of a file.

B clips, T frames, N = B*T, H x W pixels, D feature dim, h x w cells of the model's last map, C channels of it.
"""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidssl.core.batch_norm import BatchNorm, convert_batch_norm
from vidssl.encoders.frame import FrameEncoder
from vidssl.errors import VidsslError, install_extra

PUBLISHED = "published"


class TimmEncoder(FrameEncoder):
    """`[B,T,3,H,W]` in [0, 1] -> `[B,T,D]`: means over a timm model's last map, each frame by itself; D = C cells².

    Frames are normalised by the model's own mean and standard deviation; batch norms see all ranks.

    Attributes:
        tag: which of the weights that timm publishes for the model these are, or would be.
    """

    def __init__(self, trunk: nn.Module, channels: int, cells: int, published: dict[str, Any]) -> None:
        head = nn.Sequential(nn.AdaptiveAvgPool2d(cells), nn.Flatten())
        super().__init__(trunk, head, channels * cells**2, "colour")
        self.tag = ".".join(part for part in (published["architecture"], published.get("tag")) if part)
        mean, std = published["mean"], published["std"]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def _inputs(self, clips: Tensor) -> Tensor:
        return ((clips - self.mean) / self.std).flatten(0, 1)  # type: ignore[operator]


class _TimmTrunk(nn.Module):
    """Frames `[N,3,H,W]` -> the model's last map `[N,D,h,w]`, whichever way the model lays it out."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        self.name, self.model = name, model

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x)
        if isinstance(out, Tensor) and out.ndim == 4:
            return out.movedim(-1, 1) if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else out
        if isinstance(out, Tensor) and out.ndim == 3:  # tokens: class and register tokens first, then the patches
            places = out[:, int(getattr(self.model, "num_prefix_tokens", 0)) :]
            height = round((places.shape[1] * x.shape[-2] / x.shape[-1]) ** 0.5)
            if height and places.shape[1] % height == 0:
                return places.mT.unflatten(-1, (height, -1))
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise VidsslError(f"timm:{self.name} gives no map of the frame (got {shape}); choose another timm model")


def timm_encoder(name: str, size: tuple[int, int], weights: str | Path | None = None) -> TimmEncoder:
    """A timm model without its classifier and pooling.

    Args:
        name: of `timm.list_models()`, with its tag (`resnet18.a1_in1k`) or without; `NAME@CELLS` keeps CELLS x CELLS
            means side by side, which tell where things are, in place of one.
        size: (height, width) of the frames, told to models that are built for one size.
        weights: None for random ones, `"published"` for timm's (which timm fetches and caches), or a file of them, as
            timm reads it: .safetensors, .pth, …

    Raises:
        VidsslError: timm isn't installed, has no such model, or the model can't be built for these frames; weights that
            are not published, can't be fetched or read, or are another model's.
    """
    name, cells = _cells(name)
    timm = _timm(name)
    published: Any = timm.get_pretrained_cfg(name)
    settings: dict[str, Any] = {"img_size": size} if getattr(published, "fixed_input_size", False) else {}
    if weights is not None:
        settings |= _weights(name, published, weights)
    try:
        # Whole, then without classifier and pooling: timm takes a file's weights strictly for the whole model only.
        model = timm.create_model(name, pretrained=weights is not None, in_chans=3, **settings)
        model.reset_classifier(0, "")
    except Exception as error:  # of files and hubs, many kinds
        reason = " ".join(str(error).split())[:300]
        if weights is None:
            raise _unfit(name, size, reason) from error
        where = "fetched; give a file of them: --weights FILE" if weights == PUBLISHED else f"read from {weights}"
        raise VidsslError(f"timm:{name}: its weights can't be {where} ({reason})") from error
    try:
        trunk = convert_batch_norm(_with_activation(_TimmTrunk(name, model)))
        channels = _channels(trunk, size)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise _unfit(name, size, error) from error
    return TimmEncoder(trunk, channels, cells, model.pretrained_cfg)


def timm_size(name: str) -> tuple[int, int]:
    """(height, width) of the frames that the published weights of a model were made for; VidsslError as above."""
    name, _ = _cells(name)
    _, height, width = _timm(name).get_pretrained_cfg(name).input_size
    return height, width


def _cells(name: str) -> tuple[str, int]:
    """The model's name, and cells along a side."""
    name, at, cells = name.partition("@")
    if at and not (cells.isdecimal() and int(cells)):
        raise VidsslError(f"timm:{name}@{cells}: after the @ expected a number of cells along a side, such as @2")
    return name, int(cells) if at else 1


def _timm(name: str) -> Any:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise VidsslError(f"timm:{name} needs timm ({error}); {install_extra('timm')}") from error
    if not timm.is_model(name):
        raise VidsslError(f"timm has no model {name!r}; python -c 'import timm; print(timm.list_models())' lists them")
    return timm


def _weights(name: str, published: Any, weights: str | Path) -> dict[str, Any]:
    """Settings of `timm.create_model` that give a model these weights."""
    if weights == PUBLISHED:
        if not published.has_weights:
            raise VidsslError(f"timm:{name}: timm publishes no weights of it; name a tag that has some, or a file")
        return {}
    if not Path(weights).is_file():
        raise VidsslError(f"--weights: {weights} is no file; give one of timm:{name}, .safetensors or .pth")
    return {"pretrained_cfg_overlay": {"file": str(weights)}}


def _unfit(name: str, size: tuple[int, int], reason: object) -> VidsslError:
    return VidsslError(
        f"timm:{name} can't be built for frames of {size[0]}x{size[1]} ({reason}); "
        "change --size or choose another timm model"
    )


@torch.no_grad()
def _channels(trunk: nn.Module, size: tuple[int, int]) -> int:
    """C: a look at a map, in eval mode so that batch statistics stay as they are."""
    trunk.eval()
    channels = trunk(torch.zeros(1, 3, *size)).shape[1]
    trunk.train()
    return channels


class _BatchNormActivation(BatchNorm):
    """timm's batch norm with its activation in one module: the norm over all ranks, under the same names."""

    def __init__(self, norm: Any) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.load_state_dict(norm.state_dict())
        self.drop, self.act = norm.drop, norm.act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def _with_activation(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and hasattr(child, "act"):
            setattr(module, name, _BatchNormActivation(child))
        else:
            _with_activation(child)
    return module
