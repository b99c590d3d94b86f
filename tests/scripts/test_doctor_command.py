"""`vidssl doctor`, and `vidssl pretrain --doctor`."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import write_clip, write_run

from vidssl.scripts.cli import main

SPREAD = [0.9, 0.5, 0.15, 0.1, 0.1, 0.05, 0.05, 0.04]


def write_metrics(run: Path, spread: list[float], **more: float) -> Path:
    numbers = {"loss": 1.0, "embedding_rank": 20.0, "feature_spread": 0.5, "feature_rank": 30.0, **more}
    lines = [{"step": 10 * (i + 1), "embedding_spread": value, **numbers} for i, value in enumerate(spread)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 90, "lo')
    return run


def test_a_collapsed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_metrics(write_run(tmp_path / "run"), SPREAD)
    assert main(["doctor", str(run)]) == 1
    told = capsys.readouterr().out
    assert f"{run} (cpc), 80 steps: CONSTANT COLLAPSE" in told
    assert "step 70: constant collapse of the embeddings (projector)" in told
    assert "embedding_spread 0.9 -> 0.04" in told
    assert (run / "doctor.png").read_bytes().startswith(b"\x89PNG")


def test_several_runs_healthy_and_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    healthy = write_metrics(write_run(tmp_path / "healthy"), [0.9] * 8)
    old = write_run(tmp_path / "old")
    (old / "metrics.jsonl").write_text('{"step": 10, "loss": 2.0}\n{"step": 20, "rankme": 30.0}\n')
    assert main(["doctor", str(healthy), str(old)]) == 0
    told = capsys.readouterr().out
    assert "80 steps: no collapse" in told
    assert "20 steps: cannot tell" in told
    assert "no feature_spread and feature_rank" in told
    assert (old / "doctor.png").exists()


@pytest.mark.parametrize(("made", "message"), [(False, "is no run folder"), (True, "nothing logged yet")])
def test_no_run_and_no_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str], made: bool, message: str) -> None:
    if made:
        write_run(tmp_path / "run")
    assert main(["doctor", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        write_clip(folder / f"{number}.mp4", 12, 1, seed=number)
    return folder


def pretrain(videos: Path, run: Path, *more: str, steps: int = 55) -> int:
    train = ["--size", "32", "--frames", "4", "--stride", "1", "--batch-size", "4", "--workers", "1"]
    train += ["--steps", str(steps)]
    return main(["pretrain", str(videos), "--out", str(run), "--method", "collapsing:Collapsing", *train, *more])


def findings(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "doctor.jsonl").read_text().splitlines()]


def test_pretrain_stops_saves_and_says_why(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    broken = ["--options", "predictor=False"]
    assert pretrain(videos, run, "--doctor", "stop", *broken) == 3
    output = capsys.readouterr()
    assert "stopped by the doctor at step 50, saved" in output.err  # steps 10 to 50 agree
    assert "likely cause: no predictor (a setting of this run)" in output.err
    assert (run / "model.safetensors").exists()
    first = findings(run)
    assert [(f["step"], f["kind"], f["cause"], f["known"]) for f in first] == [(50, "constant", "predictor", True)]

    assert pretrain(videos, run, "--resume", *broken) == 0  # gone on with: what was told is not told again
    assert "likely cause" not in capsys.readouterr().err
    assert findings(run) == first
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [step for step in steps if step != 55] == [1, 10, 20, 30, 40, 50]


def test_nothing_is_stopped_early(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The collapse is sure at step 50; 59 of 200 steps are less than 30 %, 69 are more."""
    assert pretrain(videos, tmp_path / "run", "--doctor", "stop", "--options", "predictor=False", steps=200) == 3
    assert "stopped by the doctor at step 70" in capsys.readouterr().err
    assert [finding["step"] for finding in findings(tmp_path / "run")] == [50]


def test_pretrain_warns_or_stays_silent(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(videos, tmp_path / "off", "--doctor", "off", "--options", "predictor=False") == 0
    assert not (tmp_path / "off" / "doctor.jsonl").exists()
    assert pretrain(videos, tmp_path / "healthy") == 0
    assert not (tmp_path / "healthy" / "doctor.jsonl").exists()
    assert "collapse" not in capsys.readouterr().err
