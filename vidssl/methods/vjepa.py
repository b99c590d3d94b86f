"""V-JEPA: Bardes et al. 2024, "Revisiting Feature Prediction for Learning Visual Representations from Video", arXiv
2404.08471.

    clip, kept tubes only ──> encoder ──> tokens ──> predictor, asked for the masked places ──> ẑ ┐ |ẑ - h|
    clip, all tubes ──> target encoder ──> layer norm ──> tokens of the masked places ──────> h ┘ no gradient

The target encoder is a moving average of the encoder. Two masks a clip, each by its own context: eight small blocks
(short range) and two large ones (long range), through all times.

B clips, T frames, n tokens a clip in a grid t x h x w, D token dim.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.ema import cosine_momentum, ema_, target_of
from vidssl.core.monitor import health
from vidssl.encoders import token_encoder
from vidssl.encoders.vit import take
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.masking import Predictor, blocks, kept_places, split
from vidssl.views import Views

_STREAM = 0x766A657061  # keeps the masks' draws apart from others made with the same keys
SHORT, LONG = (8, 0.15), (2, 0.7)  # blocks, and the share of the places that each covers (section 3.2)


class VJEPA(nn.Module):
    """Predict the features of masked tubes from those of the others.

    Args:
        encoder: with tokens, `vit-video` or `vit`. The run exports it; its feature: the mean of its tokens over space.
        views: augmentation of the clips.
        momentum: of the target encoder at the start, rising to 1 by a cosine (0.998 and linear in the paper, for 90,000
            steps of 3,072 clips; short runs need a target that moves).
        stop_gradient: False takes the targets from the encoder itself, gradient through both sides: it collapses.
        keep_short: share of the places that the short-range mask leaves (about a tenth in the paper, of 196 places;
            here 64); 0 leaves this mask out.
        keep_long: the same of the long-range mask.
        width, depth: of the predictor (384 and 12 in the paper, beside encoders of 1024 and 24 and more).
    """

    default_encoder: ClassVar[str] = "vit-video"
    ablations: ClassVar[tuple[Ablation, ...]] = (
        # Section 3.1: without it and the moving average, a constant encoder has no error.
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
        stop_gradient: bool = True,
        keep_short: float = 0.25,
        keep_long: float = 0.125,
        width: int = 64,
        depth: int = 2,
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise VidsslError(f"momentum: got {momentum}; give one from 0 (the encoder itself) to 1 (a fixed target)")
        if not (0 <= keep_short < 1 and 0 <= keep_long < 1 and keep_short + keep_long > 0):
            raise VidsslError(
                f"masks: got keep_short={keep_short}, keep_long={keep_long}; give shares below 1, one of them above 0 "
                "(0 leaves a mask out)"
            )
        self.encoder, self.views = token_encoder("vjepa", encoder), views
        self.predictor = Predictor(encoder.dim, encoder.dim, width, depth)
        self.target_encoder = target_of(encoder)
        self.masks = {"short": (SHORT, keep_short), "long": (LONG, keep_long)}
        self.stop_gradient, self.base_momentum, self.momentum = stop_gradient, momentum, momentum

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop and flip: appendix C."""
        return Views(size, crop=(0.3, 1.0), ratio=(0.75, 1.35), flip=0.5)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error of the masked tokens' features (eq. 1), averaged over the masks.

        Raises:
            VidsslError: clips whose frames aren't a multiple of the encoder's tubes.
        """
        self.momentum = cosine_momentum(self.base_momentum, float(batch["progress"]))
        grid = self.encoder.grid(batch["clips"].shape[1])
        clips = self.views(batch["clips"], batch["key"])
        tokens = self.target_tokens(clips)
        targets = F.layer_norm(tokens, tokens.shape[-1:])
        errors = {}
        for number, (name, ((count, area), share)) in enumerate(self.masks.items()):
            if share:
                scores = blocks(batch["key"], grid[1:], count, area, _STREAM + number)
                keep, masked = split(scores, kept_places(share, grid), grid[0])
                seen = self.encoder.tokens(clips, keep)
                predicted = self.predictor(seen, keep, masked, grid)
                errors[f"loss_{name}"] = (predicted - take(targets, masked)).abs().mean()
        loss = torch.stack(list(errors.values())).mean()
        metrics = {name: error.detach() for name, error in errors.items()}
        # A clip's mean token: an encoder that told nothing but the place would give all clips the same.
        return loss, metrics | health(seen.mean(1)) | {"momentum": torch.tensor(self.momentum)}

    def target_tokens(self, clips: Tensor) -> Tensor:
        """All tokens of clips `[B,T,3,H,W]`, as they are to be predicted: `[B,n,D]`."""
        if not self.stop_gradient:
            return self.encoder.tokens(clips)
        with torch.no_grad():
            return self.target_encoder.tokens(clips)  # type: ignore[operator]

    def after_step(self) -> None:
        """The target encoder follows."""
        ema_(self.target_encoder, self.encoder, self.momentum)
