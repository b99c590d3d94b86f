"""Write Moving MNIST as videos: two digits that fly through a dark square and bounce off its sides.

Example:

    vidssl moving-mnist --out moving --digits mnist.csv.gz --videos 2000
    vidssl moving-mnist --out moving-test --digits mnist.csv.gz --split test --videos 500
    vidssl pretrain moving --out runs/moving --method predict --frames 20 --stride 1

Digits come from a CSV (784 values a row, the label last if there is one) or a .npz with one array [m,28,28]; without
--digits they are drawn with OpenCV's font. Training and test digits are disjoint. Video i is a function of the seed, i
and the digits; the files hold the frames up to the loss of H.264 at crf 10, `vidssl.datasets.moving_mnist` makes them
exact.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Config:
    out: Path
    """folder to write; what is there already is kept, so that a command that was stopped goes on"""
    videos: int = 1000
    """how many videos"""
    digits: Path | None = None
    """.csv, .csv.gz or .npz of digits; drawn ones when not given"""
    split: Literal["train", "test"] = "train"
    """which digits"""
    frames: int = 20
    """frames a video"""
    size: int = 64
    """side of the frames in pixels, even"""
    seed: int = 0
    """random seed"""


def main(argv: list[str] | None = None) -> int:
    """The `vidssl moving-mnist` command."""
    config = tyro.cli(Config, args=argv, prog="vidssl moving-mnist", description=__doc__)
    from vidssl.datasets.moving_mnist import read_digits, write_moving_mnist
    from vidssl.progress import progress_bar

    digits = read_digits(config.digits, config.split)
    with progress_bar("drawing videos", config.videos, True) as advance:
        write_moving_mnist(config.out, config.videos, digits, config.seed, config.frames, config.size, advance)
    print(f"{config.out}: {config.videos} videos of {len(digits)} {config.split} digits")
    return 0
