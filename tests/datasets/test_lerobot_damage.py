"""LeRobotDataset v3.0: kills at bad moments, metadata that can't be believed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from lerobot_data import FEATURES, frame
from pyarrow import parquet

from vidssl.datasets import lerobot_write
from vidssl.datasets.files import find_videos
from vidssl.datasets.lerobot import LeRobotDataset
from vidssl.datasets.lerobot_meta import read_meta
from vidssl.datasets.lerobot_video import EpisodeVideo
from vidssl.datasets.lerobot_write import LeRobotWriter
from vidssl.errors import VidsslError

SOME = {"front": FEATURES["front"], "action": FEATURES["action"]}
ONE = {key: frame(0, 3)[key] for key in SOME}


def begun(root: Path, lengths: tuple[int, ...] = (3, 2, 4)) -> LeRobotWriter:
    writer = LeRobotWriter(root, 10, SOME)
    for length in lengths:
        for _ in range(length):
            writer.add_frame(ONE)
        writer.end_episode("push")
    return writer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    begun(tmp_path / "a").finalise()
    return tmp_path / "a"


def test_a_kill_while_the_waiting_episodes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "a"
    writer = begun(root)

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        if folder == root / "unfinished":
            (folder / "000001" / "rows.parquet").unlink()
            raise KeyboardInterrupt
        remove(folder, ignore_errors)

    remove = shutil.rmtree
    monkeypatch.setattr(lerobot_write.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.finalise()
    monkeypatch.undo()
    assert (root / "unfinished" / "000002").exists()
    assert len(LeRobotDataset(root)) == 9
    assert len(find_videos(root)) == 3
    again = LeRobotWriter(root, 10, SOME, resume=True)
    assert again.episodes == 3
    again.finalise()
    assert not (root / "unfinished").exists()
    assert len(LeRobotDataset(root)) == 9
    with pytest.raises(VidsslError, match="is finished, with 3 episodes, and takes no more"):
        again.add_frame(ONE)
    with pytest.raises(VidsslError, match="begun with another fps"):
        LeRobotWriter(root, 20, SOME, resume=True)
    with pytest.raises(VidsslError, match="begun with another features"):
        LeRobotWriter(root, 10, SOME, codec="av1", resume=True)


def test_waiting_episodes_that_are_not_whole(tmp_path: Path) -> None:
    root = tmp_path / "a"
    begun(root)
    waiting = root / "unfinished"

    def refused(message: str) -> None:
        with pytest.raises(VidsslError, match=message):
            LeRobotWriter(root, 10, SOME, resume=True)

    (waiting / "000001").rename(tmp_path / "away")
    refused("episode 1 is missing in unfinished, 2 is there; restore it")
    (tmp_path / "away").rename(waiting / "000001")
    (waiting / "000001" / "front.mp4").rename(tmp_path / "front.mp4")
    refused(r"000001: front\.mp4 missing")
    (tmp_path / "front.mp4").rename(waiting / "000001" / "front.mp4")
    (waiting / "000001" / "episode.json").write_text("{}")
    refused("000001: length, task, stats, extra missing")
    for garbled in ("{", "[1]"):
        (waiting / "settings.json").write_text(garbled)
        refused(r"settings\.json: garbled")
    (waiting / "settings.json").write_text("{}")
    refused("begun with another fps, features, codec")


def test_a_video_closed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = EpisodeVideo(tmp_path / "a.mp4", 10, "h264")
    video.add(ONE["front"])
    video.close()
    video.close()

    def full(path: Path, table: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(lerobot_write, "write_table", full)

    def write() -> None:
        with LeRobotWriter(tmp_path / "b", 10, SOME) as writer:
            writer.add_frame(ONE)
            writer.end_episode("push")

    with pytest.raises(OSError, match="no space left"):
        write()


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("dataset_from_index", [0, 2, 5], "episode 1: dataset_from_index 2, expected 3"),
        ("length", [3, 0, 6], "episode 1: length 0, expected at least 1"),
        ("length", [3, -2, 8], "episode 1: length -2, expected at least 1"),
        ("videos/front/to_timestamp", [0.3, 0.5, 0.8], "episode 2: 4 frames in 0.5..0.8 s of the video front"),
        ("videos/front/from_timestamp", [0.0, float("nan"), 0.5], "episode 1: 2 frames in nan..0.5 s"),
        ("length", [3, None, 6], "garbled"),
    ],
)
def test_episodes_that_can_not_be(root: Path, column: str, values: list[Any], message: str) -> None:
    file = root / "meta/episodes/chunk-000/file-000.parquet"
    table = parquet.read_table(file)
    place = table.column_names.index(column)
    parquet.write_table(table.set_column(place, column, pa.array(values)), file)
    with pytest.raises(VidsslError, match=message) as caught:
        read_meta(root)
    assert str(root / "meta") in str(caught.value)
    if message != "garbled":
        assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("info", {"features": []}),
        ("info", {"features": {"x": []}}),
        ("info", {"features": {"x": {"dtype": "float32", "shape": None}}}),
        ("info", {"video_path": None}),
        ("info", {"fps": "ten"}),
        ("info", {"fps": 0}),
        ("info", {"fps": float("nan")}),
        ("stats", [1]),
        ("stats", {"action": [1]}),
    ],
)
def test_garbled_metadata(root: Path, file: str, changes: Any) -> None:
    path = root / "meta" / f"{file}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes if file == "info" else changes))
    with pytest.raises(VidsslError, match="meta: garbled"):
        LeRobotDataset(root)


def test_pictures_of_no_frame_or_no_episode(root: Path) -> None:
    data = LeRobotDataset(root)
    with pytest.raises(VidsslError, match=r"episode 1: no frames given; give at least one of 0\.\.1"):
        data.pictures("front", 1, [])
    with pytest.raises(VidsslError, match=r"episode 3 asked for; it has 0\.\.2"):
        data.pictures("front", 3)
    assert data.pictures("front", 2, np.array([3])).shape == (1, 32, 48, 3)
