"""MoCo: He et al. 2020, "Momentum Contrast", arXiv 1911.05722, with the head and views of v2, arXiv 2003.04297.

    view 0 ──> encoder ──> projector ──> q
    view 1 ──> target encoder ──> target projector ──> k      q finds k among the keys of earlier batches, a queue

and v3: Chen, Xie, He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers", arXiv 2104.02057:

    both views ──> encoder ──> projector ──> predictor ──> q
               ──> target encoder ──> target projector ──> k  q finds the other view's k in the batch

B clips, D feature dim, E embedding dim, Q keys of the queue.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import gather, gather_ints, info_nce, lse, world
from vidssl.core.ema import cosine_momentum, ema_, target_of
from vidssl.core.moments import wide
from vidssl.core.monitor import health
from vidssl.core.queue import Queue
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import clip_feature, mlp
from vidssl.methods.negatives import excluded
from vidssl.views import Views

ENOUGH = 8  # keys of one video, and none of another, after which there plainly is one video only


class MoCo(nn.Module):
    """MoCo v2: InfoNCE against a queue of keys.

    Take an encoder without batch norm (`small-motion`, `vit`, …): keys and queries of a batch share batch statistics
    here, on any number of processes, which tells the positive from the queue (section 3.3; the paper shuffles it away
    over GPUs). `moco-v3`, whose keys are all of the batch, has no such short cut.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        queue: Q (65,536 in the paper); with few videos a long queue holds many keys of an anchor's own video.
        negatives: `"other-videos"` leaves the queue's keys of the anchor's own video out, `"both"` keeps them.
        momentum: of the target network (0.999 in the paper, for 200 epochs; short runs need a target that moves).
        temperature: of the cosine similarity (0.2 in v2).
        hidden, dim: widths of the two-layer projector (2048 and 128 in v2), without norm.
        frames, distance: the views' windows, see `ClipViews`.
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
        queue: int = 4096,
        negatives: Literal["other-videos", "both"] = "other-videos",
        momentum: float = 0.99,
        temperature: float = 0.2,
        hidden: int = 512,
        dim: int = 128,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        _check(negatives, momentum, temperature)
        self.encoder, self.views, self.negatives = encoder, views, negatives
        self.projector = mlp((encoder.dim, hidden, dim), norm=None)
        self.target_encoder, self.target_projector = target_of(encoder), target_of(self.projector)
        self.queue = Queue(queue, dim)
        self.clip_views = ClipViews(views, 2, frames, distance)
        self.momentum, self.temperature = momentum, temperature
        self.fresh: list[tuple[Tensor, Tensor]] = []  # keys and videos of the batches since the last step

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour, greyscale and blur: v2, section 3."""
        return Views(
            size, crop=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2, blur=0.5
        )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of each query with its own key against the queue (eq. 1)."""
        view, other = self.clip_views(batch["clips"], batch["key"])
        features = clip_feature(self.encoder, view)
        embeddings = self.projector(features)
        query = F.normalize(embeddings, dim=1)
        with torch.no_grad():
            key = F.normalize(self.target_projector(clip_feature(self.target_encoder, other)), dim=1)
        if torch.is_grad_enabled():  # a look at the loss leaves no trace
            self.fresh.append((key, batch["video"]))

        exclude = excluded(self.negatives, batch["video"], self._known(batch["video"]))
        others = lse(query, self.queue.keys.to(query.dtype), self.temperature, exclude=exclude)
        own = (wide(query) * wide(key)).sum(1) / self.temperature
        loss = (torch.logaddexp(others, own) - own).mean()
        return loss, health(features, embeddings) | {"momentum": torch.tensor(self.momentum)}

    def _known(self, video: Tensor) -> Tensor:
        """The queue's labels; of keys that were never pushed, the video of the batch once the queue knows no other."""
        labels = self.queue.labels
        pushed = labels[labels >= 0]
        alone = len(pushed) >= ENOUGH and bool((pushed == pushed[0]).all()) and bool((video == pushed[0]).all())
        return pushed[:1].expand_as(labels) if alone else labels

    def after_step(self) -> None:
        """The target follows (eq. 2), and the batch's keys enter the queue."""
        ema_(self.target_encoder, self.encoder, self.momentum)
        ema_(self.target_projector, self.projector, self.momentum)
        for key, video in self.fresh:
            self.queue.push(key, video)
        self.fresh.clear()


class MoCoV3(nn.Module):
    """MoCo v3: InfoNCE among the batch, both ways, with a predictor and a target network.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        negatives: `"other-videos"` leaves keys of other clips of the anchor's video out, `"both"` keeps them.
        momentum: of the target network at the start, rising to 1 by a cosine (0.99 in the paper).
        temperature: of the cosine similarity (0.2 in the paper).
        hidden, dim: widths of projector (three layers) and predictor (two); 4096 and 256 in the paper.
        frames, distance: the views' windows, see `ClipViews`.
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
        negatives: Literal["other-videos", "both"] = "other-videos",
        momentum: float = 0.99,
        temperature: float = 0.2,
        hidden: int = 512,
        dim: int = 128,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        _check(negatives, momentum, temperature)
        self.encoder, self.views, self.negatives = encoder, views, negatives
        self.projector = mlp((encoder.dim, hidden, hidden, dim), last_norm=True)
        self.predictor = mlp((dim, hidden, dim), last_norm=True)
        self.target_encoder, self.target_projector = target_of(encoder), target_of(self.projector)
        self.clip_views = ClipViews(views, 2, frames, distance)
        self.base_momentum, self.momentum, self.temperature = momentum, momentum, temperature

    default_views = staticmethod(MoCo.default_views)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of both views' queries among the other view's keys, times 2τ as published (algorithm 1).

        Raises:
            VidsslError: a batch of one clip, or of one video only: no negatives.
        """
        self.momentum = cosine_momentum(self.base_momentum, float(batch["progress"]))
        rank, size = world()
        clips = len(batch["clips"])
        if clips * size < 2:
            raise VidsslError("a batch of one clip has no negatives: raise --batch-size to 2 or more")
        views = torch.cat(self.clip_views(batch["clips"], batch["key"]))
        features = clip_feature(self.encoder, views)
        embeddings = self.projector(features)
        query = F.normalize(self.predictor(embeddings), dim=1)
        with torch.no_grad():
            key = F.normalize(self.target_projector(clip_feature(self.target_encoder, views)), dim=1)

        own = rank * clips + torch.arange(clips, device=key.device)
        exclude = excluded(self.negatives, batch["video"], gather_ints(batch["video"]))
        ways = [
            info_nce(q, gather(k), own, self.temperature, exclude=exclude)
            for q, k in zip(query.chunk(2), reversed(key.chunk(2)), strict=True)
        ]
        loss = 2 * self.temperature * torch.stack(ways).mean()
        return loss, health(features, embeddings) | {"momentum": torch.tensor(self.momentum)}

    def after_step(self) -> None:
        """The target follows."""
        ema_(self.target_encoder, self.encoder, self.momentum)
        ema_(self.target_projector, self.projector, self.momentum)


def _check(negatives: str, momentum: float, temperature: float) -> None:
    if negatives not in ("other-videos", "both"):
        raise VidsslError(f"negatives: got {negatives!r}; choose other-videos or both")
    if not 0 <= momentum <= 1:
        raise VidsslError(f"momentum: got {momentum}; give one from 0 (the network itself) to 1 (a fixed target)")
    if temperature <= 0:
        raise VidsslError(f"temperature: got {temperature}; give one above 0")
