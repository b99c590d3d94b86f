"""Demonstrations that do not fit are refused; their hash follows their content."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidssl.errors import VidsslError
from vidssl.robot.demonstration_checks import check_demonstrations, demonstrations_hash, taken_as_of
from vidssl.robot.episodes import Episode, Recording
from vidssl.robot.spaces import Spaces

META = {"env": "A-v0", "split": "train", "policy": "expert", "image_size": [32, 48]}


def recording(**meta: object) -> Recording:
    steps, rest = np.zeros((3, 2), np.float32), np.zeros(3, np.float32)
    episodes = [Episode(seed, steps, steps, steps, rest, True, None) for seed in (0, 2, 4)]
    return Recording(Path("demos"), META | meta, episodes)


@pytest.mark.parametrize(
    ("meta", "layouts", "words"),
    [
        ({"env": "B-v0"}, (), "env is 'B-v0', needed 'A-v0'"),
        ({"split": "test"}, (), "split is 'test', needed 'train'"),
        ({"policy": "random"}, (), "policy is 'random'"),
        ({"image_size": [64, 64]}, (), "images of 64x64, the environment gives 32x48"),
        ({}, (2, 3, 4), "2 of its episodes show layouts that are driven here, e.g. that of seed 2"),
    ],
)
def test_what_does_not_fit(meta: dict[str, object], layouts: tuple[int, ...], words: str) -> None:
    check_demonstrations(recording(), "A-v0", (32, 48), {1, 3})  # these fit
    with pytest.raises(VidsslError, match=words):
        check_demonstrations(recording(**meta), "A-v0", (32, 48), layouts)


def test_what_is_not_said_is_noted() -> None:
    assert check_demonstrations(recording(), "A-v0", (32, 48), {1}) == []
    theirs = recording(env=None, split=None, policy=None, camera="front")
    (note,) = check_demonstrations(theirs, "A-v0", (32, 48), {1})
    assert "taken to be of A-v0" in note
    spaces = Spaces((-2.0, -2.0), (2.0, 3.0), 2)
    assert taken_as_of(recording(), spaces).meta == META
    assert taken_as_of(theirs, spaces).meta["action_high"] == [2.0, 3.0]
    with pytest.raises(VidsslError, match=r"2 numbers an action and 2 of proprioception.* has 1 and 0"):
        taken_as_of(theirs, Spaces((-2.0,), (2.0,), 0))
    by_wrist = recording(env=None, split=None, policy=None, camera="wrist")
    assert demonstrations_hash(theirs) != demonstrations_hash(by_wrist)


def test_hash() -> None:
    one = recording()
    first, *others = one.episodes
    other = replace(one, episodes=[replace(first, action=first.action + 1), *others])
    assert demonstrations_hash(one) == demonstrations_hash(recording())
    assert len({demonstrations_hash(r, n) for r, n in ((one, None), (one, 2), (other, None), (other, 2))}) == 4
