"""`vidssl pretrain` on real encoded videos: from a folder to a loaded encoder, with and without a cache; bad input."""

import json
import re
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import write_run

import vidssl
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.methods import find_method
from vidssl.scripts.cli import main
from vidssl.scripts.pretrain import method_options


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight MP4s of a square moving at eight speeds, in two class folders."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(8):
        path = folder / ("fast" if number % 2 else "slow") / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for t in range(16):
                frame = np.full((48, 64, 3), 30 * number, np.uint8)
                left = (t * (1 + number)) % 48
                frame[16:32, left : left + 16] = 255 - 20 * number
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    return folder


def pretrain(data: Path, out: Path, *more: str) -> int:
    small = ["--size", "32", "--frames", "6", "--stride", "1", "--batch-size", "4", "--device", "cpu", "--workers", "1"]
    return main(["pretrain", str(data), "--out", str(out), "--steps", "4", *small, *more])


def test_from_a_folder_to_an_encoder(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(videos, tmp_path / "run", "--monitor-every", "2") == 0
    assert "next: vidssl evaluate" in capsys.readouterr().out
    enc = vidssl.load_encoder(tmp_path / "run")
    assert (enc.image_size, enc.fps) == ((32, 32), 10.0)
    assert enc(np.zeros((3, 48, 64, 3), np.uint8)).shape == (3, enc.dim)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    probes = [line for line in lines if "rankme" in line]
    assert [line["step"] for line in probes] == [2, 4]
    assert all(line["rankme"] >= 1 and 0 <= line["knn"] <= 1 for line in probes)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(config["data"]["manifest"]["videos"]) == 8
    assert config["method"]["options"]["negatives"] == "both"


def test_the_cache_changes_nothing(videos: Path, tmp_path: Path) -> None:
    """The same batches from files and from the packed cache, so the same weights to the bit; resumed or not."""
    assert pretrain(videos, tmp_path / "files") == 0
    assert pretrain(videos, tmp_path / "cached", "--cache", str(tmp_path / "cache")) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("files", "cached")]
    assert weights[0] == weights[1]
    assert pretrain(videos, tmp_path / "cached", "--cache", str(tmp_path / "cache"), "--resume") == 0
    assert (tmp_path / "cached" / "model.safetensors").read_bytes() == weights[0]


def test_image_cpc_and_method_options(videos: Path, tmp_path: Path) -> None:
    assert pretrain(videos, tmp_path / "run", "--method", "cpc-image", "--encoder", "small", "--options", "grid=4") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["method"]["options"] == {"grid": 4, "steps": 3, "temperature": 0.1}
    assert config["context"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "cpd"], "unknown method 'cpd'; the methods here are:"),
        (["--encoder", "vgg"], "unknown encoder 'vgg'; the encoders here are: control, fine-both"),
        (["--options", "negative=both"], "unknown cpc option 'negative'; the cpc options here are: cells, context"),
        (["--options", "negatives"], "write name=value"),
        (["--options", "steps=abc"], "cpc option steps: got 'abc'; write a value like its default, 3"),
        (["--options", "steps=None"], "cpc option steps: got 'None'; write a value like its default, 3"),
        (["--options", "steps=True"], "cpc option steps: got 'True'; write a value like its default, 3"),
        (["--options", "output=foo"], "output: got 'foo'; choose from encoder, context"),
        (["--options", "context_dim=30"], "context size: got 30; give a multiple of 4"),
        (["--options", "temperature=-1"], "temperature: got -1; give one above 0"),
        (["--resume"], "holds no run; leave --resume out to begin one"),
        (["--frames", "40"], "no video is long enough for a clip of 40 frames"),
        (["--batch-size", "400"], "lower the batch size"),
        (["--minutes", "3"], "give one of steps, epochs or minutes"),
        (["--device", "tpu"], "choose from auto, cpu, cuda"),
        (["--batch-size", "0"], "--batch-size: got 0; at least 1"),
        (["--groups", "nothere.csv"], "nothere.csv: no such file"),
        (["--init", "nothere"], "nothere is no run folder"),
        (["--encoder", "nowhere:net"], "encoder 'nowhere:net': No module named 'nowhere'; write it as module:callable"),
    ],
)
def test_mistakes_are_told_in_a_line(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert pretrain(videos, tmp_path / "run", *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_an_option_may_be_none_where_the_method_says_so() -> None:
    found = method_options(find_method("cpc"), "cpc", ["temperature=None", "steps=4"])
    assert (found["temperature"], found["steps"], found["project"]) == (None, 4, 128)
    assert method_options(find_method("simclr"), "simclr", ["distance=3"])["distance"] == 3
    for wrong in ("distance=1.5", "distance=half"):
        with pytest.raises(VidsslError, match=r"distance: got .*; write int, or None"):
            method_options(find_method("simclr"), "simclr", [wrong])


def test_a_class_that_is_no_method() -> None:
    with pytest.raises(VidsslError, match=r"'pathlib:Path' has no loss and no default_views; CONTRIBUTING.md shows"):
        find_method("pathlib:Path")


def test_too_many_broken_files_stop_the_run(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number, path in enumerate(sorted(videos.rglob("*.mp4"))):
        whole = path.read_bytes()
        (data / path.name).write_bytes(whole if number % 2 else whole[: len(whole) // 2])
    assert pretrain(data, tmp_path / "run") == 2
    assert "4 of 8" in capsys.readouterr().err
    assert len((tmp_path / "run" / "quarantine.csv").read_text().splitlines()) == 5
    assert pretrain(data, tmp_path / "other", "--max-failed", "0.6") == 0


def test_a_video_with_a_broken_middle_is_set_aside(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in videos.rglob("*.mp4"):
        whole = bytearray(path.read_bytes())
        if path.name == "3.mp4":
            start, end = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
            middle = slice(start + (end - start) // 3, end)
            whole[middle] = np.random.default_rng(0).bytes(middle.stop - middle.start)
        (data / path.name).write_bytes(whole)
    assert pretrain(data, tmp_path / "run", "--monitor-every", "2") == 0
    assert "left out: 3.mp4" in capsys.readouterr().err
    assert "3.mp4" in (tmp_path / "run" / "quarantine.csv").read_text()


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(tmp_path, tmp_path / "run") == 2
    assert "no videos" in capsys.readouterr().err.lower()


def test_a_run_begins_with_the_weights_of_another(videos: Path, tmp_path: Path) -> None:
    small = ("--encoder", "small", "--method", "cpc-image", "--options", "grid=4", "--monitor-every", "100")
    assert pretrain(videos, tmp_path / "first", *small) == 0
    tiny = ("--lr", "1e-12", "--steps", "1", "--init", str(tmp_path / "first"))
    assert pretrain(videos, tmp_path / "same", *small, *tiny) == 0
    assert pretrain(videos, tmp_path / "other", "--encoder", "small", "--method", "simclr", *tiny) == 0
    first = load_file(tmp_path / "first" / "model.safetensors")
    for name, weights in (("same", "all"), ("other", "encoder")):
        init = json.loads((tmp_path / name / "config.json").read_text())["init"]
        assert init["weights"] == weights
        assert len(init["sha256"]) == 64
        ours = load_file(tmp_path / name / "model.safetensors")
        for key in (key for key in first if key.startswith("encoder.")):
            assert torch.allclose(ours[key], first[key], atol=1e-6), key


def test_a_run_of_another_encoder_is_no_beginning(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "first")
    assert pretrain(videos, tmp_path / "run", "--encoder", "small", "--init", str(run)) == 2
    assert "its encoder is 'small-motion', this one would be 'small'; give --encoder" in capsys.readouterr().err


def test_what_cannot_be_written_is_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert pretrain(tmp_path / "no videos", tmp_path / "file" / "run") == 2
    assert "file is no folder; choose another --out" in capsys.readouterr().err
    assert pretrain(tmp_path / "no videos", Path("/proc/run")) == 2
    assert "/proc may not be written to; choose another --out" in capsys.readouterr().err


def test_a_new_start_forgets_what_failed_before(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for number in range(4):
        (broken / f"{number}.mp4").write_text("no video")
    assert pretrain(broken, tmp_path / "run") == 2
    assert "4 of 4 videos can't be used" in capsys.readouterr().err
    assert pretrain(videos, tmp_path / "run", "--steps", "1") == 0
    assert not (tmp_path / "run" / "quarantine.csv").exists()


def test_mirrored_views_are_told_of_where_sides_matter(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--encoder", "control", "--steps", "1")
    assert pretrain(videos, tmp_path / "mirrored", *few) == 0
    assert "the views mirror clips; for a controller give --views none" in capsys.readouterr().err
    assert pretrain(videos, tmp_path / "plain", "--views", "none", *few) == 0
    assert "mirror" not in capsys.readouterr().err


def test_aligned_views(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(videos, tmp_path / "run", "--method", "simclr", "--views", "aligned", "--steps", "1") == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["method"]["views"]["aligned"] is True
    assert pretrain(videos, tmp_path / "none", "--method", "equivariant", "--views", "aligned", "--steps", "1") == 2
    assert "--views aligned: those of equivariant neither crop nor flip" in capsys.readouterr().err


def test_an_encoder_from_elsewhere_is_trained_and_loaded_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_encoders.py").write_text(
        "from torch import nn\n"
        "from vidssl.encoders import FrameEncoder\n"
        "def tiny(size):\n"
        "    return FrameEncoder(nn.Conv2d(3, 8, 4, 4), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8)\n"
        "def wrong(size):\n"
        "    return nn.Identity()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert pretrain(videos, tmp_path / "run", "--encoder", "my_encoders:tiny", "--steps", "1") == 0
    assert vidssl.load_encoder(tmp_path / "run")(np.zeros((3, 48, 64, 3), np.uint8)).shape[0] == 3
    with pytest.raises(vidssl.VidsslError, match=r"'my_encoders:wrong': got a Identity; return a FrameEncoder"):
        build_encoder("my_encoders:wrong", (32, 32))
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "my_encoders")
    with pytest.raises(vidssl.VidsslError, match=r"No module named 'my_encoders'.*put the module on PYTHONPATH"):
        vidssl.load_encoder(tmp_path / "run")


def test_settings_with_several_values_are_the_same_again(videos: Path, tmp_path: Path) -> None:
    motion = ("--encoder", "small", "--method", "motion", "--views", "none", "--options", "grids=(1,2)")
    assert pretrain(videos, tmp_path / "first", *motion) == 0
    assert pretrain(videos, tmp_path / "same", *motion, "--steps", "1", "--init", str(tmp_path / "first")) == 0
    assert json.loads((tmp_path / "same" / "config.json").read_text())["init"]["weights"] == "all"


def test_the_method_that_contributing_shows_is_trained(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (tmp_path / "shown_method.py").write_text(re.findall(r"```python\n(.*?class Tiny.*?)```", page, re.DOTALL)[0])
    monkeypatch.syspath_prepend(tmp_path)
    assert pretrain(videos, tmp_path / "run", "--method", "shown_method:Tiny", "--options", "temperature=0.5") == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["method"]["options"] == {"temperature": 0.5}
