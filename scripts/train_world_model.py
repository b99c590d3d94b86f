"""Learn a world model of Two Rooms from random actions, and make a planner of it.

Example:

    vidssl train-world-model --out runs/rooms
    vidssl robot-eval runs/rooms --env vidssl/TwoRooms-v0 --episodes 200       # judge it on test layouts

No labels, goals or demonstrations: pictures and the random actions between them, in training layouts. What moves is
the agent, which two pictures of a scene tell; what a place does to it is looked up in the picture, at that place.
--out gets the planner as a controller folder and metrics.jsonl. Its encoder is a run folder, OUT/encoder; what is
learned is its map, and layers that an encoder has behind it (`control` does) stay as they were.
A weight of 0 switches a loss term off (--model.weights.painted 0); --plan.cost last, --plan.no-far-goals and
--plan.search.planner cem change the planner; --frozen RUN takes a run's encoder as it is, --model.no-train-encoder a
random one.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from vidssl.errors import VidsslError
from vidssl.robot.planner_config import PlanConfig, WorldModelConfig

ENV = "vidssl/TwoRooms-v0"


@dataclass(frozen=True)
class Config:
    out: Path = Path("world-model")
    """folder of the planner"""
    frozen: Path | None = None
    """a run whose encoder is taken and left as it is; left out: a new one is trained"""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """settings of the training"""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """settings of the planner"""


def main(argv: list[str] | None = None) -> None:
    """The `vidssl train-world-model` command."""
    run(tyro.cli(Config, args=argv, prog="vidssl train-world-model", description=__doc__))


def run(config: Config) -> None:
    """Train as configured and save the planner.

    Raises VidsslError for mistakes in the settings, and an `--out` that holds a controller already.
    """
    from dataclasses import replace

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vidssl.checkpoint import replacing
    from vidssl.features import load_encoder
    from vidssl.robot.controller_files import is_controller
    from vidssl.robot.pixels import make_env
    from vidssl.robot.planner import PlanController
    from vidssl.robot.spaces import Spaces
    from vidssl.robot.threads import one_thread
    from vidssl.robot.world_model_training import refine, train_jointly, untrained

    if is_controller(config.out):
        raise VidsslError(f"{config.out} holds a controller already; choose another --out or remove it")
    frozen = None if config.frozen is None else load_encoder(config.frozen)
    model_config = config.model if frozen is None else replace(config.model, train_encoder=False)
    extractor, model = untrained(model_config, frozen)
    rows: list[dict[str, object]] = []
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with one_thread(), Progress(*columns) as progress:
        tasks = {
            "joint": progress.add_task("encoder and world model", total=model_config.steps),
            "refine": progress.add_task("predictor", total=model_config.refine_steps),
        }

        def report(part: str, step: int, terms: dict[str, float]) -> None:
            progress.update(tasks[part], completed=step + 1)
            rows.append({"part": part, "step": step, **terms})

        train_jointly(extractor, model, model_config, report)
        landmarks = refine(extractor, model, model_config, report)
    env = make_env(ENV, "train")
    PlanController(extractor, model, landmarks, Spaces.of(env), config.plan).save(config.out)
    env.close()
    with replacing(config.out / "metrics.jsonl") as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"wrote {config.out}; judge it by\n  vidssl robot-eval {config.out} --env {ENV} --episodes 200")


if __name__ == "__main__":
    main()
