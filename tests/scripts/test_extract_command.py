"""`vidssl extract`: the same numbers as the extractor gives, in one file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_run import write_clip, write_run

from vidssl import load_encoder
from vidssl.datasets.video import VideoReader
from vidssl.errors import VidsslError
from vidssl.scripts import extract
from vidssl.scripts.extract import main


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, frames in enumerate([11, 1, 7]):
        write_clip(folder / f"{number}.mp4", frames, speed=2, seed=number)
    return folder


@pytest.mark.parametrize("output", ["encoder", "context"])
def test_features_are_those_of_whole_videos(
    output: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "PART", 3)  # so that every seam between parts is met
    run, out = write_run(tmp_path / "run", output), tmp_path / "features.safetensors"
    main([str(run), str(videos), "--out", str(out), "--stride", "1", "--device", "cpu", "--workers", "0"])
    encoder = load_encoder(run)
    with safe_open(out, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
        metadata = file.metadata()
    assert json.loads(metadata["names"]) == ["0.mp4", "1.mp4", "2.mp4"]
    assert tensors["offsets"].tolist() == [0, 11, 12, 19]
    assert tensors["video_index"].tolist() == [0] * 11 + [1] + [2] * 7
    assert tensors["frame_index"].tolist() == [*range(11), 0, *range(7)]
    for number in range(3):
        rows = slice(*tensors["offsets"][number : number + 2].tolist())
        with VideoReader(videos / f"{number}.mp4", (32, 32)) as reader:
            whole = encoder(reader.read_array(range(len(reader))))
            np.testing.assert_array_equal(tensors["times"][rows], reader.index.times)
        torch.testing.assert_close(tensors["features"][rows], whole, rtol=0, atol=1e-5)


def test_stride_is_the_runs_and_overwriting_is_asked_for(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = write_run(tmp_path / "run", fps=5.0), tmp_path / "deep" / "features.safetensors"
    main([str(run), str(videos), "--out", str(out), "--device", "cpu"])
    assert "6 features of dimension 256 from 3 videos" in capsys.readouterr().out  # 25 -> 5 frames/s: 3, 1 and 2
    assert [path.name for path in out.parent.iterdir()] == ["features.safetensors"]
    before = out.read_bytes()
    with pytest.raises(VidsslError, match="there already"):
        main([str(run), str(videos), "--out", str(out), "--stride", "1"])
    assert out.read_bytes() == before
    main([str(run), str(videos), "--out", str(out), "--stride", "1", "--overwrite", "--workers", "0"])
    assert "19 features" in capsys.readouterr().out


def test_unreadable_videos_are_listed_beside_the_file(tmp_path: Path) -> None:
    for number in range(5):
        write_clip(tmp_path / "videos" / f"{number}.mp4", 4, speed=1, seed=number)
    (tmp_path / "videos" / "5.mp4").write_text("no video")
    run, out = write_run(tmp_path / "run"), tmp_path / "features.safetensors"
    main([str(run), str(tmp_path / "videos"), "--out", str(out), "--workers", "0"])
    assert "5.mp4" in (tmp_path / "features.quarantine.csv").read_text()
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["names"]) == [f"{number}.mp4" for number in range(5)]


def test_mistakes(videos: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    cases = [
        ([str(run), str(videos), "--out", str(tmp_path / "features.npz")], "end in .safetensors"),
        ([str(run), str(videos), "--out", str(tmp_path / "a.safetensors"), "--stride", "0"], "at least 1"),
        ([str(tmp_path), str(videos), "--out", str(tmp_path / "a.safetensors")], "no run folder"),
        ([str(run), str(tmp_path / "none"), "--out", str(tmp_path / "a.safetensors")], "no such file or folder"),
    ]
    for arguments, message in cases:
        with pytest.raises(VidsslError, match=message):
            main(arguments)


def test_what_cannot_be_written_is_told_first() -> None:
    with pytest.raises(VidsslError, match="/proc may not be written to; choose another --out"):
        main(["no run", "no videos", "--out", "/proc/x.safetensors"])
