"""Learn a policy on a run's frozen features by reinforcement (PPO or SAC of stable-baselines3).

Example:

    vidssl robot-rl runs/rover --env vidssl/Rover-v0 --algorithm ppo --steps 200000 --out runs/rover/ppo
    vidssl robot-eval runs/rover/ppo --env vidssl/Rover-v0       # judge it on test layouts, beside the other arms

The encoder stays as it is; features, not images, go into the rollouts and the replay. --out gets the controller
(encoder, policy and the standardisation of its inputs; no pickle) and learning.jsonl, the curve on training layouts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vidssl.errors import VidsslError
from vidssl.scripts.settings import Flag

if TYPE_CHECKING:
    from vidssl.features import FeatureExtractor
    from vidssl.robot.sb3 import Progress as State

ROWS = 100  # of learning.jsonl


@dataclass
class Config:
    """See the text above."""

    run: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="RUN")]] = None
    """folder of a run; left out: the encoder --untrained, the baseline"""
    out: Path = Path("robot-rl")
    """folder of the controller"""
    env: str = "vidssl/Rover-v0"
    """gymnasium id of an environment with camera images"""
    algorithm: Literal["ppo", "sac"] = "ppo"
    """how the policy learns"""
    steps: int = 100_000
    """steps of all environments together"""
    envs: int = 4
    """environments stepped in turn"""
    hidden: tuple[int, ...] = (256, 256)
    """widths of the hidden layers of policy and critics"""
    lr: Annotated[float, tyro.conf.arg(aliases=("--learning-rate",))] = 3e-4
    """learning rate of the optimiser"""
    gamma: float = 0.99
    """discount a step"""
    seed: int = 0
    """random seed of layouts, policy and exploration"""
    size: int | None = None
    """side of the camera image in pixels; the environment's own if left out"""
    untrained: str | None = None
    """name of an encoder to leave untrained, where there is no RUN"""
    overwrite: Flag = False
    """replace the controller in --out"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    run(tyro.cli(Config, args=argv, prog="vidssl robot-rl", description=__doc__))
    return 0


def run(config: Config) -> None:
    """Learn as configured and save the controller.

    Raises VidsslError for mistakes in the settings, an `--out` that holds something else, holds a controller (without
    --overwrite) or cannot be written, and a missing stable-baselines3.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vidssl.checkpoint import check_writable
    from vidssl.robot.controller_files import FILE, is_begun, is_controller
    from vidssl.robot.sb3 import LearningConfig, check_learning, train_policy, write_learning

    if is_controller(config.out) and not config.overwrite:
        raise VidsslError(f"{config.out} holds a controller already; pass --overwrite to replace it, or another --out")
    check_writable(config.out / FILE)
    if config.out.exists() and any(config.out.iterdir()) and not is_begun(config.out):
        raise VidsslError(f"{config.out} holds something other than a controller; choose a new or empty --out")
    learning = LearningConfig(
        config.algorithm, config.steps, config.envs, config.hidden, config.lr, config.gamma, config.seed
    )
    check_learning(learning)  # before the encoder is loaded
    extractor = _extractor(config)
    rows: list[State] = []
    columns = (TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(config.algorithm, total=config.steps)

        def show(state: "State") -> None:
            bar.update(task, completed=min(state.step, config.steps), description=_told(config.algorithm, state))
            if state.step * ROWS >= len(rows) * config.steps:
                rows.append(state)

        controller = train_policy(extractor, config.env, learning, config.size, show)
    (config.out / FILE).unlink(missing_ok=True)  # a kill now leaves no half controller
    controller.save(config.out)
    write_learning(config.out / "learning.jsonl", rows)
    print(f"wrote {config.out}: {_told(config.algorithm, rows[-1])} (training layouts, exploring); judge it by")
    print(f"  vidssl robot-eval {config.out} --env {config.env}")


def _extractor(config: Config) -> "FeatureExtractor":
    """The run's encoder, or an untrained one for the environment's images."""
    from vidssl.features import load_encoder
    from vidssl.robot.arms import Architecture
    from vidssl.robot.pixels import find_image, make_env

    if (config.run is None) == (config.untrained is None):
        raise VidsslError("give either a RUN, the --out folder of `vidssl pretrain`, or --untrained NAME")
    if config.run is not None:
        return load_encoder(config.run)
    assert config.untrained is not None
    env = make_env(config.env, "train", config.size)
    height, width = find_image(env.observation_space).shape[:2]
    env.close()
    return Architecture(config.untrained, (height, width)).untrained(config.seed)


def _told(algorithm: str, state: "State") -> str:
    mean, rate = state.mean_return, state.success_rate
    told = "no episode has ended yet" if mean is None else f"return {mean:.2f}"
    return f"{algorithm}: {told}" + ("" if rate is None else f", success {rate:.2f}")


if __name__ == "__main__":
    main()
