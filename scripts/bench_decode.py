"""Clips a second of this reader and of others, on one decoding thread: 16 frames of a video at 112x112.

    python -m vidssl.scripts.bench_decode ../shared/data/surveillance --rounds 5

Every reader decodes the same clips, each from a newly opened file; rounds are interleaved, figures are medians over the
rounds, ratios are medians of the ratios within a round. Readers that are not installed are named; get them by
`.tools/bin/uv pip install torchcodec decord`.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import tyro

from vidssl.core.random import mix_ints
from vidssl.datasets.files import find_videos
from vidssl.datasets.video import VideoIndex, VideoReader, index_video


@dataclass
class Config:
    videos: Annotated[Path, tyro.conf.Positional] = Path(
        os.environ.get("VIDSSL_TEST_DATA", "../shared/data"), "surveillance"
    )
    """Folder, list file or video."""
    frames: int = 16
    """Frames a clip, consecutive."""
    size: int = 112
    """Height and width of the result in pixels."""
    rounds: int = 5
    """How often every reader decodes all clips."""
    limit: int = 0
    """Videos to use, spread over all; 0 takes all."""


@dataclass(frozen=True)
class Clip:
    path: str
    index: VideoIndex
    start: int
    frames: int
    size: int

    @property
    def numbers(self) -> range:
        return range(self.start, self.start + self.frames)


def bound(clip: Clip) -> None:
    """Decoding alone, from the beginning through the clip, nothing converted: what decoding every frame allows."""
    with av.open(clip.path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, _ in enumerate(container.decode(stream)):
            if number == clip.numbers[-1]:
                return


def ours(clip: Clip) -> np.ndarray:
    with VideoReader(clip.path, (clip.size, clip.size), clip.index, threads=1) as reader:
        return reader.read_array(clip.numbers)


def ours_with_index(clip: Clip) -> np.ndarray:
    with VideoReader(clip.path, (clip.size, clip.size), threads=1) as reader:
        return reader.read_array(clip.numbers)


def naive_pyav(clip: Clip) -> np.ndarray:
    import cv2

    frames = []
    with av.open(clip.path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            picture = frame.to_ndarray(format="rgb24")
            if number >= clip.start:
                frames.append(cv2.resize(picture, (clip.size, clip.size), interpolation=cv2.INTER_AREA))
            if number == clip.numbers[-1]:
                break
    return np.stack(frames)


def opencv(clip: Clip) -> np.ndarray:
    import cv2

    video = cv2.VideoCapture(clip.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    for number in range(clip.numbers[-1] + 1):
        video.grab()
        if number >= clip.start:
            picture = cv2.resize(video.retrieve()[1], (clip.size, clip.size), interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    video.release()
    return np.stack(frames)


def torchcodec(clip: Clip) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(clip.path, num_ffmpeg_threads=1, transforms=[Resize((clip.size, clip.size))])
    return decoder.get_frames_in_range(clip.numbers.start, clip.numbers.stop).data.numpy()


def decord(clip: Clip) -> np.ndarray:
    import decord  # type: ignore[import-not-found]

    reader = decord.VideoReader(clip.path, width=clip.size, height=clip.size, num_threads=1)
    return reader.get_batch(clip.numbers).asnumpy()


READERS: dict[str, Callable[[Clip], Any]] = {
    "vidssl": ours,
    "vidssl, indexing each time": ours_with_index,
    "decoding alone (PyAV)": bound,
    "decord": decord,
    "OpenCV": opencv,
    "torchcodec, resize in decoder": torchcodec,
    "naive PyAV": naive_pyav,
}


def clips_of(config: Config) -> list[Clip]:
    """One clip a video, its start drawn by the video's number."""
    videos = find_videos(config.videos)
    clips = []
    for number, video in enumerate(videos[:: max(1, len(videos) // config.limit)] if config.limit else videos):
        index = index_video(video.path)
        if len(index) >= config.frames:
            start = mix_ints(number) % (len(index) - config.frames + 1)
            clips.append(Clip(str(video.path), index, start, config.frames, config.size))
    return clips


def usable(readers: Iterable[str], clip: Clip) -> list[str]:
    """The readers that are installed and give frames; the others are named with the reason."""
    found = []
    for name in readers:
        try:
            READERS[name](clip)
            found.append(name)
        except ImportError as error:
            print(f"{name}: not installed ({str(error).splitlines()[0]})")
        except Exception as error:  # a peer's own failure is a finding, not the end of the run
            print(f"{name}: fails ({type(error).__name__}: {str(error).splitlines()[0]})")
    return found


def main(argv: list[str] | None = None) -> int:
    config = tyro.cli(Config, args=argv, prog="bench_decode", description=__doc__)
    import cv2

    cv2.setNumThreads(1)
    clips = clips_of(config)
    names = usable(READERS, clips[0])
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(config.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun = time.perf_counter()
            for clip in clips:
                READERS[name](clip)
            rates[name].append(len(clips) / (time.perf_counter() - begun))
    shape = f"{config.frames} frames at {config.size}x{config.size}"
    print(f"{len(clips)} clips of {shape}, {config.rounds} rounds, one thread")
    print(f"{'reader':32}{'clips/s':>9}{'vidssl is':>11}")
    for name in names:
        ratio = statistics.median(mine / theirs for mine, theirs in zip(rates["vidssl"], rates[name], strict=True))
        print(f"{name:32}{statistics.median(rates[name]):9.1f}{ratio:10.2f}x")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
