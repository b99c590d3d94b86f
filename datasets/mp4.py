"""Writing MP4: the same frames give the same bytes. H, W are image sides in pixels."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vidssl.checkpoint import replacing
from vidssl.errors import VidsslError


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float, crf: int = 18) -> int:
    """Write uint8 RGB frames [H,W,3] as H.264 MP4 (yuv420p); the file appears whole, or not at all.

    Args:
        path: target; folders are made.
        frames: at least one; all of one size, sides even (4:2:0 colour needs that).
        fps: frames a second.
        crf: constant rate factor of x264; 18 is visually lossless.

    Returns the number of frames. Raises VidsslError for frames that cannot be written.
    """
    with replacing(path) as part:
        with av.open(str(part), "w", format="mp4") as container:
            count = _encode(container, frames, fps, crf)
        if count == 0:
            raise VidsslError(f"{path}: no frames to write")
    return count


def check_sides(height: int, width: int) -> None:
    """Raises VidsslError for frames that H.264 cannot hold: its colour has half the resolution, so sides are even."""
    if height % 2 or width % 2:
        raise VidsslError(f"frames of {height}x{width}: H.264 video needs even sides; choose another size")


def exact_rate(fps: float) -> Fraction:
    """Frames per second as a fraction: 30000/1001 for 29.97002997.

    With 1000 below at most it would be 19001/634, which is off by a tenth of a millisecond after half an hour.

    Raises:
        VidsslError: less than a frame in 100,000 seconds.
    """
    rate = Fraction(fps).limit_denominator(100_000)
    if rate <= 0:
        raise VidsslError(f"fps: got {fps:g} frames a second; at least 0.00001")
    return rate


def _encode(container: Any, frames: Iterable[np.ndarray], fps: float, crf: int) -> int:
    stream: Any = None
    count = 0
    for frame in frames:
        if stream is None:
            height, width = frame.shape[:2]
            check_sides(height, width)
            # Without mbtree=0 x264 reads memory that it has not set, and the same frames give different files.
            options = {"crf": str(crf), "preset": "veryfast", "g": "30", "x264-params": "mbtree=0"}
            stream = container.add_stream("libx264", rate=exact_rate(fps), options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            # One thread: the same bytes on any machine, and small frames gain nothing from more.
            stream.codec_context.thread_count = 1
        if frame.dtype != np.uint8 or frame.shape != (stream.height, stream.width, 3):
            raise VidsslError(
                f"frame {count}: expected uint8 {(stream.height, stream.width, 3)}, got {frame.dtype} {frame.shape}"
            )
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        count += 1
    if stream is not None:
        container.mux(stream.encode(None))
    return count
