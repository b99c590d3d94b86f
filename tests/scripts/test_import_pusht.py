"""`vidssl import-pusht`, and what takes its data set: recordings to clone from, videos of `vidssl pretrain`."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vidssl.datasets.lerobot import LeRobotDataset
from vidssl.datasets.pusht import coverage
from vidssl.datasets.quarantine import Quarantine
from vidssl.datasets.scan import scan_videos
from vidssl.errors import VidsslError
from vidssl.robot.episodes import open_recording
from vidssl.scripts import pretrain
from vidssl.scripts.import_pusht import main

sys.path.append(str(Path(__file__).parents[1] / "datasets"))
from zarr_stores import write_pusht


def test_from_zarr_to_recording_and_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = write_pusht(tmp_path / "push.zarr", [14, 9, 12])
    main([str(tmp_path), "--out", str(tmp_path / "data")])
    assert "3 demonstrations, 35 steps" in capsys.readouterr().out
    data = LeRobotDataset(tmp_path / "data")
    np.testing.assert_array_equal(data.column("observation.environment_state"), values["state"])
    np.testing.assert_array_equal(data.column("observation.keypoints"), values["keypoint"])
    assert data.column("next.done").nonzero()[0].tolist() == [13, 22, 34]
    covered = coverage(values["state"])
    np.testing.assert_allclose(data.column("next.reward")[:13], np.minimum(covered[1:14] / 0.95, 1), rtol=1e-6)
    recording = open_recording(tmp_path / "data")
    assert recording.meta["env"] == "gym_pusht/PushT-v0"
    assert recording.meta["action_high"] == [512, 512]
    np.testing.assert_array_equal(recording.episodes[1].proprio, values["state"][14:23, :2])
    np.testing.assert_array_equal(recording.episodes[1].action, values["action"][14:23])
    assert np.abs(recording.frames(1).astype(int) - values["img"][14:23]).mean() < 12, "coloured noise, after H.264"

    videos = pretrain.open_source(pretrain.Config(tmp_path / "data", tmp_path / "run"), None)
    assert [video.name for video in videos] == [f"observation.image/00000{number}" for number in range(3)]
    indices = scan_videos(videos, Quarantine(), workers=0, progress=False)
    assert [len(index) for index in indices.values()] == [14, 9, 12]


def test_coverage() -> None:
    # on the goal; beside it; the bar alone on the goal's, the stem turned away; half a turn off
    place = [256, 256, np.pi / 4]
    state = np.array([[0, 0, *place], [0, 0, 100, 60, 0], [0, 0, 256, 256, np.pi / 4 + 2 * np.pi]], np.float32)
    np.testing.assert_allclose(coverage(state), [1, 0, 1], atol=1e-3)
    # moved by 30 units along the bar: the bar keeps 90 of 120, the stem nothing but what lies under the other's bar
    x, y = 256 + 30 * np.cos(np.pi / 4), 256 + 30 * np.sin(np.pi / 4)
    moved = coverage(np.array([[0, 0, x, y, np.pi / 4]]))
    np.testing.assert_allclose(moved, [90 * 30 / (120 * 30 + 90 * 30)], atol=1e-3)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match="no such file or folder"):
        main([str(tmp_path / "none.tar"), "--out", str(tmp_path / "data")])
    with pytest.raises(VidsslError, match="--episodes: got 0"):
        main([str(tmp_path), "--out", str(tmp_path / "x"), "--episodes", "0"])
    with pytest.raises(VidsslError, match="unknown codec 'vp9'"):
        main([str(tmp_path), "--out", str(tmp_path / "x"), "--codec", "vp9"])
    write_pusht(tmp_path / "push.zarr", [5])
    main([str(tmp_path / "push.zarr"), "--out", str(tmp_path / "data")])
    with pytest.raises(VidsslError, match="no such file or folder"):
        main([str(tmp_path / "typo.tar"), "--out", str(tmp_path / "data"), "--overwrite"])
    assert len(LeRobotDataset(tmp_path / "data")) == 5, "the old one is still there"
