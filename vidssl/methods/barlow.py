"""Barlow Twins: Zbontar, Jing, Misra, LeCun, Deny 2021, "Self-Supervised Learning via Redundancy Reduction",
arXiv 2103.03230.

    clip ──view 0──> encoder ──> h ──projector──> z0 ┐ C [E,E], their cross-correlation over the batch, should be 1:
         ──view 1──> encoder ──> h ──projector──> z1 ┘ a dim agrees with itself across views, and with no other

B clips, D feature dim, E embedding dim.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vidssl.core import cross_correlation
from vidssl.core.moments import off_diagonal
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import clip_feature, mlp
from vidssl.methods.terms import weigh
from vidssl.views import Views


class BarlowTwins(nn.Module):
    """Decorrelation of the dims of an embedding across two views.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        redundancy: λ, weight of the entries beside the diagonal; 5e-3 in section 2.2, tuned at E = 8192: at E = 256 a
            dim has 32 times fewer of them, and decorrelation weighs less. At 0 all dims may be one.
        hidden, dim: widths of the three-layer projector (8192 each in the paper, for D = 2048).
        frames, distance: the views' windows, see `ClipViews`.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = (
        Ablation("no redundancy reduction", {"redundancy": 0.0}, "dimensional", "term-balance"),
    )
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        redundancy: float = 5e-3,
        hidden: int = 512,
        dim: int = 256,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        if redundancy < 0:
            raise VidsslError(f"redundancy: got {redundancy}; give 0 or more (5e-3 as published)")
        self.encoder, self.views, self.redundancy = encoder, views, redundancy
        self.projector = mlp((encoder.dim, hidden, hidden, dim), last_bias=False)
        self.clip_views = ClipViews(views, 2, frames, distance)

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour, greyscale and blur, as in BYOL."""
        return Views(
            size, crop=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey=0.2, blur=0.5
        )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij² (eq. 1), C over the clips of all ranks (eq. 2).

        Raises:
            VidsslError: a batch of fewer than three clips: no correlation.
        """
        views = torch.cat(self.clip_views(batch["clips"], batch["key"]))
        features = clip_feature(self.encoder, views)
        embeddings = self.projector(features)
        correlation = cross_correlation(*embeddings.chunk(2))
        loss, terms = weigh(
            invariance=(1.0, (1 - correlation.diagonal()).square().sum()),
            redundancy=(self.redundancy, off_diagonal(correlation).square().sum()),
        )
        return loss, health(features, embeddings) | terms
