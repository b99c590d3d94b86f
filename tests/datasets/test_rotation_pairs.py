"""Pairs of views: how they are drawn, kept and checked."""

from pathlib import Path

import numpy as np
import pytest
from simple_meshes import ball, box

from vidssl.datasets.depth_sensor import CLEAN, HARD, DepthSensor
from vidssl.datasets.mesh_views import MeshRenderer, PinholeCamera
from vidssl.datasets.rotation_pairs import RotationPairs, draw_pairs, load_pairs, save_pairs
from vidssl.errors import VidsslError

BRICK = box((0.15, 0.1, 0.06), name="brick")


@pytest.fixture(scope="module")
def renderer() -> MeshRenderer:
    return MeshRenderer([BRICK, ball(), box((0.1, 0.1, 0.02), name="slab")], PinholeCamera(size=64, focal=150))


def angles(turns: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1)))


def points(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Points about the place of the object's middle, [p,3]."""
    y, x = np.nonzero(depth)
    z = depth[y, x]
    return np.stack([(x - K[0, 2]) / K[0, 0] * z, (y - K[1, 2]) / K[1, 1] * z, z - 0.8], 1)


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """Median distance from the points a to the nearest of b, metres."""
    return float(np.median(np.linalg.norm(a[:, None] - b[None], axis=2).min(1)))


def test_R_takes_view_a_to_view_b(renderer: MeshRenderer) -> None:
    pairs = draw_pairs(renderer, 5, (15, 30), CLEAN, seed=1, centre=0.0, objects=[0])
    right, wrong = [], []
    for a, b, turn in zip(pairs.a, pairs.b, pairs.R, strict=True):
        cloud_a, cloud_b = points(a, pairs.K), points(b, pairs.K)
        right.append(gap(cloud_a @ turn.T, cloud_b))
        wrong.append(gap(cloud_a @ turn, cloud_b))
    assert max(right) < 0.003  # half a pixel's width here is 2.7 mm
    assert np.median(wrong) > 0.005


def test_a_pair_depends_on_seed_and_number_alone(renderer: MeshRenderer) -> None:
    pairs = draw_pairs(renderer, 6, (0, 60), HARD, seed=3)
    later = draw_pairs(renderer, 2, (0, 60), HARD, seed=3, start=4)
    for name in ("a", "b", "R", "object"):
        np.testing.assert_array_equal(getattr(pairs, name)[4:], getattr(later, name))
    assert (draw_pairs(renderer, 6, (0, 60), HARD, seed=4).R != pairs.R).any()


def test_the_draws_are_uniform(renderer: MeshRenderer) -> None:
    pairs = draw_pairs(MeshRenderer([BRICK, ball()], PinholeCamera(4, 10)), 1000, (30, 60), CLEAN, seed=0)
    turned = angles(pairs.R.astype(float))
    assert turned.min() >= 30 - 1e-3
    assert turned.max() <= 60 + 1e-3
    deciles = np.histogram(turned, np.linspace(30, 60, 11))[0]
    assert np.abs(deciles - 100).max() < 40  # 4 standard deviations
    skew = pairs.R - np.swapaxes(pairs.R, 1, 2)
    axes = np.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], 1) / 2 / np.sin(np.radians(turned))[:, None]
    assert np.abs(axes.mean(0)).max() < 0.08  # standard error 0.018
    np.testing.assert_allclose(axes.T @ axes / 1000, np.eye(3) / 3, atol=0.04)
    assert abs(pairs.object.mean() - 0.5) < 0.06
    assert set(draw_pairs(renderer, 20, (0, 0), CLEAN, 0, objects=[2, 1]).object) == {1, 2}
    np.testing.assert_allclose(draw_pairs(renderer, 3, (0, 0), CLEAN, 0).R, np.tile(np.eye(3), (3, 1, 1)), atol=1e-7)
    np.testing.assert_allclose(angles(draw_pairs(renderer, 3, (180, 180), CLEAN, 0).R), 180, atol=0.1)


def test_base_poses_are_uniform() -> None:
    # a small cube 0.09 m along x: where it lies in view a tells the first column of R_a
    flag = box((0.02, 0.02, 0.02), middle=(0.09, 0, 0))
    pairs = draw_pairs(MeshRenderer([flag], PinholeCamera(32, 85)), 600, (0, 0), CLEAN, seed=0, centre=0.0)
    columns = np.stack([points(depth, pairs.K).mean(0) for depth in pairs.a])
    columns[:, 2] += 0.008  # its front is what is seen
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    assert np.abs(columns.mean(0)).max() < 0.1  # standard error 0.024
    np.testing.assert_allclose(columns.T @ columns / 600, np.eye(3) / 3, atol=0.06)


def test_the_middle_is_off_anew_in_each_view(renderer: MeshRenderer) -> None:
    pairs = draw_pairs(renderer, 60, (0, 180), CLEAN, seed=0, centre=0.01, objects=[1])
    near = np.stack([np.where(depth > 0, depth, 9).min((1, 2)) for depth in (pairs.a, pairs.b)])
    off = near - 0.7  # of a ball of 0.1 m: its middle's depth, less 0.8
    assert np.abs(off).max() < 0.0105
    assert off.min() < -0.007
    assert off.max() > 0.007
    assert np.abs(off[0] - off[1]).max() > 0.01
    columns = np.array([np.nonzero(depth)[1].mean() for depth in pairs.a])
    assert 1.0 < np.abs(columns - 31.5).max() < 2.1  # 0.01 / 0.8 * 150 = 1.9 pixels
    still = draw_pairs(renderer, 1, (0, 180), CLEAN, seed=0, centre=0.0, objects=[1])
    np.testing.assert_allclose(still.a, still.b, atol=2e-3)


def test_one_view_of_a_pair_has_the_stripe(renderer: MeshRenderer) -> None:
    clean = draw_pairs(renderer, 30, (0, 30), CLEAN, seed=5)
    striped = draw_pairs(renderer, 30, (0, 30), DepthSensor(noise=0, dropout=0, stripe=0.3), seed=5)
    lost = np.stack(
        [
            (old != new).sum((1, 2)) / (old > 0).sum((1, 2))
            for old, new in zip(views(clean), views(striped), strict=True)
        ]
    )
    assert (lost.min(0) == 0).all()
    assert lost.max() <= 0.301
    assert abs(lost.max(0).mean() - 0.15) < 0.06
    assert 5 < (lost[0] > 0).sum() < 25  # either one


def views(pairs: RotationPairs) -> tuple[np.ndarray, np.ndarray]:
    return pairs.a, pairs.b


def test_files_give_back_what_was_saved(renderer: MeshRenderer, tmp_path: Path) -> None:
    sets = {"hard_0_30": draw_pairs(renderer, 3, (0, 30), HARD, 0), "b": draw_pairs(renderer, 2, (0, 30), CLEAN, 0)}
    path = tmp_path / "new" / "pairs.npz"
    save_pairs(path, sets)
    assert [file.name for file in path.parent.iterdir()] == ["pairs.npz"]
    found = load_pairs(path)
    assert list(found) == ["hard_0_30", "b"]
    for prefix, pairs in sets.items():
        for name in ("a", "b", "R", "K", "object"):
            np.testing.assert_array_equal(getattr(found[prefix], name), getattr(pairs, name))
    assert len(found["b"]) == 2


def arrays(**changed: object) -> dict[str, object]:
    plain: dict[str, object] = {
        "x_a": np.full((2, 8, 8), 0.8),
        "x_b": np.full((2, 8, 8), 0.8),
        "x_R": np.tile(np.eye(3), (2, 1, 1)),
        "K": PinholeCamera(8, 20).K,
    }
    return {name: array for name, array in (plain | changed).items() if array is not None}


def test_files_of_others_need_no_objects_and_may_be_float64(tmp_path: Path) -> None:
    np.savez(tmp_path / "pairs.npz", allow_pickle=False, **arrays(note=np.array("any"), meta_a=np.arange(3), b=1))
    pairs = load_pairs(tmp_path / "pairs.npz")["x"]
    assert pairs.a.dtype == pairs.R.dtype == np.float32
    assert pairs.object.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"K": None}, "expected arrays K and, for a prefix X, X_a, X_b and X_R; it holds x_a, x_b, x_R"),
        ({"x_a": None, "x_b": None, "x_R": None}, "it holds K"),
        ({"x_R": None}, "expected arrays K and, for a prefix X, X_a, X_b and X_R; it holds x_a, x_b, K"),
        ({"x_b": None}, "prefix 'x' has no x_b; a prefix X needs"),
        ({"x_a": None, "x_b": None}, "prefix 'x' has no x_a and no x_b"),
        ({"x_a": np.ones((3, 8, 8))}, r"prefix 'x': a and b: expected depth \[n,H,W\] of one shape"),
        ({"x_a": np.ones((2, 64)), "x_b": np.ones((2, 64))}, r"a and b: expected depth \[n,H,W\]"),
        ({"x_a": np.ones((0, 8, 8)), "x_b": np.ones((0, 8, 8)), "x_R": np.ones((0, 3, 3))}, "got no pairs"),
        ({"x_a": np.array(0.8), "x_b": np.array(0.8)}, r"of one shape, got \(\) and \(\)"),
        ({"x_object": np.array(3)}, r"got \(2, 3, 3\) and \(\)"),
        ({"x_R": np.eye(3)}, r"expected \[2,3,3\] and \[2\] for 2 pairs, got \(3, 3\)"),
        ({"x_R": np.stack([np.eye(3), 1.1 * np.eye(3)])}, r"R\[1\] is not a rotation matrix"),
        ({"x_R": np.stack([np.diag([1, 1, -1]), np.eye(3)])}, r"R\[0\] is not a rotation matrix"),
        ({"x_b": np.full((2, 8, 8), np.nan)}, r"b\[0\]: holds NaN, infinite or negative depths"),
        ({"x_a": np.full((2, 8, 8), -0.8)}, r"a\[0\]: holds NaN, infinite or negative"),
        ({"x_a": np.full((2, 8, 8), "far")}, "a: expected numbers, got an array of <U3"),
        ({"x_object": np.zeros(3, int)}, r"got \(2, 3, 3\) and \(3,\)"),
        ({"K": np.eye(4)}, "K: expected intrinsics"),
        ({"K": np.diag([-20, 20, 1])}, "K: expected intrinsics"),
        ({"K": np.ones((3, 3))}, "K: expected intrinsics"),
        ({"x_a": np.array([{}, {}], dtype=object)}, "not a readable .npz of plain arrays"),
    ],
)
def test_files_with_mistakes(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    path = tmp_path / "pairs.npz"
    np.savez(path, **arrays(**changed))
    with pytest.raises(VidsslError, match=message):
        load_pairs(path)


def test_things_that_are_no_files_of_pairs(renderer: MeshRenderer, tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match="no such file"):
        load_pairs(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(VidsslError, match=r"not a readable \.npz"):
        load_pairs(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(VidsslError, match=r"not a readable \.npz"):
        load_pairs(tmp_path / "one.npy")
    pairs = draw_pairs(renderer, 1, (0, 30), CLEAN, 0)
    with pytest.raises(VidsslError, match=r"a file ending in \.npz"):
        save_pairs(tmp_path / "pairs.txt", {"x": pairs})
    with pytest.raises(VidsslError, match="no sets of pairs"):
        save_pairs(tmp_path / "pairs.npz", {})
    other = RotationPairs(pairs.a, pairs.b, pairs.R, PinholeCamera(64, 200).K)
    with pytest.raises(VidsslError, match="one K for all its pairs"):
        save_pairs(tmp_path / "pairs.npz", {"x": pairs, "y": other})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count 0"),
        ({"degrees": (30, 10)}, r"0 ≤ least ≤ largest ≤ 180, got \(30, 10\)"),
        ({"degrees": (0, 200)}, "largest ≤ 180"),
        ({"seed": -1}, "seed -1"),
        ({"centre": -0.1}, "centre -0.1"),
        ({"start": -1}, "start -1"),
        ({"objects": []}, "0 objects"),
        ({"objects": [3]}, "integer indices from 0 to 2"),
    ],
)
def test_draws_with_mistakes(renderer: MeshRenderer, given: dict[str, object], message: str) -> None:
    settings = {"count": 1, "degrees": (0, 30), "sensor": CLEAN, "seed": 0} | given
    with pytest.raises(VidsslError, match=message):
        draw_pairs(renderer, **settings)
