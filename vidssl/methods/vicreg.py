"""VICReg: Bardes, Ponce, LeCun 2022, "Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
arXiv 2105.04906.

    clip ──view 0──> encoder ──> h ──expander──> z0 ┐ invariance: z0 and z1 of a clip agree
         ──view 1──> encoder ──> h ──expander──> z1 ┘ variance: every dim of z varies over the batch
                                                      covariance: no two dims of z vary together

B clips, V views of each, D feature dim, E embedding dim.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vidssl.core import covariance_penalty, variance_hinge
from vidssl.core.moments import covariance, exact, wide
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import clip_feature, mlp
from vidssl.methods.terms import weigh
from vidssl.views import Views


class VICReg(nn.Module):
    """Agreement of views, with the spread of the embeddings asked for outright.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        invariance, variance, covariance: weights of the terms, λ, μ and ν of eq. 6; 25, 25 and 1 as published.
            Without variance the embedding becomes constant, without covariance its dims repeat one another.
        hidden, dim: widths of the three-layer expander (8192 each in the paper, for D = 2048).
        positives: views a clip, V.
        frames, distance: the views' windows, see `ClipViews`.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = (
        Ablation("no variance term", {"variance": 0.0}, "constant", "term-balance"),
        Ablation("no covariance term", {"covariance": 0.0}, "dimensional", "term-balance"),
    )
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        hidden: int = 512,
        dim: int = 256,
        positives: int = 2,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        if positives < 2:
            raise VidsslError(f"positives: got {positives}; VICReg compares 2 views of a clip or more")
        if min(invariance, variance, covariance) < 0:
            raise VidsslError(
                f"VICReg: got weights invariance={invariance}, variance={variance}, covariance={covariance}; "
                "give 0 or more (25, 25 and 1 as published)"
            )
        self.encoder, self.views = encoder, views
        self.invariance, self.variance, self.covariance = invariance, variance, covariance
        self.projector = mlp((encoder.dim, hidden, hidden, dim), last_bias=False)
        self.clip_views = ClipViews(views, positives, frames, distance)

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour, greyscale and blur, as in BYOL."""
        return Views(
            size, crop=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey=0.2, blur=0.5
        )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """λ s + μ (v + v') + ν (c + c') (eq. 6), the mean over pairs of views.

        As in the authors' code, s is the mean over dims and not their sum (eq. 5), which is what 25, 25 and 1 belong
        to, and v is halved. Statistics are of all ranks' clips.

        Raises:
            VidsslError: a batch of one clip: no variance.
        """
        views = torch.cat(self.clip_views(batch["clips"], batch["key"]))
        features = clip_feature(self.encoder, views)
        embeddings = self.projector(features)
        with exact(embeddings):
            z = wide(embeddings).unflatten(0, (self.clip_views.count, -1))  # [V,B,E]
            apart = 2 * z.var(0).mean()  # the mean square of z0 - z1 is twice their variance
            covariances = [covariance(view) for view in z]
            narrow = torch.stack([variance_hinge(c.diagonal()) for c in covariances]).mean()
            repeated = 2 * torch.stack([covariance_penalty(c) for c in covariances]).mean()
            loss, terms = weigh(
                invariance=(self.invariance, apart),
                variance=(self.variance, narrow),
                covariance=(self.covariance, repeated),
            )
        return loss, health(features, embeddings) | terms
