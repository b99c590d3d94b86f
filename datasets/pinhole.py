"""The pinhole camera of depth views: x right, y down, z forward, pixel centres at integers.

S side of an image in pixels, n rotations.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError

NEAREST = 0.01  # metres: nothing may come nearer to the camera


@dataclass(frozen=True)
class PinholeCamera:
    """A square pinhole camera whose principal point is the middle of the image."""

    size: int = 128
    """side S of the image, pixels"""
    focal: float = 300.0
    """focal length, pixels"""
    distance: float = 0.8
    """from the camera to the middle of the object, metres"""

    def __post_init__(self) -> None:
        if self.size < 1 or self.focal <= 0 or self.distance <= NEAREST:
            raise VidsslError(
                f"camera: got size {self.size}, focal {self.focal} px, distance {self.distance} m; size and focal must "
                f"be positive, distance above {NEAREST}"
            )

    @property
    def K(self) -> NDArray[np.float64]:
        """Intrinsics float64 [3,3]."""
        centre = (self.size - 1) / 2
        return np.array([[self.focal, 0, centre], [0, self.focal, centre], [0, 0, 1]])

    @cached_property
    def directions(self) -> NDArray[np.float32]:
        """Direction through every pixel, float32 [S*S,3], row by row; z is 1."""
        across = (np.arange(self.size) - (self.size - 1) / 2) / self.focal
        x, y = np.meshgrid(across, across)
        return np.stack([x.ravel(), y.ravel(), np.ones(self.size**2)], 1).astype(np.float32)


def check_camera(K: NDArray[np.float64]) -> None:
    """Nothing, when K is the matrix of a pinhole camera.

    Raises:
        VidsslError: it is not [3,3], has a focal length that is not positive, or another last row than 0 0 1.
    """
    if K.shape != (3, 3) or not np.isfinite(K).all() or min(K[0, 0], K[1, 1]) <= 0 or (K[2] != (0, 0, 1)).any():
        raise VidsslError(
            f"K: expected intrinsics [[fx,0,cx],[0,fy,cy],[0,0,1]] with positive focal lengths, got {K.tolist()}"
        )


def rotation_mask(rotations: NDArray[np.floating[Any]], tolerance: float = 1e-3) -> NDArray[np.bool_]:
    """bool [n]: which of [n,3,3] are rotations, every entry of R^T R within `tolerance` of I's and det R > 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        square = np.swapaxes(rotations, 1, 2) @ rotations
        close = (np.abs(square - np.eye(3)) <= tolerance).all((1, 2))
        return close & (np.linalg.det(rotations) > 0)
