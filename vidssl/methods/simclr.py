"""SimCLR: Chen, Kornblith, Norouzi, Hinton 2020, "A Simple Framework for Contrastive Learning of Visual
Representations", arXiv 2002.05709.

    clip ──view 0──> encoder ──> h ──projector──> z0 ┐
         ──view 1──> encoder ──> h ──projector──> z1 ┘ each finds the others of its clip among all views of all clips

B clips, V views of each, D feature dim, E embedding dim.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import Exclude, gather, gather_ints, info_nce, nt_xent, world
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import clip_feature, mlp
from vidssl.methods.negatives import excluded
from vidssl.views import Views


class SimCLR(nn.Module):
    """Instance discrimination among the views of a batch (NT-Xent, eq. 1).

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        negatives: keys a view is told apart from: views of clips of other videos (a clip is an instance of its video),
            or of `"both"` other videos and other clips of its own, as where there is one video only.
        temperature: of the cosine similarity; 0.1 to 0.5 in the paper (appendix B.9: 0.1 for long, 0.5 for short runs).
        hidden, dim: widths of the two-layer projector (2048 and 128 in the paper, for D = 2048).
        positives: views a clip, V; the mean over V - 1 positives is outside the logarithm (Khosla et al. 2020, eq. 2).
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
        temperature: float = 0.2,
        hidden: int = 512,
        dim: int = 128,
        positives: int = 2,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        if positives < 2:
            raise VidsslError(f"positives: got {positives}; SimCLR compares 2 views of a clip or more")
        if negatives not in ("other-videos", "both"):
            raise VidsslError(f"negatives: got {negatives!r}; choose other-videos or both")
        if temperature <= 0:
            raise VidsslError(f"temperature: got {temperature}; give one above 0")
        self.encoder, self.views, self.temperature, self.negatives = encoder, views, temperature, negatives
        self.projector = mlp((encoder.dim, hidden, dim), last_norm=True)
        self.clip_views = ClipViews(views, positives, frames, distance)

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, strong colour, greyscale and blur: appendix A, at strength 1 and the crop of short runs."""
        return Views(
            size, crop=(0.2, 1.0), flip=0.5, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grey=0.2, blur=0.5
        )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent over all views of the batch.

        Raises:
            VidsslError: a batch of one clip: no negatives.
        """
        views = torch.cat(self.clip_views(batch["clips"], batch["key"]))  # view-major: row v*B + b
        features = clip_feature(self.encoder, views)
        embeddings = self.projector(features)
        video = batch["video"].repeat(self.clip_views.count)
        z = F.normalize(embeddings, dim=1)
        loss = among_all_views(z, video, self.clip_views.count, self.temperature, self.negatives)
        return loss, health(features, embeddings)


def among_all_views(z: Tensor, video: Tensor, views: int, temperature: float, negatives: str) -> Tensor:
    """NT-Xent: every view among all views of all clips of all ranks but itself; positives: its clip's other views.

    Args:
        z: unit embeddings `[V*B, E]` of this rank, all clips of view 0 first.
        video: int64 `[V*B]`.
        views: V.
        temperature: above 0.
        negatives: `"other-videos"` or `"both"`.
    """
    rank, size = world()
    rows, clips = len(z), len(z) // views
    if clips * size < 2:
        raise VidsslError("a batch of one clip has no negatives: raise --batch-size to 2 or more")
    here = rank * rows + torch.arange(rows, device=z.device)
    others = torch.stack([here.view(views, clips).roll(-shift, 0).flatten() for shift in range(1, views)], dim=1)
    if size == 1:  # scores among themselves are symmetric, which halves the work on a GPU
        return nt_xent(z, others, temperature, exclude=excluded(negatives, video, video))
    itself = Exclude(here, torch.arange(size * rows, device=z.device), "equal")
    exclude = [itself, *excluded(negatives, video, gather_ints(video))]
    return info_nce(z, gather(z), others, temperature, exclude=exclude)
