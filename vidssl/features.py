"""What a controller imports: raw camera frames in, features out.

B streams or clips, T frames, T' times (T for a frame encoder), H x W pixels of the camera, D feature dim.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.checkpoint import read_config, read_model
from vidssl.encoders import build_encoder
from vidssl.encoders.context import State, build_context
from vidssl.errors import VidsslError

Output = Literal["encoder", "context"]
OUTPUTS = ("encoder", "context")
PART = 32  # windows encoded at a time
LOADERS = {
    "points": "vidssl.encoders.points.load_point_encoder",
    "rotation": "vidssl.rotation.load_estimator",
    "rotation-views": "vidssl.rotation.views2d.load_views_estimator",
}  # of runs of another kind, by the `kind` in their config.json


class FeatureExtractor:
    """A frozen encoder with its own preprocessing. Frames go in as the camera gives them: uint8 RGB.

    >>> enc = vidssl.load_encoder("runs/mine")
    >>> enc(frames)        # uint8 [T,H,W,3] -> float32 [T,D]; [B,T,H,W,3] -> [B,T,D]
    >>> enc.reset()        # a new episode
    >>> enc.step(frame)    # uint8 [H,W,3] -> float32 [D], the same numbers as the whole clip gives

    Frames of another size are scaled to `image_size` (antialiased bilinear). Feed frames at about `fps` where it is
    given: the encoder has learned motion at that rate.

    A clip encoder (`r3d-18`, `vit-video`, …) gives T' < T features a clip; its stream is encoded window by window:

        ..xxxxxxxX   window 8: `step` gives the mean of the features of the clip of the newest frame X and the seven
                     before it, enc(last 8 frames).mean(0); at the start the first frame is repeated to fill up

    Attributes:
        dim: D.
        image_size: (height, width) in pixels the encoder works at.
        fps: frames per second it was trained at, None when unknown or mixed.
        output: `"encoder"` (one frame, with motion its neighbour, or a window) or `"context"` (all frames since reset).
        window: frames that `step` of a clip encoder looks back over; None for a frame encoder.
    """

    def __init__(
        self,
        encoder: nn.Module,
        context: nn.Module | None,
        image_size: tuple[int, int],
        fps: float | None = None,
        output: Output = "encoder",
        config: dict[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if output not in OUTPUTS:
            raise VidsslError(f"output: got {output!r}; choose from {', '.join(OUTPUTS)}")
        if output == "context" and context is None:
            raise VidsslError('output "context": this run exports no context; use output="encoder"')
        self.device = _usable(device)
        self.encoder: Any = encoder.to(self.device).eval().requires_grad_(False)
        self.context: Any = (
            context.to(self.device).eval().requires_grad_(False) if output == "context" and context else None
        )
        self.image_size, self.fps, self.output, self.config = image_size, fps, output, config or {}
        self.dim: int = (self.encoder if self.context is None else self.context).dim  # type: ignore[assignment]
        self.window: int | None = getattr(encoder, "window", None)
        self.reset()

    @torch.no_grad()  # not inference_mode: heads are trained on these features
    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """Features of whole clips: uint8 `[T,H,W,3]` -> float32 `[T',D]`, or `[B,T,H,W,3]` -> `[B,T',D]`.

        Each clip starts afresh; the streaming state is not touched.
        """
        clips = self._checked(frames, (4, 5), "[T,H,W,3] or [B,T,H,W,3]")
        single = clips.ndim == 4
        with _in_float32(self.device):
            features = self.encoder(self.prepare(clips[None] if single else clips))
            if self.context:
                features = self.context(features)
        return features[0] if single else features

    @torch.no_grad()
    def maps(self, frames: np.ndarray | Tensor) -> Tensor:
        """Features before their pooling, where in the picture they are: uint8 `[T,H,W,3]` -> float32 `[T',D',h,w]`, or
        `[B,T,H,W,3]` -> `[B,T',D',h,w]`. Each clip starts afresh; the streaming state is not touched.

        Raises VidsslError for encoders without maps.
        """
        clips = self._checked(frames, (4, 5), "[T,H,W,3] or [B,T,H,W,3]")
        if not hasattr(self.encoder, "maps"):
            raise VidsslError(f"{type(self.encoder).__name__} has no maps; choose an encoder of `vidssl list`")
        single = clips.ndim == 4
        with _in_float32(self.device):
            maps = self.encoder.maps(self.prepare(clips[None] if single else clips))
        return maps[0] if single else maps

    @torch.no_grad()
    def per_frame(self, frames: np.ndarray | Tensor) -> Tensor:
        """Features of every frame, those that `step` gives: uint8 `[T,H,W,3]` -> float32 `[T,D]`, or `[B,T,H,W,3]` ->
        `[B,T,D]`. A clip encoder encodes a window a frame for it; the streaming state is not touched.
        """
        if self.window is None:
            return self(frames)
        self._check_streams()
        clips = self._checked(frames, (4, 5), "[T,H,W,3] or [B,T,H,W,3]")
        single = clips.ndim == 4
        x = self.prepare(clips[None] if single else clips)
        x = torch.cat([x[:, :1].expand(-1, self.window - 1, -1, -1, -1), x], dim=1)
        windows = x.unfold(1, self.window, 1).movedim(-1, 2)  # [B,T,window,3,H,W], a view
        parts = (part.flatten(0, 1) for part in windows.split(max(1, PART // len(x)), dim=1))
        with _in_float32(self.device):
            features = torch.cat([self.encoder(part).mean(1).unflatten(0, (len(x), -1)) for part in parts], dim=1)
        return features[0] if single else features

    def reset(self, batch: int | None = None) -> None:
        """Forget the frames seen: call at the start of an episode.

        Args:
            batch: number of parallel streams for `step` on `[B,H,W,3]`; None takes it from the first frames.
        """
        self._batch = batch
        self._before: Tensor | None = None
        self._state: State = None
        self._fresh: Tensor | None = None

    def reset_rows(self, rows: Sequence[bool] | np.ndarray | Tensor) -> None:
        """Forget what some of the parallel streams have seen: bool `[B]`, True where a new episode starts."""
        mask = torch.as_tensor(rows if isinstance(rows, Tensor) else np.asarray(rows), dtype=torch.bool).cpu()
        if self._batch is None or mask.shape != (self._batch,):
            raise VidsslError(
                f"reset_rows: expected bool [{self._batch}], got {tuple(mask.shape)}; call reset(batch=B) first"
            )
        self._fresh = mask if self._fresh is None else self._fresh | mask

    @torch.no_grad()
    def step(self, frame: np.ndarray | Tensor) -> Tensor:
        """The next frame of a stream: uint8 `[H,W,3]` -> float32 `[D]`; of B streams: `[B,H,W,3]` -> `[B,D]`."""
        frame = self._checked(frame, (3, 4), "[H,W,3] or [B,H,W,3]")
        single = frame.ndim == 3
        frames = frame[None] if single else frame
        if self._batch is not None and len(frames) != self._batch:
            raise VidsslError(
                f"step: {self._batch} streams are running, got {len(frames)} frames; call reset(batch={len(frames)})"
            )
        self._batch = len(frames)
        self._check_streams()
        with _in_float32(self.device):
            feature = self._advance(self.prepare(frames))
        return feature[0] if single else feature

    def _advance(self, prepared: Tensor) -> Tensor:
        """Frames `[B,3,H,W]` in [0, 1] -> features `[B,D]`; moves the state on by a frame."""
        still = prepared[:, None].expand(-1, max(1, self.encoder.past), -1, -1, -1)  # the past of a stream that begins
        before, fresh = self._before, self._fresh
        if before is None:
            before = still
        elif fresh is not None:
            fresh = fresh.to(self.device)
            before = torch.where(fresh[:, None, None, None, None], still, before)
            self._state = self.context.forget(self._state, fresh) if self.context else None
        feature = self.encoder.step(prepared, before[:, -1] if self.window is None else before)
        if self.context:
            feature, self._state = self.context.step(feature, self._state)
        self._before, self._fresh = torch.cat([before[:, 1:], prepared[:, None]], dim=1), None
        return feature

    def _check_streams(self) -> None:
        if self.window is not None and self.context is not None:
            raise VidsslError(
                'output "context": the encoder of this run has features of clips, not of frames, so its context has no '
                'stream; use output="encoder", or train with a frame encoder'
            )

    def _checked(self, frames: np.ndarray | Tensor, ndims: tuple[int, int], shape: str) -> Tensor:
        if not isinstance(frames, np.ndarray | Tensor):
            raise VidsslError(
                f"frames: expected a uint8 array {shape}, got {type(frames).__name__}; pass raw camera frames"
            )
        dtype = str(frames.dtype).removeprefix("torch.")
        if dtype != "uint8" or frames.ndim not in ndims or frames.shape[-1] != 3:
            raise VidsslError(
                f"frames: expected uint8 {shape}, got {dtype} {tuple(frames.shape)}; "
                "pass raw camera frames (RGB, channels last), scaling happens inside"
            )
        if 0 in frames.shape:
            raise VidsslError(f"frames: got an empty array {tuple(frames.shape)}; pass at least one frame")
        tensor = frames if isinstance(frames, Tensor) else torch.from_numpy(np.ascontiguousarray(frames))
        return tensor.to(self.device)

    def prepare(self, frames: Tensor) -> Tensor:
        """Frames as the encoder takes them: uint8 `[...,H,W,3]` -> float32 `[...,3,*image_size]` in [0, 1]."""
        x = frames.movedim(-1, -3).float().div_(255)
        if x.shape[-2:] == self.image_size:
            return x
        flat = F.interpolate(x.flatten(0, -4), self.image_size, mode="bilinear", antialias=True, align_corners=False)
        return flat.unflatten(0, x.shape[:-3])


@contextmanager
def _in_float32(device: torch.device) -> Iterator[None]:
    """Convolutions as on the CPU: by itself cuDNN rounds what it multiplies to the 10 bits of TF32."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    ):
        yield


def _usable(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch's words for no such name, no GPU, no such GPU
        reason = str(error).partition("\n")[0]
        raise VidsslError(f'device: torch can\'t use {str(device)!r} ({reason}); pass device="cpu"') from error
    return found


def load_encoder(run: str | Path, device: str | torch.device = "cpu", output: Output | None = None) -> FeatureExtractor:
    """The frozen encoder of a run folder.

    Args:
        run: the `--out` folder of `vidssl pretrain`.
        device: where to run it.
        output: `"encoder"` or `"context"`; None takes the one that the run exports.
    Raises:
        VidsslError: not a run folder, one of another kind or version, weights that are missing, damaged or of another
            architecture, a device that torch can't use.
    """
    config = read_config(run)
    if (kind := config.get("kind")) is not None:
        how = f"load it with {LOADERS[kind]}" if kind in LOADERS else f"the kinds known here are {', '.join(LOADERS)}"
        raise VidsslError(f"{run} is a run of kind {kind!r}, which holds no encoder of frames; {how}")
    weights = {name: w for name, w in read_model(run).items() if not name.startswith("energy.")}
    try:
        size = (int(config["image_size"][0]), int(config["image_size"][1]))
        encoder: nn.Module = build_encoder(config["encoder"]["name"], size)
        context = None
        if config["context"] is not None:
            context = build_context(config["context"]["name"], config["encoder"]["dim"], config["context"]["dim"])
        modules = nn.ModuleDict({"encoder": encoder} if context is None else {"encoder": encoder, "context": context})
        modules.load_state_dict(weights)
        return FeatureExtractor(encoder, context, size, config["fps"], output or config["output"], config, device)
    except (KeyError, TypeError, IndexError) as error:
        raise VidsslError(f"{run}/config.json lacks or garbles {error}; restore it or train again") from error
    except RuntimeError as error:
        raise VidsslError(
            f"{run}: model.safetensors does not fit config.json ({error}); restore both or train again"
        ) from error
