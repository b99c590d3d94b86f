"""`vidssl robot-report` on results as the commands write them: all pictures, one page that stands by itself."""

import base64
import copy
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vidssl.errors import VidsslError
from vidssl.robot.comparison import tabulate
from vidssl.robot.evaluate import EpisodeResult
from vidssl.scripts.report import in_order
from vidssl.scripts.robot_report import PRETRAINING, Config, _curves, main, run


def evaluation(env: str, demos: int | None, share: float, score: bool = False, minutes: float = 3.0) -> dict[str, Any]:
    def episodes(rate: float) -> list[EpisodeResult]:
        reached = [i < rate * 20 for i in range(20)]
        return [
            EpisodeResult(i, won, None if won else "border", None, 0.0, 3, np.zeros((3, 2)), rate if score else None)
            for i, won in enumerate(reached)
        ]

    outcomes = {"random": episodes(0), "learned": episodes(share), "my<arm>": episodes(0.2), "expert": episodes(1)}
    facts = {"env": env, "notes": ['no expert & no "pictures"'], "versions": {"torch": "2"}, "seed": 0}
    demonstrations = None if demos is None else {"episodes": demos, "steps": 10 * demos}
    facts |= {"demonstrations": demonstrations, "controllers": {"my<arm>": {"from": "my_module:Mine"}}}
    return facts | tabulate(outcomes, ["learned"]) | {"timings": {"pretraining_seconds": 60 * minutes}}


def write(folder: Path, file: str, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(content, sort_keys=True) + "\n")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("report")
    made = [write(root / f"demos-{n}", "results.json", evaluation("vidssl/Rover-v0", n, n / 200)) for n in (100, 20)]
    made += [write(root / f"{m}-min", "results.json", evaluation("A-v0", None, m / 20, True, m)) for m in (1, 8)]
    point = evaluation("x", None, 0.5)["arms"]["learned"] | {"steps_to_success": 30.0}
    line = {"remote": True, "points": {"0": point, "10": point, "2": point}}
    lines = {"direct": line, "learned": {"remote": False, "points": {"0": point}}}
    found = {"delay": 4.0, "low_95": 2.0, "high_95": None}
    lag = {"rate": 10.0, "settings": {"env": "vidssl/Rover-v0", "episodes": 20}, "lines": lines}
    made.append(write(root / "lag", "lag.json", lag | {"crossovers": {"direct below learned": found}}))
    rows = [{"encoder": e, "form": f, "p50_ms": 3.0, "p99_ms": 4.0} for e in ("a", "b") for f in ("eager", "onnx")]
    made.append(write(root / "latency", "latency.json", {"rows": rows}))
    metrics = "".join(json.dumps({"step": i, "loss": 1 / i, "rankme": 9.0}) + "\n" for i in (1, 2, 3))
    (made[0] / "metrics.jsonl").write_text(metrics)
    return made


def test_all_pictures_on_one_page(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*map(str, folders), "--out", str(tmp_path)])
    assert "7 pictures in" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)|<script|@import|url\(', page), "refers to something outside"
    embedded = [base64.b64decode(data) for data in re.findall('src="data:image/png;base64,([^"]*)"', page)]
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {
        "success-vidssl-rover-v0.png",
        "demonstrations-vidssl-rover-v0.png",
        "success-a-v0.png",
        "pretraining-a-v0.png",
        "lag.png",
        "latency.png",
        "training.png",
    }
    for name in names:
        assert (tmp_path / name).read_bytes() in embedded
        image = cv2.imread(str(tmp_path / name))
        assert image is not None
        assert image.std() > 10
        assert image.shape[1] < 2000
    assert page.index("demos-20: 20 demonstrations") < page.index("demos-100: 100 demonstrations")
    assert "my&lt;arm&gt;" in page
    assert "my_module:Mine" in page
    assert "no expert &amp; no" in page
    assert "direct below learned: 0.40 s (0.20 to beyond)" in page
    assert "score" in page


def test_arms_go_from_floor_to_ceiling() -> None:
    assert in_order({"expert": 0, "learned": 0, "mine": 0, "random": 0}) == ["random", "learned", "mine", "expert"]
    assert in_order({"learned": 0, "a": 0, "random": 0}) == ["random", "learned", "a"]


def test_no_curve_of_evaluations_that_differ_in_two_ways(folders: list[Path], tmp_path: Path) -> None:
    other = copy.deepcopy(evaluation("A-v0", 7, 0.4, minutes=99.0))
    run(Config((folders[2], write(tmp_path / "other", "results.json", other)), tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["success-a-v0.png"]


@pytest.mark.parametrize("key", ["seed", "size", "cloning_seeds", "architecture", "run"])
def test_no_curve_of_unlike_evaluations(key: str) -> None:
    few, many = (evaluation("A-v0", n, 0.4) | {key: [n]} for n in (5, 10))
    same = [few, many | {key: few[key]}]
    assert "learned" in _curves(same, "demonstrations")
    assert not _curves([few, many], "demonstrations")
    short, long = (evaluation("A-v0", 5, 0.4, minutes=m) | {key: [m]} for m in (1, 2))
    assert bool(_curves([short, long], PRETRAINING)) == (key == "run")  # of different runs, which trained longer


def test_damaged_and_empty_files_are_named(folders: list[Path], tmp_path: Path) -> None:
    lag = json.loads((folders[4] / "lag.json").read_text())
    for file, content, message in (
        ("lag.json", lag | {"lines": {}}, r"lag.json holds no lines"),
        ("lag.json", lag | {"lines": {"a": {"remote": True, "points": {}}}}, r"lag.json is damaged: its line 'a'"),
        ("latency.json", {"rows": [{"encoder": "a", "p50_ms": 1, "p99_ms": 2}]}, r"latency.json: row 0 lacks form"),
        ("latency.json", {"rows": [7]}, r"latency.json is damaged: row 0 is 7"),
        ("latency.json", {"rows": []}, r"latency.json holds no rows"),
        ("metrics.jsonl", [1], r"metrics.jsonl, line 1, is damaged"),
    ):
        folder = write(tmp_path / f"{file} {message[-4:]}", file, content)
        with pytest.raises(VidsslError, match=message):
            run(Config((folder,), tmp_path / "out"))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.jsonl").write_text("")
    assert "No picture: its metrics.jsonl is empty" in run(Config((empty,), tmp_path / "out")).read_text()


def test_mistakes(tmp_path: Path) -> None:
    write(tmp_path / "bad", "results.json", {"env": "x"})
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "lag.json").write_text("{")
    for folder, message in (
        ("nothing", r"holds none of results.json, lag.json.*`vidssl robot-eval`"),
        ("bad", r"of another kind: it lacks arms, paired"),
        ("damaged", r"lag.json is damaged"),
    ):
        with pytest.raises(VidsslError, match=message):
            run(Config((tmp_path / folder,), tmp_path / "out"))
    with pytest.raises(VidsslError, match="name at least one folder"):
        run(Config((), tmp_path / "out"))
