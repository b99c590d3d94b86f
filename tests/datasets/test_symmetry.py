"""Symmetries of solids whose groups are known, in any attitude."""

import numpy as np
import pytest
from numpy.typing import NDArray

from vidssl.datasets import solid_parts as parts
from vidssl.datasets.meshes import Mesh, MeshSet
from vidssl.datasets.solid_parts import Part, about
from vidssl.datasets.symmetry import Symmetry, symmetries
from vidssl.errors import VidsslError

TURN = about(0, 0.7) @ about(2, 2.1) @ about(1, -0.4)
ATTITUDES = [np.eye(3), TURN]
L_SHAPE = [(0, 0), (3, 0), (3, 1), (1, 1), (1, 2), (0, 2)]
EQUAL_L = [(0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)]
GOLDEN = (1 + np.sqrt(5)) / 2
ICOSAHEDRON = [np.roll([0, a, b * GOLDEN], turn) for a in (1, -1) for b in (1, -1) for turn in range(3)]


def mesh_of(part: Part, attitude: NDArray[np.float64]) -> Mesh:
    part = part.turned(attitude)
    return Mesh("part", part.vertices.astype(np.float32), part.triangles.astype(np.int32)).normalised()


def assert_group(found: Symmetry) -> None:
    """Rotations, the identity first, all products among them."""
    rotations = found.rotations.astype(np.float64)
    np.testing.assert_allclose(rotations[0], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-5)
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 9)
    away = np.abs(products[:, None] - rotations.reshape(1, -1, 9)).max(2).min(1)
    assert away.max() < 0.05


@pytest.mark.parametrize("attitude", ATTITUDES)
@pytest.mark.parametrize(
    ("part", "order"),
    [
        (parts.box(1, 2, 3), 4),
        (parts.box(1, 1, 3), 8),
        (parts.box(1, 1, 1), 24),
        (parts.hull([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]), 12),
        (parts.hull(np.concatenate([np.eye(3), -np.eye(3)])), 24),
        (parts.hull(ICOSAHEDRON), 60),
        (parts.extrude(parts.regular(3, 6), 0.5), 6),
        (parts.extrude(parts.regular(7, 14), 2), 14),
        (parts.extrude(parts.wavy(8, 0.2), 0.4), 16),
        (parts.extrude(parts.regular(4, 8), 2, top=0.5), 4),  # a pyramid's frustum: no flip
        (parts.extrude(L_SHAPE, 0.7), 1),  # arms of different length: only mirrors
        (parts.extrude(EQUAL_L, 0.7), 2),  # a half turn about the bisector of its arms
        (parts.join([parts.box(1, 2, 3), parts.box(0.3, 0.4, 0.5).moved(0.2, 0.5, 0.7)]), 4),  # hidden inside
        (parts.join([parts.box(1, 2, 3), parts.box(0.3, 0.4, 0.5).moved(0.5, 0.5, 0.7)]), 1),  # sticking out
        (parts.join([parts.cylinder(1, 3), parts.box(0.3, 0.3, 0.3).moved(1, 0, 1.5)]), 2),  # a knob half way up
    ],
)
def test_finite_groups(part: Part, order: int, attitude: NDArray[np.float64]) -> None:
    found = symmetries(mesh_of(part, attitude))
    assert len(found.rotations) == order
    assert found.symmetric == (order > 1)
    assert found.continuous == "none"
    assert str(found) == (f"{order} rotations" if order > 1 else "none")
    assert_group(found)
    np.testing.assert_array_equal(found.sampled(), found.rotations)


def test_a_boxs_rotations_are_the_half_turns_about_its_axes() -> None:
    found = symmetries(mesh_of(parts.box(1, 2, 3), TURN)).rotations
    own = np.round(TURN.T @ found @ TURN, 3)  # seen in the box's frame
    expected = [np.diag(d) for d in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1])]
    assert {tuple(np.diag(r)) for r in own} == {tuple(np.diag(r).astype(float)) for r in expected}


def test_the_equal_ls_half_turn_is_about_its_bisector() -> None:
    found = symmetries(mesh_of(parts.extrude(EQUAL_L, 0.7), TURN)).rotations
    axis = TURN @ [np.sqrt(0.5), np.sqrt(0.5), 0]
    np.testing.assert_allclose(found[1], 2 * np.outer(axis, axis) - np.eye(3), atol=0.02)


@pytest.mark.parametrize("attitude", ATTITUDES)
@pytest.mark.parametrize(
    ("part", "flips"),
    [
        (parts.cylinder(1, 3), True),
        (parts.cylinder(1, np.sqrt(3)), True),  # equal moments of inertia of the solid
        (parts.cylinder(1, 2, top=0), False),
        (parts.cylinder(1, 1.6, top=0), False),
        (parts.turned_part([(1, 0), (1, 2), (0.4, 2.5), (0.4, 3.5)]), False),
        (parts.turned_part([(1, 0), (1, 2), (0.8, 2), (0.8, 0.2)]), False),  # a cup
    ],
)
def test_revolutions(part: Part, flips: bool, attitude: NDArray[np.float64]) -> None:
    found = symmetries(mesh_of(part, attitude))
    assert found.continuous == "axis"
    assert found.axis is not None
    assert abs(found.axis @ attitude[:, 2]) > np.cos(np.radians(1))
    assert len(found.rotations) == 1 + flips
    assert ("either end up" in str(found)) == flips
    every = found.sampled(steps=36)
    assert every.shape == (36 * (1 + flips), 3, 3)
    moved = np.einsum("nij,j->ni", every, found.axis)
    np.testing.assert_allclose(np.abs(moved @ found.axis), 1, atol=1e-3)
    assert np.isclose(moved @ found.axis, -1, atol=1e-3).sum() == (36 if flips else 0)


def test_a_ball_is_told_apart() -> None:
    found = symmetries(mesh_of(parts.capsule(1, 0), TURN))
    assert found.continuous == "all"
    assert found.symmetric
    assert str(found) == "ball: every rotation"
    with pytest.raises(VidsslError, match="a ball coincides with itself"):
        found.sampled()


def test_the_tolerance_decides() -> None:
    nearly = mesh_of(parts.box(1, 1.1, 3), TURN)  # a quarter turn is off by 0.05 of a radius of 1.68: 3%
    assert len(symmetries(nearly, tolerance=0.02).rotations) == 4
    assert len(symmetries(nearly, tolerance=0.05).rotations) == 8
    for wrong in (0.0, 0.5):
        with pytest.raises(VidsslError, match="tolerance"):
            symmetries(nearly, tolerance=wrong)


def test_a_set_tags_its_meshes() -> None:
    brick, l_shape = (
        Mesh(name, part.vertices.astype(np.float32), part.triangles.astype(np.int32)).normalised()
        for name, part in (("brick", parts.box(1, 2, 3)), ("l", parts.extrude(L_SHAPE, 0.7)))
    )
    tags = MeshSet([brick, l_shape]).symmetries
    assert {name: tag.symmetric for name, tag in tags.items()} == {"brick": True, "l": False}
