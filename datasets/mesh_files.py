"""Readers of mesh files: OBJ, STL, PLY and OFF.

V vertices, F triangles. Written here because a library's reader in C++ ends the whole process on some broken files
(Open3D 0.19's on a GLB that was cut off), where one file of a thousand ought to be left out.

Each reader: bytes of the file -> vertices float64 [V,3], triangles int64 [F,3]; ValueError, or another of MALFORMED, if
the bytes are no such file. Indices are not checked against V. Polygons are cut into triangles.
"""

import re
import struct
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .solid_parts import ears

MALFORMED = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, struct.error)
Soup = tuple[NDArray[np.float64], NDArray[np.int64]]


class TooLarge(Exception):
    """A file would give more than was allowed."""


def read_obj(data: bytes) -> Soup:
    """Wavefront OBJ: the `v` and `f` lines; indices count from 1, negative ones back from the last vertex so far."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    for line in data.decode("utf-8", "replace").replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(word) for word in words[:3]])
        elif kind == "f":
            face = [int(word.split("/")[0]) for word in words]
            faces.append([index - 1 if index > 0 else len(vertices) + index for index in face])
    return triangulated(vertices, faces)


def read_off(data: bytes) -> Soup:
    """Object File Format, with or without colours: a line a vertex, a line a face that begins with its count."""
    lines = (line.split("#")[0].split() for line in data.decode("utf-8", "replace").splitlines())
    rows = iter([line for line in lines if line])
    head = next(rows, [])
    if not head or not head[0].endswith("OFF"):
        raise ValueError("no OFF header")
    counts = head[1:] or next(rows, [])
    n_vertices, n_faces = int(counts[0]), int(counts[1])
    vertices = [[float(word) for word in row[:3]] for row in islice(rows, n_vertices)]
    faces = [[int(word) for word in row[1 : 1 + int(row[0])]] for row in islice(rows, n_faces)]
    if len(vertices) < n_vertices or len(faces) < n_faces:
        raise ValueError("cut off")
    return triangulated(vertices, faces)


def read_stl(data: bytes) -> Soup:
    """STL, binary or text; each triangle has three vertices of its own."""
    count = int.from_bytes(data[80:84], "little") if len(data) >= 84 else 0
    if count and len(data) >= 84 + 50 * count:
        row = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
        corners = np.frombuffer(data, row, count, 84)["corners"].astype(np.float64).reshape(-1, 3)
    elif data.lstrip()[:5] == b"solid":
        words = re.findall(r"vertex\s+(\S+)\s+(\S+)\s+(\S+)", data.decode("utf-8", "replace"))
        corners = np.array(words, dtype=np.float64).reshape(-1, 3)
    else:
        raise ValueError(f"cut off: {count} triangles announced in {len(data)} bytes" if count else "no STL")
    return corners, np.arange(len(corners)).reshape(-1, 3)


def read_ply(data: bytes) -> Soup:
    """Polygon File Format, text or binary of either byte order: elements `vertex` (x, y, z) and `face`."""
    head, mark, body = data.partition(b"end_header")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    if not mark or lines[0] != ["ply"]:
        raise ValueError("no PLY header")
    form = next((line[1] for line in lines if line and line[0] == "format"), "missing")
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ValueError(f"PLY of unknown format {form!r}")
    body = body.split(b"\n", 1)[1]
    source = _TextRows(body) if form == "ascii" else _BinaryRows(body, ">" if form == "binary_big_endian" else "<")
    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in lines:
        if line and line[0] == "element":
            elements.append((line[1], int(line[2]), []))
        elif line and line[0] == "property":
            elements[-1][2].append(line[1:])
    vertices, faces = [], []
    for name, count, properties in elements:
        if count > len(data):
            raise ValueError(f"cut off: {count} of {name} announced in {len(data)} bytes")
        rows = source.rows(count, properties)
        if name == "vertex":
            vertices = [[float(row[axis]) for axis in "xyz"] for row in rows]
        elif name == "face":
            faces = [
                [int(index) for index in row["vertex_indices" if "vertex_indices" in row else "vertex_index"]]
                for row in rows
            ]
        else:
            list(rows)
    return triangulated(vertices, faces)


_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "b"),
    **dict.fromkeys(("uchar", "uint8"), "B"),
    **dict.fromkeys(("short", "int16"), "h"),
    **dict.fromkeys(("ushort", "uint16"), "H"),
    **dict.fromkeys(("int", "int32"), "i"),
    **dict.fromkeys(("uint", "uint32"), "I"),
    **dict.fromkeys(("float", "float32"), "f"),
    **dict.fromkeys(("double", "float64"), "d"),
}


class _TextRows:
    """Rows of a PLY body in text: one line an item."""

    def __init__(self, body: bytes) -> None:
        self.lines = iter(body.decode("ascii", "replace").splitlines())

    def rows(self, count: int, properties: list[list[str]]) -> Iterable[dict[str, Any]]:
        for _ in range(count):
            words = iter(next(self.lines, "").split())
            row: dict[str, Any] = {}
            for kind, *rest in properties:
                size = int(_next(words)) if kind == "list" else None
                row[rest[-1]] = _next(words) if size is None else [_next(words) for _ in range(size)]
            yield row


def _next(words: Iterable[str]) -> str:
    for word in words:
        return word
    raise ValueError("cut off")


class _BinaryRows:
    """Rows of a PLY body in binary."""

    def __init__(self, body: bytes, order: str) -> None:
        self.body, self.order, self.at = body, order, 0

    def take(self, codes: str) -> tuple[Any, ...]:
        found = struct.unpack_from(self.order + codes, self.body, self.at)
        self.at += struct.calcsize(self.order + codes)
        return found

    def rows(self, count: int, properties: list[list[str]]) -> Iterable[dict[str, Any]]:
        if all(kind != "list" for kind, *_ in properties):
            codes = "".join(_PLY_TYPES[kind] for kind, _ in properties)
            names = [name for _, name in properties]
            for _ in range(count):
                yield dict(zip(names, self.take(codes), strict=True))
            return
        for _ in range(count):
            row: dict[str, Any] = {}
            for kind, *rest in properties:
                if kind == "list":
                    size = self.take(_PLY_TYPES[rest[0]])[0]
                    row[rest[2]] = self.take(f"{size}{_PLY_TYPES[rest[1]]}")
                else:
                    row[rest[0]] = self.take(_PLY_TYPES[kind])[0]
            yield row


def triangulated(vertices: Sequence[Sequence[float]], faces: Sequence[Sequence[int]]) -> Soup:
    """Lists as arrays, with polygons of more than three corners cut: four by a diagonal, more by their ears."""
    points = np.array(vertices, dtype=np.float64).reshape(-1, 3)
    found: list[tuple[int, int, int]] = []
    for face in faces:
        corners = _ears(points, face) if len(face) > 4 else [(0, i, i + 1) for i in range(1, len(face) - 1)]
        found += [(face[a], face[b], face[c]) for a, b, c in corners]
    return points, np.array(found, dtype=np.int64).reshape(-1, 3)


def _ears(points: NDArray[np.float64], face: Sequence[int]) -> list[tuple[int, int, int]]:
    """Triangles of one polygon that need not be convex, seen along its normal (Newell's)."""
    corners = points[list(face)]
    normal = np.cross(corners, np.roll(corners, -1, axis=0)).sum(0)
    drop = int(np.argmax(np.abs(normal)))
    flat = corners[:, [(drop + 1) % 3, (drop + 2) % 3]] * [1.0, 1.0 if normal[drop] > 0 else -1.0]
    return ears(flat) or [(0, i, i + 1) for i in range(1, len(face) - 1)]
