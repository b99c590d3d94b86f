"""Pictures of episodes: MP4 files, annotated side-by-side frames, film strips. H, W are image sides in pixels."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from vidssl.checkpoint import replacing
from vidssl.errors import VidsslError

BAR = 22  # height in pixels of a caption bar


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


def _encode(container: Any, frames: Iterable[np.ndarray], fps: float, crf: int) -> int:
    stream: Any = None
    count = 0
    for frame in frames:
        if stream is None:
            height, width = frame.shape[:2]
            check_sides(height, width)
            # Without mbtree=0 x264 reads memory that it has not set, and the same frames give different files.
            options = {"crf": str(crf), "preset": "veryfast", "g": "30", "x264-params": "mbtree=0"}
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=options)
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


def fit_height(image: np.ndarray, height: int) -> np.ndarray:
    """Scale [h,w,3] to [height, even width, 3]; enlarging keeps the pixels visible (nearest neighbour)."""
    width = max(2, round(image.shape[1] * height / image.shape[0] / 2) * 2)
    method = cv2.INTER_NEAREST if height > image.shape[0] else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=method)


def caption(image: np.ndarray, text: str, colour: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """[H,W,3] -> [H+BAR,W,3]: a dark bar with one line of text above the image."""
    bar = np.full((BAR, image.shape[1], 3), 24, np.uint8)
    scale = 0.42
    while scale > 0.25 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > image.shape[1] - 8:
        scale -= 0.02
    cv2.putText(bar, text, (4, BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return np.concatenate([bar, image])


def film_strip(images: Sequence[np.ndarray], columns: int = 6) -> np.ndarray:
    """Pictures [H,W,3] of equal size as one picture, in reading order, `columns` a row, padded with black."""
    rows = []
    for start in range(0, len(images), columns):
        row = list(images[start : start + columns])
        row += [np.zeros_like(images[0])] * (min(columns, len(images)) - len(row))
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 RGB picture [H,W,3]; the file appears whole, or not at all."""
    with replacing(path) as part:
        part.write_bytes(cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes())
