"""Projectors, predictors and energies: the small networks between a feature and a loss.

B clips, T frames, D feature dim, E embedding dim.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.batch_norm import BatchNorm

Norm = Literal["batch", "layer"] | None


def mlp(widths: Sequence[int], norm: Norm = "batch", last_norm: bool = False, last_bias: bool = True) -> nn.Sequential:
    """`[n, widths[0]] -> [n, widths[-1]]`: linear layers with norm and ReLU between them.

    Args:
        widths: input, hidden and output sizes.
        norm: batch norm over all ranks (most papers), layer norm (no sample sees another), or none.
        last_norm: a batch norm without scale and shift behind the last layer (SimCLR, SimSiam, MoCo v3).
        last_bias: False where the loss takes the mean away, so that a bias would never learn (VICReg, Barlow Twins).
    """
    layers: list[nn.Module] = []
    pairs = list(pairwise(widths))
    for before, after in pairs[:-1]:
        layers.append(nn.Linear(before, after, bias=norm is None))
        if norm is not None:
            layers.append(BatchNorm(after) if norm == "batch" else nn.LayerNorm(after))
        layers.append(nn.ReLU())
    layers.append(nn.Linear(*pairs[-1], bias=last_bias and not last_norm))
    if last_norm:
        layers.append(BatchNorm(widths[-1], affine=False))
    return nn.Sequential(*layers)


def clip_feature(encoder: nn.Module, clips: Tensor) -> Tensor:
    """One feature a clip: `[B,T,C,H,W] -> [B,D]`, the mean over the encoder's times."""
    return encoder(clips).mean(1)


class EnergyHead(nn.Module):
    """E(x, y) = 1 - cos(predict(h_x), embed(h_y)) in [0, 2], of features `[B,D]`; directed: x comes first.

    Batch norm, whose running statistics make the energy of a pair depend on that pair alone once trained: with layer
    norm the contrast was seen to end with all embeddings alike before it had learned anything.
    """

    def __init__(self, feature_dim: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.sizes = {"feature_dim": feature_dim, "hidden": hidden, "dim": dim}
        self.embed = mlp((feature_dim, hidden, dim))
        self.ahead = mlp((dim, hidden, dim))

    def predict(self, h_x: Tensor) -> Tensor:
        """What x says of y's embedding: `[B,D] -> [B,E]`."""
        return self.ahead(self.embed(h_x))

    def forward(self, h_x: Tensor, h_y: Tensor) -> Tensor:
        """Energies `[B]` of features `[B,D]`."""
        return 1 - F.cosine_similarity(self.predict(h_x), self.embed(h_y), dim=1)
