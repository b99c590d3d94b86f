"""Time as the teacher: is a clip in order, does it run forwards, how fast?

    order   [seg 2][seg 0][seg 1]    which of the S! orders: Misra et al. 2016, "Shuffle and Learn", arXiv 1603.08561;
                                     Xu et al. 2019, "Self-Supervised Spatiotemporal Learning via Video Clip Order
                                     Prediction" (CVPR), whose classes and pairwise head are used
    arrow   f9 f8 f7 … f0            forwards or backwards: Wei et al. 2018, "Learning and Using the Arrow of Time"
    pace    f0 . . . f4 . . . f8     every 1st, 2nd or 4th frame: Benaim et al. 2020 (SpeedNet), arXiv 2004.06130;
                                     Wang et al. 2020, "Video Representation Learning by Pace Prediction", 2008.05861

Nothing but motion should tell the label: all frames of a clip share one augmentation, segments are encoded apart with
frames left out between them, and clips of all paces have the same number of frames.

B clips, T frames, D feature dim, S segments of L frames, G = S! orders.
"""

from itertools import combinations, permutations
from math import log
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import uniform
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.heads import mlp
from vidssl.views import Views

Task = Literal["order", "arrow", "pace", "all"]
TASKS = ("order", "arrow", "pace")
_STREAM = 0x6F72646572  # keeps the draws of labels apart from others made with the same keys
THIRDS = 3  # stretches of time that the heads of arrow and pace tell apart


class Order(nn.Module):
    """Classify how time was tampered with; one encoder, a head for each question.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`.
        views: augmentation, one a clip.
        task: `"order"`, `"arrow"`, `"pace"`, or `"all"`: the mean of the three losses, each over that of a guess.
        segments: S of `"order"`, 2 to 5 (3 in Xu et al.).
        gap: frames left out between segments (8 in Xu et al., whose segments have 16): so that a segment's end does not
            show where the next one begins.
        paces: strides of `"pace"`, in frames.
        hidden: width of the heads (512 in Xu et al.).
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = ()
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        task: Task = "all",
        segments: int = 3,
        gap: int = 1,
        paces: tuple[int, ...] = (1, 2, 4),
        hidden: int = 256,
    ) -> None:
        super().__init__()
        if task not in (*TASKS, "all"):
            raise VidsslError(f"task: got {task!r}; choose from {', '.join(TASKS)}, all")
        if not 2 <= segments <= 5 or gap < 0:
            raise VidsslError(f"got segments={segments}, gap={gap}; order needs 2 to 5 segments and a gap of 0 or more")
        whole = isinstance(paces, tuple) and all(isinstance(pace, int) and pace >= 1 for pace in paces)
        if not whole or len(set(paces)) != len(paces) or len(paces) < 2:
            raise VidsslError(f"paces: got {paces!r}; write two different strides or more, at least 1: (1, 2, 4)")
        self.encoder, self.views, self.gap, self.paces = encoder, views, gap, paces
        self.orders: Tensor
        self.register_buffer("orders", torch.tensor(list(permutations(range(segments)))), persistent=False)
        self.heads = nn.ModuleDict()
        for name in TASKS if task == "all" else (task,):
            self.heads[name] = {
                "order": lambda: _PairwiseHead(encoder.dim, segments, hidden),
                "arrow": lambda: mlp((THIRDS * encoder.dim, hidden, 2), "layer"),
                "pace": lambda: mlp((THIRDS * encoder.dim, hidden, len(self.paces)), "layer"),
            }[name]()

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour and greyscale, the same for all frames of a clip."""
        return Views(size, crop=(0.4, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of the questions, each over log of its number of answers: 1 is a guess.

        Raises:
            VidsslError: clips too short for the segments or the paces.
        """
        views, draws = self.prepare(batch)
        ask = {"order": self._order, "arrow": self._arrow, "pace": self._pace}
        losses, features = [], []
        metrics: dict[str, Tensor] = {}
        for name in self.heads:
            scores, label, z = ask[name](views, draws)
            chance = 1 / scores.shape[1]
            losses.append(F.cross_entropy(scores, label) / -log(chance))
            features.append(z.flatten(0, -2))
            metrics |= {
                f"term_{name}": losses[-1].detach(),
                f"accuracy_{name}": (scores.argmax(1) == label).float().mean(),
                f"chance_{name}": torch.tensor(chance),
            }
        return torch.stack(losses).mean(), metrics | health(torch.cat(features))

    def prepare(self, batch: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A view of every clip `[B,T,3,H',W']`, and four uniform draws `[B]` that make the questions."""
        views = self.views(batch["clips"], batch["key"])
        return views, uniform(batch["key"].to(views.device), 4, _STREAM).unbind(1)

    def _order(self, views: Tensor, draws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores `[B,G]`, the order's number `[B]`, features `[B,S,D]` of the segments as they were shuffled."""
        (kinds, count), frames = self.orders.shape, views.shape[1]
        length = (frames - (count - 1) * self.gap) // count
        if length < 2:
            raise VidsslError(
                f"clips of {frames} frames are too short for {count} segments of 2 frames, {self.gap} apart: raise "
                f"--frames to {2 * count + (count - 1) * self.gap} or more, or lower the method's segments or gap"
            )
        segments = torch.stack([views[:, i * (length + self.gap) :][:, :length] for i in range(count)], dim=1)
        label = _pick(draws[0], kinds)
        shuffled = segments[torch.arange(len(views), device=views.device)[:, None], self.orders[label]]
        z = self.encoder(shuffled.flatten(0, 1)).mean(1).unflatten(0, (len(views), count))
        return self.heads["order"](z), label, z

    def _arrow(self, views: Tensor, draws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores `[B,2]`, 1 where time was turned round `[B]`, features `[B,T',D]`."""
        if views.shape[1] < 2:
            raise VidsslError("clips of 1 frame have no direction of time: raise --frames to 2 or more")
        label = _pick(draws[1], 2)
        z = self.encoder(torch.where(label[:, None, None, None, None] == 1, views.flip(1), views))
        return self.heads["arrow"](_thirds(z)), label, z

    def _pace(self, views: Tensor, draws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, the pace's number `[B]`, features `[B,T',D]`: as many frames at any pace as the fastest leaves."""
        frames, fastest = views.shape[1], max(self.paces)
        length = (frames - 1) // fastest + 1
        if length < 2:
            raise VidsslError(
                f"clips of {frames} frames are too short for a pace of {fastest}: raise --frames to {fastest + 1} or "
                "more, or leave it out of the method's paces"
            )
        label = _pick(draws[2], len(self.paces))
        stride = torch.tensor(self.paces, device=views.device)[label]
        start = _pick(draws[3], frames - (length - 1) * stride)
        index = start[:, None] + stride[:, None] * torch.arange(length, device=views.device)
        z = self.encoder(views[torch.arange(len(views), device=views.device)[:, None], index])
        return self.heads["pace"](_thirds(z)), label, z


class _PairwiseHead(nn.Module):
    """Xu et al. 2019, section 3.3: a relation of every two segments, in the order shown, then all of them together."""

    def __init__(self, dim: int, segments: int, hidden: int) -> None:
        super().__init__()
        self.pairs = list(combinations(range(segments), 2))
        self.relation = nn.Sequential(nn.Linear(2 * dim, hidden), nn.LayerNorm(hidden), nn.ReLU())
        self.classify = nn.Linear(len(self.pairs) * hidden, len(list(permutations(range(segments)))))

    def forward(self, z: Tensor) -> Tensor:
        """Features of segments `[B,S,D]` -> scores `[B,S!]`."""
        return self.classify(torch.cat([self.relation(torch.cat([z[:, i], z[:, j]], 1)) for i, j in self.pairs], 1))


def _pick(draw: Tensor, count: int | Tensor) -> Tensor:
    """Uniform draws `[B]` in [0, 1) -> int64 `[B]` in 0 … count - 1."""
    number = (draw * count).long()
    return number.minimum(torch.as_tensor(count, device=draw.device) - 1)  # a product may round up to count


def _thirds(z: Tensor) -> Tensor:
    """`[B,T',D] -> [B,3*D]`: means over the first, middle and last third of the times, in order."""
    return F.adaptive_avg_pool1d(z.mT, THIRDS).mT.flatten(1)
