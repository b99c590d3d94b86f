"""The packet index of a video: which frames there are, when they are shown, and where decoding can start.

    n  presented frames, in order of presentation        p  packets, in the order the container holds them

A container holds packets in decoding order; with B-frames that is not the order of presentation:

    packets  I0 P3 b1 b2 P6 b4 b5        frames  I0 b1 b2 P3 b4 b5 P6
"""

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.stream
import numpy as np

from vidssl.errors import VidsslError

from .workers import finish

QUARTER = 1 << 16  # one in the 16.16 fixed point of a display matrix
GIF_TRAILER = b";"
JUMP = 2  # packets it is cheaper to decode on through than to drain, seek and restart for


@dataclass(frozen=True)
class Segment:
    """A stretch of packets to decode in one go: from a keyframe until the last of the wanted frames has been fed.

    `start` is the keyframe's (pts, dts), None for the beginning of the file; `wanted` holds the stamps of the wanted
    frames: their pts, or their numbers where the index is counted.
    """

    start: tuple[int, int] | None
    wanted: frozenset[int]


@dataclass(frozen=True)
class Turn:
    """What makes the displayed picture of the stored one, in this order; `degrees` is the same counter-clockwise."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    degrees: int = 0


@dataclass(frozen=True)
class ReadPlan:
    """All a worker needs to read some frames: small, unlike the index of a long video."""

    segments: list[Segment]
    stamps: list[int]  # of the frames, in the order they were asked for
    turn: Turn
    counted: bool


@dataclass(frozen=True)
class VideoIndex:
    """What `index_video` found; frames are in order of presentation.

    Attributes:
        pts: int64 [n], presentation stamps in units of `time_base`, strictly increasing.
        times: float64 [n], the same in seconds as the container has them (the first need not be 0).
        order: int64 [n], each frame's packet in decoding order.
        keyframes: int64 [k, 3], packets decoding can start from: (position in decoding order, pts, dts).
        height, width: of the picture as displayed, after rotation, in pixels.
        turn: from the stored to the displayed picture.
        codec: FFmpeg's name of the codec.
        time_base: seconds per unit of pts.
        counted: the packets do not tell the frames (no stamps, or repeated ones); frames were counted by decoding, and
            reading starts at the beginning of the file.
    """

    pts: np.ndarray
    times: np.ndarray
    order: np.ndarray
    keyframes: np.ndarray
    height: int
    width: int
    turn: Turn
    codec: str
    time_base: Fraction
    counted: bool

    @property
    def rotation(self) -> int:
        """The display matrix's turn in degrees, counter-clockwise: 0, 90, 180 or 270."""
        return self.turn.degrees

    def plan(self, indices: Sequence[int]) -> ReadPlan:
        """How to read these frames."""
        stamps = list(indices) if self.counted else self.pts[list(indices)].tolist()
        return ReadPlan(self.segments(indices), stamps, self.turn, self.counted)

    def __len__(self) -> int:
        return len(self.pts)

    def part(self, start: float, end: float) -> "VideoIndex":
        """The frames shown from `start` until before `end`, in seconds, as a video of their own in the same file.

        Raises:
            VidsslError: there are none, or the file has no stamps to tell them by.
        """
        if self.counted:
            raise VidsslError("its frames have no time stamps, so that no part of it can be told; put it in an MP4")
        half = float(np.median(np.diff(self.times))) / 2 if len(self) > 1 else 0.0
        shown = (self.times >= start - half) & (self.times < end - half)
        if not shown.any():
            raise VidsslError(f"no frames from {start:.3f} to {end:.3f} s; it ends at {self.times[-1]:.3f} s")
        pts, order = self.pts[shown], self.order[shown]
        rows = [self._keyframe_before(*place) for place in zip(order.tolist(), pts.tolist(), strict=True)]
        first = max(0, min(rows) - 1)  # the row 0 of an index stands for the beginning of the file
        keyframes = self.keyframes[first : max(rows) + 1]
        return replace(self, pts=pts, times=self.times[shown], order=order, keyframes=keyframes)

    def segments(self, indices: Sequence[int]) -> list[Segment]:
        """The stretches to decode for these frames.

            packets   K . . . . . K . . . x . x . . . . . . K . x . K . .
            decoded               ========>                 ====>

        A frame's stretch starts at the last keyframe that is before it both in decoding order and in presentation: the
        leading pictures of an open group, which come after their keyframe and are shown before it, need the group
        before.
        """
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        if self.counted:
            return [Segment(None, frozenset(wanted.tolist()))]
        wanted = wanted[np.argsort(self.order[wanted])]
        found: list[tuple[int, int, list[int]]] = []  # keyframe row, last packet, pts
        for frame in wanted.tolist():
            position, pts = int(self.order[frame]), int(self.pts[frame])
            row = self._keyframe_before(position, pts)
            start = int(self.keyframes[row, 0]) if row >= 0 else 0
            if found and start <= found[-1][1] + JUMP:
                found[-1] = (min(found[-1][0], row), position, [*found[-1][2], pts])  # a leading picture's is earlier
            else:
                found.append((row, position, [pts]))
        return [Segment(self._stamp(row), frozenset(stamps)) for row, _, stamps in found]

    def _keyframe_before(self, position: int, pts: int) -> int:
        row = int(np.searchsorted(self.keyframes[:, 0], position, side="right")) - 1
        while row >= 0 and self.keyframes[row, 1] > pts:
            row -= 1
        return row

    def _stamp(self, row: int) -> tuple[int, int] | None:
        return None if row <= 0 else (int(self.keyframes[row, 1]), int(self.keyframes[row, 2]))


def open_video(path: str | Path) -> Any:
    """The opened container, with at least one video stream.

    Raises:
        VidsslError: no such file, nothing in it, no container FFmpeg knows, or no video stream.
    """
    path = Path(path)
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise VidsslError(f"{path}: the file is empty (0 bytes)")
        container = av.open(str(path), metadata_errors="replace")  # titles in Latin-1 are no matter
    except (av.FFmpegError, OSError) as error:
        raise VidsslError(
            f"{path}: can't be opened as a video ({reason(error)}); is it cut short, or no video?"
        ) from error
    stream = video_stream(container)
    if stream is None:
        kinds = ["cover picture" if stream.type == "video" else stream.type for stream in container.streams]
        container.close()
        raise VidsslError(f"{path}: no video stream; it holds only {', '.join(sorted(set(kinds))) or 'nothing'}")
    if stream.codec_context is None:
        container.close()
        raise VidsslError(f"{path}: no decoder for its video stream; re-encode it, e.g. to H.264")
    return container


def video_stream(container: Any) -> Any:
    """The first video stream that is no cover picture; None when there is none."""
    covers = av.stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & covers), None)


def reason(error: BaseException) -> str:
    """FFmpeg's own words of an error, without the number and the path around them."""
    return str(getattr(error, "strerror", None) or error)


def index_video(path: str | Path) -> VideoIndex:
    """Read the packets of a video once, without decoding them (but for the first frame), into an index.

    Header fields such as the number of frames are never trusted.

    Raises:
        VidsslError: the file can't be opened, has no video, is cut short, has no frames or can't be decoded.
    """
    return finish(index_in_steps(path))


def index_in_steps(path: str | Path) -> Generator[None, None, VideoIndex]:
    """As `index_video`, with a sign of life now and then where all frames have to be decoded: for a `WorkerPool`."""
    try:
        with open_video(path) as container:
            table, first = _read_packets(path, container, video_stream(container))
        pts, order, counted = table.presentation()
        if counted:
            pts = yield from _counted_pts(path)
    except av.FFmpegError as error:
        raise VidsslError(f"{path}: can't be read ({reason(error)})") from error
    time_base, codec = table.time_base, table.codec
    if counted:
        order = np.arange(len(pts))
    else:  # a recording that starts amid a group: its decoder shows nothing until the first frame it can
        shown = pts >= first.pts
        pts, order = pts[shown], order[shown]
    if len(pts) == 0:
        raise VidsslError(f"{path}: the video stream has no frames")
    turn = _turn(path, first)
    height, width = (first.width, first.height) if turn.transpose else (first.height, first.width)
    times = pts * float(time_base)
    return VideoIndex(pts, times, order, table.keyframes(), height, width, turn, codec, time_base, counted)


@dataclass(frozen=True)
class _Packets:
    """The rows of a stream's packets, in decoding order; `stamps` [p, 2] pts and dts, with None where missing."""

    stamps: list[tuple[int | None, int | None]]
    key: list[bool]
    hidden: list[bool]  # decoded but not shown
    delay: int
    container: str
    time_base: Fraction
    codec: str

    def presentation(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """Stamps and packet positions of the shown frames as presented; True if only decoding can tell them."""
        shown = [position for position, hidden in enumerate(self.hidden) if not hidden]
        stamps: list[Any] = [self.stamps[position][0] for position in shown]
        if None in stamps and self.delay == 0:  # nothing is reordered, so a frame is shown when it is decoded
            stamps = [
                self.stamps[position][1] if pts is None else pts for position, pts in zip(shown, stamps, strict=True)
            ]
        if self.container == "avi" and self.delay:  # AVI stores no pts: with B-frames they are guesses
            stamps.append(None)
        if None in stamps or len(set(stamps)) != len(stamps):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), True
        pts, positions = np.array(stamps, dtype=np.int64), np.array(shown, dtype=np.int64)
        ordered = np.argsort(pts)
        return pts[ordered], positions[ordered], False

    def keyframes(self) -> np.ndarray:
        rows = [
            (position, pts, pts if dts is None else dts)
            for position, ((pts, dts), key) in enumerate(zip(self.stamps, self.key, strict=True))
            if key and pts is not None
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _read_packets(path: str | Path, container: Any, stream: Any) -> tuple[_Packets, Any]:
    """The packets, and the first frame: decoded on the way, it shows whether the stream can be."""
    stamps: list[tuple[int | None, int | None]] = []
    key, hidden = [], []
    context = stream.codec_context
    codec, context.thread_count = context.codec.canonical_name, 1
    first: Any = None
    end = 0.0  # seconds, of all streams: a sound track may be the longer one
    for packet in container.demux():
        if packet.size == 0:  # the end-of-stream marker, or an empty sample: neither is a frame
            continue
        if packet.pts is not None and packet.time_base:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index:
            continue
        if packet.is_corrupt:
            raise VidsslError(f"{path}: cut short or damaged: packet {len(stamps)} of the video stream is incomplete")
        stamps.append((packet.pts, packet.dts))
        key.append(packet.is_keyframe)
        # VP8 marks its hidden reference frames in the packet alone: bit 4 of the first byte (RFC 6386, section 9.1).
        hidden.append(packet.is_discard or (codec == "vp8" and not bytes(packet)[0] & 0x10))
        first = first or next(iter(context.decode(packet)), None)
    _check_length(path, container, stream, len(stamps), end)
    first = first or next(iter(context.decode(None)), None)
    if first is None:
        raise VidsslError(f"{path}: no frame of it can be decoded")
    kind = container.format.name.split(",")[0]
    return _Packets(stamps, key, hidden, context.has_b_frames, kind, stream.time_base, codec), first


def _check_length(path: str | Path, container: Any, stream: Any, packets: int, end: float) -> None:
    """Whether the file was cut, by what its container says of its whole length. MPEG streams say nothing of it."""
    kind = container.format.name.split(",")[0]
    listed = len(stream.index_entries)
    if kind == "mov" and packets < listed:
        raise VidsslError(f"{path}: cut short: holds {packets} of the {listed} frames that its table lists")
    whole = float(stream.frames * stream.time_base) if kind == "avi" else (container.duration or 0) / av.time_base
    frame = float(1 / stream.average_rate) if stream.average_rate else 0.1
    if kind in ("matroska", "avi") and whole - end > frame + max(0.1, 0.02 * whole):
        raise VidsslError(f"{path}: cut short: holds {end:.2f} of {whole:.2f} s ({packets} frames)")
    if kind == "gif":
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != GIF_TRAILER:
                raise VidsslError(f"{path}: cut short: the GIF has no end ({packets} frames are there)")


def _counted_pts(path: str | Path) -> Generator[None, None, np.ndarray]:
    """Presentation stamps from decoding everything: the frames' own, or else their decoding stamps put in order."""
    with open_video(path) as container:
        stream = video_stream(container)
        stamps: list[tuple[Any, Any]] = []
        for frame in container.decode(stream):
            stamps.append((frame.pts, frame.dts))
            yield
        rate, time_base = stream.guessed_rate or stream.average_rate, stream.time_base
    pts = [stamp[0] for stamp in stamps]
    if None in pts or len(set(pts)) != len(pts):
        pts = sorted({stamp[1] for stamp in stamps if stamp[1] is not None})
    if len(pts) != len(stamps):  # a bare stream without any clock: the rate it states is all there is
        if not rate:
            raise VidsslError(
                f"{path}: its frames have no time stamps and it states no frame rate; put it in a container"
            )
        pts = [round(number / rate / time_base) for number in range(len(stamps))]
    return np.array(pts, dtype=np.int64)


def _turn(path: str | Path, frame: Any) -> Turn:
    """The turn that a frame's display matrix tells.

    The matrix [a b; c d] takes a stored point (x, y) to (a x + c y, b x + d y) on the display, y down
    (ISO/IEC 14496-12, section 8.2.2): with a = 0 the axes are exchanged, a negative sign turns an axis round.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Turn()
    a, b, _, c, d = np.frombuffer(data, dtype=np.int32)[:5].tolist()
    values = tuple(round(value / QUARTER) for value in (a, b, c, d))
    if sorted(map(abs, values)) != [0, 0, 1, 1] or values[0] * values[3] == values[1] * values[2]:
        raise VidsslError(f"{path}: its display matrix turns by {frame.rotation} degrees; only quarter turns are known")
    transpose = values[0] == 0
    flip_columns = (values[2] if transpose else values[0]) < 0  # display x runs against its stored axis
    flip_rows = (values[1] if transpose else values[3]) < 0
    return Turn(transpose, flip_rows, flip_columns, round(frame.rotation) % 360)
