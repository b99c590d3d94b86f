"""`vidssl self-label`: labels of videos, the long-tailed comparison, and answers to bad input."""

import csv
import json
from pathlib import Path

import pytest
from tiny_run import write_run, write_videos

from vidssl.checkpoint import read_config, write_config
from vidssl.datasets.files import find_videos
from vidssl.errors import VidsslError
from vidssl.scripts.self_label import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "mine")
    config = read_config(folder)
    config.pop("version")
    write_config(folder, config | {"method": config["method"] | {"views": {"size": [32, 32], "flip": 0.5}}})
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


FEW = ["--workers", "0", "--windows", "2", "--device", "cpu"]


def test_labels_of_videos(run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run), str(videos), "--out", str(tmp_path), "--rounds", "1", "--views", "1", *FEW])
    report = json.loads((tmp_path / "self_label.json").read_text())
    assert report["classes"] == 2
    assert len(report["rounds"]) == 2
    assert report["rounds"][1]["accuracy"] > 0.9  # motion is all that differs
    assert sum(report["rounds"][1]["sizes"]) == 20
    assert "round 1   accuracy" in capsys.readouterr().out
    listed = find_videos(tmp_path / "labels.csv")  # a list that other commands take
    assert sorted(video.path.resolve() for video in listed) == sorted(video.path for video in find_videos(videos))
    assert not any(Path(video.name).is_absolute() for video in listed)  # the folders may move together
    sure = list(csv.DictReader((tmp_path / "confidence.csv").read_text().splitlines()))
    assert [row["label"] for row in sorted(sure, key=lambda row: row["path"])] == [
        video.label for video in sorted(listed, key=lambda video: video.name)
    ]
    assert all(0 <= float(row["confidence"]) <= 1 for row in sure)
    assert sum(row["kept"] == "1" for row in sure) == report["rounds"][-1]["kept"]
    assert {video.label for video in listed} == {"0", "1"}


def test_long_tailed_comparison(run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--tail", "2", "--seeds", "2", "--rounds", "1", "--views", "0"]
    main([str(run), str(videos), "--out", str(tmp_path), *more, *FEW])
    report = json.loads((tmp_path / "self_label.json").read_text())
    assert report["arms"].keys() == {"without handling", "with handling"}
    assert [len(rounds) for rounds in report["arms"]["with handling"]["nmi"]] == [2, 2]
    shown = capsys.readouterr().out
    assert "15 videos a trial, 2 trials" in shown
    assert "gain, paired" in shown


def test_mistakes_are_answered(run: Path, videos: Path, tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain")
    flat = tmp_path / "flat.csv"
    flat.write_text("\n".join(str(path) for path in sorted(videos.rglob("*.mp4"))))
    for arguments, words in [
        ([str(run), str(flat)], "say how many with --classes"),
        ([str(run), str(videos), "--classes", "0"], "--classes: got 0; at least 2"),
        ([str(run), str(flat), "--tail", "3", "--classes", "2"], "--tail needs labelled videos"),
        ([str(run), str(videos), "--seeds", "0"], "seeds 0"),
        ([str(plain), str(videos)], "has no views; pass --views 0"),
    ]:
        with pytest.raises(VidsslError, match=words):
            main([*arguments, "--out", str(tmp_path / "out"), *FEW])
