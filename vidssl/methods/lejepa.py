"""LeJEPA: Balestriero & LeCun 2025, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics",
arXiv 2511.08544.

    clip ──view 0──> encoder ──> h ──projector──> z0 ┐ prediction: every view's z is the mean of its clip's
         ──view 1──> encoder ──> h ──projector──> z1 ┤
         ──view 2──>         …                    z2 ┘ SIGReg: the batch's z of a view are an isotropic Gaussian

No predictor, no stop-gradient, no target network, no temperature.

B clips, V views of each, D feature dim, E embedding dim.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vidssl.core import sigreg, variance_hinge
from vidssl.core.moments import variance as variances
from vidssl.core.moments import wide
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import clip_feature, mlp
from vidssl.methods.terms import weigh
from vidssl.views import Views


class LeJEPA(nn.Module):
    """Prediction across views, with embeddings held to a Gaussian.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        sigreg: λ of (1 - λ) prediction + λ SIGReg; 0.05 as recommended, 0.02 in the authors' small example. At
            0 nothing keeps the embeddings apart.
        slices, knots: of SIGReg; 256 to 1024 and 17 in the paper.
        variance: weight of a hinge on standard deviations (as in VICReg) for starts so near to collapse that SIGReg's
            gradient has vanished; 0 as published.
        hidden, dim: widths of the three-layer projector (2048 and 16 to 512 in the paper).
        positives: views a clip, V (2 large and 6 small crops in the paper; here all of one size).
        frames, distance: the views' windows, see `ClipViews`.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = (Ablation("no SIGReg", {"sigreg": 0.0}, "constant", "term-balance"),)
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        sigreg: float = 0.05,
        slices: int = 256,
        knots: int = 17,
        variance: float = 0.0,
        hidden: int = 512,
        dim: int = 64,
        positives: int = 2,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        if positives < 2:
            raise VidsslError(f"positives: got {positives}; LeJEPA compares 2 views of a clip or more")
        if not 0 <= sigreg < 1 or variance < 0:
            raise VidsslError(
                f"LeJEPA: got sigreg={sigreg}, variance={variance}; sigreg is a share in [0, 1) (0.05 as published), "
                "variance is 0 or more"
            )
        self.encoder, self.views = encoder, views
        self.sigreg, self.slices, self.knots, self.variance = sigreg, slices, knots, variance
        self.projector = mlp((encoder.dim, hidden, hidden, dim))
        self.clip_views = ClipViews(views, positives, frames, distance)

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour, greyscale and blur, as in DINO."""
        return Views(
            size, crop=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey=0.2, blur=0.5
        )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(1 - λ) mean |z_v - z̄|² / E + λ mean SIGReg(z_v) over the views v (section 5).

        Raises:
            VidsslError: a batch of one clip: no distribution.
        """
        views = torch.cat(self.clip_views(batch["clips"], batch["key"]))
        features = clip_feature(self.encoder, views)
        embeddings = self.projector(features)
        z = wide(embeddings).unflatten(0, (self.clip_views.count, -1))  # [V,B,E]
        statistics = [sigreg(view, batch["step"], self.slices, self.knots) for view in z]
        terms = {
            "prediction": (1 - self.sigreg, (z - z.mean(0)).square().mean()),
            "sigreg": (self.sigreg, torch.stack(statistics).mean()),
        }
        if self.variance:
            hinges = [variance_hinge(variances(view)) for view in z]
            terms["variance"] = (self.variance, torch.stack(hinges).mean())
        loss, metrics = weigh(**terms)
        return loss, health(features, embeddings) | metrics
