"""Clip encoders: torchvision's video ResNets, whose convolutions run over space and time.

B clips, T frames, H x W pixels, D = 512 feature dim, T' = T/8 (rounded up) times, h x w cells of the last map.
"""

import torch
from torch import Tensor, nn

from vidssl.core.batch_norm import convert_batch_norm
from vidssl.encoders.frame import FRAME_MEAN, FRAME_STD


class ClipEncoder(nn.Module):
    """`[B,T,3,H,W]` in [0, 1] -> `[B,T',D]`: the mean over the last map's cells, its times kept.

    Attributes:
        dim: D.
        window: frames that streaming looks back over, the newest included.
        past: window - 1.
    """

    def __init__(self, trunk: nn.Module, dim: int, window: int) -> None:
        super().__init__()
        self.trunk, self.dim, self.window, self.past = trunk, dim, window, window - 1

    def forward(self, clips: Tensor) -> Tensor:
        """Features of every time of the last map: `[B,T,3,H,W]` in [0, 1] -> `[B,T',D]`."""
        return self.maps(clips).mean((-2, -1))

    def maps(self, clips: Tensor) -> Tensor:
        """The last map: `[B,T,3,H,W]` in [0, 1] -> `[B,T',D,h,w]`."""
        return self.trunk(((clips - FRAME_MEAN) / FRAME_STD).transpose(1, 2)).transpose(1, 2)

    def step(self, frame: Tensor, before: Tensor | None) -> Tensor:
        """A stream's newest frame `[B,3,H,W]` and up to window-1 before it `[B,W,3,H,W]` -> `[B,D]`: `stream_step`."""
        return stream_step(self, self.window, frame, before)


def stream_step(encoder: nn.Module, window: int, frame: Tensor, before: Tensor | None) -> Tensor:
    """The feature of a stream at its newest frame: the encoder's on the last `window` frames, mean over its times.

        ..xxxxxxxX   window 8: the newest frame X and the seven before; at the start the first frame fills up

    Args:
        encoder: `[B,T,3,H,W] -> [B,T',D]`.
        window: frames.
        frame: `[B,3,H,W]` in [0, 1].
        before: the frames before it, oldest first, `[B,W,3,H,W]` with W < window, or None at the start.

    Returns:
        `[B,D]`.
    """
    seen = frame[:, None] if before is None else torch.cat([before, frame[:, None]], dim=1)
    still = seen[:, :1].expand(-1, max(0, window - seen.shape[1]), -1, -1, -1)
    return encoder(torch.cat([still, seen], dim=1)).mean(1)


def video_resnet_encoder(name: str, size: tuple[int, int]) -> ClipEncoder:
    """torchvision's `r3d_18` or `r2plus1d_18` (Tran et al. 2018, arXiv 1711.11248) without its classifier; D = 512.

    Its window is 8 frames: the stride in time of its last map. Fully convolutional: `size` changes nothing.
    """
    import torchvision

    del size
    net = getattr(torchvision.models.video, name)(weights=None)
    trunk = VideoTrunk(net)
    return ClipEncoder(convert_batch_norm(trunk), net.fc.in_features, window=8)


class VideoTrunk(nn.Module):
    """The convolutional part of a torchvision video ResNet, under torchvision's parameter names."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(net, name))

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.children():
            x = stage(x)
        return x
