"""Contrastive predictive coding on images: van den Oord et al. 2018, section 3.3, arXiv 1807.03748.

A frame is cut into a grid of half-overlapping patches; from the rows above, predict the patches below:

    z z z z z z z
    z z z z z z z     c at row i has seen rows 0..i (a column and its neighbours)
    c c c c c c c
    . . . . . . .     W_1 c predicts the patch one row below,
    ? ? ? ? ? ? ?     W_2 c two rows below, ..., among the patches of all frames of the batch

F frames of the batch, R rows and columns of the grid, D feature dim, K predicted rows.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import gather, info_nce, world
from vidssl.core.moments import alike
from vidssl.core.monitor import health
from vidssl.encoders.frame import FrameEncoder
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.views import Views


class ImageCPC(nn.Module):
    """CPC over the rows of a frame's patches.

    The encoder is trained on patches of half the frame's height and width; being fully convolutional, it is exported
    for whole frames, where its mean pool averages over what it learned to see locally.

    Args:
        encoder: a frame encoder, run on patches as clips of one frame: `[P,1,C,h,w] -> [P,1,D]`.
        views: augmentation of the frames.
        grid: R; patches start every (size / 2) / (R - 1) pixels.
        steps: K.
        temperature: of the cosine similarity; None takes the plain dot product, as published.
    """

    default_encoder: ClassVar[str] = "small"
    ablations: ClassVar[tuple[Ablation, ...]] = ()
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: FrameEncoder,
        views: Views,
        *,
        grid: int = 5,
        steps: int = 3,
        temperature: float | None = 0.1,
    ) -> None:
        super().__init__()
        if not 1 <= steps < grid:
            raise VidsslError(f"image CPC: got steps={steps}, grid={grid}; predict 1 to grid-1 rows")
        if encoder.past:
            raise VidsslError("image CPC sees single frames: choose an encoder without motion, e.g. --encoder small")
        if not isinstance(encoder, FrameEncoder) or any(True for _ in encoder.head.parameters()):
            raise VidsslError(
                "image CPC trains on patches and exports for whole frames: choose a fully convolutional encoder "
                "without layers behind its map, e.g. --encoder small or resnet18"
            )
        self.encoder, self.views, self.grid, self.temperature = encoder, views, grid, temperature
        self.rows = nn.ModuleList(_RowsAbove(encoder.dim) for _ in range(2))
        self.predictors = nn.ModuleList(nn.Linear(encoder.dim, encoder.dim, bias=False) for _ in range(steps))

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour and greyscale."""
        return Views(size, crop=(0.4, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE averaged over all anchors and predicted rows; one frame a clip, the middle one."""
        middle = batch["clips"].shape[1] // 2
        frames = self.views(batch["clips"][:, middle : middle + 1], batch["key"])[:, 0]
        z = self.encode_patches(frames)
        c = z.movedim(-1, 1)
        for block in self.rows:
            c = block(c)
        return self._contrast(z, c.movedim(1, -1))

    def encode_patches(self, frames: Tensor) -> Tensor:
        """Features of the patches of frames `[F,C,H,W]` -> `[F,R,R,D]`."""
        height, width = frames.shape[-2] // 2, frames.shape[-1] // 2
        tops = torch.linspace(0, frames.shape[-2] - height, self.grid).round().int().tolist()
        lefts = torch.linspace(0, frames.shape[-1] - width, self.grid).round().int().tolist()
        patches = torch.stack(
            [frames[..., top : top + height, left : left + width] for top in tops for left in lefts], dim=1
        )
        z = self.encoder(patches.flatten(0, 1)[:, None])
        return z[:, 0].unflatten(0, (len(frames), self.grid, self.grid))

    def _contrast(self, z: Tensor, c: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        number = torch.arange(len(z) * self.grid**2, device=z.device).view(z.shape[:3])
        number = number + world()[0] * number.numel()  # the keys of a rank follow those of the ranks before
        query = torch.cat([predict(c[:, : -k - 1]).flatten(0, 2) for k, predict in enumerate(self.predictors)])
        positives = torch.cat([number[:, k + 1 :].flatten() for k in range(len(self.predictors))])
        keys = gather(z.flatten(0, 2))
        if self.temperature is not None:
            query, keys = F.normalize(query, dim=-1), F.normalize(keys, dim=-1)
        query, keys = alike(query, keys)
        loss = info_nce(query, keys, positives, self.temperature or 1.0)
        return loss, health(z)


class _RowsAbove(nn.Module):
    """A residual convolution whose output at row i depends on rows i-1 and i: `[F,D,R,R] -> [F,D,R,R]`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv2d(dim, dim, kernel_size=(2, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x.movedim(1, -1)).movedim(-1, 1)  # each place by itself: no leak from the rows below
        return x + F.relu(self.conv(F.pad(normal, (0, 0, 1, 0))))
