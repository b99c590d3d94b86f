"""`vidssl robot-eval` end to end on the tiny world: a table, a JSON that repeats itself, pictures."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import pytest
from extractors import random_extractor
from safetensors.torch import load_file, save_file

from vidssl.checkpoint import write_config, write_model
from vidssl.errors import VidsslError
from vidssl.robot import expert
from vidssl.robot.evaluate import Evaluator
from vidssl.robot.rollout import Place
from vidssl.robot.showreel import replay
from vidssl.scripts.report import arms_table
from vidssl.scripts.robot_eval import Config, main, run
from vidssl.scripts.robot_eval_inputs import cloning_config

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
    extractor = random_extractor("control", (32, 32), seed=7)
    config = {
        "encoder": {"name": "control", "dim": extractor.dim},
        "context": None,
        "image_size": [32, 32],
        "fps": 10.0,
        "output": "encoder",
    }
    write_config(folder / "run", config)
    (folder / "run" / "metrics.jsonl").write_text('{"step": 1, "seconds": 5.0}\n{"step": 2, "seconds": 61.5}\n{"st')
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
    for name, arm in results["arms"].items():
        rounds = 1 if name in ("random", "expert") else 2
        assert arm["episodes"] == 6 * rounds, "six layouts, two cloning seeds"
        assert [row["seed"] for row in arm["results"]] == [2 * i + 1 for i in range(6)] * rounds
        assert sum(arm["failures"].values()) == arm["episodes"] - arm["successes"]
        low, high = arm["interval_95"]
        assert 0 <= low <= arm["success_rate"] <= high <= 1
    assert results["arms"]["expert"]["successes"] == 6
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
        ({"deadline": 0.0}, "--deadline: got 0.0 s"),
        ({"controllers": ("mine",)}, "write NAME=FOLDER or NAME=module:Class"),
        ({"controllers": ("pixels=a:B",)}, "the name 'pixels' is taken"),
        ({"run": Path("pilot:expert")}, "'pilot:expert': its name is that of the arm 'expert'.*NAME=pilot:expert"),
        ({"run": Path("pilot:a b")}, "'a b' is not of letters, digits.*--controllers NAME="),
        ({"controllers": ("mine=nowhere",)}, "no saved controller"),
        ({"controllers": ("mine=json:Nothing",)}, "write it as module:Class"),
        ({"demos": folder / "run"}, "not a folder of recorded episodes"),
        ({"demos": demos, "demo_episodes": 99}, "holds 12 demonstrations"),
        ({"demo_noise": 3.0}, "--demo-noise: got 3.0; 0 to 2"),
        ({"camera": "wrist"}, "--camera: says which camera of --demos"),
        ({"demos": demos, "camera": "wrist"}, "got camera 'wrist'; a folder of `vidssl record` has one camera"),
        ({"seed": 10_000}, "seed"),
        ({"demos": demos, "size": 48}, r"images of 32x32.*48x48"),
        ({"run": None, "arms": ("pixels",), "encoder": "vgg"}, r"unknown encoder 'vgg'"),
    ]
    for change, message in cases:
        with pytest.raises(VidsslError, match=message):
            run(replace(config, **{"out": folder / "mistake", "no_videos": True, **change}))
        assert not (folder / "mistake" / "results.json").exists()


SLOW = """
import os, time
import numpy as np
class Slow:
    def __init__(self, env): pass
    def reset(self):
        self.count = 0
        with open("layouts.txt", "a") as log: log.write(f"{os.getpid()}\\n")
    def __call__(self, observation):
        self.count += 1
        time.sleep(0.03)
        return np.float32([0.7, 0.01 * self.count])
"""


def test_killed_and_started_again_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_pilot.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = f"slow_pilot:Slow --env {TINY} --episodes 40 --arms random --no-videos".split()
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(tiny_env.__file__).parent), *sys.path])}
    command = [sys.executable, "-m", "vidssl.scripts.cli", "robot-eval", *options, "--workers", "1", "--out", "out"]
    process = subprocess.Popen(command, env=os.environ | paths)
    kept, layouts = tmp_path / "out" / "episodes" / "Slow-seed0.safetensors", tmp_path / "layouts.txt"
    wait_for(kept.exists)
    process.kill()
    process.wait()
    worker = int(layouts.read_text().split()[0])
    wait_for(lambda: not Path(f"/proc/{worker}/stat").exists())
    before = len(layouts.read_text().split())
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    main([*options, "--workers", "0", "--out", "out"])
    assert before < 40 <= len(layouts.read_text().split()) < 40 + before, "what was kept is not run again"
    main([*options, "--workers", "0", "--out", "whole"])
    again, whole = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("out", "whole"))
    for results in (again, whole):
        results.pop("timings")
    assert again == whole
    with pytest.raises(
        VidsslError, match=r"random-seed0.safetensors was made with other settings \(seed: was 0, now 1\)"
    ):
        main([*options, "--workers", "0", "--out", "out", "--seed", "1"])
    main([*options, "--workers", "0", "--out", "out", "--seed", "1", "--overwrite"])


def wait_for(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_policies_are_kept_and_drive_again(results: dict[str, Any], config: Config, folder: Path) -> None:
    kept = folder / "out" / "controllers" / "learned-seed1"
    again = run(Config(run=kept, env=TINY, episodes=6, workers=0, out=folder / "kept", no_videos=True))
    assert list(again["arms"]) == ["random", "learned-seed1", "expert"]
    assert again["arms"]["learned-seed1"]["results"] == results["arms"]["learned"]["results"][6:]
    assert again["demonstrations"] is None
    assert set(again["paired"]) == {"learned-seed1 - random", "learned-seed1 - expert"}
    with pytest.raises(VidsslError, match=r"learned-seed0 was made with other settings \(budget: was .*now"):
        run(replace(config, head_steps=21, arms=("learned",), no_videos=True))


def test_what_an_earlier_evaluation_has_is_taken_over(
    results: dict[str, Any], config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demos, out = folder / "out" / "demos", folder / "reused"
    fewer = replace(config, demos=demos, demo_episodes=8, no_videos=True, reuse=(folder / "out",), out=out)
    driven: list[Any] = []
    whole = Evaluator.run
    monkeypatch.setattr(
        Evaluator, "run", lambda self, *given: (driven.append(given[4].known()), whole(self, *given))[1]
    )
    found = run(fewer)
    assert [len(known) for known in driven] == [6, 0, 0, 0, 0, 0, 0, 6], "of random and expert alone"
    for arm in ("random", "expert"):
        assert found["arms"][arm] == results["arms"][arm]
    monkeypatch.setattr("vidssl.scripts.robot_eval_arms.cloned_arm", lambda *given: pytest.fail("clones anew"))
    again = run(replace(config, demos=demos, no_videos=True, reuse=(out, folder / "out"), out=folder / "reused2"))
    assert [len(known) for known in driven[8:]] == [6] * 8
    assert again["arms"] == results["arms"]
    with pytest.raises(VidsslError, match=r"--reuse: .*demos has no evaluation's episodes; give the --out folder"):
        run(replace(fewer, reuse=(demos,)))


def test_more_controllers_and_saved_episodes(config: Config, folder: Path, results: dict[str, Any]) -> None:
    from vidssl.robot.episodes import open_recording

    clone = f"again={folder / 'out' / 'controllers' / 'learned-seed0'}"
    options = replace(config, arms=("learned",), seeds=(0,), demos=folder / "out" / "demos", controllers=(clone,))
    options = replace(options, out=folder / "more", save=folder / "saved", no_videos=True)
    both = run(options)
    assert list(both["arms"]) == ["random", "learned", "again", "expert"]
    assert both["arms"]["again"]["results"] == both["arms"]["learned"]["results"]
    assert both["paired"]["learned - again"]["p"] == 1
    for arm, row in both["arms"].items():
        saved = open_recording(folder / "saved" / arm)
        assert [(e.seed, e.success, e.steps) for e in saved.episodes] == [
            (r["seed"], r["success"], r["length"]) for r in row["results"]
        ]
        assert saved.frames(0).shape == (saved.episodes[0].steps, 32, 32, 3)
        assert saved.meta["split"] == "test"
    infos = {arm: folder / "saved" / arm / "meta" / "info.json" for arm in both["arms"]}
    before = {arm: info.stat().st_mtime_ns for arm, info in infos.items()}
    unfinished = folder / "saved" / "random" / "unfinished" / "settings.json"
    unfinished.parent.mkdir()  # as if the command had been killed while it put them together
    notes = json.loads((folder / "saved" / "random" / "meta" / "notes.json").read_text())["facts"]
    unfinished.write_text(json.dumps({"notes": notes}))
    run(options)
    written = {arm for arm, info in infos.items() if info.stat().st_mtime_ns != before[arm]}
    assert written == {"random"}, "what is whole is kept"
    assert not unfinished.exists()
    less = replace(options, episodes=5, arms=("random",))
    driven = (folder / "more" / "episodes" / "random-seed0.safetensors").stat().st_mtime_ns
    for _ in range(2):
        with pytest.raises(VidsslError, match=r"saved/random holds something else, or .* other layouts"):
            run(less)
        notes_file = unfinished.parent.parent / "meta" / "notes.json"
        notes_file.unlink(missing_ok=True)
    assert (folder / "more" / "episodes" / "random-seed0.safetensors").stat().st_mtime_ns == driven, "said before"


def test_more_encoders(config: Config, folder: Path, results: dict[str, Any]) -> None:
    """Each is an arm that clones on its features: the run's own encoder gives what the arm `learned` gave."""
    again, other = folder / "again", folder / "other"
    shutil.copytree(folder / "run", again, dirs_exist_ok=True)
    extractor = random_extractor("small", (32, 32), seed=3)
    small = {"encoder": {"name": "small", "dim": 256}, "context": None, "image_size": [32, 32], "fps": None}
    write_config(other, {**small, "output": "encoder"})
    write_model(other, {f"encoder.{k}": v for k, v in extractor.encoder.state_dict().items()})
    options = replace(config, demos=folder / "out" / "demos", out=folder / "encoders", no_videos=True)
    options = replace(options, run=None, encoders=(f"again={again}", f"small={other}"))
    found = run(options)
    assert list(found["arms"]) == ["random", "again", "small", "expert"]
    assert found["arms"]["again"] == results["arms"]["learned"], "episodes of both cloning seeds, and their fits"
    assert found["arms"]["small"]["episodes"] == 12
    assert found["encoders"]["small"] == {"folder": str(other), "config": {"version": 1, **small, "output": "encoder"}}
    assert set(found["paired"]) == {"again - random", "again - small", "again - expert"}
    assert f"clone on the frozen encoder {other}" in arms_table(found)
    for name in ("pixels", "again"):
        with pytest.raises(VidsslError, match=f"--encoders: the name '{name}' is taken"):
            run(replace(options, encoders=(*options.encoders, f"{name}={other}")))
    with pytest.raises(VidsslError, match="--encoders: got 'small'; write NAME=RUN"):
        run(replace(options, encoders=("small",)))


def test_settings_of_clones() -> None:
    config = cloning_config(["hidden=32", "dropout=0", "holdout=0.5"])
    assert (config.hidden, config.dropout, config.holdout) == (32, 0, 0.5)
    for text, message in (
        ("hidden", "write name=value, of hidden"),
        ("width=3", r"unknown cloning setting 'width'.*hidden"),
        ("seed=3", "unknown cloning setting"),
        ("hidden=wide", "write a value like its default, 256"),
        ("hidden=True", "hidden: got 'True'; write a value like its default, 256"),
        ("hidden=None", "hidden: got 'None'; write a value like its default, 256"),
        ("hidden=0", "hidden: got 0; at least 1"),
        ("dropout=2", "dropout: got 2; 0 to below 1"),
        ("learning_rate=0", "learning_rate: got 0; above 0"),
        ("holdout=1", "holdout: got 1; 0 to below 1"),
    ):
        with pytest.raises(VidsslError, match=message):
            cloning_config([text])


def test_demonstrations_of_test_layouts_are_refused(config: Config, folder: Path) -> None:
    from vidssl.robot.recording import record

    record(TINY, folder / "leak", 2, split="test")
    with pytest.raises(VidsslError, match="split is 'test', needed 'train'"):
        run(replace(config, demos=folder / "leak", out=folder / "leaked"))


def test_overwriting_with_other_settings(tmp_path: Path) -> None:
    first = Config(
        env=TINY, arms=("random-encoder",), episodes=2, demo_episodes=2, head_steps=1, workers=0, out=tmp_path / "out"
    )
    first = replace(first, no_videos=True)
    run(first)
    kept = tmp_path / "out" / "episodes" / "random-seed0.safetensors"
    demo = tmp_path / "out" / "demos" / "steps" / "000000.safetensors"
    before = kept.read_bytes(), demo.stat().st_mtime_ns
    with pytest.raises(VidsslError, match="unknown encoder"):
        run(replace(first, encoder="vgg", seed=1, overwrite=True))
    assert (kept.read_bytes(), demo.stat().st_mtime_ns) == before, "nothing is forgotten before all is checked"
    run(replace(first, overwrite=True))
    assert demo.stat().st_mtime_ns == before[1], "demonstrations of the same settings are kept"
    again = run(replace(first, seed=1, demo_noise=0.1, overwrite=True))
    facts = again["demonstrations"]["facts"]
    assert (facts["seed"], facts["noise"]) == (1, 0.1)


def test_overwriting_spares_what_is_judged(results: dict[str, Any], config: Config, folder: Path) -> None:
    policy = folder / "out" / "controllers" / "learned-seed0"
    before = sorted(policy.rglob("*"))
    for change in ({"run": policy}, {"run": None, "controllers": (f"it={policy}",)}, {"reuse": (folder / "out",)}):
        with pytest.raises(VidsslError, match=r"--overwrite would delete .*choose another --out"):
            run(replace(config, **change, overwrite=True))
    with pytest.raises(VidsslError, match="holds 12 demonstrations, 99"):
        run(replace(config, demos=folder / "out" / "demos", demo_episodes=99, overwrite=True))
    assert sorted(policy.rglob("*")) == before
    assert (folder / "out" / "episodes" / "learned-seed0.safetensors").exists()


def test_episodes_belong_to_the_weights_that_drove_them(tmp_path: Path) -> None:
    options = Config(env=TINY, arms=("random-encoder",), episodes=2, demo_episodes=2, head_steps=1, workers=0)
    options = replace(options, out=tmp_path / "out", no_videos=True)
    run(options)
    head = tmp_path / "out" / "controllers" / "random-encoder-seed0" / "head.safetensors"
    tensors = {name: value + 1 for name, value in load_file(head).items()}
    save_file(tensors, head)  # as a policy that was trained again by the clock would differ
    with pytest.raises(VidsslError, match=r"was made with other settings .its hash"):
        run(options)


def test_demonstrations_of_others(config: Config, folder: Path, results: dict[str, Any]) -> None:
    from vidssl.robot.recording import record

    record(TINY, folder / "theirs", 4, form="lerobot", seed=3)
    (folder / "theirs" / "meta" / "notes.json").unlink()  # what only data sets of ours hold
    options = replace(config, demos=folder / "theirs", demo_episodes=4, arms=("learned",), seeds=(0,), no_videos=True)
    found = run(replace(options, out=folder / "by-theirs"))
    assert found["arms"]["learned"]["results"]
    assert any("does not say which environment and layouts" in note for note in found["notes"])
    with pytest.raises(VidsslError, match="unknown camera 'wrist'"):
        run(replace(options, camera="wrist", out=folder / "by-wrist"))


def test_folders_named_after_an_arm(results: dict[str, Any], folder: Path) -> None:
    import shutil

    named = folder / "learned"
    shutil.copytree(folder / "out" / "controllers" / "learned-seed0", named)
    with pytest.raises(VidsslError, match=r"is that of the arm 'learned'.*--controllers NAME=.*learned"):
        run(Config(run=named, env=TINY, out=folder / "mistake"))


def test_clones_know_their_environment_and_frames(results: dict[str, Any], folder: Path) -> None:
    from vidssl.robot.cloning import load_demonstrations
    from vidssl.robot.episodes import open_recording
    from vidssl.scripts.robot_eval_arms import _digest

    settings = json.loads((folder / "out" / "controllers" / "pixels-seed0" / "fit.json").read_text())["settings"]
    assert (settings["env"], settings["size"]) == (TINY, None)
    demos = load_demonstrations(open_recording(folder / "out" / "demos"))
    assert settings["demonstrations"] == _digest(demos)
    assert _digest(replace(demos, frames=255 - demos.frames)) != _digest(demos)
