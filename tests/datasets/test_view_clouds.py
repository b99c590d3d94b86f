"""Clouds and pictures of views: where the points lie, what a batch holds, that a view depends on its number alone."""

import dataclasses

import numpy as np
import pytest
from simple_meshes import ball, box, plate

from vidssl.datasets.depth_sensor import CLEAN, HARD
from vidssl.datasets.mesh_views import MeshRenderer
from vidssl.datasets.view_clouds import CloudLoader, ViewClouds, draw_view_clouds
from vidssl.datasets.view_groups import crop_camera
from vidssl.errors import VidsslError


@pytest.fixture(scope="module")
def renderer() -> MeshRenderer:
    return MeshRenderer([ball(0.1), box((0.1, 0.06, 0.04)), box((0.12, 0.03, 0.03), name="bar")], crop_camera())


@pytest.fixture(scope="module")
def seen(renderer: MeshRenderer) -> ViewClouds:
    return draw_view_clouds(renderer, views=3, points=64, seed=4)


def test_points_lie_on_the_object_before_the_camera(renderer: MeshRenderer) -> None:
    found = draw_view_clouds(renderer, views=2, points=300, sensor=CLEAN)
    assert found.points.shape == (3, 2, 300, 3)
    assert found.points.dtype == np.float32
    from_middle = found.points - np.array([0, 0, 0.8], np.float32)
    np.testing.assert_allclose(np.linalg.norm(from_middle[0], axis=2), 0.1, atol=2e-4)  # the ball, cut in facets
    assert (from_middle[0][..., 2] < 0).all()  # its near side
    half_diagonal = np.linalg.norm([0.05, 0.03, 0.02])
    assert np.linalg.norm(from_middle[1], axis=2).max() <= half_diagonal + 1e-5


def test_pictures_show_the_same_views(seen: ViewClouds) -> None:
    assert seen.pictures.shape == (3, 3, 3, 64, 64)
    assert seen.pictures.dtype == np.uint8
    assert seen.names == ["ball", "box", "bar"]
    for cloud, picture in zip(seen.points.reshape(-1, 64, 3), seen.pictures.reshape(-1, 3, 64, 64), strict=True):
        # pixel of the 96 x 96 view by the pinhole camera, then of the picture scaled by 2/3
        pixels = (cloud[:, :2] / cloud[:, 2:] * 300 + 47.5 + 0.5) * 2 / 3 - 0.5
        column, row = np.round(pixels).astype(int).T
        assert (picture[:, row, column].max(0) > 0).mean() > 0.97


def test_a_view_depends_on_seed_object_and_number_alone(renderer: MeshRenderer, seen: ViewClouds) -> None:
    more = draw_view_clouds(renderer, views=4, points=64, seed=4)
    np.testing.assert_array_equal(more.points[:, :3], seen.points)
    np.testing.assert_array_equal(more.pictures[:, :3], seen.pictures)
    other = draw_view_clouds(renderer, views=3, points=64, seed=5)
    assert (other.points != seen.points).all(axis=(2, 3)).all()


def test_points_come_twice_only_where_a_view_has_too_few(renderer: MeshRenderer) -> None:
    few = draw_view_clouds(renderer, views=2, points=8000, sensor=CLEAN)
    counts = [len(np.unique(cloud, axis=0)) for cloud in few.points[:, 0]]
    assert all(50 <= count < 5000 for count in counts)
    assert all(len(np.unique(cloud, axis=0)) == 64 for cloud in draw_view_clouds(renderer, 2, 64).points[:, 0])


def test_batches_depend_on_seed_and_step_alone(seen: ViewClouds) -> None:
    loader = CloudLoader(seen, batch_size=2, points=50, seed=1)
    assert loader.steps_per_epoch == 1
    stream = loader.batches(5)
    for step in (5, 6):
        batch, again = next(stream), CloudLoader(seen, 2, 50, seed=1).batch(step)
        assert batch["points"].shape == (2, 2, 50, 3)
        assert batch["pictures"].shape == (2, 3, 64, 64)
        for name in ("points", "pictures", "object"):
            np.testing.assert_array_equal(batch[name], again[name])
    other = CloudLoader(seen, 2, 50, seed=2).batch(5)
    assert not np.array_equal(other["points"], loader.batch(5)["points"])


def test_a_sample_is_two_views_of_one_object_and_the_picture_of_the_first(seen: ViewClouds) -> None:
    for step in range(5):
        batch = CloudLoader(seen, batch_size=3, points=60).batch(step)
        assert sorted(batch["object"].tolist()) == [0, 1, 2]
        for index, clouds, picture, name in zip(
            batch["object"].tolist(), batch["points"].numpy(), batch["pictures"].numpy(), batch["names"], strict=True
        ):
            assert name == seen.names[index]
            views = [{view for view in range(3) if np.isin(cloud, seen.points[index, view]).all()} for cloud in clouds]
            assert [len(view) for view in views] == [1, 1]
            first, second = (view.pop() for view in views)
            assert first != second
            np.testing.assert_array_equal(picture, seen.pictures[index, first])
            assert all(len(np.unique(cloud, axis=0)) == 60 for cloud in clouds)


def test_mistakes_are_named(renderer: MeshRenderer, seen: ViewClouds) -> None:
    with pytest.raises(VidsslError, match="view clouds: got views=1, points=64; give at least 2 views, 50 points"):
        draw_view_clouds(renderer, views=1, points=64)
    with pytest.raises(VidsslError, match="got views=2, points=49"):
        draw_view_clouds(renderer, views=2, points=49)
    with pytest.raises(VidsslError, match="batch size: got 4; choose 2 to 3, the number of objects"):
        CloudLoader(seen, 4)
    with pytest.raises(VidsslError, match="points: got 65 a cloud; choose 1 to 64"):
        CloudLoader(seen, 2, 65)
    blind = dataclasses.replace(HARD, dropout=1.0)
    with pytest.raises(VidsslError, match="plate: 8 views in a row have fewer than 50 points; leave the object out"):
        draw_view_clouds(MeshRenderer([plate()], crop_camera()), 2, 64, blind)
