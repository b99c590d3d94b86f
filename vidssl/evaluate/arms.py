"""The arms of an evaluation: each turns the same frames into clip features, which the same probes judge.

n videos, W windows, T frames a window, H x W' pixels, D feature dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.evaluate.folds import Groups
from vidssl.evaluate.probes import ProbeResult, knn_probe, linear_probe, part, pool
from vidssl.evaluate.rank import rankme
from vidssl.evaluate.ridge import RidgeResult, pool_ridge, ridge_part, ridge_r2
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
    """A line of the table: one name, its probes (None where there are no labels, or no targets).

    `rankme` is that of the paper, of features as they are; a mean vector that dominates counts there as a direction and
    hides the others. `rank_centred` is the same without the mean; None where it was not measured.
    """

    name: str
    dim: int
    rankme: float
    linear: ProbeResult | None
    knn: ProbeResult | None
    ridge: RidgeResult | None
    rank_centred: float | None = None


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
        x, frames = torch.stack(arm.clips), torch.cat(arm.frames)
        row = Row(
            name=arm.name,
            dim=x.shape[1],
            rankme=rankme(frames),
            rank_centred=rankme(frames - frames.mean(0)),
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
    centred = [row.rank_centred for row in rows if row.rank_centred is not None]
    return Row(
        name=rows[0].name,
        dim=rows[0].dim,
        rankme=float(np.mean([row.rankme for row in rows])),
        linear=pool(linear) if linear else None,
        knn=pool(knn) if knn else None,
        ridge=pool_ridge(ridge) if ridge else None,
        rank_centred=float(np.mean(centred)) if len(centred) == len(rows) else None,
    )


def network(row: Row, number: int, shuffles: int) -> Row | None:
    """One of the networks that `averaged` made a row of, the `number`-th; None where there were fewer.

    Its ranks and its dim stay those of all.
    """
    rows = slice(number * shuffles, (number + 1) * shuffles)
    held = [len(result.scores) for result in (row.linear, row.knn, row.ridge) if result is not None]
    if not held or min(held) < rows.stop:
        return None
    return replace(
        row,
        linear=row.linear and part(row.linear, rows),
        knn=row.knn and part(row.knn, rows),
        ridge=row.ridge and ridge_part(row.ridge, rows),
    )
