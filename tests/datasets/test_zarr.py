"""The zarr reader against stores written the slow way; Push-T against the published set's own facts."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr_stores import as_tar, blosc, write_array, write_pusht

from vidssl.datasets.pusht import read_pusht
from vidssl.datasets.zarr import ZarrStore, unpack_blosc
from vidssl.errors import VidsslError


@pytest.mark.parametrize("codec", ["zstd", "lz4_raw"])
@pytest.mark.parametrize("bits", [True, False])
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("count", [4096, 1000, 805])
def test_a_blosc_frame_unpacks(codec: str, bits: bool, split: bool, count: int) -> None:
    data = np.arange(count, dtype=np.float32).tobytes()
    assert unpack_blosc(blosc(data, 4, 2048, codec, bits, split)) == data


def test_a_blosc_frame_of_copied_bytes() -> None:
    frame = bytes([2, 1, 0x2, 4]) + (5).to_bytes(4, "little") + (5).to_bytes(4, "little") + (21).to_bytes(4, "little")
    assert unpack_blosc(frame + b"hello") == b"hello"


def test_an_array_of_chunks_on_a_grid(tmp_path: Path) -> None:
    values = np.arange(7 * 5, dtype=np.int32).reshape(7, 5)
    (tmp_path / ".zgroup").touch()
    write_array(tmp_path / "a", values, (3, 2))
    store = ZarrStore(tmp_path)
    np.testing.assert_array_equal(store.array("a"), values)
    assert [len(chunk) for chunk in store.chunks("a")] == [3, 3, 1]
    (tmp_path / "a" / "1.1").unlink()
    values[3:6, 2:4] = 0  # never written: the fill value
    np.testing.assert_array_equal(store.array("a"), values)


def test_pusht_from_a_folder_and_a_tar(tmp_path: Path) -> None:
    values = write_pusht(tmp_path / "push.zarr", [5, 1, 3])
    bare = tmp_path.parent / "bare.tar"
    with tarfile.open(bare, "w") as tar:  # as `tar -C push.zarr -cf bare.tar .` makes it
        tar.add(tmp_path / "push.zarr", arcname=".")
    packed = as_tar(tmp_path / "push.zarr", tmp_path.parent / "push.tar")
    for path in (tmp_path, tmp_path / "push.zarr", packed, bare):
        episodes = read_pusht(path)
        assert [episode.steps for episode in episodes] == [5, 1, 3]
        assert episodes[2].image.dtype == np.uint8
        assert episodes[2].image.shape == (3, 96, 96, 3)
        for name, field in (("img", "image"), ("state", "state"), ("action", "action"), ("keypoint", "keypoint")):
            np.testing.assert_array_equal(getattr(episodes[2], field), values[name][6:])


def test_messages(tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match="no such file or folder"):
        ZarrStore(tmp_path / "none")
    with pytest.raises(VidsslError, match="0 zarr stores"):
        ZarrStore(tmp_path)
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(VidsslError, match="neither a folder nor an uncompressed tar"):
        ZarrStore(tmp_path / "text")
    root = tmp_path / "push.zarr"
    write_pusht(root, [4, 2])
    (empty := tmp_path / "empty").mkdir()
    (empty / "file").touch()
    with pytest.raises(VidsslError, match="no zarr v2 store"):
        ZarrStore(as_tar(empty, tmp_path / "e.tar"))
    with pytest.raises(VidsslError, match="no array 'data/depth'"):
        ZarrStore(root).array("data/depth")
    meta = json.loads((root / "data/action/.zarray").read_text())
    (root / "data/action/.zarray").write_text(json.dumps(meta | {"shape": [0, 2]}))
    assert ZarrStore(root).array("data/action").shape == (0, 2)
    (root / "data/action/.zarray").write_text(json.dumps(meta))
    meta = json.loads((root / "data/state/.zarray").read_text())
    (root / "data/state/.zarray").write_text(json.dumps(meta | {"compressor": {"id": "lzma"}}))
    with pytest.raises(VidsslError, match="compressor lzma; read here"):
        read_pusht(root)
    (root / "data/state/.zarray").write_text("{}")
    with pytest.raises(VidsslError, match="garbled"):
        read_pusht(root)
    (root / "data/state/.zarray").write_text(json.dumps(meta))
    chunk = root / "data/action/0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(VidsslError, match=r"chunk data/action/0\.0 is damaged"):
        read_pusht(root)


@pytest.mark.parametrize(
    "change",
    [
        *({key: None} for key in ("dtype", "chunks", "fill_value")),
        *({"dtype": bad} for bad in ("<q9", 5, [["a"]])),
        *({"chunks": bad} for bad in ([0, 2], [3], [3, "2"])),
        {"fill_value": "red"},
        {"dimension_separator": 1},
    ],
)
def test_array_facts_that_are_garbled(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / ".zgroup").touch()
    write_array(tmp_path / "a", np.zeros((7, 5), np.int32), (3, 2))
    facts = json.loads((tmp_path / "a/.zarray").read_text()) | change
    facts = {key: value for key, value in facts.items() if key not in change or value is not None}
    (tmp_path / "a/.zarray").write_text(json.dumps(facts))
    with pytest.raises(VidsslError, match=r"a/\.zarray is garbled"):
        ZarrStore(tmp_path).array("a")


@pytest.mark.parametrize("place", [3, 8])
def test_a_blosc_frame_of_no_element_or_block_size(place: int) -> None:
    frame = bytearray(blosc(np.arange(100, dtype=np.float32).tobytes(), 4, 256, bits=False))
    frame[place : place + (1 if place == 3 else 4)] = bytes(1 if place == 3 else 4)
    with pytest.raises(ValueError, match="elements of"):
        unpack_blosc(bytes(frame))


def test_pusht_arrays_that_do_not_fit(tmp_path: Path) -> None:
    write_pusht(tmp_path / "a.zarr", [4, 2])
    ends = tmp_path / "a.zarr/meta/episode_ends/0"
    ends.write_bytes(blosc(np.array([4, 7, 0, 0, 0, 0, 0, 0]).tobytes(), 8, 64))
    with pytest.raises(VidsslError, match="episodes end at step 7, but"):
        read_pusht(tmp_path / "a.zarr")
    values = write_pusht(tmp_path / "b.zarr", [4])
    (tmp_path / "b.zarr/data/img/0.0.0.0").write_bytes(blosc((values["img"] + 0.5).tobytes(), 4, 1 << 16))
    with pytest.raises(VidsslError, match="not of whole numbers"):
        read_pusht(tmp_path / "b.zarr")


def test_the_published_demonstrations(shared_data: Path) -> None:
    store = ZarrStore(shared_data / "pusht" / "pusht_206.tar")
    ends = store.array("meta/episode_ends")
    assert (len(ends), ends[0], ends[-1]) == (206, 161, 25650)
    state, action = store.array("data/state"), store.array("data/action")
    assert state.shape == (25650, 5)
    assert action.shape == (25650, 2)
    assert action.min() >= 0
    assert action.max() <= 512
    assert state.min() >= 0
    assert state.max() <= 512
    image = next(store.chunks("data/img"))
    assert image.shape == (161, 96, 96, 3)
    assert image.max() == 255
    # the pusher is drawn in blue where the state says
    x, y = (state[0, :2] * 96 / 512).astype(int)
    assert image[0, y, x, 2] > 200 > image[0, y, x, 0]
