"""What a safety monitor sees of a camera: features, maps, pixel statistics, energies, by the episode or tick by tick.

Energy is that of two windows of w frames a stride s apart, as in the run's training; NaN before the first:

    x.x.x.y.y.Y    w = 3, s = 2: energy(xxx, yyy) at Y, from the features of s interleaved streams

Letters: T ticks, H, W image sides, D feature dim, C, h, w of the encoder's map, S statistics, A action, P
proprioception.
"""

import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidssl.encoders.frame import FrameEncoder
from vidssl.energy import Energy
from vidssl.features import FeatureExtractor

from .safety_scores import Floats, signal_statistics


@dataclass(frozen=True)
class Drive:
    """What happened in an episode, or a part of it.

    Attributes:
        frames: uint8 [T,H,W,3], the camera's images as the controller gets them, not those of a compressed video.
        action: float [T,A], executed after the frame of the same row.
        proprio: float [T,P], felt at the frame; P = 0 where there is none.
    """

    frames: NDArray[np.uint8]
    action: NDArray[Any]
    proprio: NDArray[Any]

    @property
    def motions(self) -> Floats:
        """[T,A+2P]: the action before each frame, proprioception before it and at it; the first row repeats itself."""
        action, proprio = np.asarray(self.action, float), np.asarray(self.proprio, float)
        before = np.maximum(np.arange(len(self.frames)) - 1, 0)
        return np.concatenate([action[before], proprio[before], proprio], axis=1)


@dataclass(frozen=True)
class Sensed:
    """T ticks: `features` [T,D]; `maps` [T,C,h,w], `signal` [T,S] and `energy` [T] where they are looked at."""

    features: Floats
    maps: NDArray[np.float32] | None
    signal: Floats | None
    energy: Floats | None

    @property
    def finite(self) -> bool:
        """Whether all numbers are; of an energy, NaN where there is none yet is as it should be."""
        arrays = [values for values in (self.features, self.maps, self.signal) if values is not None]
        lost = self.energy is not None and np.isinf(self.energy).any()
        return not lost and all(bool(np.isfinite(values).all()) for values in arrays)


class Senses:
    """An extractor, and where there is one an energy, looking at the same camera.

    Args:
        extractor: of the run; maps come from a frame encoder only.
        energy: of a run of method `ebm`, or None.
        fps: ticks a second.
        scores: those that are asked for: what only others need is not computed.
    """

    def __init__(
        self, extractor: FeatureExtractor, energy: Energy | None, fps: float, scores: Sequence[str] | None = None
    ) -> None:
        self.extractor, self.fps = copy.copy(extractor), fps
        self.energy = energy if scores is None or "energy" in scores else None
        self.has_maps = isinstance(extractor.encoder, FrameEncoder) and (scores is None or "detail" in scores)
        self.has_signal = scores is None or "signal" in scores
        self._stride, self._window = (1, 1) if self.energy is None else _windows(self.energy, fps)
        self.reset()

    def reset(self) -> None:
        """A new episode."""
        self.extractor.reset()
        self._last: NDArray[np.uint8] | None = None
        self._streams = [copy.copy(self.energy.extractor) for _ in range(self._stride)] if self.energy else []
        for stream in self._streams:
            stream.reset()
        self._ticks = 0
        self._recent: deque[Tensor] = deque(maxlen=self._span)

    @property
    def _span(self) -> int:
        """Ticks from the first frame of the first window to the last of the second."""
        return (2 * self._window - 1) * self._stride + 1

    @torch.no_grad()
    def episode(self, frames: NDArray[np.uint8]) -> Sensed:
        """All ticks of an episode uint8 [T,H,W,3] at once; the stream is not touched."""
        maps, energy = None, None
        if self.has_maps:
            maps = self.extractor.maps(frames)
        if maps is not None and self.extractor.context is None:
            features = self.extractor.encoder.head(maps)
        else:
            features = self.extractor.per_frame(frames)
        if self.energy is not None and len(frames) < self._span:
            energy = np.full(len(frames), np.nan)
        elif self.energy is not None:
            parts = [self.energy.extractor.per_frame(frames[k :: self._stride]) for k in range(self._stride)]
            features_e = torch.empty(len(frames), parts[0].shape[1])
            for k, part in enumerate(parts):
                features_e[k :: self._stride] = part.cpu()
            energy = self._energies(features_e)
        return Sensed(
            _doubles(features),
            None if maps is None else maps.cpu().numpy(),
            signal_statistics(frames) if self.has_signal else None,
            energy,
        )

    @torch.no_grad()
    def step(self, frame: NDArray[np.uint8]) -> Sensed:
        """The next tick, uint8 [H,W,3]: the same numbers as `episode` gives for its row, but for rounding."""
        features = self.extractor.step(frame)[None]
        maps, energy = None, None
        if self.has_maps:
            clip = frame[None] if self._last is None else np.stack([self._last, frame])
            maps = self.extractor.maps(clip)[-1:].cpu().numpy()
        if self.energy is not None:
            self._recent.append(self._streams[self._ticks % self._stride].step(frame).cpu())
            energy = self._energies(torch.stack(list(self._recent)))[-1:]
        self._last = frame.copy()
        self._ticks += 1
        return Sensed(_doubles(features), maps, signal_statistics(frame[None]) if self.has_signal else None, energy)

    def _energies(self, features: Tensor) -> Floats:
        """[T] of features [T,D]: the windows that end at each tick, NaN where they do not fit, inf for no number."""
        assert self.energy is not None
        energies = np.full(len(features), np.nan)
        if len(features) >= self._span:
            ends = torch.arange(self._span - 1, len(features))
            rows = ends[:, None] + torch.arange(-2 * self._window + 1, 1) * self._stride  # [n,2w]
            past, future = features[rows].to(self.energy.extractor.device).chunk(2, dim=1)
            found = _doubles(self.energy.head(past.mean(1), future.mean(1)))
            energies[self._span - 1 :] = np.where(np.isnan(found), np.inf, found)
        return energies


def _windows(energy: Energy, fps: float) -> tuple[int, int]:
    """Ticks from frame to frame and frames of a window, as the energy was trained."""
    config = energy.extractor.config
    frames = config.get("method", {}).get("options", {}).get("frames") or config["clip"]["frames"] // 2
    rate = energy.extractor.fps
    return (1 if rate is None else max(1, round(fps / rate))), max(1, int(frames))


def _doubles(values: Tensor) -> Floats:
    return values.cpu().double().numpy()
