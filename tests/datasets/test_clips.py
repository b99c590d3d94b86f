"""Which clips a step holds, and that they arrive whatever the workers do."""

import itertools
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from footage import write_video
from hypothesis import given
from hypothesis import strategies as st
from stubs import touchy_decode

from vidssl.core.random import sample_key
from vidssl.datasets.clips import ClipLoader, ClipSpec, clip_plan, manifest_hash
from vidssl.datasets.files import VideoFile, find_videos
from vidssl.datasets.quarantine import Quarantine
from vidssl.datasets.scan import scan_videos
from vidssl.datasets.video import VideoReader
from vidssl.errors import VidsslError

SPEC = ClipSpec(frames=4, stride=2, size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of 20 to 30 frames in two classes."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        write_video(folder / ("odd" if number % 2 else "even") / f"v{number}.mp4", 20 + 2 * number)
    return folder


def loader(source: Any, **changes: Any) -> ClipLoader:
    settings: dict[str, Any] = {"spec": SPEC, "batch_size": 4, "seed": 1, "workers": 1, "start": "fork"}
    return ClipLoader(source, progress=False, **(settings | changes))


def take(source: ClipLoader, count: int, start: int = 0) -> list[dict[str, Any]]:
    batches = source.batches(start)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()  # type: ignore[attr-defined]


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("clips", "times", "video", "key"):
        assert torch.equal(one[name], other[name]), name
    assert (one["names"], one["epoch"]) == (other["names"], other["epoch"])


NUMBERS = st.integers(0, 10**6)


@given(st.integers(0, 2**63), NUMBERS, NUMBERS, st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_plan_is_a_function_of_its_arguments(
    seed: int, epoch: int, index: int, frames: int, stride: int, spare: int
) -> None:
    spec = ClipSpec(frames, stride)
    plan = clip_plan(seed, epoch, index, spec.span + spare, spec)
    np.testing.assert_array_equal(plan, clip_plan(seed, epoch, index, spec.span + spare, spec))
    assert plan.shape == (frames,)
    assert 0 <= plan[0] <= plan[-1] == plan[0] + spec.span - 1 <= spec.span + spare - 1
    assert set(np.diff(plan)) <= {stride}


def test_plan_spreads_over_the_video_and_changes_with_each_argument() -> None:
    spec = ClipSpec(frames=3, stride=3)
    assert spec.span == 7  # fxxfxxf
    starts = [int(clip_plan(0, 0, index, 16, spec)[0]) for index in range(2000)]
    counts = np.bincount(starts, minlength=10)
    assert counts.shape == (10,)
    assert ((counts > 140) & (counts < 260)).all()
    drawn = [tuple(clip_plan(*key, 10**6, spec)) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len(set(drawn)) == 4
    with pytest.raises(VidsslError, match=r"6 frames, 7 needed \(3 frames, every 3\.\)"):
        clip_plan(0, 0, 0, 6, spec)
    with pytest.raises(VidsslError, match="at least 1"):
        ClipSpec(frames=0)


def test_every_tensor_of_a_batch_is_pinned_when_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.shape)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    plain = take(loader(folder, prefetch=1), 1)[0]
    assert pinned == []
    assert_same(take(loader(folder, prefetch=1, pinned=True), 1)[0], plain)
    assert pinned[:4] == [plain[name].shape for name in ("clips", "times", "video", "key")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_batches_are_the_same(folder: Path) -> None:
    plain, pinned = (take(loader(folder, pinned=pinned), 1)[0] for pinned in (False, True))
    assert_same(pinned, plain)
    assert all(pinned[name].is_pinned() for name in ("clips", "times", "video", "key"))
    assert pinned["clips"].stride() == plain["clips"].stride()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_batches_hold_the_planned_frames(folder: Path, start: str) -> None:
    source = loader(folder, start=start)
    assert source.steps_per_epoch == sum(video.frames // SPEC.span for video in source.videos) // 4
    batch = take(source, 1, start=5)[0]
    assert (batch["clips"].shape, batch["clips"].dtype) == ((4, 4, 3, 16, 16), torch.uint8)
    assert batch["epoch"] == 5 // source.steps_per_epoch
    for place, draw in enumerate(source.draws(5)[1]):
        video = source.videos[draw.video]
        with VideoReader(folder / video.name, size=(16, 16)) as reader:
            frames, times = reader.read(draw.frames.tolist())
        assert torch.equal(batch["clips"][place], frames)
        np.testing.assert_array_equal(batch["times"][place].numpy(), times)
        assert (batch["names"][place], int(batch["key"][place])) == (video.name, draw.key)
    assert multiprocessing.active_children() == []


def test_batches_do_not_depend_on_workers_ranks_or_restarts(folder: Path) -> None:
    one = take(loader(folder), 6)
    two = take(loader(folder, workers=3, prefetch=1), 2, start=4)
    assert_same(one[4], two[0])
    assert_same(one[5], two[1])
    halves = [take(loader(folder, rank=rank, world=2), 3)[2] for rank in range(2)]
    assert torch.equal(torch.cat([half["clips"] for half in halves]), one[2]["clips"])
    assert halves[0]["names"] + halves[1]["names"] == one[2]["names"]
    assert take(loader(folder, seed=2), 1)[0]["names"] != one[0]["names"]


def test_an_epoch_holds_every_clip_once_in_an_order_of_its_own(folder: Path) -> None:
    source = loader(folder, batch_size=1)
    count = source.steps_per_epoch
    epochs = [[source.draws(epoch * count + step)[1][0] for step in range(count)] for epoch in range(2)]
    keys = [[draw.key for draw in epoch] for epoch in epochs]
    assert sorted(keys[1]) == sorted(sample_key(1, 1, clip) for clip in range(count))
    assert [draw.video for draw in epochs[0]] != [draw.video for draw in epochs[1]]


@pytest.mark.parametrize("workers", [1, 3])
def test_failing_files_leave_the_batches(folder: Path, tmp_path: Path, workers: int) -> None:
    videos = find_videos(folder)
    for name in ("hang.mp4", "bad.mp4"):
        videos.append(VideoFile(write_video(tmp_path / name, 60), name))
    file = tmp_path / f"quarantine{workers}.csv"
    options: dict[str, Any] = {"workers": workers, "deadline": 1.0, "decode": touchy_decode}
    source = loader(videos, quarantine=Quarantine(file, max_failed=0.5), **options)
    batches = take(source, 6)
    sound = take(loader(videos, workers=1), 6)
    gone: set[str] = set()
    for batch, whole in zip(batches, sound, strict=True):
        expected = []
        for draw, key in zip(source.draws(batch["step"])[1], whole["key"].tolist(), strict=True):
            video = source.videos[draw.video]
            if video.name in ("hang.mp4", "bad.mp4") and video.source[1].pts[draw.frames[-1]] > 9000:
                gone.add(video.name)  # with this clip and those after it in the order of the plan
            expected += [] if video.name in gone else [key]
        assert batch["key"].tolist() == expected
        places = [whole["key"].tolist().index(key) for key in expected]
        assert torch.equal(batch["clips"], whole["clips"][places])  # nothing else came in their stead
    assert set(source.quarantine.reasons) == {"hang.mp4", "bad.mp4"}
    assert "hangs" in source.quarantine.reasons["hang.mp4"]
    assert "decodes only 3 of 8 frames" in file.read_text()
    resumed = take(loader(videos, quarantine=Quarantine(file, max_failed=0.5), **options), 2, start=4)
    assert_same(resumed[0], batches[4])
    assert_same(resumed[1], batches[5])
    with pytest.raises(VidsslError, match="more than 10% failed"):
        take(loader(videos, quarantine=Quarantine(max_failed=0.1), **options), 6)


def test_ctrl_c_ends_at_once_though_a_decoder_hangs(tmp_path: Path) -> None:
    write_video(tmp_path / "hang.mp4", 60)
    script = (
        "import os, signal, sys, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job is started with it ignored
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from multiprocessing import active_children\n"
        "from stubs import touchy_decode\n"
        "from vidssl.datasets.clips import ClipLoader, ClipSpec\n"
        "loader = ClipLoader(sys.argv[1], ClipSpec(4, 2, 16), batch_size=8, deadline=300, decode=touchy_decode,\n"
        "                    start='fork', workers=2, progress=False)\n"
        "threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        "    for batch in loader.batches(): pass\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', active_children())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.stdout == "interrupted []\n", done.stderr


def test_bad_and_short_files_are_listed_at_the_start(folder: Path, tmp_path: Path) -> None:
    videos = find_videos(folder)
    videos.append(VideoFile(write_video(tmp_path / "short.mp4", 6), "short.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    videos.append(VideoFile(tmp_path / "text.mp4", "text.mp4"))
    source = loader(videos)
    assert [video.name for video in source.videos] == [video.name for video in videos[:6]]
    assert source.quarantine.reasons["short.mp4"] == "shorter than a clip: 6 frames, 7 needed (4 frames, every 2.)"
    assert "can't be opened as a video" in source.quarantine.reasons["text.mp4"]
    with pytest.raises(VidsslError, match=r"1 of 2 videos can't be used \(more than 20% failed\)"):
        loader(videos[-2:])
    with pytest.raises(VidsslError, match="no video is long enough for a clip of 7 frames"):
        loader(videos[-2:-1])
    with pytest.raises(VidsslError, match="fewer than a batch of 64"):
        loader(folder, batch_size=64)
    with pytest.raises(VidsslError, match="multiple of the 3 ranks"):
        loader(folder, world=3)


def test_scan_remembers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, memory = find_videos(folder), tmp_path / "scan.jsonl"

    def scan() -> dict[str, Any]:
        return scan_videos(videos, Quarantine(), workers=0, progress=False, memory=memory)

    first = scan()
    lines = memory.read_text().splitlines(keepends=True)
    memory.write_text("".join(lines[:-1]) + lines[-1][:50])  # a kill in the last line
    import vidssl.datasets.scan

    read: list[Path] = []
    index = vidssl.datasets.scan.index_in_steps
    monkeypatch.setattr(vidssl.datasets.scan, "index_in_steps", lambda path: (read.append(path), index(path))[1])
    again = scan()
    assert [path.name for path in read] == ["v5.mp4"]
    for name, before in first.items():
        assert list(again) == list(first)
        for field in ("pts", "times", "order", "keyframes"):
            np.testing.assert_array_equal(getattr(again[name], field), getattr(before, field))
        for field in ("turn", "time_base", "codec", "height", "width", "counted"):
            assert getattr(again[name], field) == getattr(before, field)


def test_manifest(folder: Path) -> None:
    manifest = loader(folder).manifest()
    assert manifest["videos"][0] == {"name": "even/v0.mp4", "label": "even", "frames": 20}
    assert manifest_hash(manifest) == manifest_hash(loader(folder, seed=9).manifest())
    assert manifest_hash(manifest) != manifest_hash(loader(folder, spec=ClipSpec(4, 1, 16)).manifest())
