"""The arms of an evaluation: each turns the same frames into clip features, which the same probes judge.

n videos, W windows, T frames a window, H x W' pixels, D feature dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.evaluate.folds import Groups
from vidssl.evaluate.probes import ProbeResult, knn_probe, linear_probe, pool
from vidssl.evaluate.rank import rankme
from vidssl.evaluate.ridge import RidgeResult, pool_ridge, ridge_r2
from vidssl.evaluate.windows import mean_and_std

RANK_ROWS = 1024  # frames kept for RankMe, over all videos


@dataclass
class Arm:
    """One way to get features, and the features it gave so far.

    Attributes:
        name: the row of the table it belongs to; arms of one name (several random encoders) are averaged.
        encode: frames uint8 [W,T,H,W',3] -> features [W,T',D].
        clips: a vector [2 D] a video, mean and standard deviation over its frames.
        frames: some frame features a video, for RankMe.
    """

    name: str
    encode: Callable[[Tensor], Tensor]
    clips: list[Tensor] = field(default_factory=list, init=False)
    frames: list[Tensor] = field(default_factory=list, init=False)

    def add(self, windows: Tensor, videos: int) -> None:
        """Take in the next of `videos` videos: uint8 [W,T,H,W',3]."""
        features = self.encode(windows).float().cpu()
        self.clips.append(mean_and_std(features))
        rows = features.flatten(0, -2)
        keep = torch.linspace(0, len(rows) - 1, min(len(rows), max(1, RANK_ROWS // videos))).round().long()
        keep = (keep + len(self.clips)) % len(rows)  # not of every video its first frame, of which no motion is known
        self.frames.append(rows[keep])


@dataclass(frozen=True)
class Row:
    """A line of the table: one name, its probes (None where there are no labels, or no targets)."""

    name: str
    dim: int
    rankme: float
    linear: ProbeResult | None
    knn: ProbeResult | None
    ridge: RidgeResult | None


def judge(
    arms: Sequence[Arm],
    labels: Sequence[str] | None,
    targets: NDArray[np.float64] | None,
    groups: Groups,
    folds: int,
    seeds: Sequence[int],
    told: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Probe every arm on the same folds; a row a name, in order of appearance.

    Args:
        arms: filled with the same videos.
        labels: n classes, or None.
        targets: [n, m] numbers, or None.
        groups, folds, seeds: see `linear_probe`.
        told: called after every arm (progress).
    """
    parts: dict[str, list[Row]] = {}
    for arm in arms:
        x = torch.stack(arm.clips)
        row = Row(
            name=arm.name,
            dim=x.shape[1],
            rankme=rankme(torch.cat(arm.frames)),
            linear=None if labels is None else linear_probe(x, labels, groups, folds, seeds),
            knn=None if labels is None else knn_probe(x, labels, groups, folds, seeds),
            ridge=None if targets is None else ridge_r2(x, targets, groups, folds, seeds),
        )
        parts.setdefault(arm.name, []).append(row)
        told()
    return [averaged(rows) for rows in parts.values()]


def averaged(rows: Sequence[Row]) -> Row:
    """One row from several of the same videos (untrained encoders, training seeds): their predictions are pooled."""
    linear = [row.linear for row in rows if row.linear]
    knn = [row.knn for row in rows if row.knn]
    ridge = [row.ridge for row in rows if row.ridge]
    return Row(
        name=rows[0].name,
        dim=rows[0].dim,
        rankme=float(np.mean([row.rankme for row in rows])),
        linear=pool(linear) if linear else None,
        knn=pool(knn) if knn else None,
        ridge=pool_ridge(ridge) if ridge else None,
    )
