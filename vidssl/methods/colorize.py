"""Colours from grey frames: two pretexts on one encoder that sees luma alone.

    classes   grey frame ──encoder──> map ──> one of Q colours for every tile                    (Zhang et al. 2016)
    copy      grey frames ──encoder──> embeddings; each tile points at tiles of earlier frames
              that look alike, and takes over their colours                                     (Vondrick et al. 2018)

To copy the right colour a tile has to find itself in the frames before: tracking, never asked for, emerges.

B clips, T frames, h x w tiles of 4x4 pixels (n = h w), Q bins of the ab plane, K colours of a palette, R reference
frames, E embedding dim.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.gather import all_reduce_sum
from vidssl.core.monitor import effective_rank, health, measured, spread
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.decoders import TILE, resampled, upsampler
from vidssl.methods.lab import gamut_bins, lab, palettes
from vidssl.methods.maps import map_shape
from vidssl.views import Views

FORMS = ("classes", "copy")
NEIGHBOURS, SIGMA = 5, 5.0  # soft-encoding of a colour, Zhang et al. 2016, section 2.1; sigma in units of ab
FADING = 0.99  # of the counts of colours, a batch
RARE = 1e-4  # a probability, so that a colour that no reference has costs much, and not infinitely


class Colorize(nn.Module):
    """Colours of tiles by classification, or by copying from earlier frames.

    Zhang, Isola, Efros 2016, "Colorful Image Colorization", arXiv 1603.08511; Vondrick, Shrivastava, Fathi, Guadarrama,
    Murphy 2018, "Tracking Emerges by Colorizing Videos", arXiv 1806.09594.

    Args:
        encoder: a frame encoder that sees grey: colours that it had seen would be no task, and one trained on grey
            frames would not know what to make of colours later.
        views: augmentation; no change of colour, which is what is predicted.
        form: `"classes"` or `"copy"`.
        uniform: of classes: lambda of Zhang et al., eq. 4, the uniform distribution's share in that of colours by which
            a colour's loss is divided. 0.5 as published; 1 makes rare colours count no more than others.
        references: of copying: R, frames before a target to copy from (3 as published).
        colours: of copying: K (16 as published, where k-means runs over the data set; here over each clip).
        dim: of copying: E (64 as published).
    """

    default_encoder: ClassVar[str] = "fine-grey"
    ablations: ClassVar[tuple[Ablation, ...]] = ()
    output = "encoder"
    context = None
    bins: Tensor
    counts: Tensor

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        form: Literal["classes", "copy"] = "classes",
        uniform: float = 0.5,
        references: int = 3,
        colours: int = 16,
        dim: int = 64,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise VidsslError(f"form: got {form!r}; choose from {', '.join(FORMS)}")
        if getattr(encoder, "sees", None) != "grey":
            raise VidsslError(
                "colorize predicts colours and needs an encoder that doesn't see them: use --encoder fine-grey or "
                "small-grey"
            )
        if not 0 < uniform <= 1 or min(references, dim) < 1 or colours < 2:
            raise VidsslError(
                f"colorize: got uniform={uniform}, references={references}, colours={colours}, dim={dim}; "
                "uniform is in (0, 1], references and dim are 1 or more, colours 2 or more"
            )
        self.encoder, self.views, self.form = encoder, views, form
        self.uniform, self.references, self.colours = uniform, references, colours
        _, channels, *cells = map_shape("colorize", encoder, 1, views.size)
        self.tiles = (views.size[0] // TILE, views.size[1] // TILE)
        up, width = upsampler(channels, (cells[0], cells[1]), self.tiles, width=64)
        bins = gamut_bins()
        self.head = nn.Sequential(up, nn.Conv2d(width, len(bins) if form == "classes" else dim, 1))
        self.register_buffer("bins", bins, persistent=False)
        self.register_buffer("counts", torch.zeros(len(bins)))

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop and flip."""
        return Views(size, crop=(0.4, 1.0), flip=0.5)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the tiles' colours, mean over tiles.

        Raises:
            VidsslError: to copy, clips without a frame after R references.
        """
        clips = self.views(batch["clips"], batch["key"])
        maps = self.encoder.maps(clips)
        told = self._head(maps)
        with torch.autocast(clips.device.type, enabled=False):  # half precision is too coarse for colours and counts
            told, colours = told.to(clips.dtype), self._colours(clips)
            loss, metrics = self._classes(told, colours) if self.form == "classes" else self._copied(told, colours)
        return loss, metrics | health(maps.mean((-2, -1)))

    def embed(self, clips: Tensor) -> Tensor:
        """What copying compares: `[B,T,3,H,W]` in [0, 1] -> `[B,T,E,h,w]`; of other sizes than trained at, too."""
        tiles = (clips.shape[-2] // TILE, clips.shape[-1] // TILE)
        return resampled(self.head(self.encoder.maps(clips).flatten(0, 1)), tiles).unflatten(0, clips.shape[:2])

    def _head(self, maps: Tensor) -> Tensor:
        """`[B,T,D',…]` -> `[B,T,n,Q or E]`."""
        told = resampled(self.head(maps.flatten(0, 1)), self.tiles)
        return told.flatten(2).mT.unflatten(0, maps.shape[:2])

    def _colours(self, clips: Tensor) -> Tensor:
        """ab of the mean colour of every tile: `[B,T,3,H,W]` -> `[B,T,n,2]`."""
        tiles = F.adaptive_avg_pool2d(clips.flatten(0, 1), self.tiles)
        return lab(tiles)[:, 1:].flatten(2).mT.unflatten(0, clips.shape[:2])

    def _classes(self, logits: Tensor, colours: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 2: soft labels, rare colours weighing more. `[B,T,n,Q]` and `[B,T,n,2]`."""
        scores = logits.flatten(0, 2).log_softmax(1)
        colours, bins = colours.flatten(0, 2), self.bins.to(colours.dtype)
        far, label = torch.cdist(colours, bins).topk(NEIGHBOURS, largest=False)
        share = (-far.square() / (2 * SIGMA**2)).softmax(1)
        entropy = -(share * scores.gather(1, label)).sum(1)
        self._count(label[:, 0])
        loss = (self.weights()[label[:, 0]].to(entropy.dtype) * entropy).mean()
        guess = annealed_mean(scores.detach(), bins)
        return loss, {
            "accuracy": (scores.argmax(1) == label[:, 0]).float().mean(),
            "colour_error": (guess - colours).norm(dim=1).mean(),  # in units of ab
            "colour_error_grey": colours.norm(dim=1).mean(),  # of the guess that all is grey
        }

    @torch.no_grad()
    def _count(self, label: Tensor) -> None:
        if self.training:
            seen = torch.bincount(label, minlength=len(self.counts)).to(self.counts.dtype)
            self.counts.mul_(FADING).add_(all_reduce_sum(seen))

    def weights(self) -> Tensor:
        """How much a tile of each class counts, `[Q]`; 1 on average over the colours seen so far (eq. 4)."""
        near = (-torch.cdist(self.bins, self.bins).square() / (2 * SIGMA**2)).softmax(1)
        seen = self.counts / self.counts.sum().clamp_min(1)
        weight = 1 / ((1 - self.uniform) * (seen @ near.to(seen.dtype)) + self.uniform / len(seen))
        return weight / (seen * weight).sum()

    def _copied(self, embeddings: Tensor, colours: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Vondrick et al., eq. 1 to 3, every frame from the R-th on as a target. `[B,T,n,E]` and `[B,T,n,2]`."""
        frames, back = colours.shape[1], self.references
        if frames <= back:
            raise VidsslError(
                f"clips of {frames} frames are too short to copy colours from {back} frames before: raise --frames to "
                f"{back + 1} or more, or lower the method's references"
            )
        label = palettes(colours.flatten(1, 2), self.colours)[1].unflatten(1, colours.shape[1:3])
        chosen = F.one_hot(label, self.colours).to(embeddings.dtype)  # [B,T,n,K]
        copied = []
        for t in range(back, frames):
            before = embeddings[:, t - back : t].flatten(1, 2)
            pointed = (embeddings[:, t] @ before.mT).softmax(-1)  # [B,n,R*n]
            copied.append(pointed @ chosen[:, t - back : t].flatten(1, 2))
        probability = torch.stack(copied, dim=1)  # [B,T-R,n,K]
        target = label[:, back:]
        loss = -(probability.gather(-1, target[..., None]) + RARE).log().mean()
        metrics = {
            "accuracy": (probability.argmax(-1) == target).float().mean(),
            "accuracy_still": (label[:, back - 1 : -1] == target).float().mean(),  # of the same tile a frame before
        }
        if measured():
            metrics |= {"embedding_spread": spread(embeddings), "embedding_rank": effective_rank(embeddings)}
        return loss, metrics


def annealed_mean(scores: Tensor, bins: Tensor, temperature: float = 0.38) -> Tensor:
    """The colour to show: log-probabilities `[N,Q]`, bins `[Q,2]` -> ab `[N,2]` (Zhang et al., eq. 5)."""
    return (scores / temperature).softmax(1) @ bins
