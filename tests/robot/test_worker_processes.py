"""Episodes that hang or kill their process are written down; the others come out as ever."""

from typing import Any

import faulty_env
import gymnasium as gym
import numpy as np
import pytest

from vidssl.errors import VidsslError
from vidssl.robot.evaluate import evaluate_policy

TINY = "tiny_env:Tiny-v0"


def test_faults_fail_their_episode_only() -> None:
    results = evaluate_policy(faulty_env.Faulty, "faulty_env:Faulty-v0", 7, workers=1, deadline=3)
    assert [(r.failure, r.reason) for r in results[:5]] == [
        ("border", None),
        ("hang", "step 2: the environment: no answer within 3 s"),
        ("error", "step 2: RuntimeError: the simulation diverged"),
        ("crash", "step 2: the environment: the process died (SIGSEGV)"),
        ("hang", "step 2: the controller: no answer within 3 s"),
    ]
    assert results[5].failure == "controller-error"
    assert results[5].reason is not None
    assert results[5].reason.startswith("step 2: ValueError: a corner case (faulty_env.py:")
    assert results[6].failure == "border"
    assert [r.length for r in results[1:6]] == [2] * 5
    assert [len(r.actions) for r in results[1:6]] == [3, 3, 3, 2, 2], "what was asked of an environment that broke off"
    np.testing.assert_array_equal(results[1].actions, np.float32([[-0.5, 0.1]] * 3))
    assert all(r.episode_return < 0 for r in results[1:6]), "of the steps that were taken"


class Unmade:
    def __init__(self, env: gym.Env[Any, Any]) -> None:
        raise KeyError("weights")


class NoReset:
    def __init__(self, env: gym.Env[Any, Any]) -> None: ...

    def __call__(self, observation: Any) -> np.ndarray:
        return np.zeros(2)


def test_what_cannot_begin_is_an_error() -> None:
    for workers in (0, 1):
        with pytest.raises(VidsslError, match=r"could not be made: KeyError: 'weights' \(test_worker_processes.py:"):
            evaluate_policy(Unmade, TINY, 1, workers=workers)
    with pytest.raises(VidsslError, match=r"needs reset.*got a NoReset"):
        evaluate_policy(NoReset, TINY, 1)
    with pytest.raises(VidsslError, match=r"ended while making the environment.*exit code 7.*--workers 0"):
        evaluate_policy(faulty_env.Left, "faulty_env:Dies-v0", 1, workers=1)
    with pytest.raises(VidsslError, match="cannot be sent to other processes"):
        evaluate_policy(lambda env: faulty_env.Left(env), TINY, 1, workers=1)
    with pytest.raises(VidsslError, match="deadline: got 0 s"):
        evaluate_policy(faulty_env.Left, TINY, 1, deadline=0)
