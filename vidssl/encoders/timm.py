"""Frame encoders from the timm library, by name, untrained: `timm:convnext_atto`, `timm:vit_tiny_patch16_224`, …

B clips, T frames, N = B*T, H x W pixels, D feature dim, h x w cells of the model's last map.
"""

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from vidssl.core.batch_norm import BatchNorm, convert_batch_norm
from vidssl.encoders.frame import FrameEncoder
from vidssl.errors import VidsslError, install_extra


class TimmEncoder(FrameEncoder):
    """`[B,T,3,H,W]` in [0, 1] -> `[B,T,D]`: the mean over a timm model's last map, each frame by itself.

    Frames are normalised by the model's own mean and standard deviation; batch norms see all ranks.
    """

    def __init__(self, trunk: nn.Module, dim: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(trunk, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), dim, "colour")
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


def timm_encoder(name: str, size: tuple[int, int]) -> TimmEncoder:
    """The timm model `name`, untrained, without classifier and pooling.

    Args:
        name: of `timm.list_models()`.
        size: (height, width) of the frames, told to models that are built for one size.
    Raises:
        VidsslError: timm isn't installed, has no such model, or the model can't be built for these frames.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise VidsslError(f"timm:{name} needs timm ({error}); {install_extra('timm')}") from error
    if not timm.is_model(name):
        raise VidsslError(f"timm has no model {name!r}; python -c 'import timm; print(timm.list_models())' lists them")
    published: Any = timm.get_pretrained_cfg(name)
    sized: dict[str, Any] = {"img_size": size} if getattr(published, "fixed_input_size", False) else {}
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, in_chans=3, global_pool="", **sized)
        trunk = convert_batch_norm(_with_activation(_TimmTrunk(name, model)))
        dim = _channels(trunk, size)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise VidsslError(
            f"timm:{name} can't be built for frames of {size[0]}x{size[1]} ({error}); "
            "change --size or choose another timm model"
        ) from error
    published = model.pretrained_cfg
    return TimmEncoder(trunk, dim, tuple(published["mean"]), tuple(published["std"]))


@torch.no_grad()
def _channels(trunk: nn.Module, size: tuple[int, int]) -> int:
    """D: a look at a map, in eval mode so that batch statistics stay as they are."""
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
