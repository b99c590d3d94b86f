"""Coarser triangles: by hand, and in a model that gets its own back."""

import numpy as np

from vidssl.rendering import load_mujoco
from vidssl.robot.coarse_meshes import CORNERS, coarse_meshes, merged


def test_vertices_of_a_cell_become_one() -> None:
    """A square whose corner is cut off by less than a cell:

    3---2        cell 1: vertices 1 and 4 are in one cell, so the small triangle 1 4 2 has no area left
    |  /|
    | / 4
    0--1
    """
    square = np.array([[0, 0, 0], [2.1, 0, 0], [2.2, 2.2, 0], [0, 2, 0], [2.3, 0.2, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [1, 4, 2]], np.int32)
    triangles, which = merged(square, faces, 1.0)
    assert which.tolist() == [0, 1]
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_triangles_that_become_the_same_are_drawn_once() -> None:
    points = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0.1, 0.1, 0]], np.float32)
    _, which = merged(points, np.array([[0, 1, 2], [3, 1, 2]], np.int32), 1.0)
    assert which.tolist() == [0]


def test_a_mesh_smaller_than_a_cell_stays() -> None:
    points = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]], np.float32)
    triangles, which = merged(points, np.array([[0, 1, 2]], np.int32), 1.0)
    assert triangles.tolist() == [[0, 1, 2]]
    assert which.tolist() == [0]


def test_the_model_gets_its_triangles_back() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    vertices = " ".join(f"{x:.4f}" for x in points.ravel())
    xml = f'<mujoco><asset><mesh name="ball" vertex="{vertices}"/></asset><worldbody><geom type="mesh" mesh="ball"/>'
    model = load_mujoco().MjModel.from_xml_string(xml + "</worldbody></mujoco>")
    before = {name: getattr(model, name).copy() for name in (*CORNERS, "mesh_facenum")}
    with coarse_meshes(model, 0.5):
        assert 20 < model.mesh_facenum[0] < 0.6 * before["mesh_facenum"][0]
    for name, values in before.items():
        np.testing.assert_array_equal(getattr(model, name), values)
