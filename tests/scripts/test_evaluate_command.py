"""`vidssl evaluate`: the table, the report, and answers to bad input."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_run import write_run, write_videos

from vidssl.datasets.files import VideoFile
from vidssl.errors import VidsslError
from vidssl.scripts.cli import main as vidssl
from vidssl.scripts.evaluate import Config, main, make_task

FEW = ["--folds", "3", "--seeds", "2", "--random-encoders", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


def test_report_of_labelled_videos(run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run), str(videos), "--groups", str(videos / "sources.csv"), "--out", str(tmp_path), *FEW])
    report = json.loads((tmp_path / "evaluation.json").read_text())
    rows = {row["features"]: row for row in report["rows"]}
    assert list(rows) == ["cpc", "random encoder", "raw pixels", "frame differences"]
    assert rows["frame differences"]["linear"]["mean"] > 0.9  # motion is all that differs
    assert rows["raw pixels"]["dim"] == 2 * 3 * 32 * 32
    assert len(rows["random encoder"]["linear"]["scores"]) == 4  # two encoders, two seeds
    assert [len(folds) for folds in rows["cpc"]["knn"]["scores"]] == [3, 3]
    assert rows["raw pixels"]["linear"]["lead_of_first"]["mean"] == pytest.approx(
        rows["cpc"]["linear"]["mean"] - rows["raw pixels"]["linear"]["mean"]
    )
    assert report["chance"] == 0.5
    assert report["left_out"] == {}
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "evaluation.png"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 folds, 2 seeds, disjoint in 10 groups" in shown
    assert "videos: 20, of which 1 bear the name of one the run was trained on" in shown
    assert "windows of 4 frames (stride 2, 32x32)" in shown
    assert "chance (largest class) 0.500" in shown


def test_targets_without_labels_and_groups(
    run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list.csv"
    names = [f"{label}/{number}" for label in ("still", "moving") for number in range(10)]
    listed.write_text("\n".join(f"{videos}/{name}.mp4" for name in names))
    speeds = tmp_path / "speed.csv"
    rows = [f"{videos}/{name}.mp4,{3 * name.startswith('moving')},{i}" for i, name in enumerate(names)]
    speeds.write_text("path,speed,noise\n" + "\n".join(rows))
    main([str(run), str(listed), "--targets", str(speeds), "--out", str(tmp_path / "out"), "--workers", "0", *FEW])
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    rows_by_name = {row["features"]: row for row in report["rows"]}
    assert rows_by_name["frame differences"]["ridge_r2"]["targets"]["speed"] > 0.6
    lead = rows_by_name["frame differences"]["ridge_r2"]["lead_of_first"]
    ridge = {name: rows_by_name[name]["ridge_r2"]["mean"] for name in ("cpc", "frame differences")}
    assert lead["mean"] == pytest.approx(ridge["cpc"] - ridge["frame differences"])
    assert any(line.startswith("ridge R²: cpc is above") for line in report["verdict"])
    assert "linear" not in rows_by_name["cpc"]
    assert report["chance"] is None
    assert "each video a group of its own" in " ".join(capsys.readouterr().out.split())


def test_targets_with_empty_cells(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = write_videos(tmp_path / "videos", each=12)
    rows = [
        f"{label}/{number}.mp4,{3 * (label == 'moving')},{'' if number < 2 else number}"
        for label in ("still", "moving")
        for number in range(12)
    ]
    (tmp_path / "targets.csv").write_text("path,speed,number\n" + "\n".join(rows))
    arguments = [str(run), str(videos), "--targets", str(tmp_path / "targets.csv"), "--workers", "0", *FEW]
    main([*arguments, "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["rows"][0]["ridge_r2"]["targets"].keys() == {"speed", "number"}
    assert any("speed 24, number 20" in line for line in report["protocol"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("random encoder", "raw pixels", "frame differences", "speed", "number"))
    (tmp_path / "targets.csv").write_text("path,speed,number\n" + "\n".join(row.removesuffix("11") for row in rows))
    with pytest.raises(VidsslError, match="number is known for 18 of 24 videos; 20 at the least"):
        main(arguments)


def test_unreadable_videos_are_named_and_left_out(run: Path, tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", each=10)
    whole = (videos / "still" / "3.mp4").read_bytes()
    (videos / "still" / "3.mp4").write_bytes(whole[:100])
    main([str(run), str(videos), "--out", str(tmp_path / "out"), "--workers", "0", *FEW])
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(report["left_out"]) == ["still/3.mp4"]
    assert len(report["rows"]) == 4
    with pytest.raises(VidsslError, match=r"1 of 20 videos can't be used"):
        main([str(run), str(videos), "--out", str(tmp_path / "out"), "--workers", "0", "--max-failed", "0.01", *FEW])


def test_mistakes_are_answered_before_decoding(run: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "flat.csv").touch()
    with pytest.raises(VidsslError, match=r"cannot write .*flat.csv is no folder; choose another --out"):
        main([str(run), str(videos), "--out", str(tmp_path / "flat.csv" / "out")])
    flat = tmp_path / "flat.csv"
    flat.write_text("\n".join(str(path) for path in sorted(videos.rglob("*.mp4"))))
    one = tmp_path / "one.csv"
    one.write_text("\n".join(f"{path},same" for path in sorted(videos.rglob("*.mp4"))))
    few = tmp_path / "few.csv"
    few.write_text("\n".join(one.read_text().splitlines()[:5]))
    words = tmp_path / "words.csv"
    words.write_text("path,speed\n" + "\n".join(f"{p.relative_to(videos)},fast" for p in videos.rglob("*.mp4")))
    names = [f"{path.relative_to(videos)}" for path in sorted(videos.rglob("*.mp4"))]
    for name, values in {"alike": [2] * 20, "endless": ["inf", *range(19)]}.items():
        (tmp_path / f"{name}.csv").write_text(
            "path,speed\n" + "\n".join(f"{path},{value}" for path, value in zip(names, values, strict=True))
        )
    stray = tmp_path / "stray"
    shutil.copytree(videos, stray)
    shutil.copyfile(stray / "still" / "0.mp4", stray / "intro.mp4")
    short = tmp_path / "short.csv"
    short.write_text("path,speed\nstill/0.mp4,1\n")
    cases = [
        ([str(run), str(flat)], "20 videos without labels; put each class into a subfolder"),
        ([str(run), str(one)], "two classes"),
        ([str(run), str(videos / "still")], "without labels"),
        ([str(run), str(few)], "5 videos are too few"),
        ([str(run), str(videos), "--groups", str(videos / "sources.csv"), "--folds", "11"], "10 groups can't make 11"),
        ([str(run), str(videos), "--targets", str(words)], "not a number"),
        ([str(run), str(videos), "--targets", str(short)], "no row for 19 of 20"),
        ([str(run), str(videos), "--targets", str(tmp_path / "alike.csv")], "speed is the same for all videos"),
        ([str(run), str(videos), "--targets", str(tmp_path / "endless.csv")], "speed holds infinity"),
        ([str(run), str(stray)], "1 of 21 videos lie outside the class subfolders, e.g. intro.mp4"),
        ([str(run), str(videos), "--targets", str(tmp_path / "none.csv")], "no such file"),
        ([str(run), str(videos), "--seeds", "0"], "--seeds: got 0; at least 1"),
        ([str(run), str(videos), "--frames", "0"], "--frames: got 0; at least 1"),
        ([str(run), str(videos), "--device", "tpu"], "auto, cpu, cuda"),
        ([str(tmp_path), str(videos)], "no run folder"),
    ]
    for arguments, message in cases:
        with pytest.raises(VidsslError, match=message):
            main(arguments)


def test_a_mistake_is_one_line_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vidssl(["evaluate", str(tmp_path), str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_subfolders_that_are_no_classes_do_not_stop_targets(
    run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(videos, data / "episodes")
    names = [path.relative_to(data).as_posix() for path in sorted(data.rglob("*.mp4"))]
    speeds = tmp_path / "speed.csv"
    speeds.write_text("path,speed\n" + "\n".join(f"{name},{3 * ('moving' in name)}" for name in names))
    main([str(run), str(data), "--targets", str(speeds), "--out", str(tmp_path), "--workers", "0", *FEW])
    assert "subfolders are not probed as classes" in " ".join(capsys.readouterr().out.split())
    assert "linear" not in json.loads((tmp_path / "evaluation.json").read_text())["rows"][0]


def test_a_run_that_was_not_trained_on_videos(run: Path, videos: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    config["data"] = {"meshes": "default"}  # as vidssl pretrain-views has it
    (other / "config.json").write_text(json.dumps(config))
    main([str(other), str(videos), "--out", str(tmp_path / "out"), "--workers", "0", *FEW])
    assert (tmp_path / "out" / "evaluation.json").exists()


def test_a_target_that_is_known_of_too_few_sources(tmp_path: Path) -> None:
    videos = [VideoFile(tmp_path / f"{i}.mp4", f"{i}.mp4") for i in range(40)]
    (tmp_path / "speed.csv").write_text("path,speed\n" + "\n".join(f"{i}.mp4,{i if i < 20 else ''}" for i in range(40)))
    (tmp_path / "sources.csv").write_text("path,source\n" + "\n".join(f"{i}.mp4,{max(i, 18)}" for i in range(40)))
    tables = {"targets": tmp_path / "speed.csv", "groups": tmp_path / "sources.csv"}
    with pytest.raises(VidsslError, match=r"for which speed is known: .*2 groups can't make 5"):
        make_task(Config(run=tmp_path, data=tmp_path, **tables), videos)
