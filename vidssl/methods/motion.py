"""Motion as the target: predict the optical flow of a clip, which an algorithm gives for free.

Walker, Gupta, Hebert 2015, "Dense Optical Flow Prediction from a Static Image", arXiv 1505.00295; Pathak et al. 2017,
"Learning Features by Watching Objects Move", arXiv 1612.06370 (motion as the teacher).

    frames          f0   f1   f2   f3   f4
    flow               u1   u2   u3   u4      DIS, on the augmented frames, averaged over cells
    map of f2       [D',h,w] ──1x1──>  û2, û3 on 2h x 2w cells, each from its own place: what moves how
    feature of f2   [D] ────linear──>  û2, û3 on 1x1, 2x2, 4x4 and 8x8 cells: and where
                                       the flow into this frame and the `ahead` next ones

Frame encoders see only the frames that have all of those, here f0 to f3; clip encoders see the clip.

B clips, T frames, T' times of the encoder, D feature dim, D' channels of the map, K = ahead + 1 flows, g x g' cells
of 3 numbers: x, y, length.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import all_reduce_sum, world
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.flow import NUMBERS, by_time, cells, dis_flow
from vidssl.methods.maps import map_shape, maps_and_features
from vidssl.views import Views

LEAST = 0.05  # pixels: the least that flow is divided by, for batches in which nothing moves


class Motion(nn.Module):
    """Regression of what moves, where and how far, from the map and, linearly, from the pooled feature.

    An encoder that sees motion (`-motion`, `-both`) is asked for the flow into the frame it sees and for what comes
    next; one that sees a frame's colours, for what is likely to move (Walker et al.). The feature answers through one
    linear layer, on coarse grids as well as on fine ones, so that it has to say where, which a mean over the map
    forgets unless it is asked.

    Args:
        encoder: has `maps`: `[B,T,C,H,W] -> [B,T',D',h,w]`.
        views: augmentation; the flow is that of the augmented frames.
        grids: cells to a side of the feature's predictions; more ask for smaller things. () does without them.
        dense: weight of the map's predictions beside those of the feature, which have 1 together. They are learned
            sooner, and take the feature's place in a short training: alone, they let it forget where things move.
        ahead: flows after the present one that are predicted too. Of a camera on a robot that somebody drives, a second
            or two ask for what the driver minds: goals, and what is in the way.
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
        grids: tuple[int, ...] = (1, 2, 4, 8),
        dense: float = 0.0,
        ahead: int = 1,
    ) -> None:
        super().__init__()
        most = min(views.size) // 4
        if not isinstance(grids, tuple) or not all(isinstance(grid, int) and 1 <= grid <= most for grid in grids):
            raise VidsslError(
                f"grids: got {grids!r}; write (1, 2, 4): frames of {views.size} pixels have 1 to {most} cells a side"
            )
        if dense < 0 or not (dense or grids):
            raise VidsslError(f"got grids={grids}, dense={dense}; motion needs a grid or a weight above 0")
        if ahead < 0:
            raise VidsslError(f"ahead: got {ahead}; motion predicts 0 flows ahead (the present one only) or more")
        self.encoder, self.views = encoder, views
        self.grids, self.dense, self.ahead = grids, dense, ahead
        numbers = NUMBERS * (ahead + 1)
        self.from_feature = nn.ModuleList(nn.Linear(encoder.dim, numbers * grid**2) for grid in grids)
        if dense:
            _, channels, _, _ = map_shape(None if grids else "motion", encoder, 1, views.size)
            self.from_map = nn.Conv2d(channels, 4 * numbers, 1)  # of every cell of the map, its four quarters

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour and greyscale."""
        return Views(size, crop=(0.4, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Huber loss of the flow over its root mean square, mean of the grids plus `dense` times that of the map.

        Raises:
            VidsslError: clips too short for the flows asked for.
        """
        views = self.views(batch["clips"], batch["key"])
        frames = views.shape[1]
        # A frame encoder is spared the last frames, which have not all flows ahead of them; two show the present one.
        by_frame = getattr(self.encoder, "window", None) is None
        maps, z = maps_and_features(self.encoder, views[:, : max(2, frames - self.ahead)] if by_frame else views)
        times = frames if by_frame else z.shape[1]
        if frames < 2 or times <= self.ahead:
            raise VidsslError(
                f"clips of {frames} frames ({times} times of the encoder) are too short to predict flow "
                f"{self.ahead} ahead: raise --frames, or lower the method's ahead"
            )
        flow = dis_flow(views)
        loss, metrics = z.new_zeros(()), health(z)
        if self.grids:
            answers = zip(self.from_feature, self.grids, strict=True)
            guesses = [predict(z).unflatten(-1, (-1, NUMBERS, grid, grid)) for predict, grid in answers]
            terms, quality = zip(*(compare(guess, flow, times) for guess in guesses), strict=True)
            loss = torch.stack(terms).mean()
            metrics |= {"term_feature": loss.detach(), **quality[-1]}
        if self.dense:
            guess = F.pixel_shuffle(self.from_map(maps.flatten(0, 1)), 2).unflatten(0, z.shape[:2])
            term, quality_of_map = compare(guess.unflatten(2, (-1, NUMBERS)), flow, times)
            loss = loss + self.dense * term
            metrics |= {"term_map": term.detach(), **{f"{name}_of_map": x for name, x in quality_of_map.items()}}
        return loss, metrics


def compare(guess: Tensor, flow: Tensor, times: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Predictions `[B,A,K,3,g,g']` of flow `[B,T-1,2,H,W]` into the frames of each time and the K - 1 next.

    Args:
        times: T', of which the first A make predictions.

    Returns:
        The Huber loss in units of the flow's root mean square over the batches of all ranks; and, in pixels and of the
        flow into the present time, `end_point_error` beside that of a guess of no motion, `end_point_error_of_zero`,
        and the share of the flow's squares that is `explained`, 0 for no motion.
    """
    guess = guess.to(torch.promote_types(guess.dtype, torch.float32))  # half types under autocast
    truth, moved = by_time(cells(flow, (guess.shape[-2], guess.shape[-1])).to(guess.dtype), times)
    scale = _root_mean_square(truth[:, moved]).clamp_min(LEAST)
    losses = []
    for k, ahead in enumerate(guess.unbind(2)):
        known = moved[k : k + guess.shape[1]]
        losses.append(
            F.huber_loss(ahead[:, : len(known)][:, known] / scale, truth[:, k:][:, : len(known)][:, known] / scale)
        )
    moved = moved[: guess.shape[1]]
    now, true = guess[:, moved, 0, :2].detach(), truth[:, : len(moved)][:, moved, :2]
    error, length = (torch.linalg.vector_norm(x, dim=2) for x in (now - true, true))
    return torch.stack(losses).mean(), {
        "end_point_error": error.mean(),
        "end_point_error_of_zero": length.mean(),
        "explained": 1 - error.square().sum() / length.square().sum().clamp_min(1e-12),
    }


def _root_mean_square(x: Tensor) -> Tensor:
    """Over the batches of all ranks, which are of one size."""
    return (all_reduce_sum(x.square().mean()) / world()[1]).sqrt()
