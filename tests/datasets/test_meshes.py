"""Mesh folders: every format, every reason to leave one out, and splits that copies cannot straddle."""

import json
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from vidssl.datasets.mesh_geometry import geometry_key, is_closed, surface_moments, triangle_areas
from vidssl.datasets.meshes import MAX_TRIANGLES, OPEN, Mesh, MeshSet, load_mesh, load_meshes, split_of
from vidssl.datasets.solid_parts import about, box
from vidssl.datasets.solids import make_solid
from vidssl.errors import VidsslError
from vidssl.open3d_library import load_open3d

BRICK = box(1, 2, 3)  # farthest corner at sqrt(14) / 2 from the middle


def write_obj(path: Path, vertices: ArrayLike, triangles: NDArray[np.int64]) -> Path:
    lines = [f"v {x} {y} {z}" for x, y, z in np.asarray(vertices)]
    lines += [f"f {a} {b} {c}" for a, b, c in triangles + 1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_glb(path: Path) -> None:
    """The brick twice, by two nodes of a scene: at its place and 5 to the right."""
    vertices, triangles = BRICK.vertices.astype("<f4"), BRICK.triangles.astype("<u2")
    data = vertices.tobytes() + triangles.tobytes()
    scene = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        "nodes": [{"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": 8,
                "type": "VEC3",
                "min": [-0.5, -1, -1.5],
                "max": [0.5, 1, 1.5],
            },
            {"bufferView": 1, "componentType": 5123, "count": 36, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 96},
            {"buffer": 0, "byteOffset": 96, "byteLength": 72},
        ],
        "buffers": [{"byteLength": len(data)}],
    }
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    size = 12 + 8 + len(text) + 8 + len(data)
    header = struct.pack("<4sIIII", b"glTF", 2, size, len(text), 0x4E4F534A)
    path.write_bytes(header + text + struct.pack("<II", len(data), 0x004E4942) + data)


# Geometry by hand


def test_moments_of_a_cubes_shell_by_hand() -> None:
    # Along x: two faces (a third of the area) at 1/2, the other four spread evenly: 1/3 * 1/4 + 2/3 * 1/12 = 5/36.
    cube = box(1, 1, 1).moved(3, 4, 5)
    moments = surface_moments(cube.vertices, cube.triangles)
    assert moments.area == pytest.approx(6)
    np.testing.assert_allclose(moments.centroid, [3, 4, 5])
    np.testing.assert_allclose(moments.deviations**2, 5 / 36)
    assert moments.skewness == pytest.approx(0, abs=1e-12)
    # Fourth: on a face |x|^2 = 1/4 + u^2 + v^2 with E u^2 = 1/12, E u^4 = 1/80: E = 1/16 + 1/12 + 2/80 + 2/144.
    assert moments.kurtosis == pytest.approx((1 / 16 + 1 / 12 + 2 / 80 + 2 / 144) / (15 / 36) ** 2)


def test_closed_and_open() -> None:
    assert is_closed(BRICK.vertices, BRICK.triangles)
    assert not is_closed(BRICK.vertices, BRICK.triangles[1:])
    soup = BRICK.vertices[BRICK.triangles].reshape(-1, 3)  # as in an STL file: three vertices of its own a triangle
    assert is_closed(soup, np.arange(36).reshape(12, 3))
    turned_over = BRICK.triangles.copy()
    turned_over[0] = turned_over[0, ::-1]
    assert not is_closed(BRICK.vertices, turned_over)


def test_normalised_by_hand() -> None:
    mesh = Mesh("brick", (BRICK.vertices + 7).astype(np.float32), BRICK.triangles.astype(np.int32)).normalised()
    half = 0.1 / (np.sqrt(14) / 2) * np.array([0.5, 1, 1.5])
    np.testing.assert_allclose(mesh.vertices.max(0), half, rtol=1e-5)
    np.testing.assert_allclose(mesh.vertices.min(0), -half, rtol=1e-5)
    assert mesh.vertices.dtype == np.float32
    assert mesh.triangles.dtype == np.int32
    assert np.linalg.norm(mesh.normalised(0.5).vertices, axis=1).max() == pytest.approx(0.5)


# Reading


@pytest.mark.parametrize("suffix", [".obj", ".off", ".ply", ".stl", ".gltf", ".OBJ"])
def test_each_format_gives_the_same_brick(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"brick{suffix}"
    if suffix.lower() == ".obj":
        write_obj(path, BRICK.vertices, BRICK.triangles)
    else:
        o3d = load_open3d()
        mesh = o3d.geometry.TriangleMesh(
            o3d.utility.Vector3dVector(BRICK.vertices), o3d.utility.Vector3iVector(BRICK.triangles)
        )
        if suffix == ".stl":
            mesh.compute_triangle_normals()
        assert o3d.io.write_triangle_mesh(str(path), mesh)
    read = load_mesh(path)
    assert read.name == path.name
    assert read.closed
    scale = 0.1 / (np.sqrt(14) / 2)
    np.testing.assert_allclose(np.ptp(read.vertices, axis=0), scale * np.array([1, 2, 3]), rtol=1e-5)
    assert triangle_areas(read.vertices, read.triangles).sum() == pytest.approx(22 * scale**2, rel=1e-5)


def test_nodes_of_a_glb_scene_are_placed_and_joined(tmp_path: Path) -> None:
    write_glb(tmp_path / "scene.glb")
    size = np.ptp(load_mesh(tmp_path / "scene.glb").vertices, axis=0)
    np.testing.assert_allclose(size / size[0] * 6, [6, 2, 3], rtol=1e-5)


def test_a_mesh_far_from_its_origin_keeps_its_shape(tmp_path: Path) -> None:
    near = load_mesh(write_obj(tmp_path / "near.obj", BRICK.vertices, BRICK.triangles))
    place = np.array([500_000, 4_600_000, 120])  # UTM coordinates, metres: float32 there has steps of 0.5
    far = load_mesh(write_obj(tmp_path / "far.obj", BRICK.vertices + place, BRICK.triangles))
    np.testing.assert_allclose(far.vertices, near.vertices, atol=1e-8)
    huge = load_mesh(write_obj(tmp_path / "huge.obj", BRICK.vertices * 1e308, BRICK.triangles))
    np.testing.assert_allclose(huge.vertices, near.vertices, atol=1e-8)


def test_links_to_nothing_and_pipes_are_named(tmp_path: Path) -> None:
    write_obj(tmp_path / "brick.obj", BRICK.vertices, BRICK.triangles)
    (tmp_path / "gone.obj").symlink_to(tmp_path / "nowhere.obj")
    (tmp_path / "loop.stl").symlink_to(tmp_path / "loop.stl")
    os.mkfifo(tmp_path / "pipe.ply")
    found = load_meshes(tmp_path)
    assert [mesh.name for mesh in found.meshes] == ["brick.obj"]
    assert found.skipped.pop("loop.stl").startswith("unreadable: ")  # in the system's words
    assert found.skipped == {
        "gone.obj": "unreadable: No such file or directory",
        "pipe.ply": "unreadable: no regular file",
    }


def test_polygons_are_cut_and_loose_vertices_do_not_count(tmp_path: Path) -> None:
    corners = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    faces = ["1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4"]
    lines = [f"v {x} {y} {z}" for x, y, z in corners] + ["v 100 100 100"] + [f"f {face}" for face in faces]
    (tmp_path / "cube.obj").write_text("\n".join(lines))
    mesh = load_mesh(tmp_path / "cube.obj")
    assert mesh.triangles.shape == (12, 3)
    assert mesh.closed
    np.testing.assert_allclose(mesh.vertices.max(0), 0.1 / np.sqrt(3), rtol=1e-5)


def test_unusable_meshes_are_named_with_their_reason(tmp_path: Path) -> None:
    nan = BRICK.vertices.copy()
    nan[3, 1] = np.nan
    write_obj(tmp_path / "good" / "brick10.obj", BRICK.vertices, BRICK.triangles)
    write_obj(tmp_path / "good" / "brick9.obj", BRICK.vertices, BRICK.triangles)
    write_obj(tmp_path / "open.obj", BRICK.vertices, BRICK.triangles[2:])
    write_obj(tmp_path / "nan.obj", nan, BRICK.triangles)
    write_obj(tmp_path / "flat.obj", BRICK.vertices * [1, 1, 0], BRICK.triangles)
    write_obj(tmp_path / "line.obj", BRICK.vertices * [1, 0, 0], BRICK.triangles)
    write_obj(tmp_path / "many.obj", *_fine_grid(21))
    (tmp_path / "text.obj").write_text("hello\n")
    (tmp_path / "empty.stl").write_bytes(b"")
    (tmp_path / "cut.glb").write_bytes(b"glTF\x02\x00\x00\x00")
    (tmp_path / "big.obj").write_bytes(b"#" * 200_001)
    (tmp_path / "index.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 77\n"
    )
    (tmp_path / "notes.txt").write_text("not a mesh, not named")
    found = load_meshes(tmp_path, max_triangles=500)
    assert [mesh.name for mesh in found.meshes] == ["good/brick9.obj", "good/brick10.obj", "open.obj"]
    assert found.notes == {"open.obj": OPEN}
    assert {name: reason.split(":")[0] for name, reason in found.skipped.items()} == {
        "big.obj": "enormous",
        "cut.glb": "unreadable",
        "empty.stl": "unreadable",
        "flat.obj": "degenerate",
        "index.ply": "broken",
        "line.obj": "degenerate",
        "many.obj": "enormous",
        "nan.obj": "degenerate",
        "text.obj": "empty",
    }
    assert "882 triangles, the limit is 500" in found.skipped["many.obj"]
    assert "flat" in found.skipped["flat.obj"]
    assert "no area" in found.skipped["line.obj"]
    assert "NaN" in found.skipped["nan.obj"]
    closed = load_meshes(tmp_path, watertight=True)
    assert "only watertight" in closed.skipped["open.obj"]
    assert len(load_meshes(tmp_path, limit=1)) == 1
    assert MAX_TRIANGLES == 200_000


def _fine_grid(n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    x, y = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0))
    corner = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    a, b, c, d = corner, corner + 1, corner + n + 2, corner + n + 1
    return np.stack([x, y, x * y], -1).reshape(-1, 3), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match="no such file or folder"):
        load_meshes(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(VidsslError, match=r"no meshes; found 1 \.png"):
        load_meshes(tmp_path)
    (tmp_path / "a.stl").write_bytes(b"")
    with pytest.raises(VidsslError, match=r"none of 1 meshes is usable, e.g. a.stl: unreadable"):
        load_meshes(tmp_path)
    with pytest.raises(VidsslError, match=r"a\.stl: unreadable"):
        load_mesh(tmp_path / "a.stl")
    with pytest.raises(VidsslError, match="not a mesh by its extension"):
        load_mesh(tmp_path / "a.png")
    with pytest.raises(VidsslError, match="no such file"):
        load_mesh(tmp_path / "b.obj")
    with pytest.raises(VidsslError, match="limit"):
        load_meshes("default", limit=0)
    with pytest.raises(VidsslError, match="test_share"):
        split_of("a", test_share=1.0)
    solids = load_meshes("default", limit=2)
    with pytest.raises(VidsslError, match="unknown split 'validation'; the splits here are: test, train"):
        solids.split("validation")
    with pytest.raises(VidsslError, match="none of the 2 objects"):
        solids.split("test", test_share=1e-9)


# Splits


def _copies(mesh: Mesh) -> list[Mesh]:
    """Renamed, and: moved and turned; mirrored; scaled with each triangle cut into three; shaken by 0.1%."""
    turn = about(0, 0.7) @ about(2, 1.9)
    corners = mesh.vertices[mesh.triangles]
    middle = len(mesh.vertices) + np.arange(len(mesh.triangles))
    a, b, c = mesh.triangles.T
    cut = np.concatenate([np.stack(three, 1) for three in ((a, b, middle), (b, c, middle), (c, a, middle))])
    noise = np.random.default_rng(0).normal(0, 1e-4, mesh.vertices.shape)
    new: list[tuple[NDArray[np.floating], NDArray[np.integer]]] = [
        (mesh.vertices @ turn.T + 3, mesh.triangles),
        (mesh.vertices * [-1, 1, 1], mesh.triangles[:, ::-1]),
        (7 * np.concatenate([mesh.vertices, corners.mean(1)]), cut),
        (mesh.vertices + noise, mesh.triangles),
    ]
    return [
        Mesh(f"copy-{index}", vertices.astype(np.float32), triangles.astype(np.int32)).normalised()
        for index, (vertices, triangles) in enumerate(new)
    ]


def test_splits_are_disjoint_by_shape_and_stable() -> None:
    solids = [make_solid(seed) for seed in range(80)]
    alone = MeshSet(solids).sides()
    assert MeshSet(solids[:40]).sides() == alone[:40]
    assert MeshSet(solids[::-1]).sides() == alone[::-1]
    assert 0.1 < alone.count("test") / 80 < 0.35
    chosen = [alone.index("test"), alone.index("train"), 5, 17, 60]
    for index in chosen:
        with_copies = MeshSet(_copies(solids[index]) + solids)
        sides = with_copies.sides()
        assert set(sides[:4]) == {sides[4 + index]}
        assert sides[4 + index] in (alone[index], "train")
        assert [side for at, side in enumerate(sides[4:]) if at != index] == alone[:index] + alone[index + 1 :]
    train, test = (MeshSet(solids).split(which) for which in ("train", "test"))
    assert not {mesh.name for mesh in train} & {mesh.name for mesh in test}
    assert len(train) + len(test) == 80
    assert MeshSet(solids).sides(seed=1) != alone


def test_neighbours_across_a_cell_are_not_separated() -> None:
    """A row of boxes, each 0.2% longer than the one before, crosses many cells of the key: one side for all."""
    row = [box(1, 2, 3 * 1.002**step) for step in range(60)]
    meshes = [
        Mesh(f"{i}", part.vertices.astype(np.float32), part.triangles.astype(np.int32)) for i, part in enumerate(row)
    ]
    found = MeshSet(meshes)
    keys = {geometry_key(prints) for prints in found._fingerprints}
    assert {split_of(key) for key in keys} == {"train", "test"}
    assert set(found.sides()) == {"train"}


def test_split_of_a_name() -> None:
    sides = [split_of(f"object-{index}", test_share=0.3) for index in range(1000)]
    assert 0.25 < sides.count("test") / 1000 < 0.35
    assert sides == [split_of(f"object-{index}", test_share=0.3) for index in range(1000)]
    assert set(zip(sides, [split_of(f"object-{i}", test_share=0.5) for i in range(1000)], strict=True)) == {
        ("test", "test"),
        ("train", "test"),
        ("train", "train"),
    }  # a larger share keeps the smaller one's


def test_real_meshes(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "meshes" / "random_urdfs.tar.gz"
    if not archive.is_file():
        pytest.skip(f"no meshes at {archive}")
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.name.endswith(".obj")]
        wanted = [m for m in members if Path(m.name).stem in {*(f"{i:03d}" for i in range(20)), "168"}]
        tar.extractall(tmp_path, wanted, filter="data")
    found = load_meshes(tmp_path)
    assert len(found) == 20
    assert [Path(name).name for name in found.skipped] == ["168.obj"]
    assert "NaN" in next(iter(found.skipped.values()))
    assert not found.notes
    assert set(found.sides()) == {"train", "test"}
