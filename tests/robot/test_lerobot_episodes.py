"""Episodes as LeRobot data sets: recorded, saved, opened again, cloned from."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from vidssl.datasets.lerobot import LeRobotDataset
from vidssl.datasets.lerobot_write import LeRobotWriter
from vidssl.errors import VidsslError
from vidssl.robot import expert, lerobot_episodes, recording
from vidssl.robot.cloning import load_demonstrations
from vidssl.robot.episodes import Episode, open_recording
from vidssl.robot.lerobot_episodes import open_lerobot, save_episodes
from vidssl.scripts.record import main

sys.path.append(str(Path(__file__).parent))
import tiny_env

TINY = "tiny_env:Tiny-v0"


@pytest.fixture(autouse=True)
def tiny_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(expert.EXPERTS, "Tiny-v0", tiny_env.TinyExpert)


def record(out: Path, *options: str, episodes: int = 3) -> None:
    main([TINY, "--out", str(out), "--episodes", str(episodes), *options])


def same(a: Episode, b: Episode) -> None:
    assert (a.seed, a.success, a.failure) == (b.seed, b.success, b.failure)
    for name in ("action", "executed", "proprio", "reward"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_both_formats_hold_the_same_episodes(tmp_path: Path) -> None:
    record(tmp_path / "mp4", "--noise", "0.3")
    record(tmp_path / "lerobot", "--noise", "0.3", "--format", "lerobot")
    a, b = open_recording(tmp_path / "mp4"), open_recording(tmp_path / "lerobot")
    assert a.meta == b.meta
    for index, (one, other) in enumerate(zip(a.episodes, b.episodes, strict=True)):
        same(one, other)
        off = np.abs(a.frames(index).astype(int) - b.frames(index))
        assert off.mean() < 3, "the codec's loss"
    demos = load_demonstrations(b)
    assert len(demos.frames) == len(demos.action) == len(LeRobotDataset(tmp_path / "lerobot"))


def test_saved_episodes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def episode(seed: int, steps: int) -> tuple[list[np.ndarray], Episode]:
        frames = [np.full((32, 48, 3), 10 * step, np.uint8) for step in range(steps)]
        vectors = [rng.normal(size=(steps, size)).astype(np.float32) for size in (2, 2, 0)]
        reward = np.arange(steps, dtype=np.float32)
        return frames, Episode(seed, *vectors, reward, seed == 1, None if seed == 1 else "time-out")

    given = [episode(1, 5), episode(3, 1)]
    assert save_episodes(tmp_path / "a", TINY, 10, iter(given)) == 2
    opened = open_lerobot(tmp_path / "a")
    assert (opened.meta["env"], opened.meta["fps"], opened.meta["image_size"]) == (TINY, 10, [32, 48])
    for index, (frames, one) in enumerate(given):
        same(one, opened.episodes[index])
        assert np.abs(opened.frames(index).astype(int) - np.stack(frames)).max() < 4
    data = LeRobotDataset(tmp_path / "a")
    assert "observation.state" not in data.features, "no proprioception, no empty feature"
    assert data.column("next.success").tolist() == [False] * 4 + [True, False]
    assert data[0]["task"] == TINY
    with pytest.raises(VidsslError, match="no episodes to save"):
        save_episodes(tmp_path / "b", TINY, 10, [])
    with pytest.raises(VidsslError, match="holds a data set: overwrite"):
        save_episodes(tmp_path / "a", TINY, 10, given)
    assert save_episodes(tmp_path / "a", TINY, 10, given[:1], overwrite=True) == 1
    short = (given[0][0][:-1], given[0][1])
    with pytest.raises(VidsslError, match="4 images for 5 steps"):
        save_episodes(tmp_path / "c", TINY, 10, [short])


def test_a_cut_off_recording_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "whole", "--format", "lerobot")
    write, calls = lerobot_episodes.EpisodeWriter.write, []

    def interrupted(self: object, *arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lerobot_episodes.EpisodeWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "cut", "--format", "lerobot")
    monkeypatch.setattr(lerobot_episodes.EpisodeWriter, "write", write)
    with pytest.raises(VidsslError, match=r"not finalised; 1 whole episodes wait in it.*--resume"):
        open_recording(tmp_path / "cut")
    with pytest.raises(VidsslError, match="another notes"):
        record(tmp_path / "cut", "--format", "lerobot", "--resume", "--seed", "1")
    record(tmp_path / "cut", "--format", "lerobot", "--resume")
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_a_finished_recording_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "a"
    record(out, "--format", "lerobot", episodes=2)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    record(out, "--format", "lerobot", "--resume", episodes=2)
    record(out, "--format", "lerobot", "--resume", episodes=1)
    with pytest.raises(VidsslError, match=r"is finished, with 2 episodes, .* another folder"):
        record(out, "--format", "lerobot", "--resume", episodes=3)
    with pytest.raises(VidsslError, match="begun with another notes"):
        record(out, "--format", "lerobot", "--resume", "--seed", "1", episodes=2)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_notes_of_another_data_set(tmp_path: Path) -> None:
    record(tmp_path / "a", "--format", "lerobot", episodes=2)
    file = tmp_path / "a" / "meta" / "notes.json"
    notes = json.loads(file.read_text())
    for wrong in (notes | {"episodes": notes["episodes"][:1]}, {"facts": {}}, {"facts": 1, "episodes": [{}, {}]}, [1]):
        file.write_text(json.dumps(wrong))
        with pytest.raises(VidsslError, match=r"notes\.json: garbled, or another .* notes on 2 episodes; .* delete it"):
            open_recording(tmp_path / "a")
    file.unlink()
    assert [episode.seed for episode in open_recording(tmp_path / "a").episodes] == [-1, -1]


def test_data_sets_of_others(tmp_path: Path) -> None:
    picture = {"dtype": "video", "shape": [32, 32, 3]}
    features = {"left": picture, "right": picture, "action": {"dtype": "float32", "shape": [2]}}
    with LeRobotWriter(tmp_path / "two", 10, features) as writer:
        for step in range(4):
            image = np.full((32, 32, 3), 50 * step, np.uint8)
            writer.add_frame({"left": image, "right": 255 - image, "action": np.array([step, -step], np.float32)})
        writer.end_episode("lift")
    with pytest.raises(VidsslError, match=r"which camera.*left, right"):
        open_recording(tmp_path / "two")
    with pytest.raises(VidsslError, match="unknown camera 'up'; the cameras here are: left, right"):
        open_lerobot(tmp_path / "two", "up")
    opened = open_lerobot(tmp_path / "two", "right")
    assert opened.frames(0)[3].mean() == pytest.approx(105, abs=3)
    assert (opened.meta["action_low"], opened.meta["action_high"]) == ([0, -3], [3, 0])
    episode = opened.episodes[0]
    assert (episode.seed, episode.success, episode.failure, episode.proprio.shape) == (-1, False, None, (4, 0))
    np.testing.assert_array_equal(episode.executed, episode.action)
    with LeRobotWriter(tmp_path / "still", 10, {"left": picture}) as writer:
        writer.add_frame({"left": image})
        writer.end_episode("look")
    with pytest.raises(VidsslError, match="no episodes with a feature 'action'"):
        open_recording(tmp_path / "still")
    with pytest.raises(VidsslError, match="unknown format 'hdf5'; the formats here are: lerobot, mp4"):
        recording.record(TINY, tmp_path / "x", 1, form="hdf5")
    assert json.loads((tmp_path / "two" / "meta" / "info.json").read_text())["codebase_version"] == "v3.0"
