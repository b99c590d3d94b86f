"""`vidssl demo`, as small as it gets: all stages run, and the report stands by itself."""

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from vidssl.robot import showreel
from vidssl.robot.evaluate import EpisodeResult
from vidssl.scripts.cli import main as vidssl

FEW = "--demo-episodes 5 --minutes 0.03 --episodes 1 --head-steps 3 --overwrite"
ARMS = ("random", "random-encoder", "pixels", "learned", "expert")


def one_a_arm(results: Sequence[EpisodeResult]) -> dict[str, EpisodeResult]:
    return {"median": results[0]}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a demo leaves, here in place of an earlier one."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    (folder / "demos" / "episodes").mkdir(parents=True)
    (folder / "demos" / "recording.json").write_text("{}")
    (folder / "demos" / "episodes" / "earlier.mp4").touch()
    (folder / "notes.txt").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(showreel, "notable", one_a_arm)  # filming is most of a demo of one episode
        assert vidssl(["demo", "--out", str(folder), *FEW.split()]) == 0
    return folder


def embedded(page: str, kind: str) -> list[bytes]:
    """The files of a MIME type that a page carries."""
    return [base64.b64decode(data, validate=True) for data in re.findall(f'src="data:{kind};base64,([^"]*)"', page)]


def test_the_report_stands_by_itself(demo: Path) -> None:
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert not re.search(r'(src|href)="(?!data:)|<script|@import|url\(', page), "refers to something outside"
    for name in ("evaluation/success.png", "evaluation/strip.png", "training.png"):
        assert (demo / name).read_bytes() in embedded(page, "image/png")
    for arm in ("learned", "expert"):
        video = (demo / "evaluation" / "videos" / f"{arm}-median.mp4").read_bytes()
        assert video[4:8] == b"ftyp"
        assert video in embedded(page, "video/mp4")


def test_the_table_holds_every_arm_with_its_interval(demo: Path) -> None:
    page = (demo / "report.html").read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in (re.findall("<td>(.*?)</td>", row) for row in page.split("<tr")) if row}
    assert tuple(rows) == ARMS
    results = json.loads((demo / "evaluation" / "results.json").read_text())
    for arm, (what, success, interval, difference) in rows.items():
        assert what
        assert success == f"{results['arms'][arm]['successes']}/1"
        assert re.fullmatch(r"\d\.\d\d to \d\.\d\d", interval)
        assert bool(difference) == (arm != "learned")


def test_the_parts_can_be_used_again(demo: Path) -> None:
    from vidssl import load_encoder

    assert load_encoder(demo / "run").image_size == (64, 64)
    assert len(list((demo / "demos" / "episodes").glob("*.mp4"))) == 5
    assert (demo / "notes.txt").exists(), "what a demo did not write is not its to delete"


def test_an_earlier_demo_is_not_replaced_unasked(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (demo / "report.html").read_bytes()
    assert vidssl(["demo", "--out", str(demo)]) == 2
    assert "pass --overwrite to replace it" in capsys.readouterr().err
    assert (demo / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "told"),
    [("--minutes -1", "training budget"), ("--head-steps 0", "--head-steps"), ("--demo-episodes 1", "--demo-episodes")],
)
def test_mistakes_are_told_before_the_first_stage(
    option: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vidssl(["demo", "--out", str(tmp_path / "demo"), *option.split()]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert "1/3" not in shown.out
    assert not (tmp_path / "demo").exists()


def test_another_folder_is_never_emptied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    assert vidssl(["demo", "--out", str(tmp_path), "--overwrite"]) == 2
    assert "holds something other than a demo" in capsys.readouterr().err
    assert (tmp_path / "run" / "thesis.tex").exists()
