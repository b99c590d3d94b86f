"""`vidssl physics` and `vidssl moving-mnist`: what they write is what other commands read."""

from pathlib import Path

import numpy as np
import pytest

from vidssl.datasets.files import find_videos, read_groups
from vidssl.scripts.cli import main as vidssl
from vidssl.scripts.evaluate import read_targets


def test_physics_videos_with_targets_and_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "physics"
    # 21 videos, so that most targets are known for a few; 14 frames are a little over half a second
    command = ["physics", "--out", str(out), "--videos", "21", "--frames", "14", "--size", "16", "--groups", "3"]
    assert vidssl([*command, "--workers", "0"]) == 0
    assert "21 videos of 3 groups (21 drawn)" in capsys.readouterr().out
    videos = find_videos(out)
    assert len(videos) == 21
    assert set(read_groups(out / "groups.csv", videos)) == {"group0", "group1", "group2"}
    kept = tmp_path / "speed.csv"
    rows = [line.split(",") for line in (out / "targets.csv").read_text().splitlines()]
    kept.write_text("\n".join(f"{row[0]},{row[2]}" for row in rows))
    speeds = read_targets(kept, videos)["speed"]
    assert (np.array(speeds) > 0).all()
    assert vidssl([*command, "--workers", "0"]) == 0
    assert "(0 drawn)" in capsys.readouterr().out
    assert vidssl(["physics", "--out", str(out), "--size", "15"]) == 2
    assert "got 15; an even number" in capsys.readouterr().err


def test_moving_mnist_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["moving-mnist", "--out", str(tmp_path / "moving"), "--videos", "2", "--frames", "4"]
    assert vidssl(command) == 0
    assert "2 videos of 648 train digits" in capsys.readouterr().out
    assert len(find_videos(tmp_path / "moving")) == 2
    assert vidssl([*command, "--digits", str(tmp_path / "none.csv")]) == 2
    assert "no such file" in capsys.readouterr().err
