"""An energy of pairs: LeCun, Chopra, Hadsell, Ranzato, Huang 2006, "A Tutorial on Energy-Based Learning"; as joint
embedding with a predictor, LeCun 2022, "A Path Towards Autonomous Machine Intelligence", section 4.4.

    x  the video's past ───> encoder ──> h_x ──embed──> predictor ──┐
    y  the video's future ─> encoder ──> h_y ──embed────────────────┴──> E(x, y) = 1 - cos   in [0, 2]

                         low for a video and its own future, high for another's

B clips, N pairs (of all ranks), D feature dim, E embedding dim.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import gather, gather_ints, info_nce, world
from vidssl.core.moments import exact, wide
from vidssl.core.monitor import health
from vidssl.errors import VidsslError, unknown_name
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import EnergyHead, clip_feature
from vidssl.methods.negatives import excluded
from vidssl.views import Views

TRAINED_BY = ("contrastive", "margin", "square")
PAIRS = ("future", "views")


class EBM(nn.Module):
    """An energy E(x, y), trained to be low on pairs that belong together and higher on all others.

    The run exports the energy beside the encoder: `vidssl.load_energy(run)(a, b)` scores how compatible two clips are,
    and, summed over a stream, how unusual what happens is.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        pairs: `"future"`: a window of the clip and a later one, augmented alike; `"views"`: two views of the clip.
        trained_by: `"contrastive"`: negative log of exp(-E/τ) normalised over the batch's y (tutorial, eq. 13);
            `"margin"`: hinge on E(x, y) - E(x, y') + margin, mean over the y' that violate it (eq. 8);
            `"square"`: E(x, y)² + max(0, margin - E(x, y'))² (square-square, eq. 11).
        negatives: y' of `"other-videos"`, or of `"both"` other videos and other clips of x's own.
        contrast: False pulls the energy of true pairs down and nothing up: it becomes flat (tutorial, section 5.1).
        temperature: τ of the contrastive loss.
        margin: of the other two, in units of energy.
        hidden, dim: widths of the embedding (two layers).
        frames, distance: the windows, see `ClipViews`; for `"future"` a distance of None is a window's length.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = (Ablation("no contrast", {"contrast": False}, "constant", "negatives"),)
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        pairs: Literal["future", "views"] = "future",
        trained_by: Literal["contrastive", "margin", "square"] = "contrastive",
        negatives: Literal["other-videos", "both"] = "other-videos",
        contrast: bool = True,
        temperature: float = 0.1,
        margin: float = 0.5,
        hidden: int = 512,
        dim: int = 128,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        for what, got, known in (("pairs", pairs, PAIRS), ("trained_by", trained_by, TRAINED_BY)):
            if got not in known:
                raise unknown_name(f"ebm {what}", got, known)
        if negatives not in ("other-videos", "both"):
            raise VidsslError(f"negatives: got {negatives!r}; choose other-videos or both")
        if temperature <= 0 or not 0 < margin < 2:
            raise VidsslError(
                f"ebm: got temperature {temperature} and margin {margin}; give a temperature above 0, and a margin "
                "between 0 and 2, the largest energy"
            )
        self.encoder, self.views = encoder, views
        self.energy = EnergyHead(encoder.dim, hidden, dim)
        self.pairs, self.trained_by, self.negatives, self.contrast = pairs, trained_by, negatives, contrast
        self.temperature, self.margin, self.frames, self.distance = temperature, margin, frames, distance

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour and greyscale."""
        return Views(size, crop=(0.4, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over pairs.

        Raises:
            VidsslError: clips too short for both windows; a batch of one clip, or of one video only.
        """
        x, y = self._windows(batch["clips"], batch["key"])
        features = clip_feature(self.encoder, torch.cat([x, y]))
        h_x, h_y = features.chunk(2)
        predicted, embedded = wide(self.energy.predict(h_x)), wide(self.energy.embed(h_y))
        own = 1 - F.cosine_similarity(predicted, embedded, dim=1)
        loss, other = own.mean(), None
        if self.contrast:
            loss, other = self._contrasted(F.normalize(predicted, dim=1), F.normalize(embedded, dim=1), batch["video"])
        metrics = {"energy_true": own.detach().mean()} | ({} if other is None else {"energy_false": other})
        return loss, metrics | health(features, torch.cat([predicted, embedded]))

    def _windows(self, clips: Tensor, keys: Tensor) -> list[Tensor]:
        if self.pairs == "views":
            return ClipViews(self.views, 2, self.frames, self.distance)(clips, keys)
        frames = self.frames or max(1, clips.shape[1] // 2)
        apart = frames if self.distance is None else self.distance
        windows = ClipViews(self.views, 2, frames, apart).windows(clips, keys)
        return [self.views(window, keys) for window in windows]  # augmented alike: the same scene, later

    def _contrasted(self, x: Tensor, y: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of unit embeddings `[B,E]`, and the mean energy of pairs that do not belong together."""
        rank, size = world()
        if len(x) * size < 2:
            raise VidsslError("a batch of one clip has no negatives: raise --batch-size to 2 or more")
        own = rank * len(x) + torch.arange(len(x), device=x.device)
        y, videos = gather(y), gather_ints(video)
        exclude = excluded(self.negatives, video, videos)
        with exact(x):
            energies = 1 - x @ y.T  # [B, N]: a batch of clips is few
        false = torch.ones_like(energies, dtype=torch.bool) if not exclude else video[:, None] != videos
        false[torch.arange(len(x), device=x.device), own] = False
        mean_false = energies.detach()[false].mean()
        if self.trained_by == "contrastive":
            return info_nce(x, y, own, self.temperature, exclude=exclude), mean_false
        true = energies.gather(1, own[:, None])
        if self.trained_by == "margin":
            over = F.relu(self.margin + true - energies) * false
            active = (over > 0).sum(1).clamp_min(1)
            return (over.sum(1) / active).mean(), mean_false
        over = F.relu(self.margin - energies).square() * false
        return (true[:, 0].square() + over.sum(1) / false.sum(1).clamp_min(1)).mean(), mean_false
