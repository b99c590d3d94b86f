"""Optical flow of clips by dense inverse search, a target that costs no labels: Kroeger et al. 2016, "Fast Optical Flow
using Dense Inverse Search", arXiv 1603.03590, in OpenCV's implementation.

    frames   f0      f1      f2      f3
    flow         u0      u1      u2         u_t: where each pixel of f_t is in f_{t+1}

B clips, T frames, H x W pixels, g x g cells, T' times of an encoder.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidssl.views import LUMA

NUMBERS = 3  # of a cell, see `cells`
SIDE = 64  # pixels: frames are shrunk to it for the search, 0.3 ms a pair
WORKERS = 16  # threads that search, at most, and no more than torch may use


def dis_flow(clips: Tensor) -> Tensor:
    """Flow between successive frames, on the CPU, a function of each pair of frames alone.

    Args:
        clips: `[B,T,3,H,W]` in [0, 1], any floating type; T at least 2.

    Returns:
        float32 `[B,T-1,2,H',W']` on the clips' device, x (to the right) first, in pixels of the clips' frames, at the
        clips' size or, where that is larger than 64 pixels, shrunk to 64.
    """
    frames = _grey(clips)
    height, width = frames.shape[-2:]
    flow = np.empty((len(frames), frames.shape[1] - 1, height, width, 2), np.float32)
    pairs = [(clip, time) for clip in range(len(frames)) for time in range(flow.shape[1])]
    workers = max(1, min(WORKERS, torch.get_num_threads(), len(pairs)))
    with _one_thread(), ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(_search, frames, flow, pairs[first::workers]) for first in range(workers)]:
            done.result()
    scale = torch.tensor([clips.shape[-1] / width, clips.shape[-2] / height])
    return (torch.from_numpy(flow) * scale).movedim(-1, 2).to(clips.device)


def cells(flow: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means over the cells of a grid: flow `[B,T,2,H,W]` -> `[B,T,3,*grid]`: x, y and length, in pixels.

    The length is averaged by itself: motions to all sides cancel in the mean of x and y, but not in that of lengths.
    And it can be told from the change between two frames alone, where the direction often can't: a bright thing that
    moves left and a dark one that moves right may change them alike.
    """
    whole = torch.cat([flow, torch.linalg.vector_norm(flow, dim=2, keepdim=True)], dim=2)
    return F.adaptive_avg_pool2d(whole.flatten(0, 1), grid).unflatten(0, flow.shape[:2])


def by_time(flow: Tensor, times: int) -> tuple[Tensor, Tensor]:
    """What an encoder of fewer times than frames is asked for: the mean of the flows into the frames of each time.

    Args:
        flow: `[B,T-1,…]` between successive frames.
        times: T', at most T; frame t belongs to time floor(t T' / T).

    Returns:
        `[B,T',…]`, and bool `[T']`: False for a time that holds the first frame only, into which nothing flows.
    """
    frames = flow.shape[1] + 1
    time = torch.arange(1, frames, device=flow.device) * times // frames
    count = torch.bincount(time, minlength=times)
    total = flow.new_zeros(len(flow), times, *flow.shape[2:]).index_add_(1, time, flow)
    return total / count.clamp_min(1).view(-1, *(1,) * (flow.ndim - 2)), count > 0


def _search(frames: np.ndarray, flow: np.ndarray, pairs: list[tuple[int, int]]) -> None:
    """Fill in the flow `[B,T-1,H',W',2]` from frame t of clip b `[B,T,H',W']` to the next, for pairs (b, t)."""
    import cv2

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    search.setFinestScale(0)  # every pixel: by itself it leaves out up to two levels, and small things with them
    for clip, time in pairs:
        first, then = frames[clip, time : time + 2]
        flow[clip, time] = search.calc(first, then, None)  # type: ignore[call-overload]  # OpenCV's own default


def _grey(clips: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """`[B,T,3,H,W]` in [0, 1] -> uint8 `[B,T,H',W']`, no side above 64."""
    weights = torch.tensor(LUMA, device=clips.device)[:, None, None]
    luma = (clips.detach().float() * weights).sum(2)  # not a product of matrices, which autocast would round
    size = (min(SIDE, luma.shape[-2]), min(SIDE, luma.shape[-1]))
    if luma.shape[-2:] != size:
        luma = F.interpolate(luma, size, mode="bilinear", antialias=True)
    return (luma * 255).round().clamp(0, 255).byte().cpu().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV on one thread: DIS works in as many stripes as there are threads, and the flow may depend on them."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
