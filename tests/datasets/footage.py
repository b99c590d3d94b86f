"""Videos that the tests write, and the plain sequential decoding they compare with."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A moving bright bar on a slope, with some noise: uint8 [H,W,3]; no two numbers alike."""
    noise = np.random.default_rng(number).integers(0, 24, (height, width, 3))
    image = np.linspace(20, 120, width)[None, :, None] + noise
    image[:, (5 * number) % width : (5 * number) % width + 6] = 220
    return image.astype(np.uint8)


def write_video(
    path: Path,
    frames: int = 20,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (48, 64),
    stamps: Iterable[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    pix_fmt: str = "yuv420p",
    clock: int = 600,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode `picture`s; `stamps` are pts in units of 1/`clock` s, by default 25 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = stream.time_base = Fraction(1, clock)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, stamp in zip(range(frames), stamps or range(0, clock * frames // 25, clock // 25), strict=False):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def pixels(frame: av.VideoFrame) -> list[bytes]:
    """The decoded planes without the padding of their rows."""
    rows = []
    for number, plane in enumerate(frame.planes):
        width = plane.width * sum((part.bits + 7) // 8 for part in frame.format.components if part.plane == number)
        padded = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        rows.append(padded[: plane.height, :width].tobytes())
    return rows


def sequential(path: Path) -> list[tuple[int | None, int]]:
    """(pts, hash of the pixels) of every frame, decoded plainly from the beginning to the end."""
    with av.open(str(path), metadata_errors="replace") as container:
        return [(frame.pts, hash(tuple(pixels(frame)))) for frame in container.decode(video=0)]
