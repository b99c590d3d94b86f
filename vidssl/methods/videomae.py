"""VideoMAE: Tong et al. 2022, "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
Pre-Training", arXiv 2203.12602.

    clip, a tenth of its places at all times ──> encoder ──> tokens ──> decoder, asked for the others ──> pixels
                                                                              squared error with the tube's pixels

B clips, T frames, tokens in a grid t x h x w, M masked tokens, P pixels a tube.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from vidssl.core.monitor import health
from vidssl.core.random import uniform
from vidssl.encoders import token_encoder
from vidssl.encoders.vit import patches, take
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.masking import Predictor, kept_places, split
from vidssl.views import Views

_STREAM = 0x74756265  # keeps the masks' draws apart from others made with the same keys


class VideoMAE(nn.Module):
    """Paint in the masked tubes of a clip.

    Args:
        encoder: with tokens, `vit-video` or `vit`. The run exports it; its feature: the mean of its tokens over space.
        views: augmentation of the clips.
        mask: share of the places that are masked, at all times of the clip (0.9: figure 3, table 2a).
        width, depth: of the decoder (half the encoder's width and 4 blocks in the paper: section 3.4, table 1a).
    """

    default_encoder: ClassVar[str] = "vit-video"
    ablations: ClassVar[tuple[Ablation, ...]] = ()  # a constant encoder paints nothing but the mean
    output = "encoder"
    context = None

    def __init__(self, encoder: Any, views: Views, *, mask: float = 0.9, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        if not 0 < mask < 1:
            raise VidsslError(f"mask: got {mask}; give the share of the places to mask, above 0 and below 1")
        self.encoder, self.views, self.mask = token_encoder("videomae", encoder), views, mask
        frames, height, columns = encoder.patch_pixels
        self.decoder = Predictor(encoder.dim, 3 * frames * height * columns, width, depth)

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop and flip: appendix, table 8."""
        return Views(size, crop=(0.44, 1.0), flip=0.5)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the masked tubes' normalised pixels (eq. 1).

        Raises:
            VidsslError: clips whose frames aren't a multiple of the encoder's tubes.
        """
        grid = self.encoder.grid(batch["clips"].shape[1])
        clips = self.views(batch["clips"], batch["key"])
        scores = uniform(batch["key"], grid[1] * grid[2], _STREAM)
        keep, masked = split(scores, kept_places(1 - self.mask, grid), grid[0])
        tokens = self.encoder.tokens(clips, keep)
        painted = self.decoder(tokens, keep, masked, grid)
        pixels = normalised(take(patches(clips, self.encoder.patch_pixels), masked))
        loss = (painted - pixels.flatten(2)).square().mean()
        return loss, health(tokens.mean(1))  # of what the encoder was shown: all tokens would cost a second pass


def normalised(tubes: Tensor) -> Tensor:
    """Pixels `[B,M,P,3]` less the mean of their tube's colour, over its deviation (He et al. 2022, section 3).

    The deviation has a floor of 0.001, a quarter of a grey level, as in MAE: what is flat stays flat.
    """
    mean, variance = tubes.mean(2, keepdim=True), tubes.var(2, keepdim=True)
    return (tubes - mean) / (variance + 1e-6).sqrt()
