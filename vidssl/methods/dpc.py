"""Dense predictive coding: Han, Xie, Zisserman 2019, "Video Representation Learning by Dense Predictive Coding",
arXiv 1909.04656.

    clip     [ block 0 ][ block 1 ][ block 2 ][ block 3 ][ block 4 ]     N blocks of L frames, encoded one by one
    maps          z0         z1         z2         z3         z4         [D',h,w] each
    ConvGRU       c0 ──────> c1 ──────> c2 ──φ──> ẑ3
                                         └──ẑ3──> c3 ──φ──> ẑ4           φ(c) predicts the next map, which is fed back
    InfoNCE       each cell of ẑ3, ẑ4 finds its own cell among those of z3, z4 of all clips

Of a cell's keys, other clips are the easy negatives, other cells of its map the spatial, the same cell of other blocks
the temporal ones (section 3.2). B clips, P predicted blocks, S = h*w cells; the positives are the diagonal of the
N x N scores, N = B*P*S.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core import Exclude, gather, gather_ints, info_nce, world
from vidssl.core.moments import alike
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.maps import map_shape
from vidssl.views import Views

Negatives = Literal["both", "same-video"]
NEGATIVES = ("both", "same-video")


class DPC(nn.Module):
    """Predict the maps of the coming blocks from those of the past ones, cell by cell.

    Args:
        encoder: has `maps`: `[B,T,C,H,W] -> [B,T',D',h,w]`.
        views: augmentation; a clip's is the same for all its blocks.
        block: L, frames a block (5 in the paper, whose clips have 40).
        steps: P, predicted blocks (3 of 8 in the paper).
        negatives: cells of all clips (`"both"`, as published), or of clips of the same video alone (`"same-video"`):
            the scene then does not help to find the positive, only what is where and when.
        temperature: of the cosine similarity; None takes the plain dot product, as published.
        project: width of p, applied to ẑ and z before they are compared, which may drop what the contrast has no use
            for and the feature should keep; None compares the maps themselves, as published.
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
        block: int = 2,
        steps: int = 2,
        negatives: Negatives = "both",
        temperature: float | None = 0.1,
        project: int | None = 128,
    ) -> None:
        super().__init__()
        if negatives not in NEGATIVES:
            raise VidsslError(f"negatives: got {negatives!r}; choose from {', '.join(NEGATIVES)}")
        if block < 1 or steps < 1:
            raise VidsslError(f"got block={block}, steps={steps}; DPC predicts at least 1 block of at least 1 frame")
        if temperature is not None and temperature <= 0:
            raise VidsslError(f"temperature: got {temperature}; give one above 0, or None for plain dot products")
        self.encoder, self.views, self.block, self.steps = encoder, views, block, steps
        self.negatives, self.temperature = negatives, temperature
        _, channels, _, _ = map_shape("dpc", encoder, block, views.size)
        self.aggregate = CellGRU(channels)
        self.predict = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 1))
        self.project = nn.Conv2d(channels, project, 1) if project else nn.Identity()

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop, flip, colour and greyscale: section 4.1 (there, colour is drawn for each frame anew)."""
        return Views(size, crop=(0.4, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE over the cells of all predicted blocks (eq. 5).

        Raises:
            VidsslError: clips too short for a past block and those predicted, or a batch of a single cell.
        """
        blocks = batch["clips"].shape[1] // self.block
        if blocks <= self.steps:
            raise VidsslError(
                f"clips of {batch['clips'].shape[1]} frames are too short to predict {self.steps} blocks of "
                f"{self.block} frames from one before: raise --frames to {(self.steps + 1) * self.block} or more, or "
                "lower the method's steps or block"
            )
        views = self.views(batch["clips"][:, -blocks * self.block :], batch["key"])
        z = self._block_maps(views)
        predicted = self._rollout(z[:, : -self.steps])
        loss = self._contrast(predicted, z[:, -self.steps :], batch["video"])
        return loss, health(z.mean((-2, -1)), predicted.movedim(2, -1))

    def _block_maps(self, views: Tensor) -> Tensor:
        """`[B,N*L,3,H,W] -> [B,N,D',h,w]`: each block by itself, so that no map has seen its neighbour's frames.

        A frame encoder that sees motion finds none in the first frame of a block; the mean is over the others.
        """
        clips, frames = views.shape[:2]
        maps = self.encoder.maps(views.reshape(-1, self.block, *views.shape[2:]))
        if self.encoder.past == 1 and maps.shape[1] == self.block > 1:
            maps = maps[:, 1:]
        return maps.mean(1).unflatten(0, (clips, frames // self.block))

    def _rollout(self, z: Tensor) -> Tensor:
        """Maps of the past blocks `[B,N-P,D',h,w]` -> of the coming ones, predicted in turn `[B,P,D',h,w]`."""
        context = torch.zeros_like(z[:, 0])
        for past in z.unbind(1):
            context = self.aggregate(past, context)
        predicted = [self.predict(context)]
        for _ in range(1, self.steps):
            context = self.aggregate(predicted[-1], context)
            predicted.append(self.predict(context))
        return torch.stack(predicted, dim=1)

    def _contrast(self, predicted: Tensor, z: Tensor, video: Tensor) -> Tensor:
        """Maps `[B,P,D',h,w]` each and the clips' videos int64 `[B]`: mean loss of all B*P*h*w cells."""
        query, key = self._cells(predicted), gather(self._cells(z))
        if len(key) < 2:
            raise VidsslError("a batch of one cell has no negatives: raise --batch-size, --size or the method's steps")
        positive = world()[0] * len(query) + torch.arange(len(query), device=query.device)
        exclude = []
        if self.negatives == "same-video":
            of_cell = video.repeat_interleave(len(query) // len(video))
            exclude.append(Exclude(of_cell, gather_ints(of_cell), "different"))
        query, key = alike(query, key)
        return info_nce(query, key, positive, self.temperature or 1.0, exclude=exclude)

    def _cells(self, maps: Tensor) -> Tensor:
        """`[B,P,D',h,w] -> [B*P*h*w, E]`, in the space in which they are compared."""
        rows = self.project(maps.flatten(0, 1)).movedim(1, -1).flatten(0, 2)
        return rows if self.temperature is None else F.normalize(rows, dim=1)


class CellGRU(nn.Module):
    """A convolutional GRU with kernels of 1x1: every cell by itself, the weights shared by all (section 3.1).

    Ballas et al. 2016, arXiv 1511.06432, eq. 1 to 4; the hidden map has the channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.candidate = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Input and hidden map `[B,D',h,w]` -> the next hidden map."""
        update, reset = self.gates(torch.cat([x, hidden], dim=1)).sigmoid().chunk(2, dim=1)
        proposed = self.candidate(torch.cat([x, reset * hidden], dim=1)).tanh()
        return (1 - update) * hidden + update * proposed
