"""Statistics of features, as LeRobot's normalisation reads them.

    vectors   over the frames (and all axes but the last): min, max, mean, std, q01 .. q99 [D], count [1]
    pictures  over frames and pixels, in 0..1: the same [C,1,1]; depth in its own unit [1,1,1]

Of pictures a sample is looked at, its size in `count`. The quantiles of several episodes are the mean of theirs, as in
LeRobot: not the quantiles of all frames.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
SAMPLE = 64  # pictures of an episode that are kept, at most
SIDE = 128  # pixels a side that are looked at, about

Stats = dict[str, np.ndarray]


class PictureSample:
    """Pictures spread over an episode of unknown length: every n-th, n doubling whenever there are too many."""

    def __init__(self) -> None:
        self._step, self._seen = 1, 0
        self._kept: list[np.ndarray] = []

    def add(self, picture: np.ndarray) -> None:
        """A picture [H,W,C], thinned out."""
        if self._seen % self._step == 0:
            thin = max(1, round(max(picture.shape[:2]) / SIDE))
            self._kept.append(picture[::thin, ::thin].copy())
            if len(self._kept) > SAMPLE:
                self._kept, self._step = self._kept[::2], 2 * self._step
        self._seen += 1

    def stats(self, scale: float) -> Stats:
        """Of the pictures over `scale`."""
        pixels = np.concatenate([picture.reshape(-1, picture.shape[-1]) for picture in self._kept]) / scale
        found = _stats(pixels, len(self._kept))
        return {name: value if name == "count" else value[:, None, None] for name, value in found.items()}


def vector_stats(values: np.ndarray) -> Stats:
    """Of values [T] or [T,...,D]."""
    return _stats(values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1).astype(np.float64), len(values))


def _stats(rows: np.ndarray, count: int) -> Stats:
    found: Stats = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found |= dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))
    return {name: value.astype(np.float64) for name, value in found.items()} | {"count": np.array([count])}


def merge_stats(parts: Sequence[dict[str, Stats]]) -> dict[str, Stats]:
    """Of several episodes together; all have the same features."""
    return {key: _merge([part[key] for part in parts]) for key in parts[0]}


def _merge(parts: Sequence[Stats]) -> Stats:
    """Law of total variance: the mean of the variances plus the variance of the means, weighted by counts."""
    count = np.array([part["count"][0] for part in parts], np.float64)
    column = {name: np.stack([part[name] for part in parts]) for name in parts[0] if name != "count"}

    def weighted(values: np.ndarray) -> np.ndarray:
        return np.tensordot(count / count.sum(), values, axes=1)

    mean = weighted(column["mean"])
    merged = {name: weighted(column[name]) for name in QUANTILES}
    merged |= {"min": column["min"].min(0), "max": column["max"].max(0), "mean": mean}
    merged["std"] = np.sqrt(weighted(column["std"] ** 2 + (column["mean"] - mean) ** 2))
    return merged | {"count": np.array([int(count.sum())])}


def to_lists(stats: dict[str, Stats]) -> dict[str, dict[str, Any]]:
    """The same as plain lists, for JSON and Parquet."""
    return {key: {name: value.tolist() for name, value in found.items()} for key, found in stats.items()}


def from_lists(stats: dict[str, dict[str, Any]]) -> dict[str, Stats]:
    """The opposite of `to_lists`."""
    return {key: {name: np.atleast_1d(value) for name, value in found.items()} for key, found in stats.items()}
