"""Cutting the object out of a depth view, by hand."""

import numpy as np
import pytest
import torch

from vidssl.datasets.mesh_views import MeshRenderer
from vidssl.datasets.pinhole import PinholeCamera
from vidssl.datasets.solids import make_solid
from vidssl.errors import VidsslError
from vidssl.rotation.crops import PITCH, cell_normals, cells, crop

K = torch.tensor([[300.0, 0, 63.5], [0, 300.0, 63.5], [0, 0, 1]])


def square(first: int = 54, rows: int = 40) -> torch.Tensor:
    """A flat square 0.8 m away in columns first…first+19 and `rows` rows about the middle one."""
    depth = torch.zeros(1, 128, 128)
    depth[0, 64 - rows // 2 : 64 + rows // 2, first : first + 20] = 0.8
    return depth


def test_a_flat_square_by_hand() -> None:
    """A pixel of the view is one of the crop: 300 px · 0.1 m / 0.8 m = 37.5 px a radius, and PITCH is 1/37.5."""
    found = crop(square(), K, 0.1)
    torch.testing.assert_close(found.origin, torch.tensor([[0.0, 0.0, 0.8]]))
    torch.testing.assert_close(found.radius, torch.tensor([0.1]))
    assert found.points.shape == (1, 3, 96, 96)
    # crop pixel (i, j) is pixel (i + 16, j + 16) of the view: rows 44…83, columns 54…73
    expected = torch.zeros(96, 96)
    expected[28:68, 38:58] = 1
    torch.testing.assert_close(found.mask[0, 0], expected)
    x = (torch.arange(96) - 47.5) / 37.5  # radii
    torch.testing.assert_close(found.points[0, 0], x.expand(96, 96) * expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.points[0, 1], x[:, None].expand(96, 96) * expected, atol=1e-5, rtol=0)
    assert float(found.points[0, 2].abs().max()) < 1e-5


def test_the_origin_is_what_is_seen_and_the_crop_follows_it() -> None:
    """20 columns to the right: (83.5 - 63.5) / 300 · 0.8 m = 0.0533 m; the crop is the same."""
    middle, aside = crop(square(), K, 0.1), crop(square(74), K, 0.1)
    torch.testing.assert_close(aside.origin, torch.tensor([[20 / 300 * 0.8, 0.0, 0.8]]))
    torch.testing.assert_close(aside.mask, middle.mask)
    torch.testing.assert_close(aside.points, middle.points, atol=1e-5, rtol=0)


def test_twice_the_radius_is_every_second_pixel() -> None:
    found = crop(square(), K, torch.tensor([0.2]))
    assert int(found.mask.sum()) == 20 * 10
    seen = found.points[0, :, found.mask[0, 0] > 0]
    assert float(seen[0].diff().abs()[:9].mean()) == pytest.approx(PITCH, rel=1e-4)


def test_what_lies_outside_the_picture_has_no_return() -> None:
    depth = torch.zeros(1, 128, 128)
    depth[0, :10, :10] = 0.8  # the crop reaches 43 pixels over the upper and left border
    found = crop(depth, K, 0.1)
    assert int(found.mask.sum()) == 100
    assert not found.points[0, :, :43].any()


def test_another_camera_sees_nearly_the_same() -> None:
    """Twice the focal length and twice the pixels: the crop takes every second pixel of what is twice as large."""
    mesh, turn = make_solid(7), np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    found = []
    for camera in (PinholeCamera(), PinholeCamera(size=256, focal=600.0)):
        depth = MeshRenderer([mesh], camera).depth([0], turn[None])
        found.append(crop(torch.from_numpy(depth), torch.from_numpy(camera.K), 0.1))
    few, many = found
    torch.testing.assert_close(few.origin, many.origin, atol=5e-4, rtol=0)
    both = few.mask * many.mask
    assert float(both.sum() / torch.maximum(few.mask, many.mask).sum()) > 0.95
    off = ((few.points - many.points) * both).norm(dim=1)[both[:, 0] > 0]
    assert float(off.median()) < PITCH


def test_which_view_is_empty_is_told() -> None:
    depth = torch.cat((square(), torch.zeros(1, 128, 128)))
    with pytest.raises(VidsslError, match=r"depth\[1\]: empty, no pixel has a return"):
        crop(depth, K, 0.1)


def test_crops_can_be_chosen() -> None:
    found = crop(torch.cat((square(), square(74))), K, torch.tensor([0.1, 0.12]))
    assert len(found) == 2
    one = found[torch.tensor([1])]
    assert len(one) == 1
    torch.testing.assert_close(one.radius, torch.tensor([0.12]))
    torch.testing.assert_close(one.origin[0], found.origin[1])


def test_cells_are_means_of_what_is_seen() -> None:
    points, mask = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    mask[0, 0, 0, 0], mask[0, 0, 1, 1] = 1, 1
    points[0, :, 0, 0], points[0, :, 1, 1] = torch.tensor([1.0, 2, 3]), torch.tensor([3.0, 4, 5])
    middle, share = cells(type(crop(square(), K, 0.1))(points, mask, torch.zeros(1, 3), torch.ones(1)), 2)
    torch.testing.assert_close(share[0, 0], torch.tensor([[0.5, 0], [0, 0]]))
    torch.testing.assert_close(middle[0, :, 0, 0], torch.tensor([2.0, 3, 4]))
    assert not middle[0, :, 1].any()


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.5, 0.0), (0.3, -0.7)])
def test_normals_of_cells_of_a_plane(slope: tuple[float, float]) -> None:
    """z = sx·x + sy·y has the normal (sx, sy, -1), to the camera; at the border too, where one neighbour is missing."""
    y, x = torch.meshgrid(*2 * (torch.linspace(-1, 1, 8),), indexing="ij")
    points = torch.stack((x, y, slope[0] * x + slope[1] * y))[None]
    share = torch.ones(1, 1, 8, 8)
    share[0, 0, :, 6:] = 0.1  # too few pixels to be known
    normals, known = cell_normals(points, share)
    expected = torch.tensor([*slope, -1.0])
    torch.testing.assert_close(normals[0, :, :, :6], (expected / expected.norm())[:, None, None].expand(3, 8, 6))
    assert int(known.sum()) == 48
    assert not normals[0, :, :, 6:].any()


def test_a_cell_without_neighbours_has_no_normal() -> None:
    share = torch.zeros(1, 1, 5, 5)
    share[0, 0, 2, 2] = 1
    normals, known = cell_normals(torch.rand(1, 3, 5, 5), share)
    assert not normals.any()
    assert not known.any()
