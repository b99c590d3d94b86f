"""A cheap probe while training: is the representation collapsing, does it say anything about the labels?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidssl.evaluate.rank import rankme


class OnlineProbe:
    """Effective rank (RankMe) and leave-one-source-out 10-NN accuracy of the encoder on a fixed set of clips.

    A trend to watch, not a figure to publish: the clips are among those trained on. `vidssl evaluate` is for that.

    Args:
        clips: uint8 `[n,T,C,H,W]`, one clip a video.
        labels: n class names, or None where there are none.
        groups: n sources; a clip's neighbours are sought in other sources only. None: each clip is a source of its own.
    """

    def __init__(
        self, clips: Tensor, labels: Sequence[str] | None = None, groups: Sequence[str] | None = None, k: int = 10
    ) -> None:
        self.clips, self.k = clips, k
        self.labels = None if labels is None or len(set(labels)) < 2 else np.unique(labels, return_inverse=True)[1]
        self.groups = np.unique(groups if groups is not None else np.arange(len(clips)), return_inverse=True)[1]

    @torch.inference_mode()
    def __call__(self, method: Any) -> dict[str, float]:
        """`{"rankme": …}` and, with labels, `{"knn": accuracy in [0, 1]}` of the method's exported feature."""
        training = method.training
        method.eval()
        device = next(method.parameters()).device
        features = []
        for clips in self.clips.split(32):
            frames = method.encoder(clips.to(device).float() / 255)
            features.append((method.context(frames) if method.output == "context" else frames).cpu())
        method.train(training)
        frames = torch.cat(features)
        clip_features = torch.cat([frames.mean(1), frames.std(1, correction=0)], dim=1)  # of one time: 0
        numbers = {"rankme": rankme(frames.flatten(0, 1))}
        if self.labels is not None:
            numbers["knn"] = self._knn(clip_features)
        return numbers

    def _knn(self, features: Tensor) -> float:
        assert self.labels is not None
        unit = (features - features.mean(0)) / features.std(0).clamp_min(1e-6)
        unit = torch.nn.functional.normalize(unit, dim=1)
        similarity = unit @ unit.T
        same = torch.from_numpy(self.groups[:, None] == self.groups[None, :])
        nearest = similarity.masked_fill(same, -2.0).topk(min(self.k, len(unit)), dim=1)
        right = []
        for label, indices, near in zip(self.labels, nearest.indices.numpy(), nearest.values.numpy(), strict=True):
            allowed = indices[near > -2.0]  # where other sources have fewer than k clips, those are all there are
            if len(allowed):
                right.append(np.bincount(self.labels[allowed]).argmax() == label)
        return float(np.mean(right)) if right else float("nan")
