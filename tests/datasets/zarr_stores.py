"""Writing small zarr v2 stores: every step spelt out, the slow way."""

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow


def blosc(data: bytes, item: int, block: int, codec: str = "zstd", bits: bool = True, split: bool = False) -> bytes:
    """A Blosc 1 frame of blocks of `block` bytes."""
    flags = (0x4 if bits else 0x1) | (0 if split else 0x10) | {"lz4_raw": 1, "zstd": 4}[codec] << 5
    blocks = []
    for start in range(0, len(data), block):
        piece = data[start : start + block]
        piece = bit_planes(piece, item) if bits else byte_planes(piece, item)
        streams = item if split and len(piece) == block else 1
        size = len(piece) // streams
        packed = [pyarrow.compress(piece[k * size : (k + 1) * size], codec=codec, asbytes=True) for k in range(streams)]
        packed = [each if len(each) < size else piece[k * size : (k + 1) * size] for k, each in enumerate(packed)]
        blocks.append(b"".join(struct.pack("<I", len(each)) + each for each in packed))
    place, starts = 16 + 4 * len(blocks), []
    for each in blocks:
        starts.append(place)
        place += len(each)
    header = struct.pack("<BBBBIII", 2, 1, flags, item, len(data), block, place)
    return header + struct.pack(f"<{len(starts)}I", *starts) + b"".join(blocks)


def byte_planes(data: bytes, item: int) -> bytes:
    return np.frombuffer(data, np.uint8).reshape(-1, item).T.tobytes()


def bit_planes(data: bytes, item: int) -> bytes:
    """Bit b of byte i of every element, then the next bit; elements that are no multiple of 8 stay as they are."""
    count = len(data) // item
    if count % 8:
        return data
    elements = np.frombuffer(data, np.uint8).reshape(count, item)
    planes = [(elements[:, byte] >> bit) & 1 for byte in range(item) for bit in range(8)]
    return b"".join(np.packbits(plane, bitorder="little").tobytes() for plane in planes)


def write_array(folder: Path, values: np.ndarray, chunk: tuple[int, ...], pack: Any = None) -> None:
    """An array in chunks, padded with 9s at the end; `pack` compresses as Blosc."""
    folder.mkdir(parents=True)
    compressor = None if pack is None else {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 2}
    meta = {"zarr_format": 2, "shape": values.shape, "chunks": chunk, "dtype": values.dtype.str, "fill_value": 0}
    meta |= {"order": "C", "filters": None, "compressor": compressor}
    (folder / ".zarray").write_text(json.dumps(meta))
    grid = [-(-side // part) for side, part in zip(values.shape, chunk, strict=True)]
    for place in np.ndindex(*grid):
        padded = np.full(chunk, 9, values.dtype)
        piece = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, chunk, strict=True))]
        padded[tuple(slice(side) for side in piece.shape)] = piece
        data = padded.tobytes()
        (folder / ".".join(map(str, place))).write_bytes(data if pack is None else pack(data))


def write_pusht(root: Path, lengths: list[int]) -> dict[str, np.ndarray]:
    """A store as Diffusion Policy's, with drawn values; returns them by name."""
    rng = np.random.default_rng(0)
    total = sum(lengths)
    image = np.kron(rng.integers(0, 256, (total, 12, 12, 3)), np.ones((1, 8, 8, 1))).astype(np.float32)
    state = rng.uniform(0, 512, (total, 5)).astype(np.float32)
    values = {"img": image, "state": state, "action": state[:, :2] + 1, "keypoint": state[:, None, :2].repeat(9, 1)}
    for name, array in values.items():
        write_array(root / "data" / name, array, (4, *array.shape[1:]), lambda data: blosc(data, 4, 1 << 16))
    write_array(root / "meta" / "episode_ends", np.cumsum(lengths), (8,), lambda data: blosc(data, 8, 64))
    (root / ".zgroup").write_text('{"zarr_format": 2}')
    return values


def as_tar(root: Path, file: Path) -> Path:
    with tarfile.open(file, "w") as tar:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                info = tarfile.TarInfo(f"{root.name}/{path.relative_to(root).as_posix()}")
                info.size = path.stat().st_size
                tar.addfile(info, io.BytesIO(path.read_bytes()))
    return file
