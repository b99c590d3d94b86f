"""Pictures of alignments by hand, and what is done with a judgement."""

import numpy as np
import pytest
import torch

from vidssl.datasets.mesh_views import MeshRenderer
from vidssl.datasets.solids import make_solid
from vidssl.rotation.crops import crop
from vidssl.rotation.energy import (
    PITCH,
    PIXELS,
    AlignmentNet,
    Alignments,
    Clouds,
    EnergyConfig,
    Judgement,
    corrected,
    draw_points,
    joined,
    pictures,
    registered,
    registrable,
    splat,
)
from vidssl.rotation.so3 import exp, geodesic, random_rotations

SMALL = EnergyConfig(widths=(8, 8, 8), hidden=16)
HALF_TURN = torch.diag(torch.tensor([1.0, -1, -1]))  # about x


def at(column: int, row: int, z: float) -> list[float]:
    """A point in the middle of a pixel."""
    return [(column + 0.5 - PIXELS / 2) * PITCH, (row + 0.5 - PIXELS / 2) * PITCH, z]


def tried(rotation: torch.Tensor, translation: torch.Tensor | None = None) -> Alignments:
    """One alignment for each of [k,3,3], all of pair 0."""
    k = len(rotation)
    shift = torch.zeros(k, 3) if translation is None else translation
    return Alignments(torch.zeros(k, dtype=torch.long), rotation, shift, torch.zeros(k))


def scattered(count: int = 300) -> Clouds:
    """Points in the middles of pixels."""
    rng = np.random.default_rng(0)
    places, z = rng.integers(4, 44, (count, 2)).tolist(), rng.uniform(-1, 1, count).tolist()
    points = [at(column, row, depth) for (column, row), depth in zip(places, z, strict=True)]
    return Clouds(torch.tensor([points]), torch.ones(1, count, dtype=torch.bool))


def test_splat_of_five_points() -> None:
    """The nearest of two in a pixel wins; what falls outside or isn't valid leaves no trace, at no other pixel."""
    points = [at(10, 20, 0.5), at(10, 20, -0.25), at(0, 47, 0.0), at(48, 20, -1.0), at(20, 30, 0.3)]
    depth, mask = splat(torch.tensor([points]), torch.tensor([[True, True, True, True, False]]))[0]
    assert mask.shape == (PIXELS, PIXELS)
    assert sorted(mask.nonzero().tolist()) == [[20, 10], [47, 0]]
    assert float(depth[20, 10]) == pytest.approx(-0.25)
    assert float(depth.abs().sum()) == pytest.approx(0.25)  # and 0 where nothing is, and at (47, 0)


def test_pictures_of_a_true_alignment_show_no_difference() -> None:
    a, shift = scattered(), torch.tensor([[2 * PITCH, -PITCH, 0.1]])
    b = Clouds(a.points @ HALF_TURN.T + shift, a.valid)
    in_b, in_a = pictures(a, b, tried(HALF_TURN[None], shift))
    for seen in (in_b, in_a):
        assert seen.shape == (1, 5, PIXELS, PIXELS)
        own, own_mask, other, other_mask, difference = seen[0]
        assert int(own_mask.sum()) > 200
        torch.testing.assert_close(own_mask, other_mask)
        torch.testing.assert_close(own, other, atol=1e-5, rtol=0)
        assert float(difference.abs().max()) < 1e-4


def test_pictures_of_a_wrong_alignment_say_by_how_much() -> None:
    """0.2 too far: views of both cameras differ by it, times 3, with opposite signs; and only where both see."""
    a = scattered()
    in_b, in_a = pictures(a, a, tried(torch.eye(3)[None], torch.tensor([[0.0, 0, 0.2]])))
    for seen, sign in ((in_b, 1), (in_a, -1)):
        both = seen[0, 1] * seen[0, 3]
        torch.testing.assert_close(seen[0, 4], sign * 0.6 * both, atol=1e-4, rtol=0)


def test_corrected_by_hand() -> None:
    """exp(turn) is applied after R, in the axes of b."""
    quarter = torch.tensor([0.0, 0.0, torch.pi / 2])
    said = Judgement(torch.zeros(1), quarter[None], torch.tensor([[0.1, 0, 0]]), torch.zeros(1))
    mended = corrected(tried(HALF_TURN[None], torch.tensor([[0.0, 0.2, 0]])), said)
    by_hand = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])  # x -> x -> y; y -> -y -> x; z -> -z
    torch.testing.assert_close(mended.rotation[0], by_hand, atol=1e-6, rtol=0)
    torch.testing.assert_close(mended.translation, torch.tensor([[0.1, 0.2, 0]]))


def test_a_judgement_of_each_alignment_and_of_it_alone() -> None:
    torch.manual_seed(0)
    net = AlignmentNet(SMALL).eval()
    clouds = Clouds(torch.randn(2, 100, 3) * 0.4, torch.rand(2, 100) > 0.2)
    some = Alignments(torch.tensor([0, 0, 1]), random_rotations(3), torch.randn(3, 3) * 0.1, torch.randn(3))
    with torch.no_grad():
        together = net(clouds, clouds, some)
        last = net(clouds, clouds, Alignments(*(part[2:] for part in some)))
    assert [tuple(part.shape) for part in together] == [(3,), (3, 3), (3, 3), (3,)]
    for whole, alone in zip(together, last, strict=True):
        torch.testing.assert_close(whole[2:], alone, atol=1e-5, rtol=0)


def test_joined() -> None:
    first, second = tried(torch.eye(3)[None]), tried(HALF_TURN.expand(2, 3, 3))
    both = joined(first, second)
    assert [len(part) for part in both] == [3, 3, 3, 3]
    torch.testing.assert_close(both.rotation[1], HALF_TURN)


def test_points_are_drawn_among_those_seen() -> None:
    points = torch.randn(2, 3, 10, 10)
    mask = torch.zeros(2, 1, 10, 10)
    mask[0, 0, :5], mask[1, 0, 0, :7] = 1, 1
    cloud = draw_points(points, mask, count=20)
    assert cloud.points.shape == (2, 20, 3)
    assert cloud.valid.sum(1).tolist() == [20, 7]
    seen = points[0, :, :5].flatten(1).T
    assert (cloud.points[0][:, None] == seen[None]).all(2).any(1).all()
    assert len(cloud.points[0].unique(dim=0)) == 20
    torch.testing.assert_close(draw_points(points, mask, count=20).points, cloud.points)  # the same for all time
    drawn = [draw_points(points, mask, torch.Generator().manual_seed(seed), 20).points[0] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_registration_recovers_a_small_turn_and_shift() -> None:
    """Two views of a solid 12 degrees apart; started without a turn, 2 mm off."""
    turn = exp(torch.tensor([0.05, 0.2, -0.05]))  # 12.2 degrees
    base = random_rotations(1, torch.Generator().manual_seed(3))[0]
    renderer = MeshRenderer([make_solid(7)])
    depth = torch.from_numpy(renderer.depth([0, 0], torch.stack((base, turn @ base)).numpy()))
    crops = crop(depth, torch.from_numpy(renderer.camera.K), 0.1)
    cloud = draw_points(crops.points, crops.mask)
    middles = (torch.tensor([0, 0, 0.8]) - crops.origin) / crops.radius[:, None]
    a, b = (Clouds(cloud.points[i : i + 1] - middles[i], cloud.valid[i : i + 1]) for i in (0, 1))
    start = tried(torch.eye(3).expand(2, 3, 3), torch.tensor([[0.0, 0, 0], [0.02, 0, -0.02]]))
    end = registered(registrable(a, b), start)
    assert float(torch.rad2deg(geodesic(end.rotation, turn.expand(2, 3, 3))).max()) < 1.0
    assert float(end.translation.norm(dim=1).max()) < 0.03  # radii
    assert end.pair.tolist() == [0, 0]
    assert end.rotation.dtype == torch.float32
    nothing = Clouds(b.points, torch.zeros_like(b.valid))  # a view with nothing in it: small_gicp would crash
    kept = registered(registrable(a, nothing), start)
    assert torch.equal(kept.rotation, start.rotation)
    torch.testing.assert_close(kept.translation, start.translation)
