"""The Push-T bench: data as it takes them, its numbers, and a whole run on three demonstrations made up."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vidssl.datasets.pusht import PushTEpisode
from vidssl.errors import VidsslError
from vidssl.robot.arms import Architecture
from vidssl.robot.controller_files import save_extractor
from vidssl.robot.evaluate import EpisodeResult
from vidssl.scripts import bench_pusht
from vidssl.scripts.bench_pusht import Config, demonstrations, labelled, main, numbers, replayed, table


def episodes(count: int = 3, steps: int = 6) -> list[PushTEpisode]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        pusher = rng.uniform(100, 400, (steps, 2))
        block = np.tile([256, 256, np.pi / 4], (steps, 1))
        made.append(
            PushTEpisode(
                image=rng.integers(0, 255, (steps, 96, 96, 3), dtype=np.uint8),
                state=np.concatenate([pusher, block], axis=1).astype(np.float32),
                action=rng.uniform(0, 512, (steps, 2)).astype(np.float32),
                keypoint=np.zeros((steps, 9, 2), np.float32),
            )
        )
    return made


def results(scores: list[float]) -> list[EpisodeResult]:
    nothing = np.zeros((0, 2), np.float32)
    return [
        EpisodeResult(2 * i + 1, score > 0.95, None if score > 0.95 else "time-out", None, 0.0, 0, nothing, score)
        for i, score in enumerate(scores)
    ]


def test_demonstrations() -> None:
    made = episodes()
    demos = demonstrations(made)
    assert demos.first.tolist() == [0] * 6 + [6] * 6 + [12] * 6
    assert np.array_equal(demos.frames[6], made[1].image[0])
    assert torch.equal(demos.proprio[7], torch.from_numpy(made[1].state[1, :2]))
    assert torch.allclose(demos.action[12], torch.from_numpy(made[2].action[0] / 256 - 1))


def test_numbers_and_table() -> None:
    report = numbers({"learned": results([0.96, 0.85, 0.3, 0.1]), "pixels": results([0.1, 0.85, 0.3, 0.1])})
    shares = report["arms"]["learned"]["score"]["at_least"]
    assert (shares["0.95"]["share"], shares["0.8"]["share"]) == (0.25, 0.5)
    difference = report["learned_minus"]["pixels"]
    assert difference["mean"][0] == pytest.approx(0.86 / 4)
    assert difference["0.8"][0] == 0.25
    report["demonstrations"] = {"episodes": 2, "mean": [0.9, 0.8, 1.0], "at_least": {"0.95": 0.5, "0.8": 1.0}}
    lines = table(report).splitlines()
    assert [line.split()[0] for line in lines] == ["arm", "learned", "pixels", "demonstrations", "learned"]
    assert "0.55 [" in lines[1]
    assert lines[-1].startswith("learned - pixels")


def test_labelled_demonstrations_are_whole_ones(tmp_path: Path) -> None:
    demos = demonstrations(episodes(4))
    config = Config(tmp_path, tmp_path, labelled=2, seed=3)
    few = labelled(config, demos)
    starts = torch.unique(few.first)
    assert len(starts) == 2
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(few.first)], strict=True):
        where = (demos.action == few.action[start]).all(1).nonzero()[0, 0]
        assert demos.first[where] == where
        rows = slice(int(where), int(where) + end - start)
        assert demos.first[rows].unique().tolist() == [where]
        np.testing.assert_array_equal(few.frames[start:end], demos.frames[rows])
        assert torch.equal(few.proprio[start:end], demos.proprio[rows])
    assert labelled(replace(config, labelled=None), demos) is demos
    for wrong in (1, 5):
        with pytest.raises(VidsslError, match="give 2 to 4"):
            labelled(replace(config, labelled=wrong), demos)


def test_replayed_block_that_lies_at_its_goal() -> None:
    pytest.importorskip("gym_pusht")
    made = episodes(1, steps=2)
    aside = PushTEpisode(made[0].image, made[0].state.copy(), made[0].action, made[0].keypoint)
    for episode in (made[0], aside):  # the pusher stays in a corner
        episode.state[:, :2] = episode.action[:] = 30
    aside.state[:, 2:4] = 150
    best = replayed([made[0], aside])
    assert best["at_least"] == {"0.95": 0.5, "0.8": 0.5}
    assert best["mean"][0] == pytest.approx(0.5, abs=0.05)


def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gym_pusht")
    monkeypatch.setattr(bench_pusht, "read_pusht", lambda path: episodes())
    save_extractor(tmp_path / "run", Architecture("control", (32, 32)).untrained(1))
    command = ["demos", "--out", str(tmp_path / "out"), "--run", str(tmp_path / "run"), "--episodes", "1"]
    command += ["--arms", "random-encoder", "learned", "--minutes", "0.002", "--no-replay", "--head", "l1"]
    main(command)
    first = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(first["arms"]) == {"random-encoder", "learned"}
    assert first["fits"]["learned"]["train_episodes"] == 2
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "controllers").rglob("*")}
    main(command)  # nothing is trained or run again
    assert json.loads((tmp_path / "out" / "results.json").read_text())["coverage"] == first["coverage"]
    assert files == {path: path.stat().st_mtime_ns for path in files}
    assert "learned - random-encoder" in capsys.readouterr().out
    with pytest.raises(VidsslError, match=r"minutes: was 0\.002, now 3\.0"):
        main([*command, "--minutes", "3"])
    report = json.loads((tmp_path / "out" / "results.json").read_text()) | {"demonstrations": {"kept": 1}}
    (tmp_path / "out" / "results.json").write_text(json.dumps(report))
    monkeypatch.setattr(bench_pusht, "table", str)
    main([*command, "--arms", "random-encoder"])
    after = json.loads((tmp_path / "out" / "results.json").read_text())
    for part in ("learned_minus", "coverage", "fits", "demonstrations"):
        assert after[part] == report[part], "arms evaluated before stay"
    capsys.readouterr()
    main([*command, "--arms", "random-encoder", "--episodes", "2"])
    assert "learned, evaluated before, is left out: it has fewer episodes" in capsys.readouterr().out


def test_a_pretraining_that_is_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, calls = Config(tmp_path, tmp_path / "out"), []

    def pretrain(argv: list[str]) -> int:
        calls.append(argv)
        (config.out / "encoder").mkdir(exist_ok=True)
        (config.out / "encoder" / "config.json").touch()
        return 143 if len(calls) == 1 else 0

    monkeypatch.setattr("vidssl.scripts.pretrain.main", pretrain)
    demos = demonstrations(episodes())
    with pytest.raises(VidsslError, match="stopped with status 143; run the same command again"):
        bench_pusht.pretrained(config, demos)
    videos = {path: path.stat().st_mtime_ns for path in (config.out / "videos").iterdir()}
    for _ in range(2):
        bench_pusht.pretrained(config, demos)
    assert ["--resume" in call for call in calls] == [False, True]
    assert videos == {path: path.stat().st_mtime_ns for path in videos}
    assert bench_pusht.pretraining(config) > 0
    with pytest.raises(VidsslError, match="steps: was 2000, now 3"):
        bench_pusht.pretrained(replace(config, pretrain_steps=3), demos)
    cost = json.loads(bench_pusht.cost_file(config).read_text()) | {"finished": False, "minutes": None}
    bench_pusht.cost_file(config).write_text(json.dumps(cost))
    with pytest.raises(VidsslError, match="killed, so how long it was trained is not known"):
        bench_pusht.pretrained(config, demos)
    bench_pusht.cost_file(config).write_text("0.7")
    with pytest.raises(VidsslError, match="does not say what settings it was made with"):
        bench_pusht.pretrained(config, demos)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match=r"arm.*random-encoder"):
        main(["demos", "--out", str(tmp_path), "--arms", "dino"])
    with pytest.raises(VidsslError, match="at least one arm and one episode"):
        main(["demos", "--out", str(tmp_path), "--episodes", "0"])
    with pytest.raises(VidsslError, match="--pretrain-minutes"):
        bench_pusht.pretraining(Config(tmp_path, tmp_path, run=tmp_path))
