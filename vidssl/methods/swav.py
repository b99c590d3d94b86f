"""SwAV: Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020, "Unsupervised Learning of Visual Features by Contrasting
Cluster Assignments", arXiv 2006.09882.

    view 0 ──> encoder ──> projector ──> z0 ──prototypes──> scores ──softmax────> p0 ╲╱ q1 should be p0's, q0 p1's
    view 1 ──> encoder ──> projector ──> z1 ──prototypes──> scores ──Sinkhorn───> q1 ╱╲
                                                                                  assignments with equal shares for
B clips, V views of each, E embedding dim, K prototypes.                          all prototypes over the whole batch
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import sinkhorn, world
from vidssl.core.moments import exact, wide
from vidssl.core.monitor import health
from vidssl.core.queue import Queue
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import clip_feature, mlp
from vidssl.methods.prototypes import Prototypes
from vidssl.methods.terms import assignment_health
from vidssl.views import Views


class SwAV(nn.Module):
    """Online clustering: the cluster of one view predicted from another.

    Views are all of one size: the paper's extra small crops (multi-crop) are left out, `positives` takes more views.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        prototypes: K (3000 in the paper for E = 128). A few times E or more: with fewer, embeddings find a direction
            that is equally far from all of them, where every choice is uniform and the loss flat at log K.
        temperature: of the prediction's softmax; 0.1 as published.
        epsilon, iterations: of Sinkhorn; 0.05 and 3 as published (0.03 in the authors' runs with batches of 256).
        equipartition: False takes a softmax at `epsilon` for the assignments: one prototype gets all (section 3.1).
        queue: embeddings of earlier batches that join the assignment of a view, for batches small beside K; 0 for none
            (3840 for batches of 256 in the paper, section 3.1). For long runs: while features still move fast, it
            holds what they were.
        freeze: share of the budget before prototypes begin to move; the first epoch in the authors' code. Moving from
            the start they can all run together, where the loss is flat at log K.
        hidden, dim: widths of the two-layer projector (2048 and 128 in the paper, for D = 2048).
        positives: views a clip, V; every one predicts the assignments of all others.
        frames, distance: the views' windows, see `ClipViews`.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = (
        Ablation("no equipartition", {"equipartition": False}, "constant", "assignment"),
    )
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        prototypes: int = 512,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        equipartition: bool = True,
        queue: int = 0,
        freeze: float = 0.2,
        hidden: int = 512,
        dim: int = 128,
        positives: int = 2,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        if positives < 2:
            raise VidsslError(f"positives: got {positives}; SwAV compares 2 views of a clip or more")
        if temperature <= 0 or epsilon <= 0 or iterations < 1:
            raise VidsslError(
                f"SwAV: got temperature={temperature}, epsilon={epsilon}, iterations={iterations}; "
                "give temperature and epsilon above 0 and 1 iteration or more"
            )
        if queue < 0 or not 0 <= freeze <= 1:
            raise VidsslError(f"SwAV: got queue={queue}, freeze={freeze}; queue is 0 or more, freeze in [0, 1]")
        self.encoder, self.views = encoder, views
        self.projector = mlp((encoder.dim, hidden, dim))
        self.prototypes = Prototypes(dim, prototypes)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.equipartition, self.freeze = equipartition, freeze
        self.queues = nn.ModuleList(Queue(queue, dim) for _ in range(positives)) if queue else None
        self.clip_views = ClipViews(views, positives, frames, distance)
        self.fresh: list[tuple[Tensor, Tensor]] = []  # unit z [V,B,E] and videos since the last step

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour, greyscale and blur, gentler than published (colour at 0.8, crops of 0.14 and more).

        Under those, two views of a clip agree less than chance at the start, and short runs end in uniform choices.
        """
        return Views(
            size, crop=(0.4, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey=0.2, blur=0.5
        )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of a view's prediction with the others' assignments (eq. 1 and 2), the mean over pairs."""
        frozen = bool(batch["progress"] < self.freeze)
        views = torch.cat(self.clip_views(batch["clips"], batch["key"]))
        features = clip_feature(self.encoder, views)
        embeddings = self.projector(features)
        with exact(embeddings):
            z = F.normalize(wide(embeddings), dim=1)
            log_p = (
                (self.prototypes(z, frozen) / self.temperature).log_softmax(1).unflatten(0, (self.clip_views.count, -1))
            )
            z = z.detach().unflatten(0, (self.clip_views.count, -1))
            q = torch.stack([self._assign(view, number) for number, view in enumerate(z)])  # [V,B,K]
            shifts = range(1, self.clip_views.count)
            loss = torch.stack([-(q.roll(shift, 0) * log_p).sum(-1).mean() for shift in shifts]).mean()
        if self.queues is not None and torch.is_grad_enabled():  # a look at the loss leaves no trace
            self.fresh.append((z, batch["video"]))
        chosen = log_p.detach().exp().flatten(0, 1)
        return loss, health(features, embeddings) | assignment_health(chosen)

    @torch.no_grad()
    def _assign(self, z: Tensor, view: int) -> Tensor:
        """Assignments `[B, K]` of one view's unit embeddings `[B, E]`."""
        prototypes = self.prototypes.unit().to(z.dtype)
        if not self.equipartition:
            return (z @ prototypes.T / self.epsilon).softmax(1)
        everyone = z
        if self.queues is not None:
            queue: Any = self.queues[view]
            rank, size = world()
            earlier = queue.keys[queue.labels >= 0][rank::size]  # every rank holds the queue: each brings its share
            everyone = torch.cat([z, earlier.to(z.dtype)])
        return sinkhorn(everyone, prototypes, self.epsilon, self.iterations)[: len(z)]

    def after_step(self) -> None:
        """The batch's embeddings enter the queues."""
        for z, video in self.fresh:
            for number, view in enumerate(z):
                queue: Any = self.queues[number]  # type: ignore[index]
                queue.push(view, video)
        self.fresh.clear()
