"""Meta-World's 50 tasks as gymnasium environments `Meta-World/reach-v3`, with goals that follow the reset's seed.

Meta-World registers whole benchmarks only, ignores the seed of `reset` and keeps one goal until it is given another
task. Here every reset draws object and goal from the task's own ranges, those from which the benchmark's tasks are
drawn, by the seed alone.
"""

import re
import warnings
from typing import Any

import gymnasium as gym

from vidssl.errors import VidsslError, unknown_name

PREFIX = "Meta-World/"


class MetaWorldTask(gym.Wrapper[Any, Any, Any, Any]):
    """A task whose object and goal are drawn anew at every reset: the same seed gives the same episode.

    Observation float64 [39] as Meta-World's with the goal observable; action float32 [4], hand movement and gripper.
    Truncated after Meta-World's 500 steps, never terminated.
    """

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        """`task`: e.g. "reach-v3"; raises VidsslError for an unknown one."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        classes: dict[str, Any] = ALL_V3_ENVIRONMENTS
        if task not in classes:
            raise unknown_name("environment", PREFIX + task, [PREFIX + name for name in classes])
        bare = classes[task](render_mode=render_mode)
        bare._partially_observable = False
        del bare.sawyer_observation_space  # cached with the goal hidden
        bare.observation_space = bare.sawyer_observation_space
        bare._set_task_called = True
        bare._freeze_rand_vec, bare.seeded_rand_vec = False, True
        super().__init__(bare)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw object and goal; without a seed the next ones of the sequence."""
        if seed is not None:
            self.unwrapped.seed(seed)  # type: ignore[attr-defined]
        return self.env.reset(options=options)


def register_task(name: str) -> None:
    """Make `gymnasium.make("Meta-World/reach-v3")` work; an unknown task is an error when it is made.

    Raises VidsslError for an id without a task, such as `Meta-World/`.
    """
    if not re.fullmatch(r"[\w:.-]+", name.removeprefix(PREFIX)):
        raise VidsslError(f"{name!r} names no task of Meta-World; write e.g. {PREFIX}reach-v3")
    if name not in gym.registry:
        gym.register(name, entry_point=f"{__name__}:MetaWorldTask", kwargs={"task": name.removeprefix(PREFIX)})


def place_goal(bare: Any) -> None:
    """Put the goal's marker where the goal is: after a reset the drawn scene still has the last episode's."""
    for site, position in bare._target_site_config:
        bare._set_pos_site(site, position)
