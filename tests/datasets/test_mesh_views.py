"""Views of meshes, against views worked out by hand and against rays cast for every pixel."""

import numpy as np
import pytest
from simple_meshes import ball, box, plate

from vidssl.datasets.mesh_light import Light, paint_colours
from vidssl.datasets.mesh_views import MeshRenderer, PinholeCamera
from vidssl.datasets.meshes import Mesh
from vidssl.errors import VidsslError
from vidssl.open3d_library import load_open3d

EYE = np.eye(3)
QUARTER = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])  # about the optical axis: right goes down
CUBE = box((0.1, 0.1, 0.1))
L_SHAPE = box((0.15, 0.04, 0.08))


def random_rotations(count: int, seed: int = 0) -> np.ndarray:
    turns = np.linalg.qr(np.random.default_rng(seed).normal(size=(count, 3, 3)))[0]
    return turns * np.linalg.det(turns)[:, None, None]


def test_the_front_of_a_cube_by_hand() -> None:
    depth = MeshRenderer([CUBE]).depth([0], EYE[None])
    # the front lies at 0.8 - 0.05 = 0.75 m and reaches 0.05 / 0.75 * 300 = 20 pixels from 63.5: columns 44 to 83
    expected = np.zeros((1, 128, 128), np.float32)
    expected[0, 44:84, 44:84] = 0.75
    np.testing.assert_allclose(depth, expected, atol=1e-6)
    assert depth.dtype == np.float32


def test_depth_is_along_the_axis_not_along_the_ray() -> None:
    seen = MeshRenderer([plate()]).depth([0], EYE[None])
    # 0.05 / 0.8 * 300 = 18.75: columns 45 to 82; every pixel of a plate across the axis has its distance
    assert (seen > 0).sum() == 38**2
    np.testing.assert_allclose(seen[seen > 0], 0.8, atol=1e-6)


def test_one_triangle_and_a_flat_grid() -> None:
    corners = np.array([[-0.05, -0.05, 0], [0.05, -0.05, 0], [-0.05, 0.05, 0]], np.float32)
    triangle = Mesh("triangle", corners, np.array([[0, 1, 2]], np.int32))
    x, y = np.meshgrid(np.linspace(-0.05, 0.05, 4, dtype=np.float32), np.linspace(-0.05, 0.05, 4, dtype=np.float32))
    first = (np.arange(3)[:, None] * 4 + np.arange(3)).ravel()
    squares = np.stack([first, first + 1, first + 5, first, first + 5, first + 4], 1).reshape(-1, 3)
    grid = Mesh("grid", np.stack([x, y, 0 * x], -1).reshape(-1, 3), squares.astype(np.int32))
    half, whole = MeshRenderer([triangle, grid]).depth([0, 1], np.stack([EYE, EYE]))
    assert (whole > 0).sum() == 38**2  # as the plate above
    assert 38 * 37 / 2 <= (half > 0).sum() <= 38 * 39 / 2  # its upper left half, the diagonal's pixels in or out
    np.testing.assert_allclose(half[half > 0], 0.8, atol=1e-6)
    assert (half[63] > 0).sum() > (half[80] > 0).sum() > 0


def test_an_offset_moves_the_object_in_camera_axes() -> None:
    depth = MeshRenderer([CUBE]).depth([0], QUARTER[None], [[0.034, -0.017, 0.1]])[0]
    # front at 0.85 m: half a side is 17.65 pixels, 0.034 m is 12 to the right, 0.017 m is 6 up
    rows, columns = np.nonzero(depth > 0.84)
    assert (rows.min(), rows.max()) == (40, 75)  # 57.5 ± 17.65
    assert (columns.min(), columns.max()) == (58, 93)  # 75.5 ± 17.65
    np.testing.assert_allclose(depth[57, 75], 0.85, atol=1e-6)


def test_rotations_are_active_in_camera_axes() -> None:
    right = box((0.04, 0.04, 0.04), middle=(0.06, 0, 0))
    renderer = MeshRenderer([right])
    still, turned = renderer.depth([0, 0], np.stack([EYE, QUARTER]))
    assert np.nonzero(still)[1].min() > 63.5  # to the right of the middle
    assert np.nonzero(turned)[0].min() > 63.5  # below it: y points down
    np.testing.assert_allclose(turned, np.rot90(still, -1), atol=1e-6)  # the picture turned clockwise
    tilt = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # about y: right comes nearer
    np.testing.assert_allclose(renderer.depth([0], tilt[None]).max(), 0.8 - 0.08, atol=1e-6)


def test_a_ball_against_the_equation_of_a_sphere() -> None:
    depth = MeshRenderer([ball()]).depth([0], random_rotations(1))[0]
    x = (np.arange(128) - 63.5) / 300
    length = 1 + x[None] ** 2 + x[:, None] ** 2  # of the rays, squared; |t d - (0,0,0.8)| = 0.1
    inside = 0.8**2 - length * (0.8**2 - 0.1**2)
    expected = np.where(inside > 0, (0.8 - np.sqrt(np.maximum(inside, 0))) / length, 0)
    well = inside > 2e-3  # off the rim, where facets of the mesh matter
    assert well.sum() > 3000
    np.testing.assert_allclose(depth[well], expected[well], atol=3e-4)
    assert (depth[inside < 0] == 0).all()


def test_the_outline_leaves_out_no_hit() -> None:
    meshes = [CUBE, L_SHAPE, ball(), plate(), box((0.2, 0.001, 0.001))]
    renderer = MeshRenderer(meshes)
    which, turns = np.arange(60) % 5, random_rotations(60)
    offsets = np.random.default_rng(1).uniform(-0.2, 0.2, (60, 3)).astype(np.float32)  # some partly out of view
    views = renderer.depth(which, turns, offsets)
    open3d = load_open3d()
    for i, mesh in enumerate(meshes):
        scene = open3d.t.geometry.RaycastingScene()
        scene.add_triangles(mesh.vertices, mesh.triangles.astype(np.uint32))
        for view in np.flatnonzero(which == i):
            turn = turns[view].astype(np.float32)
            place = offsets[view] + np.array([0, 0, 0.8], np.float32)
            rays = np.empty((128 * 128, 6), np.float32)
            rays[:, :3] = -(place @ turn)
            rays[:, 3:] = renderer.camera.directions @ turn
            full = scene.cast_rays(rays)["t_hit"].numpy().reshape(128, 128)
            full[np.isinf(full)] = 0
            np.testing.assert_array_equal(views[view] > 0, full > 0)
            np.testing.assert_allclose(views[view], full, atol=1e-6)
    assert (views.reshape(60, -1).max(1) > 0).sum() > 40


def test_a_view_depends_on_neither_batch_nor_threads_nor_memory() -> None:
    meshes = [box((0.1, 0.05, 0.02 + 0.01 * i), name=f"box {i}") for i in range(6)]
    which, turns = np.arange(24) % 6, random_rotations(24)
    one = MeshRenderer(meshes, threads=1)
    views = one.depth(which, turns)
    small = MeshRenderer(meshes, threads=3, memory_mb=0.12)
    np.testing.assert_array_equal(small.depth(which, turns), views)
    assert 0 < small.kept_mb() <= 0.12 < one.kept_mb()
    for view in (0, 7, 23):
        np.testing.assert_array_equal(one.depth(which[[view]], turns[[view]])[0], views[view])
        np.testing.assert_array_equal(one.render(which[view], turns[view])["depth"], views[view])
    assert one.depth([], np.zeros((0, 3, 3))).shape == (0, 128, 128)


def test_normals_are_those_of_the_faces_and_look_at_the_camera() -> None:
    turn = random_rotations(1, seed=4)[0]
    view = MeshRenderer([CUBE]).render(0, turn, channels=("depth", "normal"))
    seen = view["depth"] > 0
    normals = view["normal"]
    np.testing.assert_allclose(np.linalg.norm(normals[seen], axis=1), 1, atol=1e-5)
    assert (normals[~seen] == 0).all()
    faces = np.concatenate([turn.T, -turn.T])  # the six directions of the turned cube's faces
    assert np.abs(normals[seen] @ faces.T).max(1).min() > 1 - 1e-5
    assert (normals[seen] @ faces.T > 1 - 1e-5).any(0).sum() == 3  # three of them are visible
    across = (np.arange(128) - 63.5) / 300
    rays = np.stack([*np.meshgrid(across, across), np.ones((128, 128))], -1)
    assert ((normals * rays).sum(-1)[seen] < 0).all()
    back = plate()
    behind = MeshRenderer([back]).render(0, np.diag([-1, 1, -1]), channels=["normal"])["normal"]
    np.testing.assert_allclose(behind[64, 64], (0, 0, -1), atol=1e-6)  # an open surface seen from its other side


def test_shading_by_lamberts_law() -> None:
    renderer = MeshRenderer([CUBE])
    bare = renderer.render(0, EYE, channels=["shade"], light=Light(ambient=1))["shade"]
    facing = renderer.render(0, EYE, channels=["shade"], light=Light((0, 0, -5), 0.2))["shade"]
    slant = renderer.render(0, EYE, channels=["shade"], light=Light((0, -3, -4), 0.2))["shade"]
    away = renderer.render(0, EYE, channels=["shade"], light=Light((0, 0, 1), 0.2))["shade"]
    assert bare.dtype == np.uint8
    assert bare.shape == (128, 128, 3)
    np.testing.assert_array_equal(facing, bare)  # the lamp stands square to the front: paint x 1
    # the cosine is 4/5: 0.2 + 0.8 * 0.8 = 0.84; the other two bytes are rounded as well
    np.testing.assert_allclose(slant, bare * 0.84, atol=1)
    np.testing.assert_allclose(away, bare * 0.2, atol=1)
    assert (bare[depth_of(renderer) == 0] == 0).all()


def depth_of(renderer: MeshRenderer) -> np.ndarray:
    return renderer.depth([0], EYE[None])[0]


def test_the_paint_is_smooth_turns_with_the_object_and_is_its_own() -> None:
    renderer = MeshRenderer([CUBE, box((0.1, 0.1, 0.1), name="another")])
    flat = Light(ambient=1)
    still = renderer.render(0, EYE, channels=["shade"], light=flat)["shade"].astype(int)
    turned = renderer.render(0, QUARTER, channels=["shade"], light=flat)["shade"].astype(int)
    np.testing.assert_allclose(turned, np.rot90(still, -1), atol=1)
    face = still[44:84, 44:84]
    assert np.abs(np.diff(face, axis=0)).max() < 20  # no step anywhere
    assert np.ptp(face, axis=(0, 1)).max() > 30  # but not one colour either
    others = [
        renderer.render(1, EYE, channels=["shade"], light=flat)["shade"],
        renderer.render(0, EYE, channels=["shade"], light=Light(ambient=1, paint=1))["shade"],
    ]
    assert all(np.abs(other.astype(int) - still).mean() > 1 for other in others)
    alone = MeshRenderer([box((0.1, 0.1, 0.1), name="another")]).render(0, EYE, channels=["shade"], light=flat)["shade"]
    np.testing.assert_array_equal(alone, others[0])  # whatever else the renderer holds
    colours = paint_colours(np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32), "x", 0)
    assert 0.15 <= colours.min() < 0.3
    assert 0.8 < colours.max() <= 1


def test_random_lights_are_on_the_cameras_side() -> None:
    rng = np.random.default_rng(0)
    lights = [Light.random(rng, paint=3) for _ in range(200)]
    towards = np.array([light.towards for light in lights])
    np.testing.assert_allclose(np.linalg.norm(towards, axis=1), 1, atol=1e-6)
    assert towards[:, 2].max() <= -0.2
    assert np.abs(towards[:, :2].mean(0)).max() < 0.15
    assert {light.paint for light in lights} == {3}


def test_the_matrix_of_a_camera() -> None:
    np.testing.assert_array_equal(PinholeCamera().K, [[300, 0, 63.5], [0, 300, 63.5], [0, 0, 1]])
    camera = PinholeCamera(size=5, focal=10)
    back = np.linalg.inv(camera.K) @ [4, 1, 1]
    np.testing.assert_allclose(camera.directions[1 * 5 + 4], back, atol=1e-7)  # row 1, column 4
    np.testing.assert_allclose(back, [0.2, -0.1, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: MeshRenderer([]), "got no meshes"),
        (lambda r: MeshRenderer([CUBE], threads=0), "threads 0"),
        (lambda r: MeshRenderer([CUBE], memory_mb=0), "memory_mb 0"),
        (lambda r: PinholeCamera(size=0), "size 0"),
        (lambda r: PinholeCamera(focal=-1), "focal -1"),
        (lambda r: Light(towards=(0, 0, 0)), "must have a length"),
        (lambda r: Light(ambient=1.5), "ambient 1.5"),
        (lambda r: r.depth([1], EYE[None]), "indices from 0 to 0"),
        (lambda r: r.depth([-1], EYE[None]), "indices from 0 to 0"),
        (lambda r: r.depth([0.0], EYE[None]), "integer indices"),
        (lambda r: r.depth([0], EYE), r"rotations \[n,3,3\]"),
        (lambda r: r.depth([0], EYE[None], [0, 0, 0]), r"offsets \[n,3\]"),
        (lambda r: r.depth([0, 0], np.stack([EYE, 2 * EYE])), r"rotations\[1\] is not a rotation"),
        (lambda r: r.depth([0], -EYE[None]), r"rotations\[0\] is not a rotation"),
        (lambda r: r.depth([0], np.full((1, 3, 3), np.nan)), "not a rotation"),
        (lambda r: r.depth([0], EYE[None], [[0, np.nan, 0]]), r"offsets\[0\] holds NaN"),
        (lambda r: r.render(0, EYE, [0, 0, np.inf]), r"offsets\[0\] holds NaN or infinity"),
        (lambda r: r.depth([0], EYE[None], [[0, 0, -0.76]]), "box: comes to -0.01 m before the camera"),
        (lambda r: r.render(0, EYE, channels=["colour"]), "unknown channel 'colour'; the channels here are: depth"),
    ],
)
def test_mistakes_are_named(call, message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        call(MeshRenderer([CUBE]))
