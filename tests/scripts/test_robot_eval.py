"""`vidssl robot-eval` end to end on the tiny world: a table, a JSON that repeats itself, pictures."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import pytest

from vidssl.checkpoint import write_config, write_model
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor
from vidssl.robot import expert
from vidssl.robot.rollout import Place
from vidssl.robot.showreel import replay
from vidssl.scripts.robot_eval import Config, main, run

sys.path.append(str(Path(__file__).parents[1] / "robot"))
import tiny_env

TINY = "tiny_env:Tiny-v0"
ARMS = ("random", "random-encoder", "pixels", "learned", "expert")


@pytest.fixture(autouse=True, scope="module")
def tiny_expert() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(expert.EXPERTS, "Tiny-v0", tiny_env.TinyExpert)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `run`, an exported (untrained) encoder."""
    folder = tmp_path_factory.mktemp("eval")
    extractor = FeatureExtractor.random("control", (32, 32), seed=7)
    config = {
        "encoder": {"name": "control", "dim": extractor.dim},
        "context": None,
        "image_size": [32, 32],
        "fps": 10.0,
        "output": "encoder",
    }
    write_config(folder / "run", config)
    (folder / "run" / "metrics.jsonl").write_text('{"step": 1, "seconds": 5.0}\n{"step": 2, "seconds": 61.5}\n')
    write_model(folder / "run", {f"encoder.{k}": v for k, v in extractor.encoder.state_dict().items()})
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> Config:
    return Config(
        run=folder / "run",
        env=TINY,
        episodes=6,
        demo_episodes=12,
        seeds=(0, 1),
        head_steps=20,
        pixel_steps=5,
        workers=0,
        out=folder / "out",
    )


@pytest.fixture(scope="module")
def results(config: Config) -> dict[str, Any]:
    return run(config)


def test_all_arms_on_the_same_layouts(results: dict[str, Any]) -> None:
    assert tuple(results["arms"]) == ARMS
    for arm in results["arms"].values():
        assert arm["episodes"] == 12, "six layouts, two cloning seeds"
        assert [row["seed"] for row in arm["results"]] == [2 * i + 1 for i in range(6)] * 2
        assert sum(arm["failures"].values()) == arm["episodes"] - arm["successes"]
        low, high = arm["interval_95"]
        assert 0 <= low <= arm["success_rate"] <= high <= 1
    assert results["arms"]["expert"]["successes"] == 12
    assert set(results["paired"]) == {f"learned - {arm}" for arm in ARMS if arm != "learned"}
    assert [fit["seed"] for fit in results["arms"]["pixels"]["cloning"]] == [0, 1]
    assert [fit["steps"] for fit in results["arms"]["pixels"]["cloning"]] == [5, 5]
    assert results["demonstrations"]["episodes"] == 12
    assert results["timings"]["pretraining_seconds"] == 61.5
    assert results["demonstrations"]["facts"]["split"] == "train"


def test_json_is_the_result_and_repeats(
    results: dict[str, Any], config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = json.loads((folder / "out" / "results.json").read_text())
    assert written == json.loads(json.dumps(results))
    again = run(replace(config, demos=folder / "out" / "demos", out=folder / "again", no_videos=True))
    for one in (written, again):
        one.pop("timings")
    assert json.loads(json.dumps(again)) == written
    assert not (folder / "again" / "videos").exists()


def test_pictures(results: dict[str, Any], folder: Path) -> None:
    out = folder / "out"
    for name in ("success.png", "strip.png"):
        image = cv2.imread(str(out / name))
        assert image is not None
        assert image.std() > 10
    videos = {path.stem for path in (out / "videos").iterdir()}
    assert {f"{arm}-{kind}" for arm in ARMS for kind in ("best", "median")} <= videos
    assert "expert-worst-failure" not in videos
    worst = min(
        (row for row in results["arms"]["random"]["results"] if not row["success"]),
        key=lambda row: row["episode_return"],
    )
    with av.open(str(out / "videos" / "random-worst-failure.mp4")) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == worst["length"] + 1 + 9, "every observation once, the last one held"


def test_replay_sees_what_the_episode_saw(folder: Path) -> None:
    from vidssl.robot.controllers import RandomController
    from vidssl.robot.evaluate import evaluate_policy

    episode = evaluate_policy(RandomController, TINY, 1)[0]
    moments = replay(Place(TINY), episode)
    assert len(moments) == episode.length + 1
    assert moments[-1].camera.shape == (32, 32, 3)
    assert moments[-1].scene.shape == (64, 64, 3)


def test_without_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "norun"
    options = "--arms random expert --episodes 2 --demo-episodes 2 --workers 0 --no-videos"
    main(["--env", TINY, "--out", str(out), *options.split()])
    table = capsys.readouterr().out
    assert "2/2" in table
    assert "expert" in table
    assert json.loads((out / "results.json").read_text())["run"] is None


def test_mistakes(config: Config, folder: Path, results: dict[str, Any]) -> None:
    demos = folder / "out" / "demos"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"arms": ("random", "magic")}, r"unknown arm 'magic'.*expert, learned, pixels, random, random-encoder"),
        ({"arms": ("random", "random")}, "once each"),
        ({"run": None, "arms": ("learned",)}, "needs a RUN"),
        ({"run": folder / "nowhere"}, "no run folder"),
        ({"env": "vidssl/Boat-v0"}, r"unknown environment 'vidssl/Boat-v0'.*vidssl/Rover-v0"),
        ({"episodes": 0}, "episodes >= 1"),
        ({"workers": -1}, "--workers: got -1; at least 0"),
        ({"demo_episodes": 1}, "--demo-episodes: got 1; at least 2"),
        ({"head_steps": 0}, "--head-steps: got 0; at least 1"),
        ({"pixel_minutes": 0.0}, "--pixel-minutes: got 0"),
        ({"seeds": (1, 1)}, "distinct seeds"),
        ({"demos": folder / "run"}, "not a folder of recorded episodes"),
        ({"demos": demos, "demo_episodes": 99}, "holds 12 demonstrations"),
        ({"demos": demos, "size": 48}, r"images of 32x32.*48x48"),
        ({"run": None, "arms": ("pixels",), "encoder": "vgg"}, r"unknown encoder 'vgg'"),
    ]
    for change, message in cases:
        with pytest.raises(VidsslError, match=message):
            run(replace(config, **{"out": folder / "mistake", "no_videos": True, **change}))
        assert not (folder / "mistake" / "results.json").exists()


def test_demonstrations_of_test_layouts_are_refused(config: Config, folder: Path) -> None:
    from vidssl.robot.recording import record

    record(TINY, folder / "leak", 2, split="test")
    with pytest.raises(VidsslError, match="split is 'test', needed 'train'"):
        run(replace(config, demos=folder / "leak", out=folder / "leaked"))
