"""DINO: Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin 2021, "Emerging Properties in Self-Supervised Vision
Transformers", arXiv 2104.14294.

    view 0 ──> student encoder ──> head ──> scores ──softmax / τ──────────────────> p0 ┐ p0 should be the teacher's q1
    view 1 ──> teacher encoder ──> head ──> scores ──centre, softmax / τ_t < τ────> q1 ┘ (and p1 its q0)
               (EMA of the student)                  (less their running mean)

B clips, V views of each, D feature dim, E bottleneck dim, K prototypes.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import Centring, koleo
from vidssl.core.ema import cosine_momentum, ema_, target_of
from vidssl.core.moments import exact, wide
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import clip_feature, mlp
from vidssl.methods.prototypes import Prototypes
from vidssl.methods.terms import assignment_health, weigh
from vidssl.views import Views


class DINO(nn.Module):
    """Self-distillation: a student predicts the sharpened, centred choice of prototypes of its own moving average.

    Views are all of one size: the paper's extra small crops for the student (multi-crop) are left out, `positives`
    takes more views. So is the freezing of the last layer in the first epoch; the trainer's warm-up serves that end.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`; a clip's feature is the mean over its times.
        views: augmentation.
        momentum: of the teacher at the start, rising to 1 by a cosine (0.996 in the paper, for 100 epochs and more;
            short runs need a teacher that moves).
        temperature: τ of the student; 0.1 (section 3.2).
        teacher_temperature: τ_t after the warm-up; 0.04 to 0.07 learn in the paper, 0.08 collapses
            (appendix D, sharpening).
        warmup_temperature, warmup: τ_t rises linearly from the first over this share of the budget; 0.04 and 30 epochs.
        centre, centre_momentum: False leaves centring out: one prototype then gets all (section 5.3); m of eq. 4, 0.9.
        koleo: weight of the KoLeo term on the student's features, 0.1 in DINOv2 (Oquab et al. 2023), 0 in DINO.
        prototypes: K (65,536 in the paper).
        hidden, bottleneck: widths of the three-layer head before the prototypes (2048 and 256 in the paper; with
            ReLU for GELU).
        batch_norm: in the head. Published for ViT without; small convolutional networks, whose features start close
            together, end in uniform choices without it.
        positives: views a clip, V; the student's every view predicts the teacher's of all others.
        frames, distance: the views' windows, see `ClipViews`.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = (
        # Without batch norm too, which centres the head's layers by itself.
        Ablation("no centring", {"centre": False, "batch_norm": False}, "constant", "centring"),
        Ablation("no sharpening", {"teacher_temperature": 1.0, "warmup_temperature": 1.0}, "constant", "temperature"),
    )
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        momentum: float = 0.99,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_temperature: float = 0.04,
        warmup: float = 0.3,
        centre: bool = True,
        centre_momentum: float = 0.9,
        koleo: float = 0.0,
        prototypes: int = 1024,
        hidden: int = 512,
        bottleneck: int = 128,
        batch_norm: bool = True,
        positives: int = 2,
        frames: int | None = None,
        distance: int | None = None,
    ) -> None:
        super().__init__()
        if positives < 2:
            raise VidsslError(f"positives: got {positives}; DINO compares 2 views of a clip or more")
        if min(temperature, teacher_temperature, warmup_temperature) <= 0:
            raise VidsslError(
                f"DINO: got temperature={temperature}, teacher_temperature={teacher_temperature}, "
                f"warmup_temperature={warmup_temperature}; give temperatures above 0"
            )
        if not 0 <= momentum <= 1 or not 0 <= warmup <= 1 or koleo < 0:
            raise VidsslError(
                f"DINO: got momentum={momentum}, warmup={warmup}, koleo={koleo}; "
                "momentum and warmup are in [0, 1], koleo is 0 or more"
            )
        self.encoder, self.views = encoder, views
        self.head = mlp((encoder.dim, hidden, hidden, bottleneck), norm="batch" if batch_norm else None)
        self.prototypes = Prototypes(bottleneck, prototypes)
        self.target_encoder, self.target_head = target_of(encoder), target_of(self.head)
        self.target_prototypes = target_of(self.prototypes)
        self.centring = Centring(prototypes, centre_momentum) if centre else None
        self.clip_views = ClipViews(views, positives, frames, distance)
        self.base_momentum, self.momentum, self.temperature, self.koleo = momentum, momentum, temperature, koleo
        self.teacher_temperatures, self.warmup = (warmup_temperature, teacher_temperature), warmup
        self.fresh: list[Tensor] = []  # the teacher's scores of the batches since the last step

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour, greyscale and blur: section 3.2, as in BYOL, crops of 0.4 and more (global views)."""
        return Views(
            size, crop=(0.4, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey=0.2, blur=0.5
        )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the student's prediction of a view with the teacher's of the others (eq. 3)."""
        progress, count = float(batch["progress"]), self.clip_views.count
        self.momentum = cosine_momentum(self.base_momentum, progress)
        sharp = self.teacher_temperature(progress)
        views = torch.cat(self.clip_views(batch["clips"], batch["key"]))
        features = clip_feature(self.encoder, views)
        embeddings = self.head(features)
        q = self._teach(views, sharp, torch.is_grad_enabled()).unflatten(0, (count, -1))  # [V,B,K]
        with exact(embeddings):
            log_p = (self.prototypes(wide(embeddings)) / self.temperature).log_softmax(1).unflatten(0, (count, -1))
            entropies = [-(q.roll(shift, 0) * log_p).sum(-1).mean() for shift in range(1, count)]
        terms = {"distillation": (1.0, torch.stack(entropies).mean())}
        if self.koleo:
            unit = F.normalize(wide(features), dim=1).chunk(count)
            terms["koleo"] = (self.koleo, torch.stack([koleo(view) for view in unit]).mean())
        loss, metrics = weigh(**terms)
        numbers = {"momentum": self.momentum, "temperature": self.temperature, "teacher_temperature": sharp}
        metrics |= {name: torch.tensor(number) for name, number in numbers.items()}
        return loss, metrics | health(features, embeddings) | assignment_health(q.flatten(0, 1))

    def teacher_temperature(self, progress: float) -> float:
        """τ_t after this share of the budget."""
        first, last = self.teacher_temperatures
        return last if progress >= self.warmup else first + (last - first) * progress / self.warmup

    @torch.no_grad()
    def _teach(self, views: Tensor, temperature: float, recorded: bool) -> Tensor:
        """The teacher's choice of prototypes `[V*B, K]`; recorded scores move the centre."""
        embeddings = self.target_head(clip_feature(self.target_encoder, views))
        with exact(embeddings):
            scores = self.target_prototypes(wide(embeddings))
            if recorded:  # a look at the loss leaves no trace
                self.fresh.append(scores)
            centred = scores if self.centring is None else self.centring(scores)
            return (centred / temperature).softmax(1)

    def after_step(self) -> None:
        """The teacher follows the student, the centre the teacher's scores."""
        ema_(self.target_encoder, self.encoder, self.momentum)
        ema_(self.target_head, self.head, self.momentum)
        ema_(self.target_prototypes, self.prototypes, self.momentum)
        for scores in self.fresh:
            if self.centring is not None:
                self.centring.update(scores)
        self.fresh.clear()
