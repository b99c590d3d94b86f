"""`vidssl record`: videos and steps that belong together, whole or not at all."""

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vidssl.datasets.mp4 import write_video
from vidssl.errors import VidsslError
from vidssl.robot import expert, recording
from vidssl.robot.episodes import open_recording, read_meta
from vidssl.scripts.record import main

sys.path.append(str(Path(__file__).parents[1] / "robot"))
import tiny_env

TINY = "tiny_env:Tiny-v0"


@pytest.fixture(autouse=True)
def tiny_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(expert.EXPERTS, "Tiny-v0", tiny_env.TinyExpert)


def record(out: Path, *options: str, episodes: int = 3) -> None:
    main([TINY, "--out", str(out), "--episodes", str(episodes), *options])


def test_videos_and_steps_belong_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "demos", "--noise", "0.4", "--seed", "5")
    demos = open_recording(tmp_path / "demos")
    assert f"3 episodes, {sum(e.steps for e in demos.episodes)} steps" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "demos" / "episodes").iterdir()) == [f"{i:06d}.mp4" for i in range(3)]
    for index, episode in enumerate(demos.episodes):
        env = tiny_env.TinyEnv()
        observation, _ = env.reset(seed=episode.seed)
        expert = tiny_env.TinyExpert(env)
        for step, image in enumerate(demos.frames(index)):
            # H.264 at crf 18 loses little; most of it where colours meet.
            assert np.abs(image.astype(int) - observation["image"]).mean() < 6
            np.testing.assert_array_equal(episode.proprio[step], observation["proprio"])
            np.testing.assert_array_equal(episode.action[step], expert(observation, {}), "labels are clean")
            observation, reward, *_, info = env.step(episode.executed[step])
            assert reward == pytest.approx(episode.reward[step])
        assert (info["success"], info["failure"]) == (episode.success, episode.failure)
    noise = np.concatenate([e.executed - e.action for e in demos.episodes])
    assert 0.1 < noise.std() < 0.6


def test_video_format(tmp_path: Path) -> None:
    record(tmp_path / "demos", "--size", "48", episodes=1)
    with av.open(str(tmp_path / "demos" / "episodes" / "000000.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 10)
        assert (context.width, context.height) == (48, 48)
    meta = read_meta(tmp_path / "demos")
    assert (meta["env"], meta["fps"], meta["split"], meta["image_size"]) == (TINY, 10.0, "train", [48, 48])
    assert {"vidssl", "gymnasium", "mujoco", "av"} <= set(meta["versions"])


def test_same_seed_same_episodes(tmp_path: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        record(tmp_path / name, "--policy", "random", "--noise", "0.2", "--seed", seed)
    a, b, c = (open_recording(tmp_path / name) for name in "abc")
    for i in range(3):
        np.testing.assert_array_equal(a.episodes[i].executed, b.episodes[i].executed)
        np.testing.assert_array_equal(a.frames(i), b.frames(i))
        assert a.episodes[i].seed != c.episodes[i].seed


def test_folder_in_use(tmp_path: Path) -> None:
    out = tmp_path / "demos"
    record(out)
    with pytest.raises(VidsslError, match=r"not empty.*--resume.*--overwrite"):
        record(out)
    (out / "notes.txt").write_text("mine")
    record(out, "--overwrite", "--seed", "1", episodes=2)
    assert len(open_recording(out).episodes) == 2
    assert (out / "notes.txt").read_text() == "mine"


def test_overwrite_spares_other_folders(tmp_path: Path) -> None:
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes" / "holiday.mp4").write_bytes(b"dear")
    with pytest.raises(VidsslError, match="not a folder of recorded episodes"):
        record(tmp_path, "--overwrite")
    assert (tmp_path / "episodes" / "holiday.mp4").exists()


def test_a_kill_leaves_whole_episodes_and_resume_completes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "whole", "--noise", "0.3", episodes=4)
    calls = []

    def interrupted(*arguments: object) -> None:
        calls.append(arguments)
        write_episode(*arguments)  # type: ignore[arg-type]
        if len(calls) == 2:  # the second video is there, its steps are not
            (out / "steps" / "000001.safetensors").unlink()
            raise KeyboardInterrupt

    write_episode, out = recording.write_episode, tmp_path / "killed"
    monkeypatch.setattr(recording, "write_episode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(out, "--noise", "0.3", episodes=4)
    assert len(open_recording(out).episodes) == 1
    with pytest.raises(VidsslError, match=r"another noise.*was 0\.3, now 0\.0"):
        record(out, "--resume", episodes=4)
    monkeypatch.undo()
    monkeypatch.setitem(expert.EXPERTS, "Tiny-v0", tiny_env.TinyExpert)
    record(out, "--resume", "--noise", "0.3", episodes=4)
    for index in range(4):
        for part in (f"episodes/{index:06d}.mp4", f"steps/{index:06d}.safetensors"):
            assert (out / part).read_bytes() == (tmp_path / "whole" / part).read_bytes()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def frames() -> object:
        yield np.zeros((32, 32, 3), np.uint8)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_video(tmp_path / "x.mp4", frames(), 10)  # type: ignore[arg-type]
    for bad in ([np.zeros((31, 32, 3), np.uint8)], [np.zeros((32, 32, 3))], []):
        with pytest.raises(VidsslError):
            write_video(tmp_path / "x.mp4", bad, 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "optimal"], r"unknown policy 'optimal'.*expert, random"),
        (["--split", "val"], r"unknown split 'val'.*test, train"),
        (["--noise", "-1"], r"noise in 0\.\.2"),
        (["--episodes", "0"], "at least 1"),
        (["--size", "33"], "33x33.*even sides"),
    ],
)
def test_mistakes(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        main([TINY, "--out", str(tmp_path / "demos"), *options])
    assert not (tmp_path / "demos").exists(), "nothing half-made"


def test_environment_without_images(tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match="no camera image"):
        main(["tiny_env:TinyBlind-v0", "--out", str(tmp_path / "demos")])
    with pytest.raises(VidsslError, match=r"unknown environment 'tiny_env:Tinny-v0'.*vidssl/Rover-v0"):
        main(["tiny_env:Tinny-v0", "--out", str(tmp_path / "demos")])
    with pytest.raises(VidsslError, match="TinyLacking-v0 needs a package that is not installed"):
        main(["tiny_env:TinyLacking-v0", "--out", str(tmp_path / "demos")])


def test_damaged_recordings_are_named(tmp_path: Path) -> None:
    record(tmp_path / "demos")
    steps = tmp_path / "demos" / "steps" / "000001.safetensors"
    whole = steps.read_bytes()
    steps.write_bytes(whole[:40])
    with pytest.raises(VidsslError, match=r"000001\.safetensors: damaged"):
        open_recording(tmp_path / "demos")
    steps.write_bytes(whole)
    video = tmp_path / "demos" / "episodes" / "000000.mp4"
    write_video(video, [np.zeros((32, 32, 3), np.uint8)], 10)
    with pytest.raises(VidsslError, match="record it again"):
        open_recording(tmp_path / "demos").frames(0)
    meta = tmp_path / "demos" / "recording.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": 99}))
    with pytest.raises(VidsslError, match="format 99"):
        open_recording(tmp_path / "demos")
    with pytest.raises(VidsslError, match="not a folder of recorded episodes"):
        open_recording(tmp_path / "nowhere")


def test_global_randomness_is_left_alone(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    record(tmp_path / "demos", episodes=1)
    assert torch.equal(torch.get_rng_state(), state)
