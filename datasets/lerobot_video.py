"""MP4s of a LeRobot data set: one an episode while recording, joined without encoding again at the end.

episode 0  K . . K . .      episode 1  K . . K        K keyframes, no B-frames
joined     K . . K . . K . . K                        stamps go on where the last episode ended
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from vidssl.errors import VidsslError, unknown_name

from .mp4 import check_sides, exact_rate

# name: (FFmpeg's encoder, pixel format, its options)
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    # Without mbtree=0 x264 reads memory that it has not set, and the same frames give different files.
    "h264": (
        "libx264",
        "yuv420p",
        {"crf": "18", "preset": "veryfast", "g": "10", "bf": "0", "x264-params": "mbtree=0"},
    ),
    "av1": ("libsvtav1", "yuv420p", {"crf": "30", "preset": "12", "g": "2"}),  # LeRobot's own settings
}
DEPTH = ("libx265", "gray12le", {"g": "2", "x265-params": "lossless=1:bframes=0:log-level=error:pools=1"})


class EpisodeVideo:
    """The MP4 of one camera in one episode, written frame by frame.

    Args:
        path: target.
        fps: frames a second.
        codec: a key of `CODECS`; None for depth codes uint16 [H,W].

    Raises:
        VidsslError: an unknown codec, or one that this FFmpeg lacks.
    """

    def __init__(self, path: Path, fps: float, codec: str | None):
        name, self._format, options = settings(codec)
        self.path, self.frames = path, 0
        self._closed = False
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 tells its settings of every file, past FFmpeg's log
        self._container: Any = av.open(str(path), "w", format="mp4")
        try:
            rate = exact_rate(fps)
            stream: Any = self._container.add_stream(name, rate=rate, options=dict(options))
        except (ValueError, av.FFmpegError) as error:
            self._container.close()
            raise VidsslError(f"this FFmpeg has no encoder {name} ({error}); use another codec") from error
        self._stream = stream
        stream.pix_fmt = self._format
        stream.codec_context.thread_count = 1  # the same bytes on any machine

    def add(self, picture: np.ndarray) -> None:
        """Append a picture uint8 [H,W,3], or depth codes uint16 [H,W]."""
        if self.frames == 0:
            self._stream.height, self._stream.width = picture.shape[:2]
            if self._format == "yuv420p":
                check_sides(*picture.shape[:2])
        kind = "rgb24" if picture.ndim == 3 else self._format
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=kind)))
        self.frames += 1

    def close(self) -> None:
        """Write what is still in the encoder, and the end of the file. Twice does no harm."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.frames:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


def settings(codec: str | None) -> tuple[str, str, dict[str, str]]:
    """(encoder, pixel format, options) of a codec; None is depth. Raises VidsslError for an unknown one."""
    if codec is not None and codec not in CODECS:
        raise unknown_name("codec", codec, CODECS)
    return DEPTH if codec is None else CODECS[codec]


def join_videos(parts: Sequence[Path], target: Path, fps: float) -> None:
    """Put videos of `EpisodeVideo`, all of the same settings, end to end into one MP4.

    Raises:
        VidsslError: a part can't be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    frames = 0
    try:
        with av.open(str(target), "w", format="mp4") as joined:
            out: Any = None
            for part in parts:
                with av.open(str(part)) as container:
                    stream: Any = container.streams.video[0]
                    if out is None:
                        out = joined.add_stream_from_template(stream, opaque=True)
                    ticks = 1 / (exact_rate(fps) * stream.time_base)
                    begun = frames
                    packet: Any
                    for packet in container.demux(stream):
                        if packet.size == 0:
                            continue
                        packet.pts += round(begun * ticks)
                        packet.dts += round(begun * ticks)
                        packet.stream = out
                        joined.mux(packet)
                        frames += 1
    except av.FFmpegError as error:
        raise VidsslError(f"{target}: its episodes can't be joined ({error})") from error


def video_info(picture: tuple[int, ...], fps: float, codec: str | None) -> dict[str, Any]:
    """What `info.json` says of a video; `picture` is (H, W, channels)."""
    name, pixels, options = settings(codec)
    return {
        "video.height": picture[0],
        "video.width": picture[1],
        "video.codec": {"libx264": "h264", "libsvtav1": "av1", "libx265": "hevc"}[name],
        "video.pix_fmt": pixels,
        "video.fps": fps,
        "video.channels": picture[2],
        "has_audio": False,
        "is_depth_map": codec is None,
        "video.g": int(options["g"]),
        "video.crf": int(options["crf"]) if "crf" in options else None,
    }
