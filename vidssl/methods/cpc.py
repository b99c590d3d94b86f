"""Contrastive predictive coding on video: van den Oord, Li, Vinyals 2018, "Representation Learning with Contrastive
Predictive Coding", arXiv 1807.03748.

    frames   f0   f1   f2   f3   f4   f5
    z = encoder(f)   a feature a frame
    c = context(z)   causal: c2 has seen f0 f1 f2
    W_k c_t          predicts p(z_{t+k}), k = 1..K, among the keys: p(z) of all frames of the batch (InfoNCE, eq. 4)

B clips, T frames, D feature dim, K predicted steps, A anchor times a clip, M = B*T keys (all ranks').
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import gather, gather_ints, info_nce, world
from vidssl.core.moments import alike
from vidssl.core.monitor import health
from vidssl.encoders.context import build_context
from vidssl.encoders.frame import FrameEncoder
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.cells import CellContrast
from vidssl.methods.maps import map_shape, maps_and_features
from vidssl.methods.negatives import Negatives, check_negatives, excluded
from vidssl.views import Views

OUTPUTS = ("encoder", "context")


class CPC(nn.Module):
    """CPC with one feature a frame.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T,D]`.
        views: augmentation of the clips; a clip's is the same for all its frames.
        context: `"gru"` (as published) or `"transformer"`.
        context_dim: size of c_t.
        steps: K.
        negatives: the keys a prediction is told apart from: frames of the same video at other times (what changes:
            motion), of other videos (what stays: scene, objects), or both.
        temperature: of the cosine similarity between W_k c_t and z; None takes the plain dot product, as published.
        project: size of p(z), a two-layer perceptron between features and keys (as in SimCLR) that may drop what the
            contrast has no use for and the feature should keep; None contrasts z itself, as published.
        cells: weight of a second contrast that asks z_t for every cell of the encoder's map at t+1, see `CellContrast`:
            for control, where small things at the right place matter. 0, as published, does without.
        output: the feature that a run exports, z_t (`"encoder"`) or c_t (`"context"`).
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = ()

    def __init__(
        self,
        encoder: FrameEncoder,
        views: Views,
        *,
        context: str = "gru",
        context_dim: int = 256,
        steps: int = 3,
        negatives: Negatives = "both",
        temperature: float | None = 0.1,
        project: int | None = 128,
        cells: float = 0.0,
        output: Literal["encoder", "context"] = "encoder",
    ) -> None:
        super().__init__()
        check_negatives(negatives)
        if output not in OUTPUTS:
            raise VidsslError(f"output: got {output!r}; choose from {', '.join(OUTPUTS)}")
        if steps < 1:
            raise VidsslError(f"steps: got {steps}; CPC predicts at least 1 step ahead")
        if temperature is not None and temperature <= 0:
            raise VidsslError(f"temperature: got {temperature}; give one above 0, or None for plain dot products")
        if getattr(encoder, "window", None) is not None:
            raise VidsslError(
                "cpc predicts what its features have not seen, and every feature of this encoder sees the whole clip: "
                "choose a frame encoder such as --encoder small-motion, or --method dpc"
            )
        self.encoder, self.views = encoder, views
        self.context = build_context(context, encoder.dim, context_dim)
        key_dim = project or encoder.dim
        self.project = projector(encoder.dim, key_dim) if project else nn.Identity()
        self.predictors = nn.ModuleList(nn.Linear(context_dim, key_dim, bias=False) for _ in range(steps))
        self.cells = cells
        self.cell_contrast: CellContrast | None = None
        if cells:
            _, channels, height, width = map_shape(None, encoder, 1, views.size)
            self.cell_contrast = CellContrast(encoder.dim, channels, height * width)
        self.negatives, self.temperature, self.output = negatives, temperature, output

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour and greyscale."""
        return Views(size, crop=(0.4, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE averaged over all anchors and steps.

        Raises:
            VidsslError: clips too short for the prediction horizon, or no negatives of the chosen kind in the batch.
        """
        clips, steps = batch["clips"], len(self.predictors)
        frames = clips.shape[1]
        if frames < steps + 2:
            raise VidsslError(
                f"clips of {frames} frames are too short to predict {steps} steps ahead: "
                f"raise --frames to {steps + 2} or more, or lower the method's steps"
            )
        views = self.views(clips, batch["key"])
        if self.cell_contrast is None:
            z = self.encoder(views)
            return self._contrast(z, self.context(z), batch["video"])
        maps, z = maps_and_features(self.encoder, views)
        loss, metrics = self._contrast(z, self.context(z), batch["video"])
        cells = self.cell_contrast(z, maps)
        return loss + self.cells * cells, metrics | {"loss_cells": cells.detach()}

    def _contrast(self, z: Tensor, c: Tensor, video: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        clips, frames, _ = z.shape
        steps = len(self.predictors)
        times = torch.arange(1, frames - steps, device=z.device)  # c_0 has seen a single frame: no motion yet
        anchors = c[:, 1 : frames - steps]
        query = torch.stack([predict(anchors) for predict in self.predictors]).flatten(0, 2)  # [K*B*A, D]

        rank, _ = world()
        first = (rank * clips + torch.arange(clips, device=z.device)) * frames  # the key of a clip's frame 0
        ahead = torch.arange(1, steps + 1, device=z.device)
        positives = (first[None, :, None] + times + ahead[:, None, None]).flatten()
        projected = self.project(z)
        keys = gather(projected.flatten(0, 1))
        key_video = gather_ints(video.repeat_interleave(frames))
        query_video = video[None, :, None].expand(steps, clips, len(times)).flatten()

        temperature = self.temperature or 1.0
        if self.temperature is not None:
            query, keys = F.normalize(query, dim=-1), F.normalize(keys, dim=-1)
        query, keys = alike(query, keys)
        exclude = excluded(self.negatives, query_video, key_video)
        losses = info_nce(query, keys, positives, temperature, exclude=exclude, reduction="none")
        by_step = losses.unflatten(0, (steps, -1)).mean(1)
        return losses.mean(), {
            "loss_first_step": by_step[0].detach(),
            "loss_last_step": by_step[-1].detach(),
            **health(c if self.output == "context" else z, projected),
        }


def projector(dim: int, dim_out: int) -> nn.Sequential:
    """`[..., dim] -> [..., dim_out]`: linear, layer norm, ReLU, linear. Layer norm, so that no sample sees another."""
    return nn.Sequential(nn.Linear(dim, 2 * dim), nn.LayerNorm(2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim_out))
