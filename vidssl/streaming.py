"""An encoder as one function of a frame and a state of fixed shapes: what a graph can be exported from.

    frame uint8 [B,H,W,3] ──> resize ──> encoder.step ──> context.step ──> feature [B,D]
    fresh bool [B]  ───────>    └── before ──┘   └── hidden / count, blocks ──┘ ──> the state of the next frame

B streams, H x W pixels of the camera, h x w pixels the encoder works at, P earlier frames it depends on, D feature dim.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.encoders.context import GRUContext, TransformerContext
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor


class StreamingModule(nn.Module):
    """`(frame, fresh, *state) -> (feature, *state)`: `FeatureExtractor.step` without anything remembered inside.

    Args:
        extractor: whose weights it shares.
        camera: (H, W) of the frames that it takes.
        batch: B.

    Attributes:
        state: the starting state by name, tensors of fixed shape on the extractor's device. A stream that is `fresh`
            forgets what is in it.

    Raises:
        VidsslError: the extractor has no stream (the context of a clip encoder), or a context of another kind.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, extractor: FeatureExtractor, camera: tuple[int, int], batch: int = 1) -> None:
        super().__init__()
        extractor._check_streams()
        self.encoder, self.context, self.window = extractor.encoder, extractor.context, extractor.window
        self.scales = tuple(camera) != tuple(extractor.image_size)
        (height, width), (h, w) = camera, extractor.image_size
        self.register_buffer("rows", resizing(height, h).to(extractor.device), persistent=False)
        self.register_buffer("columns", resizing(width, w).to(extractor.device), persistent=False)
        self.state: dict[str, Tensor] = {}
        if self.encoder.past:
            self.state["before"] = torch.zeros(batch, self.encoder.past, 3, h, w)
        self.state |= _context_state(self.context, batch)
        self.state = {name: tensor.to(extractor.device) for name, tensor in self.state.items()}

    def forward(self, frame: Tensor, fresh: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The next frame of every stream.

        Args:
            frame: uint8 `[B,H,W,3]`.
            fresh: bool `[B]`, True where an episode begins.
            *state: in the order of `self.state`.

        Returns:
            feature float32 `[B,D]`, then the new state.
        """
        named = dict(zip(self.state, state, strict=True))
        image = self.prepared(frame)
        before, new = None, {}
        if self.encoder.past:
            still = image[:, None].expand(-1, self.encoder.past, -1, -1, -1)
            before = torch.where(fresh[:, None, None, None, None], still, named["before"])
            new["before"] = torch.cat([before[:, 1:], image[:, None]], dim=1)
            before = before[:, -1] if self.window is None else before
        feature = self.encoder.step(image, before)
        if self.context is not None:
            states = self.context.forget([named[name] for name in self.state if name != "before"], fresh)
            feature, states = self.context.step(feature, states)
            new |= zip((name for name in self.state if name != "before"), states, strict=True)
        # The new state is the next call's input, whose strides the graph was made for.
        return (feature, *(new[name].contiguous() for name in self.state))

    def prepared(self, frame: Tensor) -> Tensor:
        """uint8 `[B,H,W,3]` -> float `[B,3,h,w]` in [0, 1]."""
        image = frame.movedim(-1, -3).float() / 255
        return self.rows @ image @ self.columns.T if self.scales else image


def resizing(size: int, wanted: int) -> Tensor:
    """Antialiased bilinear scaling along one axis as a matrix, float32 `[wanted, size]`.

    The scaling of an image is linear and separable, so two products with such matrices give `F.interpolate`'s numbers
    in every runtime; resize operators differ between runtimes at the borders.
    """
    unit = torch.eye(size)[None, None]
    return F.interpolate(unit, (wanted, size), mode="bilinear", antialias=True, align_corners=False)[0, 0]


def _context_state(context: Any, batch: int) -> dict[str, Tensor]:
    """The state of a context before the first frame, by name, at its full length."""
    if context is None:
        return {}
    if isinstance(context, GRUContext):
        return {"hidden": torch.zeros(batch, 1, context.dim)}
    if isinstance(context, TransformerContext):
        blocks = {f"block{i}": torch.zeros(batch, context.window - 1, context.dim) for i in range(len(context.blocks))}
        return {"count": torch.zeros(batch, dtype=torch.long), **blocks}
    raise VidsslError(
        f"export: a context of kind {type(context).__name__} has no state of fixed shape here; "
        "export the encoder alone with --output encoder, or use vidssl.load_encoder in the controller"
    )
