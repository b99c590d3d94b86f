"""Frames out of a LeRobot data set's videos, at random or in a row, from readers that stay open.

    at random    K . . x        seek to the keyframe, decode up to the frame
    in a row     K . . x x x x  the decoder goes on where it stopped; frames that windows share are decoded once

T frames, H, W pixels.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidssl.errors import VidsslError

from .lerobot_depth import DepthCode
from .video import VideoReader

AHEAD = 128  # frames a walk through a video is planned for
SKIP = 8  # frames it is cheaper to decode over than to seek
OPEN = 16  # files kept open
KEPT = 32 << 20  # bytes of pictures kept a file


class VideoFrames:
    """The pictures of one video by number.

    Args:
        path: the file.
        size: (H, W) to scale to; None keeps the video's. Depth is not scaled.
        depth: how its codes are read; None for a camera.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None, depth: DepthCode | None):
        if not path.exists():
            raise VidsslError(f"{path}: missing; copy the data set whole, or download it again")
        self.path = path
        self._reader = VideoReader(path, None if depth else size, threads=1)
        self._depth = depth
        self.times = self._reader.index.times
        height, width = self._reader.size
        self._room = max(2, KEPT // (height * width * (4 if depth else 3)))
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()
        self._walk: Iterator[tuple[int, Any]] | None = None
        self._next = -1  # the frame that the walk gives next
        self._last = -1  # the last one that was asked for

    def close(self) -> None:
        self._walk = None
        self._reader.close()

    def numbers(self, seconds: np.ndarray, tolerance: float) -> np.ndarray:
        """The frames int64 [T] shown at these times float64 [T].

        Raises:
            VidsslError: there is none within `tolerance` seconds.
        """
        after = np.searchsorted(self.times, seconds).clip(1, max(1, len(self.times) - 1))
        near = np.stack([after - 1, np.minimum(after, len(self.times) - 1)])
        number = np.take_along_axis(near, np.abs(self.times[near] - seconds).argmin(0)[None], 0)[0]
        off = np.abs(self.times[number] - seconds)
        if len(off) and off.max() > tolerance:
            worst = int(off.argmax())
            raise VidsslError(
                f"{self.path}: no frame at {seconds[worst]:.6f} s; the nearest is at "
                f"{self.times[number[worst]]:.6f} s, {off[worst]:.6f} s off, {tolerance:g} allowed; is it the "
                "data set's own video? else raise tolerance"
            )
        return number

    def read(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """Pictures uint8 [H,W,3], or float32 metres [H,W], in the order asked for; not to be written into."""
        missing = sorted({number for number in numbers if number not in self._held})
        got: dict[int, np.ndarray] = {}
        if missing:
            for number, frame in self._decoded(missing):
                got[number] = self._picture(frame)
        found = [got[number] if number in got else self._held[number] for number in numbers]
        self._last = max(numbers)
        for number, picture in zip(numbers, found, strict=True):
            self._held[number] = picture
            self._held.move_to_end(number)
        while len(self._held) > max(self._room, len(got)):
            self._held.popitem(last=False)
        return found

    def _picture(self, frame: Any) -> np.ndarray:
        if self._depth is None:
            return self._reader.picture(frame)
        return self._depth.decode(frame.to_ndarray(format="gray12le"))

    def _decoded(self, missing: list[int]) -> Iterator[tuple[int, Any]]:
        """The missing frames, by the walk where they lie shortly before it, else by a seek."""
        first, last = missing[0], missing[-1]
        walking = self._walk is not None and self._next <= first <= self._next + SKIP
        if not walking and first - SKIP <= self._last < first:  # the second request in a row: from here on, walk
            self._walk = self._reader.frames(range(first, min(first + max(AHEAD, len(missing)), len(self._reader))))
            self._next, walking = first, True
        if not walking or last - first > len(missing) * SKIP:
            self._walk, self._next = None, -1
            yield from self._reader.frames(missing)
            return
        wanted = set(missing)
        while wanted:
            number, frame = self._step(max(wanted))
            if number in wanted:
                wanted.discard(number)
                yield number, frame

    def _step(self, last: int) -> tuple[int, Any]:
        """The walk's next frame; a new walk is begun where one ends."""
        assert self._walk is not None
        found = next(self._walk, None)
        if found is None:
            self._walk = self._reader.frames(
                range(self._next, min(max(self._next + AHEAD, last + 1), len(self._reader)))
            )
            found = next(self._walk)
        self._next = found[0] + 1
        return found


class OpenVideos:
    """Videos by path; the ones used last stay open. A copy in another process opens its own."""

    def __init__(self, open_one: Callable[..., VideoFrames] = VideoFrames):
        self._open_one = open_one
        self._open: OrderedDict[Path, VideoFrames] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"_open_one": self._open_one}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**{"open_one": state["_open_one"]})  # type: ignore[misc]

    def get(self, path: Path, size: tuple[int, int] | None, depth: DepthCode | None) -> VideoFrames:
        """The opened video; see `VideoFrames` for what it raises."""
        if self._process != os.getpid():  # forked: decoders are not for sharing
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            self._open[path] = self._open_one(path, size, depth)
            if len(self._open) > OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]

    def close(self) -> None:
        """Close them all."""
        for video in self._open.values():
            video.close()
        self._open.clear()
