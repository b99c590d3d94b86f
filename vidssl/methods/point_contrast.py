"""Contrast of point clouds of objects: with other views of them, and with their pictures.

    cloud of view 0 ──points──> h ──projector──> z0 ┐ view to view: one object seen from two sides
    cloud of view 1 ──points──> h ──projector──> z1 ┘
    picture of view 0 ──pictures──> g ──projector──> y0    depth to RGB: z0 with y0, one view, two senses

After Afham et al. 2022, "CrossPoint", arXiv 2203.00680: their intra-modal term (equation 1) takes two augmentations of
one cloud, here it takes what a depth camera sees of one object in two rotations; their cross-modal term (equation 3)
takes the mean of both clouds' projections, here the cloud of the very view that the picture shows.

It is no entry of `METHODS`, which learn from clips of frames; the loss core, the projector and the training loop are
theirs.

B objects, P points, S side of a picture, D feature dim, E embedding dim.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.monitor import health
from vidssl.errors import VidsslError, unknown_name
from vidssl.methods.heads import clip_feature, mlp
from vidssl.methods.simclr import among_all_views

LEARN = ("both", "pictures", "views")


class PointContrast(nn.Module):
    """NT-Xent between clouds of one object, between a cloud and its picture, or the sum of both.

    Args:
        encoder: `[B,P,3] -> [B,D]`, see `vidssl.encoders.points`; what a run exports.
        pictures: an image encoder, `[B,1,3,S,S] -> [B,1,D']` (see `vidssl.encoders`); None to learn from views alone.
        learn: `"views"`, `"pictures"` or `"both"`.
        temperature: of the cosine similarity (0.1 in the paper's code).
        hidden, dim: widths of the two-layer projectors.
    """

    context = None
    output = "encoder"

    def __init__(
        self,
        encoder: Any,
        pictures: Any | None = None,
        *,
        learn: str = "both",
        temperature: float = 0.1,
        hidden: int = 256,
        dim: int = 128,
    ) -> None:
        super().__init__()
        if learn not in LEARN:
            raise unknown_name("contrast", learn, LEARN)
        if temperature <= 0:
            raise VidsslError(f"temperature: got {temperature}; give one above 0")
        if (pictures is None) != (learn == "views"):
            raise VidsslError(
                f"point contrast: learn={learn!r} {'needs' if pictures is None else 'has no use for'} "
                "an encoder of pictures"
            )
        self.encoder, self.pictures, self.learn, self.temperature = encoder, pictures, learn, temperature
        self.projector = mlp((encoder.dim, hidden, dim), last_norm=True)
        self.picture_projector = None if pictures is None else mlp((pictures.dim, hidden, dim), last_norm=True)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of its terms, and what the collapse doctor reads.

        Args:
            batch: `points` float32 `[B,2,P,3]`, `pictures` uint8 `[B,3,S,S]` of the first view (where they are used),
                `object` int64 `[B]`: an object's clouds and pictures are not told apart from each other.

        Raises:
            VidsslError: other shapes, or a batch of one object: no negatives.
        """
        points, objects = batch["points"], batch["object"]
        if points.ndim != 4 or points.shape[1] != 2:
            raise VidsslError(f"point contrast: expected points [B,2,P,3], got {tuple(points.shape)}")
        features = self.encoder(points.transpose(0, 1).flatten(0, 1))  # view-major: row v*B + b
        embeddings = self.projector(features)
        z = F.normalize(embeddings, dim=1)
        terms = {}
        if self.learn != "pictures":
            terms["term_views"] = self._contrast(z, objects)
        if self.pictures is not None and self.picture_projector is not None:
            seen = clip_feature(self.pictures, batch["pictures"][:, None].to(points.dtype) / 255)
            y = F.normalize(self.picture_projector(seen), dim=1)
            terms["term_pictures"] = self._contrast(torch.cat([z[: len(y)], y]), objects)
        loss = torch.stack(list(terms.values())).sum()
        return loss, {**{name: term.detach() for name, term in terms.items()}, **health(features, embeddings)}

    forward = loss

    def _contrast(self, z: Tensor, objects: Tensor) -> Tensor:
        """Each of two sets `[2B,E]` among all of both; other rows of the same object are no negatives."""
        return among_all_views(z, objects.repeat(2), 2, self.temperature, "other-videos")
