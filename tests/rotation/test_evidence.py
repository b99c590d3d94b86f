"""Shares of points that speak for and against an alignment, for planes laid out by hand."""

import numpy as np
import pytest
import torch

from vidssl.rotation.evidence import COUNT, View, evidence, make_view

K = torch.tensor([[300.0, 0, 63.5], [0, 300.0, 63.5], [0, 0, 1]])
RADIUS = 0.1  # m: depths within 5 mm are one surface


def pixel(column: int, row: int, z: float) -> list[float]:
    return [(column - 63.5) / 300 * z, (row - 63.5) / 300 * z, z]


def plane(points: list[list[float]], lost: tuple[int, int] | None = None) -> View:
    """A wall 0.8 m away in pixels 20…99 both ways."""
    depth = np.zeros((128, 128), np.float32)
    depth[20:100, 20:100] = 0.8
    if lost:
        depth[lost] = 0
    return make_view(depth, K, torch.tensor(points))


def numbers(a: list[list[float]], b: list[list[float]], shift: tuple[float, float, float] = (0, 0, 0)) -> torch.Tensor:
    return evidence(plane(a), plane(b), torch.eye(3)[None], torch.tensor([shift]), RADIUS)[0]


def test_on_before_off_and_behind_are_a_quarter_each() -> None:
    """The one before lies 5 cm, the one behind 10 cm off the wall; the off one is 20 pixels beside it."""
    points = [pixel(60, 60, 0.8), pixel(60, 60, 0.75), pixel(60, 60, 0.9), pixel(119, 60, 0.8)]
    found = numbers(points, [pixel(60, 60, 0.8)])
    assert found.shape == (2 * COUNT,)
    # distances in units of 5 mm, at most 1: of on and before (0 + 1) / 2, of on 0
    assert found[:COUNT].tolist() == pytest.approx([0.25, 0.25, 0.25, 0.5, 0.0], abs=1e-5)
    assert found[COUNT:].tolist() == pytest.approx([1, 0, 0, 0, 0], abs=1e-5)


def test_distances_count_up_to_the_width_of_a_surface() -> None:
    """2 mm before, 3 mm behind and 4.9 mm before are on; 5.1 mm before is before, 5.1 mm behind says nothing."""
    points = [pixel(60, 60, 0.8 + off) for off in (-0.002, 0.003, -0.0049, -0.0051, 0.0051)]
    found = numbers(points, [pixel(60, 60, 0.8)])
    on = (0.4 + 0.6 + 0.98) / 3
    assert found[:COUNT].tolist() == pytest.approx([0.6, 0.2, 0.0, (3 * on + 1) / 4, on], abs=1e-3)


def test_a_translation_is_undone_on_the_way_back() -> None:
    """1 cm towards the camera: a's point comes to lie before b's wall, b's point behind a's, where it says nothing."""
    found = numbers([pixel(60, 60, 0.8)], [pixel(60, 60, 0.8)], (0, 0, -0.01))
    assert found.tolist() == pytest.approx([0, 1, 0, 1, 0] + [0] * 5, abs=1e-5)


def test_a_rotation_is_undone_on_the_way_back() -> None:
    """A quarter turn about the optical axis takes what is right of the middle below it (x -> y)."""
    quarter = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    right, below = pixel(95, 63, 0.8), pixel(63, 95, 0.8)
    right[1] = below[0] = 0.0
    narrow = np.zeros((128, 128), np.float32)
    narrow[90:100, 60:68] = 0.8  # seen by b: below only
    a, b = make_view(narrow.T.copy(), K, torch.tensor([right])), make_view(narrow, K, torch.tensor([below]))
    turned = evidence(a, b, torch.cat((quarter, quarter.mT)), torch.zeros(2, 3), RADIUS)
    assert turned[0].tolist() == pytest.approx([1, 0, 0, 0, 0] * 2, abs=1e-5)
    assert turned[1].tolist() == pytest.approx([0, 0, 1, 0, 0] * 2, abs=1e-5)  # the other way: nothing is seen there


def test_a_lost_pixel_is_filled_and_the_edge_is_not_nothing() -> None:
    hit = plane([pixel(50, 50, 0.8)])
    hole = plane([pixel(50, 50, 0.8)], lost=(50, 50))
    assert float(hole.depth[50, 50]) == pytest.approx(0.8, abs=1e-6)
    assert not hole.empty[50, 50]
    found = evidence(hit, hole, torch.eye(3)[None], torch.zeros(1, 3), RADIUS)[0]
    assert float(found[0]) == 1
    beside = numbers([pixel(101, 60, 0.8)], [pixel(60, 60, 0.8)])  # two pixels from the wall: neither for nor against
    assert beside[:COUNT].tolist() == [0, 0, 0, 0, 0]
    assert float(numbers([pixel(102, 60, 0.8)], [pixel(60, 60, 0.8)])[2]) == 1


def test_outside_the_picture_nothing_is_seen() -> None:
    found = numbers([pixel(300, 60, 0.8), [0, 0, -1.0]], [pixel(60, 60, 0.8)])
    assert float(found[0]) == 0
    assert float(found[2]) >= 0.5
