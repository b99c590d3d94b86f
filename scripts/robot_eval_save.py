"""Evaluated episodes as LeRobot data sets, one an arm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vidssl.errors import VidsslError
from vidssl.robot.lerobot_episodes import save_episodes
from vidssl.robot.pixels import control_box
from vidssl.robot.replay import record_again
from vidssl.robot.rollout import EpisodeResult

if TYPE_CHECKING:
    from vidssl.scripts.robot_eval_inputs import Inputs


def check_free(root: Path, arms: Sequence[str]) -> None:
    """Raises VidsslError, before the work, when there is something already where an arm's data set would go."""
    for arm in arms:
        if (root / arm).exists():
            raise VidsslError(f"{root / arm} is there already; choose another --save, or pass --overwrite")


def save(root: Path, inputs: "Inputs", outcomes: Mapping[str, Sequence[EpisodeResult]], overwrite: bool) -> None:
    """Write the episodes of every arm that have at least a step to `root/ARM`.

    Raises VidsslError for an environment whose episodes come out otherwise when they are played again.
    """
    from rich.progress import track

    place = inputs.place
    env = place.make()
    box = control_box(env)
    env.close()
    bounds = {"action_low": box.low.tolist(), "action_high": box.high.tolist()}
    for arm, episodes in outcomes.items():
        # Arms that are no clones are listed once for every cloning seed.
        each = list({id(episode): episode for episode in episodes if episode.length}.values())
        if each:
            pairs = track(record_again(place, each), total=len(each), description=f"saving {arm}")
            facts = bounds | {"policy": arm, "split": place.split}
            save_episodes(root / arm, place.env_id, inputs.fps, pairs, facts=facts, overwrite=overwrite)
