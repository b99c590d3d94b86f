"""Reader of glTF 2.0 scenes, as .gltf (text, with its buffers beside it or inside) and .glb (one binary file).

Source: Khronos glTF 2.0 specification, sections 3.5 (scenes, nodes), 3.6 (buffers, accessors) and 4 (GLB).
"""

import base64
import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from .mesh_files import Soup, TooLarge

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC3": 3}
TRIANGLES, STRIP, FAN = 4, 5, 6


def read_gltf(data: bytes, folder: Path, max_triangles: int, max_bytes: int) -> Soup:
    """All triangles of the scene, each mesh where its nodes place it, and the vertices they use.

    Args:
        data: the file's bytes, text or GLB.
        folder: where its outside buffers lie.
        max_triangles: of the scene, a mesh counted as often as its nodes place it.
        max_bytes: of the outside buffers together.

    Raises:
        TooLarge: more triangles, told before they are made; or larger buffers, told before they are read.
        One of `mesh_files.MALFORMED`: it is no such file, or its geometry is compressed.
    """
    scene, inside = _unpack(data)
    compressed = [name for name in scene.get("extensionsRequired", []) if "compression" in name]
    if compressed:
        raise ValueError(f"geometry compressed by {', '.join(compressed)}, which is not read; export it without")
    buffers = _buffers(scene, inside, folder, max_bytes)
    points, triangles, count, total = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0, 0
    for mesh, placed in _placements(scene):
        for primitive in scene["meshes"][mesh]["primitives"]:
            mode = primitive.get("mode", TRIANGLES)
            if mode not in (TRIANGLES, STRIP, FAN):
                continue  # points and lines have no surface
            corners = _accessor(scene, buffers, primitive["attributes"]["POSITION"])
            order = (
                _accessor(scene, buffers, primitive["indices"]) if "indices" in primitive else np.arange(len(corners))
            )
            total += len(order) // 3 if mode == TRIANGLES else max(len(order) - 2, 0)
            if total > max_triangles:
                raise TooLarge(f"more than {max_triangles} triangles, the limit; simplify it or raise max_triangles")
            faces = _faces(order.astype(np.int64).ravel(), mode)
            used, faces = np.unique(faces, return_inverse=True)  # primitives may share one long list of vertices
            if len(used) and not 0 <= used[0] <= used[-1] < len(corners):
                raise ValueError(f"a triangle uses vertex {used[-1] if used[0] >= 0 else used[0]} of {len(corners)}")
            faces = faces.reshape(-1, 3)
            points.append(corners[used].astype(np.float64) @ placed[:3, :3].T + placed[:3, 3])
            triangles.append(count + (faces if np.linalg.det(placed[:3, :3]) > 0 else faces[:, ::-1]))
            count += len(used)
    return np.concatenate(points), np.concatenate(triangles)


def _unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    if data[:4] != b"glTF":
        return json.loads(data), b""
    chunks, at = {}, 12
    while at + 8 <= len(data):
        size, kind = struct.unpack_from("<I4s", data, at)
        chunks[kind] = data[at + 8 : at + 8 + size]
        at += 8 + size
    if b"JSON" not in chunks:
        raise ValueError("cut off: no scene in it")
    return json.loads(chunks[b"JSON"].rstrip(b"\0 ")), chunks.get(b"BIN\0", b"")


def _buffers(scene: dict[str, Any], inside: bytes, folder: Path, max_bytes: int) -> list[bytes]:
    found, outside = [], 0
    for buffer in scene.get("buffers", []):
        uri = buffer.get("uri")
        if uri is None:
            found.append(inside)
        elif uri.startswith("data:"):
            found.append(base64.b64decode(uri.split(",", 1)[1]))
        else:
            path = folder / unquote(uri)
            if not path.is_file():
                raise ValueError(f"its buffer {uri} is missing")
            outside += path.stat().st_size
            if outside > max_bytes:
                raise TooLarge(
                    f"its buffers up to {uri} take {outside / 1e6:.3g} MB, at most {max_bytes / 1e6:.3g} MB are read; "
                    "simplify it or raise max_triangles"
                )
            found.append(path.read_bytes())
    return found


def _placements(scene: dict[str, Any]) -> list[tuple[int, NDArray[np.float64]]]:
    """(mesh, 4x4 matrix) for every node with a mesh; all meshes as they are if the file has no nodes."""
    nodes = scene.get("nodes", [])
    if not nodes:
        return [(mesh, np.eye(4)) for mesh in range(len(scene.get("meshes", [])))]
    scenes = scene.get("scenes")
    children = {child for node in nodes for child in node.get("children", [])}
    roots = scenes[scene.get("scene", 0)].get("nodes", []) if scenes else sorted(set(range(len(nodes))) - children)
    found, waiting, seen = [], [(root, np.eye(4)) for root in roots], set()
    while waiting:
        index, parent = waiting.pop()
        if index in seen:  # section 3.5.2: strict trees
            raise ValueError(f"its nodes are no tree: node {index} is reached twice")
        seen.add(index)
        node = nodes[index]
        placed = parent @ _matrix(node)
        if "mesh" in node:
            found.append((node["mesh"], placed))
        waiting += [(child, placed) for child in node.get("children", [])]
    return found


def _matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T  # stored column by column
    x, y, z, w = np.array(node.get("rotation", [0, 0, 0, 1]), dtype=np.float64)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    placed = np.eye(4)
    placed[:3, :3] = (np.eye(3) + 2 * w * cross + 2 * cross @ cross) * np.array(node.get("scale", [1, 1, 1]))
    placed[:3, 3] = node.get("translation", [0, 0, 0])
    return placed


def _accessor(scene: dict[str, Any], buffers: list[bytes], index: int) -> NDArray[Any]:
    accessor = scene["accessors"][index]
    if "sparse" in accessor:
        raise ValueError("sparse accessors, which are not read; export it without")
    view = scene["bufferViews"][accessor["bufferView"]]
    dtype, width = np.dtype(_COMPONENTS[accessor["componentType"]]), _WIDTHS[accessor["type"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    step = view.get("byteStride", dtype.itemsize * width)
    count, data = accessor["count"], buffers[view["buffer"]]
    if min(start, count - 1, step - dtype.itemsize * width) < 0:
        raise ValueError("an accessor with a negative offset, count or stride")
    if start + (count - 1) * step + dtype.itemsize * width > len(data):
        raise ValueError("cut off: an accessor reaches beyond its buffer")
    values: NDArray[Any] = np.ndarray((count, width), dtype, data, start, (step, dtype.itemsize))
    return values / np.iinfo(dtype).max if accessor.get("normalized") else values


def _faces(order: NDArray[np.int64], mode: int) -> NDArray[np.int64]:
    if mode == TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if mode == FAN:
        return np.stack([np.full(len(order) - 2, order[0]), order[1:-1], order[2:]], axis=1)
    strip = np.stack([order[:-2], order[1:-1], order[2:]], axis=1)
    strip[1::2] = strip[1::2, ::-1]  # every other triangle of a strip runs the other way round
    return strip
