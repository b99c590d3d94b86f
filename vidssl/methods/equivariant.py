"""Split features, one part that ignores how an object is turned and one that turns with it: after SIE, Garrido, Najman
and LeCun 2023, "Self-supervised learning of Split Invariant Equivariant representations", arXiv 2302.10283.

    first frame ──view 0──> encoder ──> h ┬─ expander ─> z_0 ┐ invariance: alike                     ┐ VICReg's variance
    last frame  ──view 1──> encoder ──> h ┼─ expander ─> z_1 ┘                                       │ and covariance on
                                          └── linear ──> e_0 ──action of R──> ê_1 ┐ equivariance:    │ z and e keep both
                                                         e_1 ─────────────────────┘ ê_1 is e_1       ┘ from collapse

The rotation R between the two frames is known, from the renderer or the robot's own pose: `batch["rotation"]` `[B,3,3]`
takes what the first frame of a clip shows to what its last frame shows (camera axes). A network that is told R cannot
put into e what R does not change without failing the prediction, and what e must hold to succeed is the pose. SIE has
an expander here too; a linear map leaves the pose in h in the form that R acts on, where a probe finds it.

B clips, D feature dim, E embedding dim of each part, V = E / 3 vectors.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vidssl.core import covariance_penalty, variance_hinge
from vidssl.core.moments import covariance, exact, wide
from vidssl.core.monitor import health
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.heads import mlp
from vidssl.methods.terms import weigh
from vidssl.views import Views

ACTIONS = ("vectors", "hypernetwork")


class Equivariant(nn.Module):
    """Invariance and equivariance of two frames with a known rotation between them.

    Args:
        encoder: `[B,T,C,H,W] -> [B,T,D]` that sees frames one by one; the feature h is split in halves, the first for
            the invariant and the second for the equivariant part.
        views: augmentation; it must not move pixels, or the known rotation would not be the one seen.
        action: how R acts on e. "vectors": e is V vectors of space, which R itself turns; nothing to learn, and a group
            action exactly. "hypernetwork": the matrix W(R) `[E,E]` that a small network makes of R, as in SIE.
        invariance, equivariance, variance, covariance: weights of the terms. Without variance the embeddings become
            constant, without covariance their dims repeat one another.
        hidden, dim: width inside the expander, and of z and e; dim is E, a multiple of 3.
    """

    default_encoder: ClassVar[str] = "control"
    ablations: ClassVar[tuple[Ablation, ...]] = (
        Ablation("no variance term", {"variance": 0.0}, "constant", "term-balance"),
        Ablation("no covariance term", {"covariance": 0.0}, "dimensional", "term-balance"),
    )
    needs_rotation: ClassVar[bool] = True
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        action: Literal["vectors", "hypernetwork"] = "vectors",
        invariance: float = 10.0,
        equivariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        hidden: int = 512,
        dim: int = 96,
    ) -> None:
        super().__init__()
        weights = {
            "invariance": invariance,
            "equivariance": equivariance,
            "variance": variance,
            "covariance": covariance,
        }
        if min(weights.values()) < 0:
            raise VidsslError(f"equivariant: got weights {weights}; give 0 or more")
        if action not in ACTIONS:
            raise VidsslError(f"action: got {action!r}; choose from {', '.join(ACTIONS)}")
        if dim < 3 or dim % 3:
            raise VidsslError(f"dim: got {dim}; vectors of space need a multiple of 3")
        if views.flip or views.crop != (1.0, 1.0):
            raise VidsslError(
                f"equivariant: got views with crop={views.crop}, flip={views.flip}, after which the known rotation is "
                "no longer the one seen; give crop=(1, 1) and flip=0"
            )
        if encoder.past or encoder.dim % 2:
            raise VidsslError(
                "equivariant compares single frames, and splits their feature in halves; "
                "choose an encoder of frames without motion, such as --encoder control"
            )
        self.encoder, self.views, self.weights = encoder, views, weights
        self.invariant = mlp((encoder.dim // 2, hidden, hidden, dim), last_bias=False)
        self.equivariant = nn.Linear(encoder.dim // 2, dim, bias=False)
        self.hypernetwork = Hypernetwork(dim) if action == "hypernetwork" else None

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Brightness and contrast of each frame by itself. Nothing that moves pixels, and no more than that: between
        two colours, or sharp and blurred, the surface that shows the turn is no longer the same."""
        return Views(size, brightness=0.3, contrast=0.3)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the terms, statistics over all ranks' clips; `batch["rotation"]` float `[B,3,3]`.

        Raises:
            VidsslError: no rotation in the batch, clips of one frame, a batch of one clip.
        """
        clips, rotation = batch["clips"], known_rotation(batch)
        ends = (clips[:, :1], clips[:, -1:])
        frames = torch.cat([self.views(frame, batch["key"], stream=i) for i, frame in enumerate(ends)])
        features = self.encoder(frames)[:, 0]  # [2B,D]
        still, turning = features.chunk(2, dim=1)
        z, e = self.invariant(still), self.equivariant(turning)
        with exact(features):
            z, e = (wide(x).unflatten(0, (2, -1)) for x in (z, e))  # [2,B,E]
            turned = self.turn(e[0], rotation.to(e))
            covariances = [covariance(x) for x in (*z, *e)]
            narrow = torch.stack([variance_hinge(c.diagonal()) for c in covariances]).mean()
            repeated = torch.stack([covariance_penalty(c) for c in covariances]).mean()
            loss, terms = weigh(
                invariance=(self.weights["invariance"], (z[0] - z[1]).square().mean()),
                equivariance=(self.weights["equivariance"], (turned - e[1]).square().mean()),
                variance=(self.weights["variance"], narrow),
                covariance=(self.weights["covariance"], repeated),
            )
        # Of keeping e as it is: what a prediction that is not told R is up against.
        terms["unturned"] = (e[0] - e[1]).square().mean().detach()
        return loss, health(features, torch.cat([z, e], dim=2).flatten(0, 1)) | terms

    def turn(self, e: Tensor, rotation: Tensor) -> Tensor:
        """What embeddings `[B,E]` become when the object is turned by `[B,3,3]`."""
        if self.hypernetwork is not None:
            return torch.einsum("bij,bj->bi", self.hypernetwork(rotation), e)
        return torch.einsum("bij,bvj->bvi", rotation, e.unflatten(1, (-1, 3))).flatten(1)


class Hypernetwork(nn.Module):
    """Rotations `[B,3,3]` -> matrices `[B,E,E]`; near the identity at the start, whatever the rotation."""

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.dim = dim
        self.net = mlp((9, hidden, dim * dim), norm=None)
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(torch.eye(dim).flatten())

    def forward(self, rotation: Tensor) -> Tensor:
        return self.net(rotation.flatten(1)).unflatten(1, (self.dim, self.dim))


def known_rotation(batch: dict[str, Tensor]) -> Tensor:
    """The rotation `[B,3,3]` of a batch whose clips have two frames or more.

    Raises:
        VidsslError: there is none, it has another shape, or the clips have one frame.
    """
    clips, rotation = batch["clips"], batch.get("rotation")
    if rotation is None:
        raise VidsslError(
            'equivariant learns from frames with a known rotation between them, batch["rotation"], which videos do not '
            "have; use vidssl pretrain-views, which renders pairs of views, or a method for videos"
        )
    if rotation.shape != (len(clips), 3, 3) or clips.shape[1] < 2:
        raise VidsslError(
            f"equivariant: expected rotations [{len(clips)},3,3] and clips of 2 frames or more, got "
            f"{list(rotation.shape)} and {clips.shape[1]}"
        )
    return rotation
