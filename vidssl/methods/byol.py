"""BYOL: Grill et al. 2020, "Bootstrap Your Own Latent", arXiv 2006.07733.

    view 0 ──> encoder ──> projector ──> predictor ──> q  ┐ 2 - 2 cos(q, z'), both ways
    view 1 ──> target encoder ──> target projector ──> z' ┘ no gradient; the targets are a moving average

B clips, D feature dim, E embedding dim.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.ema import cosine_momentum, ema_, target_of
from vidssl.core.moments import wide
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import Norm, clip_feature, mlp
from vidssl.views import Views


class BYOL(nn.Module):
    """Predict the target network's embedding of another view.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        momentum: of the target network at the start, rising to 1 by a cosine (0.996 in the paper for 1000 epochs; its
            table 5 finds 0.99 nearly as good at 300, and short runs need a target that moves).
        hidden, dim: widths of projector and predictor (4096 and 256 in the paper).
        predictor: False leaves it out: collapses (table 5b).
        stop_gradient: False compares the online network with itself, gradient through both sides.
        batch_norm: in projector and predictor, over all ranks.
        frames, distance: the views' windows, see `ClipViews`.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = (
        Ablation("no predictor", {"predictor": False}, "constant", "predictor"),
        Ablation("no stop-gradient", {"stop_gradient": False}, "constant", "stop-gradient"),
    )
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        momentum: float = 0.99,
        hidden: int = 512,
        dim: int = 128,
        predictor: bool = True,
        stop_gradient: bool = True,
        batch_norm: bool = True,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise VidsslError(f"momentum: got {momentum}; give one from 0 (the network itself) to 1 (a fixed target)")
        norm: Norm = "batch" if batch_norm else None
        self.encoder, self.views = encoder, views
        self.projector = mlp((encoder.dim, hidden, dim), norm)
        self.predictor = mlp((dim, hidden, dim), norm) if predictor else nn.Identity()
        self.target_encoder, self.target_projector = target_of(encoder), target_of(self.projector)
        self.clip_views = ClipViews(views, 2, frames, distance)
        self.stop_gradient, self.base_momentum, self.momentum = stop_gradient, momentum, momentum

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour, greyscale and blur: simplified from appendix B.

        There crops are of 0.08 and more, one view is always blurred and the other in a tenth of cases, and that one is
        solarised in a fifth; here both views are alike.
        """
        return Views(
            size, crop=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey=0.2, blur=0.5
        )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared distance of unit predictions and targets, both ways (eq. 2)."""
        self.momentum = cosine_momentum(self.base_momentum, float(batch["progress"]))
        clips = len(batch["clips"])
        views = torch.cat(self.clip_views(batch["clips"], batch["key"]))
        features = clip_feature(self.encoder, views)
        embeddings = self.projector(features)
        predictions = self.predictor(embeddings)
        targets = embeddings
        if self.stop_gradient:
            with torch.no_grad():
                targets = self.target_projector(clip_feature(self.target_encoder, views))
        swapped = targets.roll(clips, 0)  # view 0 predicts view 1 and the other way round
        loss = 2 - 2 * F.cosine_similarity(wide(predictions), wide(swapped), dim=1).mean()
        return loss, health(features, embeddings) | {"momentum": torch.tensor(self.momentum)}

    def after_step(self) -> None:
        """The targets follow (eq. 1)."""
        ema_(self.target_encoder, self.encoder, self.momentum)
        ema_(self.target_projector, self.projector, self.momentum)
