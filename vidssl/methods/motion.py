"""Motion as the target: predict the optical flow of a clip, which an algorithm gives for free.

Walker, Gupta, Hebert 2015, "Dense Optical Flow Prediction from a Static Image", arXiv 1505.00295; Pathak et al. 2017,
"Learning Features by Watching Objects Move", arXiv 1612.06370 (motion as the teacher).

    frames      f0   f1   f2   f3   f4
    flow           u1   u2   u3   u4          DIS, on the augmented frames, averaged over g x g cells
    z = encoder(f)  z2 ──linear──> û2, û3     the flow into this frame and the `ahead` next ones

B clips, T frames, T' times of the encoder, D feature dim, K = ahead + 1 flows, g x g cells, 3 numbers a cell.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import all_reduce_sum, world
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.flow import by_time, cells, dis_flow
from vidssl.views import Views

LEAST = 0.05  # pixels: the least scale by which flow is divided, for clips in which nothing moves


class Motion(nn.Module):
    """Regression of where things move, and how far, from the pooled feature by a linear layer.

    An encoder that sees motion (`-motion`, `-both`) is asked for the flow into the frame it sees, and for what comes
    next; one that sees a frame's colours, for what is likely to move (Walker et al.). The prediction is linear in the
    exported feature, so that what it learns about motion can be read from it linearly.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T',D]`.
        views: augmentation; the flow is that of the augmented frames.
        grid: g, cells to a side; more cells ask for smaller things.
        ahead: flows after the present one that a feature predicts too.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = ()
    output = "encoder"
    context = None

    def __init__(self, encoder: Any, views: Views, *, grid: int = 8, ahead: int = 1) -> None:
        super().__init__()
        if not 1 <= grid <= min(views.size) // 4:
            raise VidsslError(
                f"grid: got {grid}; frames of {views.size} pixels have 1 to {min(views.size) // 4} cells a side"
            )
        if ahead < 0:
            raise VidsslError(f"ahead: got {ahead}; motion predicts 0 flows ahead (the present one only) or more")
        self.encoder, self.views, self.grid, self.ahead = encoder, views, grid, ahead
        self.predict = nn.Linear(encoder.dim, (ahead + 1) * 3 * grid**2)

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour and greyscale."""
        return Views(size, crop=(0.4, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Huber loss of the flow over its root mean square in the batch.

        Raises:
            VidsslError: clips too short for the flows asked for.
        """
        views = self.views(batch["clips"], batch["key"])
        z = self.encoder(views)
        if views.shape[1] < 2 or z.shape[1] <= self.ahead:
            raise VidsslError(
                f"clips of {views.shape[1]} frames ({z.shape[1]} times of the encoder) are too short to predict flow "
                f"{self.ahead} ahead: raise --frames to {max(2, self.ahead + 2)} or more, or lower the method's ahead"
            )
        flow, moved = by_time(cells(dis_flow(views), (self.grid, self.grid)).to(z.dtype), z.shape[1])
        predicted = self.predict(z).unflatten(-1, (self.ahead + 1, 3, self.grid, self.grid))
        scale = _root_mean_square(flow[:, moved]).clamp_min(LEAST)
        losses, metrics = [], {"flow": scale}
        for k, guess in enumerate(predicted.unbind(2)):
            known = moved[k:]
            guess, truth = guess[:, : len(known)][:, known], flow[:, k:][:, known]
            losses.append(F.huber_loss(guess / scale, truth / scale))
            metrics |= {f"end_point_error_{k}": _length(guess - truth), f"end_point_error_of_zero_{k}": _length(truth)}
        return torch.stack(losses).mean(), metrics | health(z)

    forward = loss


def _length(flow: Tensor) -> Tensor:
    """Mean length of flows `[B,T,3,g,g]`, pixels."""
    return torch.linalg.vector_norm(flow[:, :, :2].detach(), dim=2).mean()


def _root_mean_square(x: Tensor) -> Tensor:
    """Over the batches of all ranks, which are of one size."""
    return (all_reduce_sum(x.square().mean()) / world()[1]).sqrt()
