"""From a depth image to points, and the questions that come first: is it depth, and do K and it agree?

H, W rows and columns; n surface points; K [3,3] intrinsics in pixels, pixel centres at integers.
Camera frame x right, y down, z forward; metres. Depth is z, not the length of the ray; 0 = no return.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidssl.errors import VidsslError

FEWEST_POINTS = 50  # a rotation has 3 degrees of freedom, a plane and noise take the rest
FARTHEST = 50.0  # metres; what a depth camera calls farther than this is a number of millimetres


def check_depth(depth: ArrayLike, name: str = "depth") -> NDArray[np.float32]:
    """One depth image as float32 [H, W] metres.

    Args:
        depth: what a caller passed, array or CPU tensor.
        name: how the message calls it.

    Raises:
        VidsslError: not an image, not numbers, NaN, negative, empty, under 50 surface points, or millimetres.
    """
    try:
        image = np.asarray(depth, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise VidsslError(f"{name}: not an array of numbers ({error}); pass depth float32 [H,W] in metres") from error
    if image.ndim != 2:
        raise VidsslError(
            f"{name}: expected depth [H,W] in metres, got shape {image.shape}; pass one image, no channels"
        )
    if not np.isfinite(image).all():
        bad = int((~np.isfinite(image)).sum())
        raise VidsslError(f"{name}: {bad} of {image.size} pixels are NaN or infinite; write 0 where there is no return")
    if (image < 0).any():
        raise VidsslError(f"{name}: got depth down to {image.min():.3g} m; depth grows forwards, 0 means no return")
    seen = image[image > 0]
    if len(seen) == 0:
        raise VidsslError(f"{name}: empty, no pixel has a return; is the object in view and the mask not inverted?")
    if len(seen) < FEWEST_POINTS:
        points = "1 surface point" if len(seen) == 1 else f"{len(seen)} surface points"
        raise VidsslError(
            f"{name}: {points} of {image.size} pixels; {FEWEST_POINTS} at the least are needed to tell a rotation"
        )
    if (middle := float(np.median(seen))) > FARTHEST:
        raise VidsslError(
            f"{name}: median depth {middle:.4g}; this looks like millimetres, metres are expected: divide by 1000"
        )
    return image


def check_intrinsics(K: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Intrinsics as float64 [3, 3], plausible for an image of `shape` (H, W).

    Raises:
        VidsslError: not a matrix [[fx,0,cx],[0,fy,cy],[0,0,1]], a principal point outside the picture, or focal lengths
            that give a field of view under 3° or over 150°, or differ by more than a factor of 2.
    """
    height, width = shape
    try:
        matrix = np.asarray(K, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise VidsslError(f"K: not an array of numbers ({error}); pass the camera's matrix [3,3]") from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise VidsslError(f"K: expected finite intrinsics [3,3] in pixels, got shape {matrix.shape}")
    (fx, skew, cx), (zero, fy, cy) = matrix[0], matrix[1]
    if skew or zero or not np.array_equal(matrix[2], (0, 0, 1)):
        raise VidsslError(
            f"K: expected [[fx,0,cx],[0,fy,cy],[0,0,1]], got {matrix.tolist()}; is it transposed? cx, cy go into"
            " the last column"
        )
    if not (0 <= cx <= width - 1 and 0 <= cy <= height - 1):
        raise VidsslError(
            f"K: principal point ({cx:g}, {cy:g}) lies outside the picture of {width}x{height} pixels; was K scaled and"
            " cropped along with the image?"
        )
    for name, focal, pixels in (("fx", fx, width), ("fy", fy, height)):
        if focal <= 0 or not 3 <= (view := float(np.degrees(2 * np.arctan(pixels / 2 / focal)))) <= 150:
            seen = "" if focal <= 0 else f", a field of view of {view:.3g}°"
            raise VidsslError(
                f"K: {name} = {focal:g} px is implausible for {pixels} pixels{seen}; expected 3° to 150°: give it in"
                " pixels of this image, not in millimetres or shares of its width"
            )
    if not 0.5 <= fx / fy <= 2:
        raise VidsslError(
            f"K: fx = {fx:g} and fy = {fy:g} px differ by more than a factor of 2; pixels are nearly square"
        )
    return matrix


def backproject(depth: NDArray[np.floating], K: NDArray[np.floating]) -> NDArray[np.float32]:
    """Points float32 [n, 3] in metres of the pixels of depth [H, W] with a return, row by row."""
    return points_image(depth, K)[depth > 0]


def points_image(depth: NDArray[np.floating], K: NDArray[np.floating]) -> NDArray[np.float32]:
    """The point [..., H, W, 3] in metres of each pixel of depth [..., H, W]; the origin where there is no return."""
    height, width = depth.shape[-2:]
    z = np.asarray(depth, dtype=np.float32)
    x = z * ((np.arange(width) - K[0, 2]) / K[0, 0]).astype(np.float32)
    y = z * ((np.arange(height) - K[1, 2]) / K[1, 1]).astype(np.float32)[:, None]
    return np.stack((x, y, z), axis=-1)
