"""Fixtures of the robots' tests."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import pytest


@pytest.fixture
def make() -> Iterator[Callable[..., gymnasium.Env]]:
    """`gymnasium.make` of the rover; what it makes is closed after the test."""
    made: list[gymnasium.Env] = []

    def maker(**options: Any) -> gymnasium.Env:
        made.append(gymnasium.make("vidssl/Rover-v0", **options))
        return made[-1]

    yield maker
    for env in made:
        env.close()
