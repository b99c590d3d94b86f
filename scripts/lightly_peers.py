"""SimCLR, BYOL and VICReg as users of the `lightly` library build them, as rows of the same table:

    vidssl compare videos/ --out comparison --methods simclr vidssl.scripts.lightly_peers:LightlySimCLR

Losses, heads, transforms, momentum update and schedule are lightly's own, put together as in the examples of its
documentation, widths of the heads included; encoder, loader, optimiser and clock are those of the other rows. lightly
is for images, so three things are ours: the two windows of a clip are drawn as for our methods (`ClipViews`); its PIL
transforms, at its defaults, are applied to every frame of a window with the same random numbers, so that the window
moves as the video did; and a clip's feature is the mean over its times. Its normalisation is left out, since our
encoders have their own. The transforms run in as many processes as torch has threads, and training waits for them:
where there are cores to spare, or a GPU, a DataLoader would make them meanwhile, so clips/s there are a lower bound.

B clips, L frames a window, D feature dim, E embedding dim.
"""

import copy
import importlib
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vidssl.core.monitor import health
from vidssl.core.random import mix_ints
from vidssl.errors import VidsslError
from vidssl.methods.ablation import Ablation
from vidssl.methods.clip_views import ClipViews
from vidssl.methods.heads import clip_feature
from vidssl.views import Views

Transform = Callable[[Any], Tensor]
PARTS = ("loss", "models.modules.heads", "models.utils", "transforms", "utils.scheduler")
SCHEDULE = 10_000  # lightly's schedule counts steps; ours are these parts of the budget


def lightly() -> Any:
    """The library with the modules used here.

    Raises:
        VidsslError: it isn't installed.
    """
    try:
        for part in PARTS:
            importlib.import_module(f"lightly.{part}")
        return importlib.import_module("lightly")
    except ImportError as error:
        raise VidsslError(
            f"the lightly peers need the lightly library ({error}); in this checkout: .tools/bin/uv pip install lightly"
        ) from error


class _Peer(nn.Module):
    """What the three share: two windows of every clip, each through lightly's transform of that view."""

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = ()
    output = "encoder"
    context = None

    def __init__(self, encoder: Any, views: Views, transform: Any, frames: int | None) -> None:
        super().__init__()
        self.encoder, self.views = encoder, views
        self.transforms: Sequence[Transform] = transform.transforms  # one a view
        self.clip_views = ClipViews(views, 2, frames)
        self._pool: ProcessPoolExecutor | None = None

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """The size alone: what happens to a frame is lightly's business."""
        return Views.none(size)

    def two_views(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Both views of the batch: float `[B,L,3,H,W]` in [0, 1], on the clips' device."""
        keys = batch["key"].tolist()
        pairs = zip(self.clip_views.windows(batch["clips"], batch["key"]), self.transforms, strict=True)
        return [self._transformed(window, keys, view, by) for view, (window, by) in enumerate(pairs)]

    def _transformed(self, windows: Tensor, keys: list[int], view: int, transform: Transform) -> Tensor:
        frames = windows.cpu().permute(0, 1, 3, 4, 2).contiguous().numpy()
        seeds = [mix_ints(key, view) for key in keys]
        if torch.get_num_threads() == 1:
            return transformed(transform, frames, seeds).to(windows.device)
        if self._pool is None:  # forked, as a DataLoader's workers
            fork = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(torch.get_num_threads(), fork, torch.set_num_threads, (1,))
        parts = np.array_split(np.arange(len(frames)), min(len(frames), torch.get_num_threads()))
        futures = [self._pool.submit(transformed, transform, frames[part], [seeds[i] for i in part]) for part in parts]
        return torch.cat([future.result() for future in futures]).to(windows.device)


def transformed(transform: Transform, windows: np.ndarray, seeds: Sequence[int]) -> Tensor:
    """Windows uint8 `[B,L,H,W,3]` through a transform of PIL images, all frames of a window with the same draws.

    lightly draws from the global generators of torch and numpy: they are set for each frame, and put back at the end.
    """
    from PIL import Image

    before = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):

            def apply(frame: np.ndarray, seed: int) -> Tensor:
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002
                return transform(Image.fromarray(frame))

            clips = [
                torch.stack([apply(frame, seed) for frame in window])
                for window, seed in zip(windows, seeds, strict=True)
            ]
    finally:
        np.random.set_state(before)  # noqa: NPY002
    return torch.stack(clips)


class LightlySimCLR(_Peer):
    """`NTXentLoss` on `SimCLRProjectionHead`: https://docs.lightly.ai/self-supervised-learning/examples/simclr.html

    Args:
        encoder: `[B,L,3,H,W]` in [0, 1] -> `[B,T',D]`.
        views: only their size is used.
        temperature: lightly's default.
        frames: L, see `ClipViews`.
    """

    def __init__(
        self, encoder: Any, views: Views, *, temperature: float = 0.5, dim: int = 128, frames: int | None = None
    ) -> None:
        library = lightly()
        transform = library.transforms.SimCLRTransform(_side(views), normalize=None)
        super().__init__(encoder, views, transform, frames)
        self.projection_head = library.models.modules.SimCLRProjectionHead(encoder.dim, encoder.dim, dim)
        self.criterion = library.loss.NTXentLoss(temperature)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent of the two views."""
        features = [clip_feature(self.encoder, view) for view in self.two_views(batch)]
        z0, z1 = (self.projection_head(feature) for feature in features)
        return self.criterion(z0, z1), health(torch.cat(features), torch.cat([z0, z1]))


class LightlyBYOL(_Peer):
    """`NegativeCosineSimilarity` with a target network by `update_momentum`:
    https://docs.lightly.ai/self-supervised-learning/examples/byol.html

    Args:
        encoder, views, frames: as for `LightlySimCLR`.
        momentum: of the target at the start, rising to 1 by lightly's `cosine_schedule`.
        hidden, dim: widths of the heads, as in the example.
    """

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        momentum: float = 0.996,
        hidden: int = 1024,
        dim: int = 256,
        frames: int | None = None,
    ) -> None:
        library = lightly()
        transforms, modules = library.transforms, library.models.modules
        view1 = transforms.BYOLView1Transform(_side(views), normalize=None)
        view2 = transforms.BYOLView2Transform(_side(views), normalize=None)
        super().__init__(encoder, views, transforms.BYOLTransform(view1, view2), frames)
        self.projection_head = modules.BYOLProjectionHead(encoder.dim, hidden, dim)
        self.prediction_head = modules.BYOLPredictionHead(dim, hidden, dim)
        self.encoder_momentum, self.projection_head_momentum = (
            copy.deepcopy(encoder),
            copy.deepcopy(self.projection_head),
        )
        library.models.utils.deactivate_requires_grad(self.encoder_momentum)
        library.models.utils.deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = library.loss.NegativeCosineSimilarity()
        self.base_momentum, self.momentum = momentum, momentum

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Half of each direction's negative cosine."""
        step = int(SCHEDULE * float(batch["progress"]))
        self.momentum = lightly().utils.scheduler.cosine_schedule(step, SCHEDULE, self.base_momentum, 1)
        views = self.two_views(batch)
        features = [clip_feature(self.encoder, view) for view in views]
        projections = [self.projection_head(feature) for feature in features]
        p0, p1 = (self.prediction_head(projection) for projection in projections)
        with torch.no_grad():
            z0, z1 = (self.projection_head_momentum(clip_feature(self.encoder_momentum, view)) for view in views)
        loss = 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))
        return loss, health(torch.cat(features), torch.cat(projections)) | {"momentum": loss.new_tensor(self.momentum)}

    def after_step(self) -> None:
        """The target follows."""
        update = lightly().models.utils.update_momentum
        update(self.encoder, self.encoder_momentum, m=self.momentum)
        update(self.projection_head, self.projection_head_momentum, m=self.momentum)


class LightlyVICReg(_Peer):
    """`VICRegLoss` on `VICRegProjectionHead`: https://docs.lightly.ai/self-supervised-learning/examples/vicreg.html

    Args:
        encoder, views, frames: as for `LightlySimCLR`.
        dim: width of the two-layer head, as in the example.
    """

    def __init__(self, encoder: Any, views: Views, *, dim: int = 2048, frames: int | None = None) -> None:
        library = lightly()
        transform = library.transforms.VICRegTransform(_side(views), normalize=None)
        super().__init__(encoder, views, transform, frames)
        self.projection_head = library.models.modules.heads.VICRegProjectionHead(encoder.dim, dim, dim, num_layers=2)
        self.criterion = library.loss.VICRegLoss()

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Invariance, variance and covariance of the two views."""
        features = [clip_feature(self.encoder, view) for view in self.two_views(batch)]
        z0, z1 = (self.projection_head(feature) for feature in features)
        return self.criterion(z0, z1), health(torch.cat(features), torch.cat([z0, z1]))


def _side(views: Views) -> int:
    if views.size[0] != views.size[1]:
        raise VidsslError(f"lightly's transforms give square frames, got {views.size}; choose one side")
    return views.size[0]
