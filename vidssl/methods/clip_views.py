"""Several views of every clip: windows of it at other times, each augmented by itself.

    clip        f0 f1 f2 f3 f4 f5 f6 f7 f8 f9
    view 0         [--------]                       window of L = 4 frames, augmentation 0
    view 1                     [--------]           `distance` frames later (or anywhere), augmentation 1

A clip of one frame is an image, and its views are those of SimCLR. With the windows apart, what a method makes agree is
what lasts: Qian et al. 2021 (CVRL), "Spatiotemporal Contrastive Video Representation Learning", arXiv 2008.03800.

B clips, T frames, L frames a window.
"""

import torch
from torch import Tensor

from vidssl.core.random import uniform
from vidssl.errors import VidsslError
from vidssl.views import Views

_STREAM = 0x77696E646F77  # keeps the draws of places apart from others made with the same keys


class ClipViews:
    """`count` views of a batch of clips.

    Args:
        views: the augmentation; a view's is the same for all its frames.
        count: how many, at least 1 (2 for a pair of positives).
        frames: L; None takes half of the clip's frames, rounded up.
        distance: frames from the start of one view's window to the start of the next; None puts every window anywhere.

    Raises:
        VidsslError: count or frames below 1, distance below 0.
    """

    def __init__(self, views: Views, count: int = 2, frames: int | None = None, distance: int | None = None) -> None:
        if count < 1 or (frames is not None and frames < 1) or (distance is not None and distance < 0):
            raise VidsslError(
                f"views of clips: got {count} views of {frames} frames, distance {distance}; "
                "give at least 1 view, 1 frame (or None for half the clip) and a distance of 0 or more (or None)"
            )
        self.views, self.count, self.frames, self.distance = views, count, frames, distance

    def __call__(self, clips: Tensor, keys: Tensor) -> list[Tensor]:
        """The views of clips uint8 `[B,T,C,H,W]`, drawn by keys int64 `[B]`: `count` times float `[B,L,C,H',W']`.

        Raises:
            VidsslError: clips too short for the windows.
        """
        windows = self.windows(clips, keys)
        return [self.views(window, keys, stream=view) for view, window in enumerate(windows)]

    def windows(self, clips: Tensor, keys: Tensor) -> list[Tensor]:
        """The windows before augmentation: `count` times uint8 `[B,L,C,H,W]`."""
        length = clips.shape[1]
        frames = self.frames or (length + 1) // 2
        apart = 0 if self.distance is None else self.distance * (self.count - 1)
        if frames + apart > length:
            raise VidsslError(
                f"clips of {length} frames are too short for {self.count} views of {frames} frames "
                f"{'anywhere' if self.distance is None else f'{self.distance} frames apart'}: "
                f"raise --frames to {frames + apart} or more, or lower the method's frames or distance"
            )
        draws = uniform(keys.to(clips.device), self.count, _STREAM)
        room = length - frames - apart + 1
        starts = (draws * room).long().clamp_max(room - 1)  # a draw may round up to 1
        if self.distance is not None:
            starts = starts[:, :1] + self.distance * torch.arange(self.count, device=clips.device)
        rows = torch.arange(len(clips), device=clips.device)[:, None]
        within = torch.arange(frames, device=clips.device)
        return [clips[rows, start[:, None] + within] for start in starts.unbind(1)]
