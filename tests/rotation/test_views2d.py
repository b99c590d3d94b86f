"""The network on pairs of pictures: its parts by hand, what it learns, what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vidssl.checkpoint import read_config, write_config
from vidssl.errors import VidsslError
from vidssl.rotation.so3 import exp, geodesic
from vidssl.rotation.views2d import (
    PairNet,
    ViewsConfig,
    ViewsEstimator,
    correlate,
    load_views_estimator,
    prepare,
    quarter_turned,
)
from vidssl.rotation.views2d_training import fit_views, views_loss

SMALL = ViewsConfig(channels=16, reach=1, hypotheses=2, hidden=32)


def test_correlation_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    found = correlate(a, b, 2)
    assert found.shape == (2, 25, 4, 5)
    for n, channel, y, x in np.ndindex(2, 25, 4, 5):
        v, u = y + channel // 5 - 2, x + channel % 5 - 2
        inside = 0 <= v < 4 and 0 <= u < 5
        expected = float(a[n, :, y, x] @ b[n, :, v, u]) if inside else 0.0
        assert float(found[n, channel, y, x]) == pytest.approx(expected, abs=1e-12)


def test_correlation_gradient() -> None:
    a, b = (torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: correlate(a, b, 1), (a, b))


def test_preparation_takes_the_middle_and_forgets_brightness() -> None:
    image = np.zeros((1, 128, 128), np.uint8)
    image[:, 16:112, 16:64] = 100  # the left half of the middle 96 x 96
    seen = prepare(torch.from_numpy(image))
    assert seen.shape == (1, 1, 64, 64)
    torch.testing.assert_close(seen[0, 0, :, 0], torch.ones(64), atol=0.02, rtol=0)
    torch.testing.assert_close(seen[0, 0, :, -1], -torch.ones(64), atol=0.02, rtol=0)
    colour = np.repeat(image[..., None] // 2, 3, axis=3)
    torch.testing.assert_close(prepare(torch.from_numpy(colour)), seen, atol=1e-4, rtol=0)


def test_hypotheses_are_rotations_and_start_near_none() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        found = PairNet(SMALL)(torch.randn(3, 1, 64, 64), torch.randn(3, 1, 64, 64))
    assert found.centres.shape == (3, 2, 3, 3)
    torch.testing.assert_close(found.centres @ found.centres.mT, torch.eye(3).expand(3, 2, 3, 3), atol=1e-5, rtol=0)
    assert float(torch.rad2deg(geodesic(found.centres, torch.eye(3))).max()) < 60
    torch.testing.assert_close(found.log_weights.exp().sum(1), torch.ones(3))


def dots(groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright dots on a sphere seen along its axis, turned by up to 30 degrees: uint8 [g,3,64,64] and poses."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(groups, 1, 14, 3, generator=generator), dim=-1)
    axes = torch.nn.functional.normalize(torch.randn(groups, 3, 3, generator=generator), dim=-1)
    poses = exp(axes * 0.5 * torch.rand(groups, 3, 1, generator=generator))
    turned = (poses[:, :, None] @ directions[..., None])[..., 0]  # [g,3,14,3]
    y, x = torch.meshgrid(*2 * (torch.linspace(-1.3, 1.3, 64),), indexing="ij")
    square = (x - turned[..., 0, None, None]).square() + (y - turned[..., 1, None, None]).square()
    bright = (-square / 0.01).exp() * (turned[..., 2] < 0)[..., None, None]
    return (255 * bright.amax(2)).to(torch.uint8), poses


def test_the_loss_falls_below_that_of_all_pairs_alike() -> None:
    images, poses = dots(16)
    torch.manual_seed(0)
    net, generator = PairNet(SMALL), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss, _ = views_loss(net, images, poses, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < losses[0] - 1


def test_training_by_the_clock_changes_every_weight() -> None:
    torch.manual_seed(5)
    start = PairNet(SMALL).state_dict()
    images, poses = dots(16)
    trained = fit_views(images, poses, 0.5, SMALL, seed=5, precision="32").state_dict()
    assert all(not torch.equal(start[name], trained[name]) for name in start)


@pytest.mark.parametrize("number", range(8))
def test_quarter_turns_keep_pictures_and_poses_together(number: int) -> None:
    """A dot at the place of a turned vector: pictures of dots turned by quarters are those of the turned vectors."""
    images, poses = dots(1)
    point = torch.tensor([0.5, -0.8, -0.3])
    turned, pose = quarter_turned(images, poses, number)
    assert turned.shape == images.shape
    moved, before = (pose @ point)[0, 0], (poses @ point)[0, 0]
    column, row = (round(float((before[axis] / 1.3 + 1) * 31.5)) for axis in (0, 1))
    new_column, new_row = (round(float((moved[axis] / 1.3 + 1) * 31.5)) for axis in (0, 1))
    assert int(turned[0, 0, new_row, new_column]) == int(images[0, 0, row, column])


def test_saved_and_loaded_gives_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    estimator = ViewsEstimator(PairNet(SMALL))
    estimator.save(tmp_path / "run", {"seed": 0})
    a, b = np.random.default_rng(0).integers(0, 256, (2, 80, 80, 3), dtype=np.uint8)
    first, second = (e.estimate(a, b) for e in (estimator, load_views_estimator(tmp_path / "run")))
    np.testing.assert_array_equal(first.rotation, second.rotation)
    assert first.rotation.shape == (3, 3)
    assert len(first.candidates) == 2 * 8 * 2  # hypotheses, quarter turns, both ways
    assert sum(share for _, share in first.candidates) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(first.candidates[0][0], first.rotation)
    assert 0 < first.expected_error <= 180


@pytest.mark.parametrize("number", [1, 6])
def test_pooled_answers_turn_with_the_pictures_and_back_with_their_order(number: int) -> None:
    torch.manual_seed(0)
    estimator = ViewsEstimator(PairNet(SMALL))
    views = torch.randn(3, 2, 64, 64)
    turned, turn = quarter_turned(views, torch.eye(3), number)
    plain, other = (estimator.pooled(v[:, :1], v[:, 1:]) for v in (views, turned))
    swapped = estimator.pooled(views[:, 1:], views[:, :1])
    best, best_turned, best_swapped = (m.centres[torch.arange(3), m.best()] for m in (plain, other, swapped))
    torch.testing.assert_close(best_turned, turn @ best @ turn.mT, atol=1e-4, rtol=0)
    torch.testing.assert_close(best_swapped, best.mT, atol=1e-4, rtol=0)


def test_training_ends_early_when_asked() -> None:
    asked = iter([False, False, True])
    net = fit_views(*dots(8), 600.0, SMALL, precision="32", stop=lambda: next(asked))
    assert next(asked, "all asked") == "all asked"
    assert all(bool(weights.isfinite().all()) for weights in net.parameters())


@pytest.mark.parametrize("network", [{"channels": 32}, {"channels": 3}, {"width": 3}])
def test_a_run_whose_weights_do_not_fit_is_refused(network: dict[str, int], tmp_path: Path) -> None:
    ViewsEstimator(PairNet(SMALL)).save(tmp_path, {})
    write_config(tmp_path, {**read_config(tmp_path), "network": network})
    with pytest.raises(VidsslError, match=r"config.json and model.safetensors don't fit \(.*\); train again"):
        load_views_estimator(tmp_path)


def test_refusals(tmp_path: Path) -> None:
    estimator = ViewsEstimator(PairNet(SMALL))
    picture = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    with pytest.raises(VidsslError, match=r"image_b: expected uint8 .* got float32 \(64, 64\); pass pictures"):
        estimator.estimate(picture, picture.astype(np.float32))
    with pytest.raises(VidsslError, match="image_a: all pixels are 7, nothing to see"):
        estimator.estimate(np.full((64, 64), 7, np.uint8), picture)
    with pytest.raises(VidsslError, match=r"at least 32x32 pixels, got uint8 \(1, 20, 20\)"):
        prepare(torch.zeros(1, 20, 20, dtype=torch.uint8))
    write_config(tmp_path / "other", {"encoder": {}})
    with pytest.raises(VidsslError, match="holds no network for views but 'an encoder'"):
        load_views_estimator(tmp_path / "other")
    with pytest.raises(VidsslError, match=r"expected uint8 \[g,m,64,64\] of 8 groups of 2 views or more"):
        fit_views(torch.zeros(4, 2, 64, 64, dtype=torch.uint8), torch.zeros(4, 2, 3, 3), 1.0)
    with pytest.raises(VidsslError, match=r"expected rotations \[8, 2, 3, 3\], got \[8, 3, 3\]"):
        fit_views(torch.zeros(8, 2, 64, 64, dtype=torch.uint8), torch.zeros(8, 3, 3), 1.0)
    with pytest.raises(VidsslError, match=r"got -1.0 seconds to train for; give a number above 0"):
        fit_views(*dots(8), -1.0)
