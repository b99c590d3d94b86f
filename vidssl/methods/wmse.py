"""W-MSE: Ermolov, Siarohin, Sangineto, Sebe 2021, "Whitening for Self-Supervised Representation Learning",
arXiv 2007.06346.

    clip ──view 0──> encoder ──> h ──projector──> z0 ──whiten──> w0 ┐ close to each other; the batch's w have mean 0
         ──view 1──> encoder ──> h ──projector──> z1 ──whiten──> w1 ┘ and covariance 1, so they can't all be close

B clips, V views of each, D feature dim, E embedding dim.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import sub_batches, whiten
from vidssl.core.moments import wide
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import clip_feature, mlp
from vidssl.views import Views


class WMSE(nn.Module):
    """Agreement of whitened views.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        sub_batch: clips whitened together, drawn anew for every batch; None takes 2 E as published (128 for E = 64).
        repeats: divisions into sub-batches that the loss is averaged over.
        whiten: False compares the embeddings as they are: they become constant (section 3).
        hidden, dim: widths of the two-layer projector (1024 and 64 in the paper, for D = 512). E is small here because
            a batch holds 2 E clips or more: with --batch-size 128 take 64.
        positives: views a clip, V (2 and 4 in the paper).
        frames, distance: the views' windows, see `ClipViews`.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = (Ablation("no whitening", {"whiten": False}, "constant", "whitening"),)
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        sub_batch: int | None = None,
        repeats: int = 1,
        whiten: bool = True,
        hidden: int = 512,
        dim: int = 16,
        positives: int = 2,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        if positives < 2 or repeats < 1:
            raise VidsslError(
                f"W-MSE: got positives={positives}, repeats={repeats}; it compares 2 views of a clip or more, "
                "over 1 division of the batch or more"
            )
        if sub_batch is not None and sub_batch <= dim:
            raise VidsslError(f"sub_batch: got {sub_batch}; to whiten {dim} dims it must be {dim + 1} or more")
        self.encoder, self.views, self.whiten, self.repeats = encoder, views, whiten, repeats
        self.sub_batch = sub_batch or 2 * dim
        self.projector = mlp((encoder.dim, hidden, dim), last_bias=False)
        self.clip_views = ClipViews(views, positives, frames, distance)

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour and greyscale, as published for small images."""
        return Views(size, crop=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.1)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """2 - 2 cos of two whitened views of a clip, the mean over pairs of views and divisions (section 3).

        Every view is whitened by itself, by statistics of all ranks' clips.

        Raises:
            VidsslError: a batch of E clips or fewer.
        """
        views = torch.cat(self.clip_views(batch["clips"], batch["key"]))
        features = clip_feature(self.encoder, views)
        embeddings = self.projector(features)
        z = embeddings.unflatten(0, (self.clip_views.count, -1))  # [V,B,E]
        if not self.whiten:
            return mean_squared_distance(z), health(features, embeddings)
        losses = []
        for division in range(self.repeats):
            group, groups = sub_batches(batch["key"], batch["step"], self.sub_batch, stream=division)
            losses.append(mean_squared_distance(torch.stack([whiten(view, group, groups) for view in z])))
        return torch.stack(losses).mean(), health(features, embeddings)


def mean_squared_distance(z: Tensor) -> Tensor:
    """Of the unit vectors of two views `[V, B, E]` of a clip, over all pairs and clips: twice their variance."""
    return 2 * F.normalize(wide(z), dim=-1).var(0).sum(-1).mean()
