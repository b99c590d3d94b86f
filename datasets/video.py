"""Frames of a video, addressed by presentation stamp, decoded and scaled at the training size.

    T frames, C = 3 channels (RGB), H, W height and width in pixels

Only the stretch from a keyframe to the last wanted frame is decoded; frames that nothing refers to are skipped unless
they are wanted themselves; scaling and colour conversion happen in one libswscale pass, on the wanted frames alone:

    packets   K . . b . b . b x b x b x . . . K        x wanted, b needed by no other frame
    decoded   D D D - D - D - D - D - D D
    converted                 C   C   C

Colour: the stream's matrix and range are honoured, unmarked streams are taken as BT.601 limited as FFmpeg does; HDR
transfer curves are not tone-mapped; transparency is dropped. Pixels are taken as square.
"""

from collections.abc import Generator, Iterator, Sequence
from itertools import chain, dropwhile, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from vidssl.errors import VidsslError

from .packets import ReadPlan, Segment, Turn, VideoIndex, index_video, open_video, reason, video_stream
from .workers import finish

if TYPE_CHECKING:
    import torch

__all__ = ["VideoIndex", "VideoReader", "index_video", "read_plan", "spread_frames"]

# Codecs whose bitstream says strictly that no other picture refers to this one, so that leaving it out changes nothing.
SKIPPING_CODECS = frozenset(["h264", "mpeg1video", "mpeg2video", "mpeg4"])

# Containers with a table of their samples. In the others (MPEG streams) stamps change after a seek, so they are read
# from the beginning, though decoded from the keyframe only.
SEEKING_CONTAINERS = frozenset(["mov", "matroska", "avi"])

FULL = 2  # AVCOL_RANGE_JPEG: RGB spans 0..255


class VideoReader:
    """Random access to the frames of one file. Not for sharing between threads or over a fork: open one in each worker.

    Args:
        path: the file.
        size: (H, W) in pixels, the picture is stretched to it; None keeps the displayed size.
        index: from `index_video`, when it is known already.
        threads: decoding threads; 0 lets FFmpeg take one a core.

    Raises:
        VidsslError: see `index_video`.
    """

    def __init__(
        self, path: str | Path, size: tuple[int, int] | None = None, index: VideoIndex | None = None, threads: int = 0
    ):
        self.index = index_video(path) if index is None else index
        self.size = (self.index.height, self.index.width) if size is None else size
        if min(self.size) < 1:
            raise VidsslError(f"size: expected (height, width) of at least 1 pixel, got {size}")
        self._native = size is None
        self._path = path
        self._decoder = _Decoder(path, threads, self.index.counted)
        self._reformatter = (
            VideoReformatter()
        )  # keeps its tables while frames are alike; a frame's own would start anew

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.index)

    def close(self) -> None:
        self._decoder.close()

    def read(self, indices: Sequence[int]) -> "tuple[torch.Tensor, np.ndarray]":
        """Frames by their number in order of presentation, in any order, repeats allowed.

        Returns:
            uint8 RGB [T,C,H,W] (a view of [T,H,W,C] memory) and float64 [T], the times in seconds.

        Raises:
            VidsslError: a number is out of range, or a frame can't be decoded.
        """
        import torch

        return torch.from_numpy(self.read_array(indices)).permute(0, 3, 1, 2), self.index.times[list(indices)]

    def read_all(self) -> "tuple[torch.Tensor, np.ndarray]":
        """Every frame; as `read`."""
        return self.read(range(len(self)))

    def read_array(self, indices: Sequence[int]) -> np.ndarray:
        """As `read`, frames only: uint8 [T,H,W,C]."""
        return finish(self.read_in_steps(indices))

    def read_in_steps(self, indices: Sequence[int]) -> Generator[None, None, np.ndarray]:
        """As `read_array`, with a sign of life a frame: for a `WorkerPool`."""
        self._check(indices)
        plan = self.index.plan(indices)
        return (yield from _read(self._decoder, self._reformatter, plan, self.size, self._native))

    def chunks(self, count: int) -> Iterator[np.ndarray]:
        """Every frame in order, `count` at a time, decoded in one go: uint8 [count,H,W,C], the last one shorter.

        An array is valid until the next one is asked for.
        """
        plan = self.index.plan(range(len(self)))
        chunk = np.empty((count, *self.size, 3), dtype=np.uint8)
        for number, (stamp, frame) in enumerate(self._decoder.frames(plan.segments)):
            if stamp != plan.stamps[number]:
                raise VidsslError(f"{self._path}: frame {number} is missing or out of order; is the file damaged?")
            _picture(self._reformatter, frame, plan.turn, self._native, chunk[number % count])
            if number % count == count - 1:
                yield chunk
        if len(self) % count:
            yield chunk[: len(self) % count]

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """(number, `av.VideoFrame`) as decoded, before rotation, scaling and conversion."""
        self._check(indices)
        plan = self.index.plan(indices)
        numbers = dict(zip(plan.stamps, indices, strict=True))
        for stamp, frame in self._decoder.frames(plan.segments):
            yield numbers[stamp], frame

    def picture(self, frame: Any) -> np.ndarray:
        """A frame of `frames` as `read_array` gives it: rotated, scaled, uint8 RGB [H,W,C]."""
        out = np.empty((*self.size, 3), np.uint8)
        _picture(self._reformatter, frame, self.index.turn, self._native, out)
        return out

    def _check(self, indices: Sequence[int]) -> None:
        if len(indices) and not 0 <= min(indices) <= max(indices) < len(self):
            raise VidsslError(
                f"{self._path}: frames {min(indices)}..{max(indices)} asked for; it has 0..{len(self) - 1}"
            )


class _Decoder:
    """An open file and its decoder; gives the wanted frames of segments."""

    def __init__(self, path: str | Path, threads: int, counted: bool):
        self._path, self._threads, self._counted = path, threads, counted
        self._open()

    def _open(self) -> None:
        self._container = open_video(self._path)
        self._stream = video_stream(self._container)
        context = self._stream.codec_context
        context.thread_count = self._threads
        context.thread_type = "AUTO"
        self._skips = context.codec.canonical_name in SKIPPING_CODECS
        container = self._container.format.name.split(",")[0]
        self._seeks = container in SEEKING_CONTAINERS
        self._by_pts = container == "matroska"  # whose seek table holds pts; the others', dts
        self._fresh = True

    def close(self) -> None:
        self._container.close()

    def frames(self, segments: Sequence[Segment]) -> Iterator[tuple[int, Any]]:
        """(stamp, decoded frame) of every wanted stamp of the segments."""
        try:
            for segment in segments:
                yield from self._segment(segment)
        except av.FFmpegError as error:
            raise VidsslError(f"{self._path}: decoding failed ({reason(error)})") from error

    def _segment(self, segment: Segment) -> Iterator[tuple[int, Any]]:
        missing = set(segment.wanted)
        for stamp, frame in self._count(segment) if self._counted else self._decode(segment):
            missing.discard(stamp)
            yield stamp, frame
        if (
            missing and segment.start is not None
        ):  # marked a keyframe, yet decoding can't start there: from the beginning
            yield from self._segment(Segment(None, frozenset(missing)))
        elif missing:
            got = len(segment.wanted) - len(missing)
            raise VidsslError(
                f"{self._path}: decodes only {got} of {len(segment.wanted)} frames; is it cut short or damaged?"
            )

    def _decode(self, segment: Segment) -> Iterator[tuple[int, Any]]:
        packets = self._packets(segment.start)  # may open the file again, and with it the decoder
        context = self._stream.codec_context
        self._fresh = False
        waiting = set(segment.wanted)
        for packet in self._feed(packets, context, set(segment.wanted)):
            for frame in context.decode(packet):
                if frame.pts in waiting:
                    waiting.discard(frame.pts)
                    yield frame.pts, frame
        context.flush_buffers()

    def _count(self, segment: Segment) -> Iterator[tuple[int, Any]]:
        self._rewind()
        self._fresh = False
        for number, frame in enumerate(self._container.decode(self._stream)):
            if number in segment.wanted:
                yield number, frame
            if number >= max(segment.wanted):
                break

    def _feed(self, packets: Iterator[Any], context: Any, unfed: set[int]) -> Iterator[Any]:
        """The packets through the last wanted one, then None, which makes the decoder hand out the rest."""
        for packet in packets:
            if self._skips:
                context.skip_frame = "DEFAULT" if packet.pts in unfed else "NONREF"
            unfed.discard(packet.pts)
            yield packet
            if not unfed:
                break
        yield None

    def _packets(self, start: tuple[int, int] | None) -> Iterator[Any]:
        """Packets from a keyframe on. Where a container's seek lands late, it is read from the beginning instead."""
        if start is None:
            self._rewind()
            return self._real_packets()
        pts, dts = start
        if self._fresh:
            self._prime()
        if self._seeks:
            self._container.seek(pts if self._by_pts else dts, stream=self._stream)
            packets = self._real_packets()
            first = next(packets, None)
            if first is not None and first.pts is not None and first.pts <= pts:
                return _from_stamp(pts, chain([first], packets))
        self._rewind()
        return _from_stamp(pts, self._real_packets())

    def _prime(self) -> None:
        """Decode the first packet: x264 and Xvid name their version there alone, and decoding depends on it."""
        context = self._stream.codec_context
        for packet in [*islice(self._real_packets(), 1), None]:
            context.decode(packet)
        context.flush_buffers()
        self._fresh = False

    def _real_packets(self) -> Iterator[Any]:
        return (packet for packet in self._container.demux(self._stream) if packet.size)

    def _rewind(self) -> None:
        if not self._fresh:
            self.close()
            self._open()


def _from_stamp(pts: int, packets: Iterator[Any]) -> Iterator[Any]:
    return dropwhile(lambda packet: packet.pts != pts, packets)


def _read(
    decoder: _Decoder, reformatter: VideoReformatter, plan: ReadPlan, size: tuple[int, int], native: bool
) -> Generator[None, None, np.ndarray]:
    slots: dict[int, list[int]] = {}
    for slot, stamp in enumerate(plan.stamps):
        slots.setdefault(stamp, []).append(slot)
    out = np.empty((len(plan.stamps), *size, 3), dtype=np.uint8)
    for stamp, frame in decoder.frames(plan.segments):
        first, *others = slots[stamp]
        _picture(reformatter, frame, plan.turn, native, out[first])
        for slot in others:
            out[slot] = out[first]
        yield
    return out


def _picture(reformatter: VideoReformatter, frame: Any, turn: Turn, native: bool, out: np.ndarray) -> None:
    """Scale, convert and turn one decoded frame into `out`, uint8 [H,W,3]."""
    height, width = out.shape[1::-1] if turn.transpose else out.shape[:2]
    if native and (frame.height, frame.width) != (height, width):
        change = f"from {width}x{height} to {frame.width}x{frame.height}"
        raise VidsslError(f"the picture changes {change} within the video; give a size to scale to")
    smaller = frame.height >= height and frame.width >= width
    # AREA is a box filter, without aliasing. Shrinking 1280x720 to 112x112 takes 0.4 ms, beside 1 to 3 ms of decoding;
    # FAST_BILINEAR takes 0.1 ms, but looks at few of the pixels. Upwards AREA would repeat pixels.
    # FULL_CHR_H_INT gives every pixel its own colour; without it pairs share one, and white comes out as 253.
    scaler = (Interpolation.AREA if smaller else Interpolation.BILINEAR) | Interpolation.FULL_CHR_H_INT
    rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation=scaler, dst_color_range=FULL, threads=1)
    plane = rgb.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, : width * 3]
    picture = rows.reshape(height, width, 3)
    if turn.transpose:
        picture = picture.transpose(1, 0, 2)
    picture = picture[::-1] if turn.flip_rows else picture
    out[:] = picture[:, ::-1] if turn.flip_columns else picture


def read_plan(path: str | Path, plan: ReadPlan, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 [T,H,W,C] by a plan of `VideoIndex.plan`, on one thread: the task of a worker process.

    Raises:
        VidsslError: a frame can't be decoded.
    """
    decoder = _Decoder(path, threads=1, counted=plan.counted)
    try:
        return finish(_read(decoder, VideoReformatter(), plan, size, native=False))
    finally:
        decoder.close()


def spread_frames(n_frames: int, count: int) -> list[int]:
    """`count` frame numbers evenly over a video, each in the middle of its share: 10 frames, 3 → [1, 5, 8].

    .x...x..x.      frames repeat when there are fewer than `count`
    """
    if n_frames < 1 or count < 1:
        raise VidsslError(
            f"spread_frames: expected at least one frame and a count of at least 1, got {n_frames} and {count}"
        )
    return [(2 * number + 1) * n_frames // (2 * count) for number in range(count)]
