"""Frame encoders: a convolutional network on every frame's colours, on its luma, on what moved since the frame before,
or on colours and motion.

B clips, T frames, C = 3 colours, H x W pixels, D feature dim, h x w cells of the last map.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from vidssl.core.batch_norm import convert_batch_norm
from vidssl.errors import VidsslError
from vidssl.views import LUMA

Sees = Literal["colour", "grey", "motion", "both"]

# The mean and spread of natural frames, and of differences between successive frames of video at 5-30 Hz,
# in units of full scale: rounded, so that networks see inputs of about unit variance.
FRAME_MEAN, FRAME_STD, MOTION_STD = 0.45, 0.25, 0.1


class FrameEncoder(nn.Module):
    """`[B,T,3,H,W]` in [0, 1] -> `[B,T,D]`: `head(trunk(frame))`, each frame by itself.

    `sees` says what of a frame is shown to the trunk: its `"colour"`, its `"motion"` (the change of each colour since
    the frame before; the first frame of a clip counts as unchanged), or `"both"`. A fixed camera's motion holds
    nothing of the scene that stands still, which a contrast between videos would otherwise latch on to. `"grey"` is
    luma in all three channels: what predicts colours must not have seen them.

    Attributes:
        dim: D.
        past: how many earlier frames a frame's feature depends on (0 or 1), which is what streaming has to remember.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, dim: int, sees: Sees = "colour") -> None:
        super().__init__()
        self.trunk, self.head, self.dim, self.sees = trunk, head, dim, sees
        self.past = 1 if sees in ("motion", "both") else 0

    def forward(self, clips: Tensor) -> Tensor:
        """Features of every frame: `[B,T,3,H,W]` in [0, 1] -> `[B,T,D]`."""
        return self.head(self.trunk(self._inputs(clips))).unflatten(0, clips.shape[:2])

    def maps(self, clips: Tensor) -> Tensor:
        """Spatial features before pooling: `[B,T,3,H,W]` in [0, 1] -> `[B,T,D',h,w]`."""
        return self.trunk(self._inputs(clips)).unflatten(0, clips.shape[:2])

    def step(self, frame: Tensor, before: Tensor | None) -> Tensor:
        """One frame of a stream, and the one before it (None at the start), `[B,3,H,W]` in [0, 1] -> `[B,D]`."""
        if not self.past:
            return self.forward(frame[:, None])[:, 0]
        pair = torch.stack([frame if before is None else before, frame], dim=1)
        return self.head(self.trunk(self._inputs(pair)[1::2]))

    def _inputs(self, clips: Tensor) -> Tensor:
        """What the trunk sees: `[B,T,3,H,W]` -> `[B*T,C,H,W]`."""
        if self.sees == "motion" and self.training and clips.shape[1] == 1:
            raise VidsslError(
                "one frame shows no motion, which is all that this encoder sees: raise --frames or the method's frames "
                "or block, or choose another, such as --encoder small"
            )
        if self.sees == "grey":
            clips = grey(clips)
        if self.sees in ("colour", "grey"):
            return ((clips - FRAME_MEAN) / FRAME_STD).flatten(0, 1)
        motion = torch.diff(clips, dim=1, prepend=clips[:, :1]) / MOTION_STD
        if self.sees == "motion":
            return motion.flatten(0, 1)
        return torch.cat([(clips - FRAME_MEAN) / FRAME_STD, motion], dim=2).flatten(0, 1)


def grey(clips: Tensor) -> Tensor:
    """Luma in all three channels: `[B,T,3,H,W]` -> the same shape."""
    luma = (clips * clips.new_tensor(LUMA)[:, None, None]).sum(2, keepdim=True)
    return luma.expand_as(clips)


def resnet_encoder(name: str, size: tuple[int, int], sees: Sees = "colour") -> FrameEncoder:
    """torchvision's ResNet without its classifier, mean over the last map; D = 512 (18, 34) or 2048 (50).

    Batch norm as published, with the statistics of all ranks' frames. Where it sees both colour and motion, its first
    convolution takes six channels. Fully convolutional: `size` changes nothing.
    """
    import torchvision

    net = getattr(torchvision.models, name)(weights=None)
    if sees == "both":
        net.conv1 = nn.Conv2d(6, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    dim = net.fc.in_features
    net.fc = net.avgpool = nn.Identity()
    # Channels last: what convolutions work in. Not for the small networks: torch's group norm loses digits in it.
    trunk = convert_batch_norm(_ResNetTrunk(net)).to(memory_format=torch.channels_last)
    return FrameEncoder(trunk, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), dim, sees)


class _ResNetTrunk(nn.Module):
    """The convolutional part of a torchvision ResNet, under torchvision's parameter names."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(net, name))

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.children():
            x = stage(x)
        return x


def small_encoder(size: tuple[int, int], sees: Sees = "colour") -> FrameEncoder:
    """A fast network for frames of 64x64 to 128x128: four strided convolutions, group norm; D = 256.

    The mean over the last map tells what is happening, and forgets where.
    """
    del size  # fully convolutional up to the mean
    trunk = _convolutions((6 if sees == "both" else 3, 32, 64, 128, 256), strides=(2, 2, 2, 2))
    return FrameEncoder(trunk, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 256, sees)


def fine_encoder(size: tuple[int, int], sees: Sees = "colour") -> FrameEncoder:
    """As `small`, with a finer map, a cell per 4 pixels, for what paints or matches pixels; twice the work; D = 128."""
    del size  # fully convolutional up to the mean
    trunk = _convolutions((6 if sees == "both" else 3, 32, 64, 64, 128), strides=(2, 2, 1, 1))
    return FrameEncoder(trunk, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 128, sees)


def control_encoder(size: tuple[int, int]) -> FrameEncoder:
    """A faster network that keeps where things are: three strided convolutions, 8x8 cells side by side; D = 256."""
    del size  # fully convolutional up to an adaptive pool, which at 64x64 has nothing to do
    head = nn.Sequential(nn.Conv2d(64, 16, 1), nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(16 * 64, 256))
    return FrameEncoder(_convolutions((3, 16, 32, 64), strides=(2, 2, 2)), head, 256)


def _convolutions(widths: tuple[int, ...], strides: tuple[int, ...]) -> nn.Sequential:
    """Convolutions, 5x5 first and 3x3 then, with group norm: no batch statistics."""
    layers: list[nn.Module] = []
    for i, ((before, after), stride) in enumerate(zip(pairwise(widths), strides, strict=True)):
        kernel = 5 if i == 0 else 3
        layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.GroupNorm(8, after), nn.ReLU()]
    return nn.Sequential(*layers)
