"""Groups of pictures: their rotations are those seen, and what they depend on."""

import numpy as np
import pytest
import torch
from simple_meshes import ball, box

from vidssl.datasets.mesh_light import Light
from vidssl.datasets.mesh_views import MeshRenderer
from vidssl.datasets.view_groups import PairLoader, ViewGroups, crop_camera, draw_view_groups
from vidssl.errors import VidsslError
from vidssl.rotation.views2d import quarter_turned

RENDERER = MeshRenderer([box((0.15, 0.04, 0.08)), ball()], crop_camera(), threads=1)
FACING = Light((0, 0, -1), 0.3)  # a lamp at the camera, which turns with no picture
POSE = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
POSE = POSE * np.linalg.det(POSE)


def angles(groups: ViewGroups, a: int, b: int) -> np.ndarray:
    trace = np.trace(groups.between(a, b), axis1=1, axis2=2)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def test_angles_lie_in_the_range() -> None:
    groups = draw_view_groups(RENDERER, 12, 3, (20.0, 30.0))
    assert groups.images.shape == (12, 3, 64, 64, 3)
    for view in (1, 2):
        assert 19.9 < angles(groups, 0, view).min() < angles(groups, 0, view).max() < 30.1
    assert angles(groups, 1, 2).max() < 60.1
    assert groups.object.tolist() == [0, 1] * 6
    assert (groups.images.reshape(12, -1).max(1) > 50).all()


def test_a_group_depends_on_the_seed_and_its_number_alone() -> None:
    whole = draw_view_groups(RENDERER, 6, seed=3)
    rest = draw_view_groups(RENDERER, 2, seed=3, first=4)
    np.testing.assert_array_equal(whole.images[4:], rest.images)
    np.testing.assert_array_equal(whole.rotations[4:], rest.rotations)
    assert not np.array_equal(whole.images[4], draw_view_groups(RENDERER, 1, seed=4, first=4).images[0])


def test_one_lamp_a_group_or_one_a_view() -> None:
    fixed = draw_view_groups(RENDERER, 1, 2, (0, 0), seed=1, centre=0.0)
    moving = draw_view_groups(RENDERER, 1, 2, (0, 0), seed=1, centre=0.0, lamp="moving")
    np.testing.assert_array_equal(fixed.images[0, 0], fixed.images[0, 1])
    assert not np.array_equal(moving.images[0, 0], moving.images[0, 1])


@pytest.mark.parametrize("number", range(4))
def test_a_picture_turned_by_quarters_is_the_view_of_the_turned_pose(number: int) -> None:
    def seen(pose: np.ndarray) -> np.ndarray:
        return RENDERER.render(0, pose, channels=("shade",), light=FACING)["shade"]

    picture, pose = quarter_turned(
        torch.from_numpy(seen(POSE)).permute(2, 0, 1), torch.tensor(POSE, dtype=torch.float32), number
    )
    rendered = seen(pose.numpy()).astype(int)
    apart = np.abs(rendered - picture.permute(1, 2, 0).numpy().astype(int)).max(-1)
    assert (apart > 3).mean() < 0.005  # rays through the outline may miss
    assert (rendered.max(-1) > 0).mean() > 0.05


def test_a_mirrored_group_shows_the_mirrored_object_under_the_conjugate_rotation() -> None:
    """The mirror image of a box that is its own mirror image: the pose Q R of a mirror Q is that of Q R M."""
    picture = torch.from_numpy(RENDERER.render(0, POSE, channels=("depth",))["depth"])
    mirrored, pose = quarter_turned(picture, torch.tensor(POSE, dtype=torch.float32), 5)
    assert float(torch.linalg.det(pose)) == pytest.approx(-1, abs=1e-5)
    rendered = RENDERER.render(0, pose.numpy() @ np.diag([-1, 1, 1]), channels=("depth",))["depth"]
    assert (np.abs(rendered - mirrored.numpy()) > 1e-3).mean() < 0.005


def test_batches_hold_proper_rotations_and_depend_on_the_step_alone() -> None:
    loader = PairLoader(draw_view_groups(RENDERER, 6, 3), batch_size=5, seed=2)
    batches = loader.batches(4)
    first, second = next(batches), next(batches)
    assert first["clips"].shape == (5, 2, 3, 64, 64)
    assert first["clips"].dtype == torch.uint8
    torch.testing.assert_close(first["rotation"] @ first["rotation"].mT, torch.eye(3).expand(5, 3, 3))
    torch.testing.assert_close(torch.linalg.det(first["rotation"]), torch.ones(5))
    for name in ("clips", "rotation", "key", "video"):
        assert torch.equal(second[name], loader.batch(5)[name])
    assert not torch.equal(first["key"], second["key"])
    assert loader.steps_per_epoch == 1


def test_refusals() -> None:
    with pytest.raises(VidsslError, match=r"view groups: got groups=1, views=1, .* at least 1 group of 2 views"):
        draw_view_groups(RENDERER, 1, 1)
    with pytest.raises(VidsslError, match='lamp "fixed" or "moving"'):
        draw_view_groups(RENDERER, 1, lamp="none")
    with pytest.raises(VidsslError, match="batch_size: got 9; give 2 to 2, the number of groups"):
        PairLoader(draw_view_groups(RENDERER, 2), 9)
