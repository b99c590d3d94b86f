"""SimSiam: Chen, He 2020, "Exploring Simple Siamese Representation Learning", arXiv 2011.10566.

    view 0 ──> encoder ──> projector ──> z0 ──> predictor ──> p0
    view 1 ──> encoder ──> projector ──> z1 ──> predictor ──> p1      loss: -cos(p0, z1)/2 - cos(p1, z0)/2,
                                                                      no gradient through z
B clips, D feature dim, E embedding dim.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.moments import wide
from vidssl.core.monitor import health
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import clip_feature, mlp
from vidssl.views import Views


class SimSiam(nn.Module):
    """Predict the other view's embedding by the same network; stop-gradient keeps it from collapsing.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        hidden, dim: widths of the three-layer projector (both 2048 in the paper); its output has a batch norm as well.
        bottleneck: hidden width of the predictor (512 for dim 2048: a quarter).
        predictor: False leaves it out: collapses (table 1).
        stop_gradient: False lets the gradient through: collapses (figure 2).
        frames, distance: the views' windows, see `ClipViews`.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = (
        # The batch norm behind the projector holds every dim's variance: what is left collapses to a few directions.
        Ablation("no predictor", {"predictor": False}, "dimensional", "predictor"),
        Ablation("no stop-gradient", {"stop_gradient": False}, "dimensional", "stop-gradient"),
    )
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        hidden: int = 512,
        dim: int = 512,
        bottleneck: int = 128,
        predictor: bool = True,
        stop_gradient: bool = True,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.stop_gradient = encoder, views, stop_gradient
        self.projector = mlp((encoder.dim, hidden, hidden, dim), last_norm=True)
        self.predictor = mlp((dim, bottleneck, dim)) if predictor else nn.Identity()
        self.clip_views = ClipViews(views, 2, frames, distance)

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour, greyscale and blur: appendix A, as in MoCo v2."""
        return Views(
            size, crop=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2, blur=0.5
        )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative cosine similarity in [-1, 1], both ways (eq. 4)."""
        clips = len(batch["clips"])
        features = clip_feature(self.encoder, torch.cat(self.clip_views(batch["clips"], batch["key"])))
        embeddings = self.projector(features)
        targets = embeddings.detach() if self.stop_gradient else embeddings
        swapped = targets.roll(clips, 0)  # view 0 predicts view 1 and the other way round
        loss = -F.cosine_similarity(wide(self.predictor(embeddings)), wide(swapped), dim=1).mean()
        return loss, health(features, embeddings)
