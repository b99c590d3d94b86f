"""Depth in LeRobot's videos: metres as 12-bit codes, finer near the camera.

    code = round(4095 * (log(z + shift) - log(least + shift)) / (log(most + shift) - log(least + shift)))

with z in metres; without the logarithm where `log` is false. Everything at or below `least` gets code 0, so a missing
return (0 m) does too; code 0 is therefore read as 0, no return. Source: lerobot 0.6, `datasets/depth_utils.py`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vidssl.errors import VidsslError

TOP = 4095  # the largest 12-bit code
MILLIMETRES = 1000.0


@dataclass(frozen=True)
class DepthCode:
    """The range in metres that the codes 0..4095 span."""

    least: float = 0.01
    most: float = 10.0
    shift: float = 3.5
    log: bool = True

    def __post_init__(self) -> None:
        if not self.least < self.most or (self.log and self.least + self.shift <= 0):
            raise VidsslError(f"depth codes: expected least < most and least + shift > 0, got {self}")

    @classmethod
    def of(cls, info: dict[str, Any]) -> "DepthCode":
        """As a feature's `info` states it; LeRobot's defaults for what it leaves out."""
        names = {"least": "depth_min", "most": "depth_max", "shift": "shift", "log": "use_log"}
        given = {ours: info.get(f"video.{theirs}", info.get(theirs)) for ours, theirs in names.items()}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def info(self) -> dict[str, Any]:
        """What a feature's `info` says of it."""
        return {
            "video.depth_min": self.least,
            "video.depth_max": self.most,
            "video.shift": self.shift,
            "video.use_log": self.log,
        }

    def encode(self, metres: np.ndarray) -> np.ndarray:
        """float [...] metres -> uint16 codes."""
        low, high = self._ends()
        value = np.asarray(metres, np.float64)
        if self.log:
            value = np.log(np.maximum(value, self.least) + self.shift)
        return np.rint((value - low) / (high - low) * TOP).clip(0, TOP).astype(np.uint16)

    def decode(self, code: np.ndarray) -> np.ndarray:
        """uint16 codes [...] -> float32 metres; 0 for code 0."""
        low, high = self._ends()
        value = np.arange(TOP + 1) * ((high - low) / TOP) + low
        metres = np.exp(value) - self.shift if self.log else value
        metres[0] = 0
        return metres.astype(np.float32)[np.minimum(code, TOP)]

    def _ends(self) -> tuple[float, float]:
        ends = np.array([self.least, self.most])
        low, high = np.log(ends + self.shift) if self.log else ends
        return float(low), float(high)


def to_metres(depth: np.ndarray) -> np.ndarray:
    """Depth as a camera gives it, float metres or whole millimetres, in float32 metres."""
    return np.asarray(depth, np.float32) / (1 if np.issubdtype(depth.dtype, np.floating) else np.float32(MILLIMETRES))
