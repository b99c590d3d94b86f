"""Which frames of a video a probe sees, and how their features become one vector.

W windows, T frames a window, D feature dim.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.errors import VidsslError


def spread_windows(n_frames: int, frames: int, stride: int, count: int) -> NDArray[np.int64]:
    """Frame numbers [W, T] of windows spread evenly over a video, cut as in training: every stride-th frame.

        0123456789…    frames 3, stride 2, count 3, of 12 frames
        x.x.x.......   x...x.x.x..  .......x.x.x  (first at the beginning, last at the end, overlaps allowed)

    Windows that would be the same are given once; in a video too short for a window they are as long as it allows.

    Raises:
        VidsslError: a number below 1.
    """
    if min(n_frames, frames, stride, count) < 1:
        raise VidsslError(
            f"windows: all must be at least 1, got {n_frames} video frames, {frames} frames a window, stride {stride},"
            f" {count} windows"
        )
    frames = min(frames, (n_frames - 1) // stride + 1)
    last = n_frames - 1 - (frames - 1) * stride
    starts = np.unique(np.linspace(0, last, count).round().astype(np.int64)) if count > 1 else np.array([last // 2])
    return np.asarray(starts[:, None] + stride * np.arange(frames))


def training_stride(config: dict[str, Any], times: NDArray[np.float64]) -> int:
    """Frames from one to the next such that a video is seen at the rate the run was trained at.

    Args:
        config: of the run; `fps` where its training videos agreed on one, else the stride in frames.
        times: [n] seconds, of the video at hand.
    """
    stride, fps = int(config["clip"]["stride"]), config["fps"]
    if fps is None or len(times) < 2:
        return stride
    return max(1, round(1 / (float(fps) * float(np.median(np.diff(times))))))


def mean_and_std(features: Tensor) -> Tensor:
    """Frame features [W, T, D] of a video -> [2 D]: mean and (population) standard deviation over all its frames."""
    frames = features.flatten(0, -2).double()
    return torch.cat([frames.mean(dim=0), frames.std(dim=0, correction=0)]).float()
