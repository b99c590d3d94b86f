"""The packed cache: what it holds, and what it refuses."""

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from footage import write_video

from vidssl.datasets import cache as module
from vidssl.datasets.cache import PackedCache
from vidssl.datasets.clips import ClipLoader, ClipSpec
from vidssl.datasets.files import find_videos
from vidssl.datasets.quarantine import Quarantine
from vidssl.datasets.video import VideoReader
from vidssl.errors import VidsslError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        write_video(tmp_path / "videos" / "walk" / f"v{number}.mp4", 20 + number)
    return tmp_path / "videos"


def build(folder: Path, **changes: Any) -> PackedCache:
    settings: dict[str, Any] = {"size": 16, "workers": 1, "start": "fork", "progress": False}
    return PackedCache.build(folder, folder.parent / "cache", **(settings | changes))


def test_holds_every_frame(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = build(folder)
    assert "0.00 GB" in capsys.readouterr().out
    assert [(video.name, video.label, video.frames) for video in cache.videos] == [
        (f"walk/v{number}.mp4", "walk", 20 + number) for number in range(3)
    ]
    for number, video in enumerate(cache.videos):
        with VideoReader(folder / video.name, size=(16, 16)) as reader:
            frames, times = reader.read_all()
        assert torch.equal(cache.frames(number, range(video.frames)), frames)
        np.testing.assert_array_equal(video.times, times)
    assert cache.frames(1, [5, 2]).shape == (2, 3, 16, 16)
    cache.verify()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["cache", "videos"]
    with pytest.raises(VidsslError, match=r"frames 3\.\.20 asked for; it has 0\.\.19"):
        cache.frames(0, [3, 20])


def test_clips_are_those_of_the_files(folder: Path) -> None:
    spec = ClipSpec(4, 2, 16)
    files = ClipLoader(folder, spec, batch_size=4, workers=1, start="fork", progress=False).batches(3)
    packed = ClipLoader(build(folder), spec, batch_size=4).batches(3)
    for _ in range(3):
        one, other = next(files), next(packed)
        for name in ("clips", "times", "video", "key"):
            assert torch.equal(one[name], other[name])
        assert one["names"] == other["names"]
    files.close()  # type: ignore[attr-defined]
    packed.close()  # type: ignore[attr-defined]
    with pytest.raises(VidsslError, match=r"the cache holds frames of \(16, 16\)"):
        ClipLoader(build(folder), ClipSpec(4, 2, 32), batch_size=4)


def test_is_used_again_only_for_the_same(folder: Path) -> None:
    build(folder)
    made = (folder.parent / "cache" / "frames.u8").stat().st_mtime_ns
    build(folder)
    assert (folder.parent / "cache" / "frames.u8").stat().st_mtime_ns == made
    with pytest.raises(VidsslError, match=r"a cache of frames \(16, 16\), \(32, 32\) asked for"):
        build(folder, size=32)
    write_video(folder / "walk" / "v1.mp4", 25)
    with pytest.raises(VidsslError, match=r"made of other videos: 1 differ, e.g. walk/v1.mp4"):
        build(folder)


def test_takes_an_empty_folder_and_no_other(folder: Path) -> None:
    (folder.parent / "cache").mkdir()
    assert len(build(folder).videos) == 3
    for place, message in ((folder, "holds other things"), (folder / "walk" / "v0.mp4", "a file; name a folder")):
        with pytest.raises(VidsslError, match=message):
            PackedCache.build(folder, place, 16, workers=1, start="fork", progress=False)


def test_refuses_a_disk_that_is_too_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    with pytest.raises(VidsslError, match="make room"):
        build(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["videos"]


def test_what_a_killed_build_left_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = build(folder)
    left = cache.folder.with_name(".cache.0123456789ab.part")
    left.mkdir()
    (left / "frames.u8").write_bytes(bytes(20_000_000))
    shutil.rmtree(cache.folder)
    build(folder)
    assert f"{left}: 0.02 GB of a cache that was never finished" in capsys.readouterr().err
    assert left.exists(), "another may be at it"


def test_a_failure_while_writing_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_close_gaps", full)
    with pytest.raises(VidsslError, match="No space left on device"):
        build(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["videos"]


def damage(path: Path) -> None:
    """Spoil the pictures of an intra-only video from the middle on; its packet table stays whole."""
    import av

    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for place, size in places[len(places) // 2 :]:
        data[place : place + size] = b"\xff" * size
    path.write_bytes(data)


def test_a_damaged_video_is_left_out_and_its_place_closed(folder: Path) -> None:
    damage(write_video(folder / "walk" / "v0.mp4", 70, codec="libvpx-vp9", options={"g": "1"}))
    quarantine = Quarantine(max_failed=0.5)
    cache = build(folder, quarantine=quarantine)
    assert list(quarantine.reasons) == ["walk/v0.mp4"]
    assert [video.name for video in cache.videos] == ["walk/v1.mp4", "walk/v2.mp4"]
    cache.verify()
    with VideoReader(folder / "walk/v2.mp4", size=(16, 16)) as reader:
        assert torch.equal(cache.frames(1, range(22)), reader.read_all()[0])
    again = Quarantine(folder.parent / "again.csv", max_failed=0.5)
    again.skip({"walk/v2.mp4": "shorter than a clip"})  # as an earlier part of a run found; that is no failure
    again = Quarantine(folder.parent / "again.csv", max_failed=0.5)
    assert build(folder, quarantine=again).videos[0].name == "walk/v1.mp4"
    assert again.reasons == quarantine.reasons, "a cache that is used again tells of them again"
    with pytest.raises(VidsslError, match="more than 20% failed"):
        build(folder)
    with pytest.raises(VidsslError, match="more than 20% failed"):
        PackedCache.build(find_videos(folder), folder.parent / "other", 16, workers=1, start="fork", progress=False)
    assert not (folder.parent / "other").exists()


def test_damage_is_told(folder: Path) -> None:
    cache = build(folder)
    at = cache.folder / "frames.u8"
    data = bytearray(at.read_bytes())
    data[-1] ^= 1
    at.write_bytes(data)
    with pytest.raises(VidsslError, match=r"damaged: walk/v2.mp4"):
        PackedCache.open(cache.folder).verify()
    at.write_bytes(data[:-5])
    with pytest.raises(VidsslError, match="the cache is damaged"):
        PackedCache.open(cache.folder)
    index = cache.folder / "index.json"
    index.write_text(json.dumps({"version": 99}))
    with pytest.raises(VidsslError, match="a cache of version 99, this release reads 1"):
        PackedCache.open(cache.folder)
    index.write_text(json.dumps({"version": 1, "size": [16, 16]}))
    with pytest.raises(VidsslError, match="garbled"):
        PackedCache.open(cache.folder)
    index.write_text("{")
    with pytest.raises(VidsslError, match="can't be read"):
        PackedCache.open(cache.folder)
    with pytest.raises(VidsslError, match="no packed cache"):
        PackedCache.open(folder)
