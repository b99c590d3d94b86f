"""Arrays of a zarr v2 store (a folder or a tar of one), with pyarrow's codecs and no zarr package.

    STORE/data/img/.zarray      {"shape": [n, ...], "chunks": [c, ...], "dtype": "<f4", "compressor": {...}, ...}
    STORE/data/img/0.0.0.0      the first chunk; chunks lie on a grid and the last ones are padded to full size

Chunks are compressed by Blosc 1 (its frame: header of 16 bytes, then blocks, each cut into streams), zlib or not at
all. Layout: zarr storage specification 2; Blosc's README_HEADER and README_CHUNK_FORMAT.
"""

import itertools
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vidssl.errors import VidsslError

SHUFFLED, COPIED, BIT_SHUFFLED, UNSPLIT = 0x1, 0x2, 0x4, 0x10  # flags of a Blosc header
CODECS = {0: "blosclz", 1: "lz4_raw", 2: "snappy", 3: "zlib", 4: "zstd"}  # by bits 5..7 of the flags, pyarrow's names
LEAST_STREAM = 128  # bytes of a block's stream below which Blosc does not split
MOST_STREAMS = 16  # element size above which it does not


class ZarrStore:
    """Arrays by their path in a store.

    Args:
        path: the store's folder, a folder with one store in it, or a tar of either.

    Raises:
        VidsslError: no such file, or no zarr v2 store in it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            raise VidsslError(f"{path}: no such file or folder; pass a zarr v2 store, or a tar of one")
        self._read = _folder(self.path) if self.path.is_dir() else _tar(self.path)

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """An array piece by piece along its first axis, each [c,...] in the array's own type, the last one shorter.

        Raises:
            VidsslError: no such array, a compressor or layout that is not read here, or a damaged chunk.
        """
        meta = self._meta(name)
        shape, chunk = meta["shape"], meta["chunks"]
        grid = [range(-(-side // part)) for side, part in zip(shape, chunk, strict=True)]
        separator = meta.get("dimension_separator", ".")
        for first in grid[0]:
            rows = np.empty((chunk[0], *shape[1:]), np.dtype(meta["dtype"]))
            for rest in itertools.product(*grid[1:]):
                place = tuple(slice(i * c, (i + 1) * c) for i, c in zip(rest, chunk[1:], strict=True))
                target = rows[(slice(None), *place)]
                piece = self._chunk(f"{name}/{separator.join(map(str, (first, *rest)))}", meta)
                target[...] = piece[tuple(slice(side) for side in target.shape)]
            yield rows[: shape[0] - first * chunk[0]]

    def array(self, name: str) -> np.ndarray:
        """A whole array; raises as `chunks`."""
        pieces = list(self.chunks(name))
        meta = self._meta(name)
        return np.concatenate(pieces) if pieces else np.empty(meta["shape"], np.dtype(meta["dtype"]))

    def _meta(self, name: str) -> dict[str, Any]:
        text = self._read(f"{name}/.zarray")
        if text is None:
            raise VidsslError(f"{self.path}: no array {name!r} in it (no {name}/.zarray); is it another data set?")
        try:
            meta: dict[str, Any] = json.loads(text)
            known = meta["zarr_format"] == 2 and meta["order"] == "C" and not meta["filters"] and meta["shape"]
            compressor = (meta["compressor"] or {"id": None})["id"]
            _check_layout(meta)
        except (ValueError, KeyError, TypeError) as error:
            raise VidsslError(f"{self.path}: {name}/.zarray is garbled ({error!r}); fetch the data set again") from None
        if not known or compressor not in (None, "blosc", "zlib"):
            raise VidsslError(
                f"{self.path}: {name} has format {meta['zarr_format']}, order {meta['order']}, filters "
                f"{meta['filters']} and compressor {compressor}; read here: format 2, order C, no filters, and "
                "blosc, zlib or none; write it again so"
            )
        return meta

    def _chunk(self, key: str, meta: dict[str, Any]) -> np.ndarray:
        data, dtype, shape = self._read(key), np.dtype(meta["dtype"]), meta["chunks"]
        if data is None:  # never written: all of it is the fill value
            return np.full(shape, meta["fill_value"] or 0, dtype)
        try:
            if meta["compressor"] is not None:
                data = unpack_blosc(data) if meta["compressor"]["id"] == "blosc" else zlib.decompress(data)
            return np.frombuffer(data, dtype).reshape(shape)
        except (ValueError, OSError, IndexError, struct.error, zlib.error) as error:
            raise VidsslError(f"{self.path}: chunk {key} is damaged ({error}); fetch the data set again") from None


def _check_layout(meta: dict[str, Any]) -> None:
    """Raises KeyError, TypeError or ValueError for sides, a type or a fill value that no array has."""
    shape, chunk = meta["shape"], meta["chunks"]
    sides = len(shape) == len(chunk) and all(isinstance(side, int) for side in (*shape, *chunk))
    if not sides or min(shape, default=0) < 0 or min(chunk, default=1) < 1:
        raise ValueError(f"shape {shape} in chunks {chunk}")
    np.full((), meta["fill_value"] or 0, np.dtype(meta["dtype"]))
    if meta.get("dimension_separator", ".") not in (".", "/"):
        raise ValueError(f"dimension_separator {meta['dimension_separator']!r}")


def unpack_blosc(data: bytes) -> bytes:
    """The bytes in a Blosc 1 frame.

        | version, inner version, flags, element size | n bytes | block size | frame size |  16 bytes
        | block starts, 4 bytes each | block 0: (length, stream) ... | block 1 ...

    Raises:
        ValueError, struct.error, OSError: damaged, or of a codec that is not read here.
    """
    flags, item = data[2], data[3]
    size, block_size, frame = struct.unpack_from("<III", data, 4)
    if frame != len(data):
        raise ValueError(f"{len(data)} bytes of a frame of {frame}")
    if flags & COPIED:
        return data[16 : 16 + size]
    if not block_size or not item:
        raise ValueError(f"blocks of {block_size} bytes, elements of {item}")
    inflate = _codec(CODECS.get(flags >> 5, f"number {flags >> 5}"))
    starts = struct.unpack_from(f"<{-(-size // block_size)}I", data, 16)
    return b"".join(
        _unshuffle(_block(data, start, min(block_size, size - number * block_size), block_size, inflate), flags, item)
        for number, start in enumerate(starts)
    )


def _block(data: bytes, place: int, size: int, full: int, inflate: Callable[[bytes, int], bytes]) -> bytes:
    """One block: its streams, one an element's byte where Blosc splits them, else one."""
    flags, item = data[2], data[3]
    split = not flags & UNSPLIT and 1 < item <= MOST_STREAMS and size // item >= LEAST_STREAM and size == full
    count = item if split else 1
    streams = []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, place)
        stream = data[place + 4 : place + 4 + length]
        streams.append(stream if length == size // count else inflate(stream, size // count))
        place += 4 + length
    return b"".join(streams)


def _codec(name: str) -> Callable[[bytes, int], bytes]:
    import pyarrow  # type: ignore[import-untyped]

    if name == "zlib":
        return lambda stream, _: zlib.decompress(stream)
    if name == "blosclz" or not pyarrow.Codec.is_available(name):
        raise ValueError(f"Blosc with codec {name}; read here: lz4, snappy, zlib, zstd")
    return lambda stream, size: pyarrow.decompress(stream, size, codec=name, asbytes=True)


def _unshuffle(block: bytes, flags: int, item: int) -> bytes:
    """Undo Blosc's transpositions: bytes [item, n] -> [n, item], or bits [8 item, n/8 bytes] -> [n, item]."""
    count = len(block) // item
    if flags & SHUFFLED and item > 1:
        whole = np.frombuffer(block, np.uint8, count * item).reshape(item, count)
        return whole.T.tobytes() + block[count * item :]
    if flags & BIT_SHUFFLED and count % 8 == 0:  # blocks of other lengths are stored as they are
        planes = np.frombuffer(block, np.uint8, count * item).reshape(item, 8, count // 8)
        values = np.zeros((count, item), np.uint8)
        for byte in range(item):
            if planes[byte].any():
                squares = np.ascontiguousarray(planes[byte].T).view("<u8")[:, 0]
                values[:, byte] = _transpose_bits(squares).view(np.uint8)
        return values.tobytes() + block[count * item :]
    return block


def _transpose_bits(squares: np.ndarray) -> np.ndarray:
    """Exchange rows and columns of 8 x 8 bits, each a uint64 [n]: bit 8 i + j goes to 8 j + i.

    By halves, as in Warren, Hacker's Delight, section 7-3.
    """
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        crossing = (squares ^ (squares >> np.uint64(shift))) & np.uint64(mask)
        squares = squares ^ crossing ^ (crossing << np.uint64(shift))
    return squares


def _folder(folder: Path) -> Callable[[str], bytes | None]:
    stores = [folder] if (folder / ".zgroup").exists() else [group.parent for group in sorted(folder.glob("*/.zgroup"))]
    if len(stores) != 1:
        raise VidsslError(f"{folder}: {len(stores)} zarr stores in it (folders with a .zgroup); pass one store")

    def read(key: str) -> bytes | None:
        file = stores[0] / key
        return file.read_bytes() if file.exists() else None

    return read


def _tar(file: Path) -> Callable[[str], bytes | None]:
    """Chunks straight out of the tar: their places are noted, nothing is unpacked on disk."""
    try:
        with tarfile.open(file, "r:") as tar:
            members = {str(PurePosixPath(member.name)): (member.offset_data, member.size) for member in tar}
    except (tarfile.TarError, OSError) as error:
        raise VidsslError(f"{file}: neither a folder nor an uncompressed tar ({error}); unpack it first") from None
    roots = sorted((name.removesuffix(".zgroup") for name in members if PurePosixPath(name).name == ".zgroup"), key=len)
    if not roots:
        raise VidsslError(f"{file}: no zarr v2 store in it (no folder with a .zgroup)")

    def read(key: str) -> bytes | None:
        place = members.get(f"{roots[0]}{key}")
        if place is None:
            return None
        with file.open("rb") as data:
            data.seek(place[0])
            return data.read(place[1])

    return read
