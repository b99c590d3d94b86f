"""Moving MNIST: handwritten digits fly through a dark square and bounce off its sides (Srivastava et al. 2015, ICML).

n sequences, T frames, S side in pixels, m digits of 28 x 28.

As in section 4.1 there, two digits start anywhere, fly in any direction, at one speed, and pass through each other;
where they overlap the brighter pixel shows. Their code clips a digit to the side it has passed; here it is
reflected exactly, so a position is a closed form of time, and sequence i a function of (seed, i) alone.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.core.random import mix, uniform
from vidssl.errors import VidsslError
from vidssl.splits import check_split

from .clips import ClipVideo
from .generated import claim

DIGIT = 28  # side of a digit, pixels
FRAMES, SIZE = 20, 64  # 10 to see and 10 to predict
STEP = 3.6  # pixels a frame: a tenth of the way a digit has to go at S = 64
TEST_EVERY = 5  # digits 0, 5, 10, … are those of the test split, all others those of the training split
STREAM = 5  # sets these draws apart from other uses of a sample's key

Images = NDArray[np.uint8]


def read_digits(source: str | Path | None, split: str = "train") -> Images:
    """Digits to draw from, uint8 [m,28,28], white on black; those of the two splits are disjoint.

    Args:
        source: a .csv or .csv.gz with a row a digit, 784 values 0 … 255 and, if there, the label last; a .npz that
            holds one array [m,28,28] of uint8; or None for digits drawn with OpenCV's fonts.
        split: "train" or "test".

    Raises:
        VidsslError: no such file, or something else in it.
    """
    check_split(split)
    digits = drawn_digits() if source is None else _read(Path(source))
    test = np.arange(len(digits)) % TEST_EVERY == 0
    return digits[test if split == "test" else ~test]


def moving_mnist(
    digits: Images, seed: int, indices: Tensor, frames: int = FRAMES, size: int = SIZE, count: int = 2
) -> Images:
    """Sequences `indices` of a seed.

    Args:
        digits: uint8 [m,28,28].
        seed: any integer; sequences of another seed are others.
        indices: int64 [n], not negative.
        frames: T.
        size: S, more than 28.
        count: digits a sequence.

    Returns:
        uint8 [n,T,1,S,S]; row k depends on (digits, seed, indices[k]) alone.

    Raises:
        VidsslError: shapes or numbers that don't fit.
    """
    if digits.dtype != np.uint8 or digits.ndim != 3 or digits.shape[1:] != (DIGIT, DIGIT) or len(digits) == 0:
        raise VidsslError(f"digits: expected uint8 [m,28,28], got {digits.dtype} {digits.shape}; see read_digits")
    if frames < 1 or size <= DIGIT or count < 1:
        raise VidsslError(f"got frames {frames}, size {size}, count {count}; at least 1, {DIGIT + 1} and 1")
    chosen, places = _draw(len(digits), seed, indices, frames, size, count)
    canvas = np.zeros((len(indices), frames, size, size), np.uint8)
    for n in range(len(indices)):
        for digit, path in zip(chosen[n], places[n], strict=True):
            for t, (y, x) in enumerate(path):
                window = canvas[n, t, y : y + DIGIT, x : x + DIGIT]
                np.maximum(window, digits[digit], out=window)
    return canvas[:, :, None]


def _draw(
    digits: int, seed: int, indices: Tensor, frames: int, size: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which digits [n,count], and their upper left corners (row, column) [n,count,T,2] in pixels."""
    draws = uniform(mix(seed, indices), 4 * count, STREAM).double().view(len(indices), count, 4)
    room = size - DIGIT
    angle = 2 * torch.pi * draws[..., 3]
    velocity = STEP / room * torch.stack([angle.sin(), angle.cos()], dim=-1)  # of the way, a frame
    way = draws[..., None, 1:3] + torch.arange(frames)[:, None] * velocity[..., None, :]
    folded = 1 - (way % 2 - 1).abs()  # there and back again: a triangle wave
    chosen = (draws[..., 0] * digits).long()
    return chosen.numpy(), (folded * room).round().long().numpy()


class MovingMNIST:
    """Batches of Moving MNIST, made on the way: a loader as `ClipLoader`, without files.

    Args:
        digits: uint8 [m,28,28].
        batch_size: sequences of the global batch, a multiple of `world`.
        seed: of the sequences.
        frames, size: T and S.
        sequences: an epoch's; every epoch has new ones.
        rank, world: this process makes the rank-th of `world` equal, contiguous slices of every batch.

    Attributes:
        steps_per_epoch: batches an epoch.
        videos: the sequences of the first epoch as `ClipVideo`, one frame a second and without a class.
    """

    def __init__(
        self,
        digits: Images,
        batch_size: int = 64,
        seed: int = 0,
        *,
        frames: int = FRAMES,
        size: int = SIZE,
        sequences: int = 10_000,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % world or not 0 <= rank < world or sequences < batch_size:
            raise VidsslError(
                f"batch_size {batch_size} must be a multiple of the {world} ranks, rank {rank} one of them, and an"
                f" epoch of {sequences} sequences hold a batch"
            )
        self.digits, self.batch_size, self.seed, self.frames, self.size = digits, batch_size, seed, frames, size
        self.rank, self.world = rank, world
        self.steps_per_epoch = sequences // batch_size
        times = np.arange(frames, dtype=np.float64)
        self.videos = [ClipVideo(f"moving-mnist/{index}", None, times, index) for index in range(sequences)]

    def batches(self, start_step: int = 0) -> Iterator[dict[str, Any]]:
        """Batches from a step on, without end.

        Yields:
            `clips` uint8 [b,T,3,S,S] (grey), `times` float64 [b,T] s, `video` int64 [b] (within the epoch), `key`
            int64 [b], `epoch` int, `step` int, `names` list of b names.
        """
        share = self.batch_size // self.world
        step = start_step
        while True:
            epoch, place = divmod(step, self.steps_per_epoch)
            video = place * self.batch_size + self.rank * share + torch.arange(share)
            index = epoch * len(self.videos) + video
            grey = moving_mnist(self.digits, self.seed, index, self.frames, self.size)
            yield {
                "clips": torch.from_numpy(grey).expand(-1, -1, 3, -1, -1),
                "times": torch.arange(self.frames, dtype=torch.float64).expand(share, -1),
                "video": video,
                "key": mix(self.seed, index),
                "epoch": epoch,
                "step": step,
                "names": [self.videos[number].name for number in video.tolist()],
            }
            step += 1

    def manifest(self) -> dict[str, Any]:
        """What the sequences are drawn from, for the run's records."""
        return {
            "videos": [{"name": video.name, "label": None, "frames": self.frames} for video in self.videos],
            "digits": _digest(self.digits),
            "frames": self.frames,
            "stride": 1,
            "size": [self.size, self.size],
        }


def write_moving_mnist(
    folder: Path,
    videos: int,
    digits: Images,
    seed: int = 0,
    frames: int = FRAMES,
    size: int = SIZE,
    told: Callable[[], None] = lambda: None,
) -> None:
    """Write sequences 0 … `videos` - 1 as FOLDER/000000.mp4 …, 10 frames a second; those already there are kept.

    Raises:
        VidsslError: the folder holds something else, or numbers that don't fit.
    """
    from .mp4 import check_sides, write_video

    check_sides(size, size)
    settings = {"digits": _digest(digits), "seed": seed, "frames": frames, "size": size}
    claim(folder, "moving_mnist.json", settings, videos, "*.mp4")
    for index in range(videos):
        path = folder / f"{index:06d}.mp4"
        if not path.exists():
            sequence = moving_mnist(digits, seed, torch.tensor([index]), frames, size)[0, :, 0]
            write_video(path, (np.repeat(frame[..., None], 3, axis=-1) for frame in sequence), fps=10, crf=10)
        told()


# Digits


def _digest(digits: Images) -> str:
    return hashlib.sha256(digits.tobytes()).hexdigest()


def _read(file: Path) -> Images:
    if not file.is_file():
        raise VidsslError(f"{file}: no such file; give a .csv, .csv.gz or .npz of digits, or None for drawn ones")
    if file.name.endswith((".csv", ".csv.gz")):
        return _read_csv(file)
    if file.suffix == ".npz":
        return _read_npz(file)
    raise VidsslError(f"{file}: digits are read from .csv, .csv.gz or .npz")


def _read_csv(file: Path) -> Images:
    try:
        table = np.loadtxt(file, delimiter=",", ndmin=2)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise VidsslError(
            f"{file}: no table of numbers ({error}); a row a digit: 784 values, then the label"
        ) from error
    pixels = table[:, : DIGIT * DIGIT]
    last = table[:, DIGIT * DIGIT :]
    labels_first = last.size > 0 and last.max() == 0 and 0 < table[:, 0].max() <= 9
    if table.shape[1] not in (784, 785) or pixels.min() < 0 or pixels.max() > 255 or labels_first:
        raise VidsslError(
            f"{file}: expected rows of 784 values 0 … 255, and the label last if there is one; got {table.shape[1]}"
            " columns" + (", it seems with the label first" if labels_first else "")
        )
    if pixels.max() <= 1:
        raise VidsslError(f"{file}: values 0 … 255 expected, got at most {pixels.max():g}; multiply them by 255")
    return pixels.astype(np.uint8).reshape(-1, DIGIT, DIGIT)


UNREADABLE = (ValueError, OSError, EOFError, BadZipFile, zlib.error, TypeError)  # TypeError: of a .npy, no archive


def _read_npz(file: Path) -> Images:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except UNREADABLE as error:
        raise VidsslError(f"{file}: no readable .npz of plain arrays ({error}); fetch or write it again") from error
    fitting = [array for array in found.values() if array.dtype == np.uint8 and array.shape[1:] == (DIGIT, DIGIT)]
    if len(fitting) != 1:
        held = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in found.items())
        raise VidsslError(f"{file}: expected one array uint8 [m,28,28], found {held or 'nothing'}")
    return fitting[0]


def drawn_digits() -> Images:
    """Stand-ins for handwriting, uint8 [810,28,28]: the ten digits in OpenCV's plain font, no two alike."""
    looks = list(product((2.8, 3.2, 3.6), (-0.25, 0.0, 0.25), (-12.0, 0.0, 12.0), (0.8, 1.0, 1.2)))
    return np.stack([_drawn(str(digit), *look) for digit in range(10) for look in looks])


def _drawn(text: str, scale: float, slant: float, turn: float, stretch: float) -> Images:
    """One digit, drawn at four times the size and averaged. `turn` in degrees, `stretch` is width over usual width."""
    import cv2

    side, font, thickness = 4 * DIGIT, cv2.FONT_HERSHEY_SIMPLEX, 8
    image = np.zeros((side, side), np.uint8)
    (width, height), _ = cv2.getTextSize(text, font, scale, thickness)
    cv2.putText(image, text, ((side - width) // 2, (side + height) // 2), font, scale, 255, thickness, cv2.LINE_AA)
    middle = np.full(2, side / 2)
    linear = cv2.getRotationMatrix2D((0, 0), turn, 1.0)[:, :2] @ np.array([[stretch, slant], [0, 1]])
    warp = np.column_stack([linear, middle - linear @ middle])
    return np.asarray(
        cv2.resize(cv2.warpAffine(image, warp, (side, side)), (DIGIT, DIGIT), interpolation=cv2.INTER_AREA)
    )
