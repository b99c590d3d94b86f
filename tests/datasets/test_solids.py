"""Generated solids: closed, connected to their seed, varied; and the volumes of their parts by hand."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from vidssl.datasets import solid_parts as parts
from vidssl.datasets.mesh_geometry import geometry_key, is_closed, surface_moments
from vidssl.datasets.meshes import MeshSet
from vidssl.datasets.solid_parts import Part
from vidssl.datasets.solids import FAMILIES, make_solid


def volume(part: Part) -> float:
    a, b, c = np.moveaxis(part.vertices[part.triangles], 1, 0)
    return float((np.cross(a, b) * c).sum() / 6)


CIRCLE = 12 * np.sin(np.pi / 12)  # area of a regular polygon of 24 corners on the unit circle: 24/2 sin(2 pi / 24)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (parts.box(1, 2, 3), 6),
        (parts.cylinder(2, 3), 12 * CIRCLE),
        (parts.cylinder(2, 3, top=0), 4 * CIRCLE),
        (parts.cylinder(2, 3, top=1), 7 * CIRCLE),  # h/3 (R^2 + R r + r^2)
        (parts.extrude([(0, 0), (3, 0), (3, 1), (1, 1), (1, 2), (0, 2)], 0.5), 2),  # an L of 3 + 1
        (parts.extrude([(0, 2), (1, 2), (1, 1), (3, 1), (3, 0), (0, 0)], 0.5), 2),  # the other way round
        (parts.extrude([(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)], 2), 14),  # a U of 9 - 2
        (parts.extrude([(-1, -1), (1, -1), (1, 1), (-1, 1)], 3, top=0.5), 7),  # frustum: 3/3 (4 + 2 + 1)
        (parts.ring(2 * parts.circle(), parts.circle(), 1.0), 3 * CIRCLE),
        (parts.hull(np.concatenate([np.zeros((1, 3)), np.eye(3), np.full((1, 3), 0.1)])), 1 / 6),
        (parts.turned_part([(1, 0), (1, 2), (0.5, 2), (0.5, 1)]), 1.75 * CIRCLE),  # a cup: 2 - 1/4
        (parts.tube([[0, 0, 0], [0, 0, 1], [0, 0, 2]], 1.0, parts.circle()), 2 * CIRCLE),
        (parts.extrude(parts.regular(6, 12), 1), 6 * np.tan(np.pi / 6)),  # around the unit circle
    ],
)
def test_volumes_by_hand(part: Part, expected: float) -> None:
    assert volume(part) == pytest.approx(expected)  # positive: normals point outward
    assert is_closed(part.vertices, part.triangles)


def test_round_parts_come_close_to_their_formulas() -> None:
    ball = 4 / 3 * np.pi
    assert volume(parts.capsule(1, 0)) == pytest.approx(ball, rel=0.03)
    assert volume(parts.capsule(1, 2)) == pytest.approx(ball + 2 * np.pi, rel=0.03)
    assert volume(parts.dome(1, 1)) == pytest.approx(ball / 2, rel=0.03)
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    hoop = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    torus = parts.tube(hoop, 0.3, parts.circle(), torus=True)
    assert volume(torus) == pytest.approx(2 * np.pi**2 * 0.3**2, rel=0.03)
    assert is_closed(torus.vertices, torus.triangles)
    assert volume(parts.rounded(parts.squircle(60.0), 2, 0.05)) == pytest.approx(8, rel=0.05)


def test_rotations_are_right_handed() -> None:
    np.testing.assert_allclose(parts.about(2, np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(parts.about(0, np.pi / 2) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    for direction in ([0, 0, 1], [0, 2, 0], [1, -1, 0.5], [0, 0, -1]):
        frame = parts.facing(direction)
        np.testing.assert_allclose(frame @ [0, 0, 1], np.array(direction) / np.linalg.norm(direction), atol=1e-12)
        assert np.linalg.det(frame) == pytest.approx(1)


def test_every_polygon_is_cut_into_ears() -> None:
    star = parts.wavy(5, 0.6)
    found = parts.ears(star)
    assert len(found) == len(star) - 2
    (ax, ay), (bx, by), (cx, cy) = np.moveaxis(star[np.array(found)], (1, 2), (0, 1))
    areas: NDArray[np.float64] = ((bx - ax) * (cy - ay) - (by - ay) * (cx - ax)) / 2
    x, y = star.T
    assert (areas > 0).all()
    assert areas.sum() == pytest.approx((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def test_solids_are_closed_of_one_size_and_thick() -> None:
    for seed in range(100):
        solid = make_solid(seed)
        assert solid.closed, solid.name
        assert np.isfinite(solid.vertices).all()
        assert np.linalg.norm(solid.vertices, axis=1).max() == pytest.approx(0.1, rel=1e-5)
        np.testing.assert_allclose(solid.vertices.min(0), -solid.vertices.max(0), atol=1e-6)
        assert 12 <= len(solid.triangles) < 10_000
        deviations = surface_moments(solid.vertices, solid.triangles).deviations
        assert deviations[2] > 0.02 * deviations[0], solid.name
        assert volume(Part(solid.vertices.astype(np.float64), solid.triangles.astype(np.int64))) > 0


def test_the_seed_decides() -> None:
    one, again, other = make_solid(7), make_solid(7), make_solid(8)
    assert one.name == again.name
    np.testing.assert_array_equal(one.vertices, again.vertices)
    np.testing.assert_array_equal(one.triangles, again.triangles)
    assert one.vertices.shape != other.vertices.shape or not np.allclose(one.vertices, other.vertices)


def test_solids_are_varied() -> None:
    solids = MeshSet([make_solid(seed) for seed in range(150)])
    assert {mesh.name.split("-")[2] for mesh in solids.meshes} == set(FAMILIES)
    assert len({geometry_key(row) for row in solids._fingerprints}) >= 145
    assert sum(share for _, share in FAMILIES.values()) == pytest.approx(1)


def test_more_than_twenty_a_second() -> None:
    make_solid(0)
    start = time.process_time()
    for seed in range(40):
        make_solid(seed)
    assert time.process_time() - start < 40 / 20
