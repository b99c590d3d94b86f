"""What is kept of an interrupted evaluation, and when it is refused."""

from pathlib import Path

import numpy as np
import pytest
import tiny_env

from vidssl.errors import VidsslError
from vidssl.robot.controllers import RandomController
from vidssl.robot.episode_store import EpisodeStore, take_over
from vidssl.robot.evaluate import EpisodeResult, Evaluator
from vidssl.robot.rollout import Runner

SETTINGS = {"env": "tiny", "arms": ("a", "b"), "seed": 3}


def test_episodes_come_back_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "arm.safetensors"
    store = EpisodeStore(file, SETTINGS)
    kept = {
        0: EpisodeResult(7, True, None, None, 0.1 + 0.2, 3, np.float32([[1, 2], [3, 4], [0.1, 5]]), 0.3),
        4: EpisodeResult(9, False, "hang", "reset: no answer", 0.0, 0, np.zeros((0, 2), np.float32)),
    }
    for index, episode in kept.items():
        store.add(index, episode)
    store.flush()
    known = EpisodeStore(file, SETTINGS).known()
    assert known.keys() == kept.keys()
    for index, episode in kept.items():
        np.testing.assert_array_equal(known[index].actions, episode.actions)
        assert {**vars(known[index]), "actions": 0} == {**vars(episode), "actions": 0}


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "arm", SETTINGS)
    store.add(0, EpisodeResult(7, True, None, None, 0.0, 0, np.zeros((0, 2), np.float32)))
    with pytest.raises(VidsslError, match=r"seed: was 3, now 4.*--overwrite"):
        EpisodeStore(tmp_path / "arm", SETTINGS | {"seed": 4})
    (tmp_path / "arm").write_bytes(b"half a file")
    with pytest.raises(VidsslError, match=r"damaged.*delete it"):
        EpisodeStore(tmp_path / "arm", SETTINGS)


def test_episodes_of_the_same_settings_are_taken_over(tmp_path: Path) -> None:
    files = [tmp_path / name / "arm" for name in ("none", "other", "same", "new")]
    for file, settings in zip(files[1:3], (SETTINGS | {"seed": 4}, SETTINGS), strict=True):
        store = EpisodeStore(file, settings)
        store.add(0, EpisodeResult(settings["seed"], True, None, None, 0.0, 0, np.zeros((0, 2), np.float32)))
        store.flush()
    assert take_over(files[3], files[:2], SETTINGS) is None
    assert not files[3].exists()
    assert take_over(files[3], files[:3], SETTINGS) == files[2]
    assert EpisodeStore(files[3], SETTINGS).known()[0].seed == 3
    assert take_over(files[3], files[:3], SETTINGS) is None, "what is there already stays"
    files[1].write_bytes(b"half a file")
    with pytest.raises(VidsslError, match=r"damaged.*delete it"):
        take_over(tmp_path / "fifth", files[:3], SETTINGS)


def test_only_what_is_missing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny_env  # registers the world
    seen: list[int] = []
    run = Runner.run
    monkeypatch.setattr(Runner, "run", lambda self, make, seed, *rest: (seen.append(seed), run(self, make, seed))[1])
    with Evaluator("tiny_env:Tiny-v0") as evaluator:
        whole = evaluator.run(RandomController, 4)
        store = EpisodeStore(tmp_path / "arm", SETTINGS)
        store.add(2, whole[2])
        seen.clear()
        told: list[int] = []
        again = evaluator.run(RandomController, 4, done=told.append, store=store)
    assert seen == [whole[i].seed for i in (0, 1, 3)]
    assert sum(told) == 4
    assert [r.episode_return for r in again] == [r.episode_return for r in whole]
    assert EpisodeStore(tmp_path / "arm", SETTINGS).known().keys() == {0, 1, 2, 3}


def test_what_was_mended_is_run_again(tmp_path: Path) -> None:
    file = tmp_path / "arm"
    store = EpisodeStore(file, SETTINGS)
    for index, (failure, length) in enumerate((("controller-error", 4), ("error", 0))):
        store.add(index, EpisodeResult(7, False, failure, "a bug", 0.0, length, np.zeros((length, 2), np.float32)))
    store.flush()
    assert EpisodeStore(file, SETTINGS | {"its hash": "mended"}).known() == {}
    store.add(2, EpisodeResult(9, False, "error", "late", 0.0, 3, np.zeros((3, 2), np.float32)))
    store.flush()
    assert EpisodeStore(file, SETTINGS).known().keys() == {2}
    with Evaluator("tiny_env:Tiny-v0") as evaluator:
        again = evaluator.run(RandomController, 3, store=store)
    assert [one.failure != "controller-error" and one.length > 0 for one in again] == [True] * 3
