"""The estimator's front door: what it answers before anything was learned, what it refuses, what a run keeps."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidssl.checkpoint import write_config, write_model
from vidssl.datasets.depth_sensor import CLEAN, HARD
from vidssl.datasets.mesh_views import MeshRenderer, PinholeCamera
from vidssl.datasets.rotation_pairs import RotationPairs, draw_pairs
from vidssl.datasets.solids import make_solid
from vidssl.errors import VidsslError
from vidssl.rotation import Estimate, RotationEstimator, estimate_rotation, load_estimator
from vidssl.rotation.calibration import Example, calibrate
from vidssl.rotation.choice import Choice
from vidssl.rotation.energy import AlignmentNet, EnergyConfig
from vidssl.rotation.estimate import NUMBERS, _estimate
from vidssl.rotation.network import NetworkConfig, SphereNet
from vidssl.rotation.so3 import exp

NETWORK = NetworkConfig(degree=4, signals=4, widths=(8, 8, 16, 16), hidden=16)
ENERGY = EnergyConfig(widths=(8, 8, 8), hidden=16)


def untrained(*, calibrated: bool = False) -> RotationEstimator:
    torch.manual_seed(0)
    choices = (Choice(NUMBERS), Choice(NUMBERS)) if calibrated else (None, None)
    return RotationEstimator(SphereNet(NETWORK), AlignmentNet(ENERGY), *choices)


@pytest.fixture(scope="module")
def estimator() -> RotationEstimator:
    return untrained()


@pytest.fixture(scope="module")
def pairs() -> RotationPairs:
    """One easy pair, as the depth camera sees it."""
    return draw_pairs(MeshRenderer([make_solid(7)]), 1, (15, 15.01), HARD, 0)


def angle(first: NDArray[Any], second: NDArray[Any]) -> float:
    cosine = (np.trace(first.astype(np.float64).T @ second) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def check(found: Estimate) -> None:
    """A rotation, no NaN, distinct candidates best first."""
    assert found.rotation.dtype == np.float32
    np.testing.assert_array_equal(found.rotation, found.candidates[0].rotation)
    assert found.energy == found.candidates[0].energy
    for candidate in found.candidates:
        np.testing.assert_allclose(candidate.rotation @ candidate.rotation.T, np.eye(3), atol=1e-4)
        assert np.linalg.det(candidate.rotation) > 0
        assert 0 <= candidate.probability <= 1
        assert candidate.energy == pytest.approx(-np.log(max(candidate.probability, 1e-12)))
    apart = [angle(a.rotation, b.rotation) for i, a in enumerate(found.candidates) for b in found.candidates[:i]]
    assert all(degrees > 9.9 for degrees in apart)


@pytest.mark.parametrize("parts", ["combined", "learned"])
def test_untrained_networks_answer_with_a_rotation(
    estimator: RotationEstimator, pairs: RotationPairs, parts: str
) -> None:
    found = estimator.estimate(pairs.a[0], pairs.b[0], pairs.K, parts=parts)
    check(found)
    assert sum(candidate.probability for candidate in found.candidates) <= 1 + 1e-5
    assert np.isnan(found.expected_error)  # before calibration nobody knows how wrong a choice is
    again = estimator.estimate(torch.from_numpy(pairs.a[0]), pairs.b[0], pairs.K.tolist(), parts=parts)
    np.testing.assert_array_equal(found.rotation, again.rotation)
    assert [c.energy for c in found.candidates] == [c.energy for c in again.candidates]


def test_a_calibrated_one_expects_an_error(pairs: RotationPairs) -> None:
    found = untrained(calibrated=True).estimate(pairs.a[0], pairs.b[0], pairs.K, radius=0.1)
    check(found)
    assert found.expected_error == 90  # the table of a choice that was not fitted


def test_quick_answers_are_given_when_sure(pairs: RotationPairs) -> None:
    """Without networks' help: only the best two proposals and no rotation are looked at."""
    sure = untrained(calibrated=True)
    assert sure.quick is not None
    sure.quick.sure.fill_(0.0)
    sure.quick.expected.fill_(1.5)
    quick = sure.estimate(pairs.a[0], pairs.b[0], pairs.K)
    assert quick.expected_error == pytest.approx(1.5)
    assert len(quick.candidates) <= 3
    check(quick)


def test_geometry_alone_on_an_easy_pair() -> None:
    clean = draw_pairs(MeshRenderer([make_solid(7)]), 1, (15, 15.01), CLEAN, 0)
    found = estimate_rotation(clean.a[0], clean.b[0], clean.K)
    check(found)
    assert angle(found.rotation, clean.R[0]) < 1
    assert found.candidates[0].probability >= max(candidate.probability for candidate in found.candidates) - 1e-6


def test_a_model_is_used_when_given(estimator: RotationEstimator, pairs: RotationPairs) -> None:
    views = pairs.a[0], pairs.b[0], pairs.K
    np.testing.assert_array_equal(
        estimate_rotation(*views, model=estimator).rotation, estimator.estimate(*views).rotation
    )


def about_z(*degrees: float) -> torch.Tensor:
    return exp(torch.tensor([[0.0, 0.0, d] for d in degrees]) * torch.pi / 180)


def test_candidates_by_hand() -> None:
    """3 degrees apart speak for one rotation, .4 + .2; the rest in order. A rival has over a quarter of the best's."""
    found = _estimate(about_z(0, 90, 3, 180), torch.tensor([0.4, 0.1, 0.2, 0.3]), 7.0)
    assert [round(c.probability, 5) for c in found.candidates] == [0.6, 0.3, 0.1]
    np.testing.assert_allclose(found.rotation, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(found.candidates[1].rotation, np.diag([-1, -1, 1]), atol=1e-6)
    assert (found.energy, found.expected_error) == (pytest.approx(-np.log(0.6)), 7.0)
    assert found.symmetric
    assert not _estimate(about_z(0, 90), torch.tensor([0.8, 0.19])).symmetric
    assert _estimate(about_z(0, 90), torch.tensor([0.7, 0.2])).symmetric
    assert not _estimate(about_z(0, 8), torch.tensor([0.5, 0.5])).symmetric  # within 10 degrees: one candidate


def test_a_square_plate_fits_in_eight_ways(estimator: RotationEstimator) -> None:
    """Quarter turns, and the same upside down: a plate's back is where its front is."""
    depth = np.zeros((64, 64), np.float32)
    depth[17:47, 17:47] = 0.8
    K = np.array([[150.0, 0, 31.5], [0, 150.0, 31.5], [0, 0, 1]])
    found = estimator.estimate(depth, depth, K, parts="geometric")  # no network has a say
    check(found)
    assert found.symmetric
    quarters = about_z(0, 90, 180, 270).numpy()
    ways = [*quarters, *(quarters @ np.diag([1, -1, -1]))]
    best = [min(angle(candidate.rotation, way) for way in ways) for candidate in found.candidates[:4]]
    assert max(best) < 1


def changed(depth: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    depth = depth.copy()
    if kind == "millimetres":
        return depth * 1000
    if kind == "NaN":
        depth[5, 7] = np.nan
    elif kind == "one point":
        depth[:] = 0
        depth[60, 60] = 0.8
    elif kind == "empty":
        depth[:] = 0
    elif kind == "negative":
        depth[0, 0] = -1
    elif kind == "other size":
        return depth[:-2]
    return depth


MESSAGES = {
    "millimetres": "depth_b: median depth .* looks like millimetres, metres are expected: divide by 1000",
    "NaN": "depth_b: 1 of 16384 pixels are NaN or infinite; write 0",
    "one point": "depth_b: 1 surface point of 16384 pixels; 50 at the least",
    "empty": "depth_b: empty, no pixel has a return",
    "negative": "depth_b: got depth down to -1 m",
    "other size": r"got \(128, 128\) and \(126, 128\) pixels; both must",
}


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("parts", ["combined", "geometric"])
def test_what_is_not_depth(estimator: RotationEstimator, pairs: RotationPairs, kind: str, parts: str) -> None:
    with pytest.raises(VidsslError, match=MESSAGES[kind]):
        estimator.estimate(pairs.a[0], changed(pairs.b[0], kind), pairs.K, parts=parts)


def test_what_else_is_refused(estimator: RotationEstimator, pairs: RotationPairs) -> None:
    a, b, K = pairs.a[0], pairs.b[0], pairs.K
    with pytest.raises(VidsslError, match="is it transposed"):
        estimator.estimate(a, b, K.T)
    with pytest.raises(VidsslError, match="implausible for 128 pixels"):
        estimator.estimate(a, b, np.diag([0.01, 0.01, 1.0]) @ K * [[1, 1, 100], [1, 1, 100], [1, 1, 1]])
    with pytest.raises(VidsslError, match=r"expected finite intrinsics \[3,3\]"):
        estimator.estimate(a, b, 300.0)
    for matrix in ("abc", [[300.0, 0], [0]]):
        with pytest.raises(VidsslError, match="K: not an array of numbers"):
            estimator.estimate(a, b, matrix)
    for words in ("wide", [0.1, 0.2]):
        with pytest.raises(VidsslError, match=r"radius: got .*; the object's radius in metres, one number"):
            estimator.estimate(a, b, K, radius=words)  # type: ignore[arg-type]
    check(estimator.estimate(a, b, K, radius=np.array([0.1])[0]))
    for radius in (0.0, -0.1, float("nan"), float("inf")):
        with pytest.raises(VidsslError, match=r"radius: got .*; the object's radius in metres, above 0"):
            estimator.estimate(a, b, K, radius=radius)
    for radius in (100.0, 0.01):  # millimetres, and a tenth of what is seen
        with pytest.raises(VidsslError, match=r"radius: got .* m, but what is seen has about 0\.\d+ m; give it in"):
            estimator.estimate(a, b, K, radius=radius)
    with pytest.raises(VidsslError, match=r"unknown parts 'learnt'.*learned"):
        estimator.estimate(a, b, K, parts="learnt")


def test_a_radius_that_leaves_nothing_of_the_object(estimator: RotationEstimator) -> None:
    y, x = np.mgrid[:128, :128] - 63.5
    ring = np.where(np.abs(np.hypot(x, y) - 37) < 2, 0.8, 0).astype(np.float32)  # 0.1 m, nothing within 0.07 m
    K = np.array([[300, 0, 63.5], [0, 300, 63.5], [0, 0, 1]])
    with pytest.raises(VidsslError, match=r"only 0 points of a view lie within .* 50 at the least .* radius right"):
        estimator.estimate(ring, ring, K, radius=0.035)


def test_without_a_model_the_size_does_not_matter() -> None:
    pair = draw_pairs(MeshRenderer([make_solid(0)]), 1, (10, 20), CLEAN, 0)
    for scale in (0.1, 10.0):
        found = estimate_rotation(scale * pair.a[0], scale * pair.b[0], pair.K)
        np.testing.assert_allclose(found.rotation, pair.R[0], atol=0.03)


def test_a_small_thing_far_away_is_not_taken_for_millimetres() -> None:
    far = PinholeCamera(size=1024, focal=19000, distance=60)  # through a long lens
    pair = draw_pairs(MeshRenderer([make_solid(0)], far), 1, (10, 10.01), CLEAN, 0)
    found = estimate_rotation(0.1 * pair.a[0], 0.1 * pair.b[0], pair.K)  # 2 cm at 6 m: to registration 20 cm at 60 m
    assert angle(found.rotation, np.eye(3)) < 90


def test_pairs_that_show_too_little_are_left_out_of_the_calibration(pairs: RotationPairs) -> None:
    sparse = np.zeros((512, 512), np.float32)
    sparse[::40, ::40] = 0.8  # points enough, and hardly any on the network's grid
    wide = np.array([[300, 0, 255.5], [0, 300, 255.5], [0, 0, 1]])
    examples = [Example(pairs.a[0], pairs.b[0], pairs.K, pairs.R[0], object=number) for number in range(40)]
    examples.insert(3, Example(sparse, sparse, wide, np.eye(3), object=1))
    assert calibrate(untrained(), examples).pairs == 40


def test_too_few_pairs_to_calibrate_with(estimator: RotationEstimator, pairs: RotationPairs) -> None:
    with pytest.raises(VidsslError, match="calibration: got 1 pairs of 1 objects; at least 40 of 2 are needed"):
        calibrate(estimator, [Example(pairs.a[0], pairs.b[0], pairs.K, pairs.R[0], object=7)])
    assert estimator.choice is None
    assert estimator.calibration() == {}


def write_run(run: Path, estimator: RotationEstimator, **changes: Any) -> Path:
    networks = torch.nn.ModuleDict({"encoder": estimator.encoder, "energy": estimator.energy}).state_dict()
    write_config(run, {"kind": "rotation", "network": asdict(NETWORK), "energy": asdict(ENERGY), **changes})
    write_model(run, networks | estimator.calibration())
    return run


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_run_gives_the_same_estimates(tmp_path: Path, pairs: RotationPairs, calibrated: bool) -> None:
    before = untrained(calibrated=calibrated)
    after = load_estimator(write_run(tmp_path / "run", before))
    for parts in ("combined", "learned"):
        first, second = (each.estimate(pairs.a[0], pairs.b[0], pairs.K, parts=parts) for each in (before, after))
        np.testing.assert_array_equal(first.rotation, second.rotation)
        assert [c.probability for c in first.candidates] == [c.probability for c in second.candidates]
        np.testing.assert_equal(first.expected_error, second.expected_error)


def test_runs_that_are_none(tmp_path: Path, estimator: RotationEstimator) -> None:
    with pytest.raises(VidsslError, match=r"is no run folder.*vidssl train-rotation"):
        load_estimator(tmp_path / "nothing")
    with pytest.raises(VidsslError, match="run of another kind; pass the --out folder of `vidssl train-rotation`"):
        load_estimator(write_run(tmp_path / "other", estimator, kind="views2d"))
    wider = asdict(NetworkConfig(**{**asdict(NETWORK), "hidden": 32}))
    for changes in ({"network": wider}, {"energy": {"depth": 3}}):
        with pytest.raises(VidsslError, match=r"config\.json and model\.safetensors don't fit \(.*\); train again"):
            load_estimator(write_run(tmp_path / "differing", estimator, **changes))
    run = write_run(tmp_path / "run", estimator)
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[:100])
    with pytest.raises(VidsslError, match="damaged"):
        load_estimator(run)
    (run / "model.safetensors").unlink()
    with pytest.raises(VidsslError, match="is missing"):
        load_estimator(run)
