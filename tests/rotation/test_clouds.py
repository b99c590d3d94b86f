"""Depth to points, and the answers to what isn't depth."""

import numpy as np
import pytest
from numpy.typing import NDArray

from vidssl.errors import VidsslError
from vidssl.rotation.clouds import backproject, check_depth, check_intrinsics

K = np.array([[300.0, 0, 63.5], [0, 300.0, 63.5], [0, 0, 1]])


def test_points_of_a_pixel_by_hand() -> None:
    depth = np.zeros((128, 128), np.float32)
    depth[63, 64], depth[10, 0] = 0.9, 0.6
    # (0 - 63.5) / 300 * 0.6 = -0.127; (10 - 63.5) / 300 * 0.6 = -0.107; 0.5 / 300 * 0.9 = 0.0015
    expected = [[-0.127, -0.107, 0.6], [0.0015, -0.0015, 0.9]]
    points = backproject(depth, K)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points, expected, atol=1e-7)


def test_depth_that_is_fine_comes_back_as_float32() -> None:
    image = np.full((10, 10), 0.8)
    image[0] = 0
    found = check_depth(image)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, image.astype(np.float32))


def filled(value: float, pixels: int = 100) -> NDArray[np.float32]:
    return np.where(np.arange(100).reshape(10, 10) < pixels, value, 0).astype(np.float32)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (filled(0), "depth_b: empty"),
        (filled(0.8, 1), "depth_b: 1 surface point of 100 pixels"),
        (filled(0.8, 49), "depth_b: 49 surface points"),
        (filled(np.nan, 3), "depth_b: 3 of 100 pixels are NaN"),
        (filled(np.inf, 3), "depth_b: 3 of 100"),
        (filled(-0.8), "depth_b: got depth down to -0.8 m"),
        (filled(800), "depth_b: median depth 800; this looks like millimetres"),
        (filled(0.8)[None], r"depth_b: expected depth \[H,W\] in metres, got shape \(1, 10, 10\)"),
        ([["near", "far"]], "depth_b: not an array of numbers"),
    ],
)
def test_what_is_not_depth_is_named(depth: object, message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        check_depth(depth, "depth_b")  # type: ignore[arg-type]


def intrinsics(fx: float = 300, fy: float = 300, cx: float = 63.5, cy: float = 63.5) -> NDArray[np.float64]:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def test_plausible_intrinsics_pass() -> None:
    found = check_intrinsics(K.astype(np.float32), (128, 128))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, K)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(4), r"got shape \(4, 4\)"),
        (np.full((3, 3), np.nan), "finite"),
        (K.T, "transposed"),
        (intrinsics(cx=319.5, cy=239.5), r"principal point \(319.5, 239.5\) lies outside the picture of 128x128"),
        (intrinsics(fx=2.3, fy=2.3), "fx = 2.3 px is implausible for 128 pixels, a field of view of 176°"),
        (intrinsics(fx=0), "fx = 0 px is implausible"),
        (intrinsics(fy=30000), "fy = 30000 px is implausible"),
        (intrinsics(fx=100), "differ by more than a factor of 2"),
    ],
)
def test_intrinsics_that_cannot_belong_to_the_picture(matrix: NDArray[np.float64], message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        check_intrinsics(matrix, (128, 128))
