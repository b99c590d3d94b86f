"""Depth to points and normals, and the answers to what isn't depth."""

import numpy as np
import pytest
from numpy.typing import NDArray

from vidssl.errors import VidsslError
from vidssl.rotation.clouds import backproject, check_depth, check_intrinsics, depth_normals

K = np.array([[300.0, 0, 63.5], [0, 300.0, 63.5], [0, 0, 1]])


def plane(
    normal: NDArray[np.float64], distance: float = 0.8, size: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Depth of the plane through (0, 0, distance), and its intrinsics."""
    intrinsics = np.array([[150.0, 0, 31.5], [0, 160.0, 30.0], [0, 0, 1]])
    v, u = np.mgrid[:size, :size]
    rays = np.stack((u, v, np.ones_like(u)), axis=-1) @ np.linalg.inv(intrinsics).T
    return (normal[2] * distance / (rays @ normal)).astype(np.float32), intrinsics


def test_points_of_a_pixel_by_hand() -> None:
    depth = np.zeros((128, 128), np.float32)
    depth[63, 64], depth[10, 0] = 0.9, 0.6
    # (0 - 63.5) / 300 * 0.6 = -0.127; (10 - 63.5) / 300 * 0.6 = -0.107; 0.5 / 300 * 0.9 = 0.0015
    expected = [[-0.127, -0.107, 0.6], [0.0015, -0.0015, 0.9]]
    points = backproject(depth, K)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points, expected, atol=1e-7)


@pytest.mark.parametrize("tilt", [(0.0, 0.0, -1.0), (0.5, 0.2, -1.0), (-1.0, 0.7, -1.0)])
def test_normals_of_a_plane(tilt: tuple[float, float, float]) -> None:
    normal = np.array(tilt) / np.linalg.norm(tilt)
    depth, intrinsics = plane(normal)
    np.testing.assert_allclose(depth_normals(depth, intrinsics), np.broadcast_to(normal, (64, 64, 3)), atol=2e-3)


def test_normals_of_a_noisy_sphere_and_nothing_around_it() -> None:
    rng = np.random.default_rng(0)
    v, u = np.mgrid[:128, :128]
    rays = np.stack(((u - 63.5) / 300, (v - 63.5) / 300, np.ones_like(u)), axis=-1)
    along, square = 0.8 * rays[..., 2], (rays**2).sum(-1)
    root = along**2 - square * (0.8**2 - 0.1**2)
    depth = np.where(root > 0, (along - np.sqrt(np.maximum(root, 0))) / square, 0)
    noisy = np.where(depth > 0, depth + rng.normal(0, 2e-4, depth.shape), 0)
    truth = (rays * depth[..., None] - (0, 0, 0.8)) / 0.1
    for image, limit in ((depth, 2.0), (noisy, 6.0)):
        found = depth_normals(np.stack((image, image)), K)
        assert not found[:, depth == 0].any()
        np.testing.assert_array_equal(found[0], found[1])
        inside = (depth > 0) & (truth[..., 2] < -0.5)
        off = np.degrees(np.arccos(np.clip((found[0] * truth)[inside].sum(-1), -1, 1)))
        assert np.median(off) < limit
        np.testing.assert_allclose(np.linalg.norm(found[0][inside], axis=-1), 1, atol=1e-5)


def test_normals_do_not_cross_an_edge_and_need_three_pixels() -> None:
    depth = np.full((20, 20), 0.8, np.float32)
    depth[:, 10:] = 1.2  # a step of 0.4 m: both sides face the camera all the same
    np.testing.assert_allclose(depth_normals(depth, K), np.broadcast_to((0, 0, -1), (20, 20, 3)), atol=1e-6)
    line = np.zeros((20, 20), np.float32)
    line[5] = 0.8
    assert not depth_normals(line, K).any()


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
