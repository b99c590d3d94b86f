"""Registration of two views of a block with a step, whose rotation is known."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidssl.datasets.depth_sensor import CLEAN, HARD
from vidssl.datasets.mesh_views import MeshRenderer, PinholeCamera
from vidssl.datasets.meshes import Mesh
from vidssl.datasets.rotation_pairs import RotationPairs, draw_pairs
from vidssl.errors import VidsslError
from vidssl.evaluate.rotation import rotation_errors
from vidssl.rotation.registration import (
    OUTLIER,
    PEERS,
    candidates,
    default_starts,
    gicp,
    misfit,
    prepare,
    refine,
)
from vidssl.rotation.so3 import exp


def stepped_block() -> Mesh:
    """Three boxes of different sizes on each other: closed, and without symmetry."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    faces = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    triangles = np.array([t for a, b, c, d in faces for t in ((a, b, c), (a, c, d))], np.int32)
    boxes = [((0, 0, 0), (1.2, 0.8, 0.3)), ((0, 0.1, 0.3), (0.5, 0.6, 0.4)), ((0.1, 0.2, 0.7), (0.3, 0.2, 0.3))]
    vertices = [corners * np.float32(size) + np.float32(origin) for origin, size in boxes]
    return Mesh("block", np.concatenate(vertices), np.concatenate([triangles + 8 * i for i in range(3)])).normalised()


@pytest.fixture(scope="module")
def renderer() -> MeshRenderer:
    return MeshRenderer([stepped_block()], PinholeCamera())


@pytest.fixture(scope="module")
def small(renderer: MeshRenderer) -> RotationPairs:
    return draw_pairs(renderer, 8, (5, 20), HARD, seed=3)


@pytest.mark.parametrize("name", [name for name in PEERS if name != "GICP from 81 starts"])
def test_small_rotations_are_found_through_noise(name: str, small: RotationPairs) -> None:
    found = [PEERS[name](a, b, small.K) for a, b in zip(small.a, small.b, strict=True)]
    assert found[0].dtype == np.float32
    assert np.median(rotation_errors(np.stack(found), small.R)) < 2


def test_no_rotation_is_found_between_a_view_and_itself(small: RotationPairs) -> None:
    assert rotation_errors(gicp(small.a[0], small.a[0], small.K), np.eye(3)) < 0.01


def test_the_misfit_tells_the_truth_from_another_rotation(small: RotationPairs) -> None:
    clouds = prepare(small.a[0], small.b[0], small.K)
    rotation, translation = refine(clouds, small.R[0])
    assert rotation_errors(rotation, small.R[0]) < 2
    right = misfit(clouds, rotation, translation)
    turned = exp(torch.tensor([0.0, 0.9, 0.0])).numpy() @ rotation
    assert 0 < right < 0.5 * misfit(clouds, turned, translation) <= OUTLIER
    assert misfit(clouds, rotation, translation + 1) == pytest.approx(OUTLIER)


def test_misfit_by_hand(small: RotationPairs) -> None:
    clouds = prepare(small.a[0], small.b[0], small.K)
    gaps = np.linalg.norm(clouds.points_a[:, None] - clouds.points_b[None], axis=-1)
    expected = (np.minimum(gaps.min(1), OUTLIER).mean() + np.minimum(gaps.min(0), OUTLIER).mean()) / 2
    assert misfit(clouds, np.eye(3), np.zeros(3)) == pytest.approx(expected, rel=1e-6)


def test_candidates_come_best_first_and_hold_a_large_rotation(renderer: MeshRenderer) -> None:
    pairs = draw_pairs(renderer, 4, (40, 50), CLEAN, seed=1)
    best = []
    for a, b, truth in zip(pairs.a, pairs.b, pairs.R, strict=True):
        starts = np.concatenate((default_starts()[:2], truth[None]))
        rotations, fits = candidates(a, b, pairs.K, starts)
        assert rotations.shape == (3, 3, 3)
        assert (np.diff(fits) >= 0).all()
        best.append(rotation_errors(rotations, np.broadcast_to(truth, (3, 3, 3))).min())
    assert np.median(best) < 3


def test_the_starts_hold_no_rotation_and_cover_all_others() -> None:
    starts = default_starts()
    assert starts.shape == (81, 3, 3)
    np.testing.assert_array_equal(starts[0], np.eye(3))
    apart = rotation_errors(starts[1:, None].repeat(80, 1), starts[None, 1:].repeat(80, 0)) + 180 * np.eye(80)
    assert apart.min() > 20
    with pytest.raises(ValueError, match="read-only"):
        starts[0] = 0


def bad(small: RotationPairs, **changed: NDArray[np.floating]) -> tuple[NDArray[np.floating], ...]:
    given: dict[str, NDArray[np.floating]] = {"a": small.a[0], "b": small.b[0], "K": small.K}
    return tuple((given | changed).values())


@pytest.mark.parametrize("name", list(PEERS))
def test_peers_refuse_what_is_not_two_depth_views(name: str, small: RotationPairs) -> None:
    point = np.zeros_like(small.a[0])
    point[64, 64] = 0.8
    far = small.K + np.array([[0, 0, 400], [0, 0, 0], [0, 0, 0]])
    cases = [
        (bad(small, a=0 * small.a[0]), "depth_a: empty"),
        (bad(small, b=point), "depth_b: 1 surface point"),
        (bad(small, b=1000 * small.b[0]), "depth_b: .*millimetres"),
        (bad(small, a=small.a[0] * np.nan), "depth_a: .*NaN"),
        (bad(small, a=small.a[0, :100]), r"depth_a and depth_b: got \(100, 128\) and \(128, 128\)"),
        (bad(small, K=far), "principal point"),
    ]
    for arguments, message in cases:
        with pytest.raises(VidsslError, match=message):
            PEERS[name](*arguments)
