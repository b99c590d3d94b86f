"""Readers of mesh files: variants of the formats by hand, and files broken in every place."""

import base64
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from vidssl.datasets.mesh_files import TooLarge, read_obj, read_off, read_ply, read_stl, triangulated
from vidssl.datasets.mesh_gltf import read_gltf
from vidssl.datasets.meshes import load_mesh
from vidssl.errors import VidsslError

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float64)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def ply(form: str, order: str) -> bytes:
    """The tetrahedron with a colour a vertex, an element to pass over, and a property beside the faces' lists."""
    head = (
        f"ply\nformat {form} 1.0\ncomment made by hand\nelement vertex 4\nproperty double x\nproperty double y\n"
        "property double z\nproperty uchar red\nelement edge 1\nproperty int vertex1\nelement face 4\n"
        "property float quality\nproperty list uchar uint vertex_index\nend_header\n"
    ).encode()
    if form == "ascii":
        rows = [f"{x} {y} {z} 255" for x, y, z in CORNERS] + ["7"] + [f"0.5 3 {a} {b} {c}" for a, b, c in FACES]
        return head + "\n".join(rows).encode()
    body = b"".join(struct.pack(order + "dddB", *corner, 255) for corner in CORNERS)
    body += struct.pack(order + "i", 7) + b"".join(struct.pack(order + "fBIII", 0.5, 3, *face) for face in FACES)
    return head + body


@pytest.mark.parametrize(("form", "order"), [("ascii", ""), ("binary_little_endian", "<"), ("binary_big_endian", ">")])
def test_ply(form: str, order: str) -> None:
    vertices, triangles = read_ply(ply(form, order))
    np.testing.assert_array_equal(vertices, CORNERS)
    np.testing.assert_array_equal(triangles, FACES)


def stl(binary: bool) -> bytes:
    corners = CORNERS[FACES]
    if binary:
        rows = [struct.pack("<12fH", 0, 0, 0, *three.ravel(), 0) for three in corners]
        return b"solid, though binary".ljust(80) + struct.pack("<I", 4) + b"".join(rows)
    facets = [" ".join(f"vertex {x} {y} {z:e}\n" for x, y, z in three) for three in corners]
    return ("solid a\n" + "".join(f"facet normal 0 0 0 outer loop {f} endloop endfacet\n" for f in facets)).encode()


@pytest.mark.parametrize("binary", [False, True])
def test_stl(binary: bool) -> None:
    vertices, triangles = read_stl(stl(binary))
    np.testing.assert_array_equal(vertices[triangles], CORNERS[FACES])


@pytest.mark.parametrize("head", ["OFF\n4 4 6", "OFF 4 4 6", "COFF # colours\n\n4 4 6"])
def test_off(head: str) -> None:
    rows = [f"{x} {y} {z} 0.1 0.2 0.3 1" for x, y, z in CORNERS] + [f"3 {a} {b} {c} 9 9" for a, b, c in FACES]
    vertices, triangles = read_off("\n".join([head, *rows]).encode())
    np.testing.assert_array_equal(vertices, CORNERS)
    np.testing.assert_array_equal(triangles, FACES)


def test_obj_with_texture_and_normal_indices_counting_back() -> None:
    lines = [f"v {x} {y} {z} 0.5 0.5 0.5" for x, y, z in CORNERS]
    text = "\n".join(["mtllib a.mtl", *lines, "vn 0 0 1", "f 1/1/1 3//1 \\\n 2", "f -4 -3 -1", "# f 9 9 9"])
    vertices, triangles = read_obj(text.encode())
    np.testing.assert_array_equal(vertices, CORNERS)
    np.testing.assert_array_equal(triangles, [[0, 2, 1], [0, 1, 3]])


def test_polygons_that_are_not_convex() -> None:
    l_shape = np.array([(0, 0), (3, 0), (3, 1), (1, 1), (1, 2), (0, 2)], dtype=np.float64)
    corners = np.column_stack([np.full(6, 7.0), l_shape])  # in a plane of constant x
    for face in (range(6), range(5, -1, -1)):
        points, triangles = triangulated(corners.tolist(), [list(face)])
        a, b, c = np.moveaxis(points[triangles], 1, 0)
        normals = np.cross(b - a, c - a)[:, 0] / 2
        assert len(set(np.sign(normals))) == 1  # all look the same way: none lies outside the polygon
        assert normals.sum() == pytest.approx(4.0 if face[0] == 0 else -4.0)


def gltf(**changes: object) -> dict[str, object]:
    """A strip of two triangles, as text with its buffer inside, under a node that turns, scales and moves it."""
    data = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype="<f4").tobytes()
    scene: dict[str, object] = {
        "nodes": [
            {"children": [1], "translation": [0, 0, 5]},
            {"mesh": 0, "rotation": [0, 0, np.sqrt(0.5), np.sqrt(0.5)], "scale": [2, 1, 1]},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 5}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": len(data)}],
        "buffers": [{"uri": "data:;base64," + base64.b64encode(data).decode(), "byteLength": len(data)}],
    }
    return scene | changes


def test_gltf_nodes_and_strips(tmp_path: Path) -> None:
    vertices, triangles = read_gltf(json.dumps(gltf()).encode(), tmp_path, 2, 0)
    # (1, 0, 0) is scaled to (2, 0, 0), turned by 90 degrees about z to (0, 2, 0), moved to (0, 2, 5).
    np.testing.assert_allclose(vertices, [[0, 0, 5], [0, 2, 5], [-1, 0, 5], [-1, 2, 5]], atol=1e-6)
    np.testing.assert_array_equal(triangles, [[0, 1, 2], [3, 2, 1]])
    (tmp_path / "a b.bin").write_bytes(np.eye(4, 3, dtype="<f4").tobytes())
    text = json.dumps(gltf(nodes=[], buffers=[{"uri": "a%20b.bin"}])).encode()
    outside, _ = read_gltf(text, tmp_path, 2, 48)
    np.testing.assert_array_equal(outside, np.eye(4, 3))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"nodes": [{"children": [1]}, {"children": [0]}], "scenes": [{"nodes": [0]}]},
            "no tree: node 0 is reached twice",
        ),
        ({"nodes": [{"children": [i + 1, i + 1]} for i in range(40)] + [{"mesh": 0}]}, r"no tree: node \d+ is reached"),
        ({"scenes": [{"nodes": [0, 1]}]}, "no tree: node 1 is reached twice"),
        ({"buffers": [{"uri": "gone.bin"}]}, "its buffer gone.bin is missing"),
        ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, "compressed by KHR_draco_mesh_compression"),
        ({"bufferViews": [{"buffer": 0, "byteOffset": 8}]}, "reaches beyond its buffer"),
    ],
)
def test_gltf_that_is_not_read_says_why(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    (tmp_path / "a.gltf").write_text(json.dumps(gltf(**changes)))
    with pytest.raises(VidsslError, match=reason):
        load_mesh(tmp_path / "a.gltf")


def test_a_gltf_stops_at_its_budget(tmp_path: Path) -> None:
    placed = gltf(nodes=[{"mesh": 0}] * 300_000)  # 600,000 triangles in all, of a strip of two
    with pytest.raises(TooLarge, match="more than 4 triangles"):
        read_gltf(json.dumps(placed).encode(), tmp_path, 4, 0)
    assert len(read_gltf(json.dumps(gltf(nodes=[{"mesh": 0}] * 2)).encode(), tmp_path, 4, 0)[1]) == 4
    (tmp_path / "a.gltf").write_text(json.dumps(gltf(nodes=[{"mesh": 0}] * 20)))
    with pytest.raises(VidsslError, match="enormous: more than 30 triangles"):
        load_mesh(tmp_path / "a.gltf", max_triangles=30)


def test_large_outside_buffers_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.bin").open("wb") as file:
        file.truncate(10**12)  # a hole: takes no room on the disk
    (tmp_path / "b.bin").write_bytes(bytes(60))
    with pytest.raises(TooLarge, match=r"up to a\.bin take 1e\+06 MB"):
        read_gltf(json.dumps(gltf(buffers=[{"uri": "a.bin"}])).encode(), tmp_path, 2, 100)
    with pytest.raises(TooLarge, match=r"up to b\.bin take 0.00012 MB"):
        read_gltf(json.dumps(gltf(buffers=[{"uri": "b.bin"}] * 2)).encode(), tmp_path, 2, 100)


def test_primitives_that_share_vertices_keep_those_they_use(tmp_path: Path) -> None:
    one = np.array([3, 1, 2], "<u2").tobytes()
    both = gltf()["buffers"] + [{"uri": "data:;base64," + base64.b64encode(one).decode()}]  # type: ignore[operator]
    views = [{"buffer": 0}, {"buffer": 1}]
    accessors = gltf()["accessors"] + [  # type: ignore[operator]
        {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"}
    ]
    meshes = [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}]
    scene = gltf(nodes=[], buffers=both, bufferViews=views, accessors=accessors, meshes=meshes)
    vertices, triangles = read_gltf(json.dumps(scene).encode(), tmp_path, 1, 0)
    np.testing.assert_array_equal(vertices[triangles[0]], [[1, 1, 0], [1, 0, 0], [0, 1, 0]])
    assert len(vertices) == 3


@pytest.mark.parametrize("suffix", [".obj", ".off", ".ply", ".stl", ".gltf", ".glb"])
def test_broken_files_are_named_never_worse(tmp_path: Path, suffix: str) -> None:
    """Cut off at, and with a byte changed at, many places: a mesh or a reason, nothing else (warnings are errors)."""
    text = json.dumps(gltf()).encode()
    whole = {
        ".obj": "\n".join(["v 0 0 0", "v 1 0 0", "v 0 1 0", "v 0 0 1", "f 1 3 2", "f 1 2 4", "f 2 3 4"]).encode(),
        ".off": b"OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n",
        ".ply": ply("binary_little_endian", "<"),
        ".stl": stl(binary=True),
        ".gltf": text,
        ".glb": struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text), len(text), b"JSON") + text,
    }[suffix]
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        if rng.random() < 0.5:
            del data[rng.integers(len(data)) :]
        else:
            data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / f"a{suffix}").write_bytes(data)
        try:
            mesh = load_mesh(tmp_path / f"a{suffix}")
            outcomes.add("read")
            assert np.isfinite(mesh.vertices).all()
        except VidsslError as error:
            outcomes.add(str(error).split(": ")[1])
    assert "unreadable" in outcomes
    assert outcomes <= {"read", "unreadable", "empty", "broken", "degenerate"}


def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.obj").write_text("v 0 0 0\n")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(VidsslError, match=r"a\.obj: unreadable: Permission denied"):
        load_mesh(tmp_path / "a.obj")
