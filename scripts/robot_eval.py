"""Judge features, and controllers, by the episodes they drive.

Example:

    vidssl robot-eval runs/rover --env vidssl/Rover-v0 --episodes 100 --out runs/rover/eval
    vidssl robot-eval my_module:MyController --controllers other=runs/rover/eval/controllers/learned-seed0
    vidssl robot-eval --arms random-encoder pixels                     (baselines alone: no run needed)

Demonstrations of the expert on training layouts are recorded (or read: --demos), every arm clones the same ones, and
all arms drive the same test layouts. Random actions and the environment's expert are in every table. --out gets
results.json (every episode, seed and version; the same command gives the same file again, apart from `timings`),
success.png, videos of the best, median and worst failed episode of each arm, a film strip, and the cloned policies
(controllers/ARM-seedS, to be evaluated again by their folder). A command that was interrupted goes on where it was.
"""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from vidssl.errors import VidsslError
from vidssl.scripts.settings import Flag


@dataclass(frozen=True)
class Config:
    run: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="RUN|CONTROLLER")]] = None
    """folder of a run, for the arm `learned`; or a saved controller's, or module:Class, as an arm of its own"""
    env: str = "vidssl/Rover-v0"
    """gymnasium id of an environment that can be seen"""
    episodes: int = 100
    """test layouts, the same for every arm"""
    arms: tuple[str, ...] = ()
    """who is compared: random-encoder, pixels, learned, beside random and expert; if left out, all of them for a RUN,
    none of the clones for a CONTROLLER"""
    encoders: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=RUN ...")] = ()
    """more frozen encoders, each an arm that clones on its features: folders of runs, or of `vidssl import-encoder`"""
    controllers: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=CONTROLLER ...")] = ()
    """more arms: folders of saved controllers, or module:Class with the module in this folder"""
    demos: Path | None = None
    """recorded demonstrations (`vidssl record`); recorded into OUT/demos if left out"""
    camera: str | None = None
    """the camera to see demonstrations by, in a LeRobot data set with several"""
    demo_episodes: int = 100
    """demonstrations to record, or to use of those in --demos"""
    demo_noise: float = 0.3
    """noise on executed actions while recording, in half-widths of the action range"""
    seed: int = 0
    """random seed of demonstrations and test layouts"""
    seeds: tuple[int, ...] = (0,)
    """random seeds of cloning (head, batches, random encoder): every one is trained and evaluated"""
    encoder: str = "control"
    """architecture of the untrained arms when there is no run to take it from"""
    head_steps: int = 1500
    """optimiser steps of the heads on frozen features"""
    pixel_steps: int = 1500
    """optimiser steps of the arm `pixels`; repeatable"""
    pixel_minutes: float | None = None
    """instead of --pixel-steps: as many as fit in this time; results.json says how many"""
    cloning: Annotated[list[str], tyro.conf.arg(metavar="NAME=VALUE ...")] = field(default_factory=list)
    """settings of all clones, e.g. --cloning hidden=128 dropout=0 (an unknown one lists them all)"""
    size: int | None = None
    """side of the camera image in pixels; the environment's own if left out"""
    workers: int = 2
    """processes that run episodes (0: none but this); results do not depend on it"""
    deadline: float = 60.0
    """seconds that a step may take before its process is killed and the episode has failed (needs workers)"""
    out: Path = Path("robot-eval")
    """folder for results, policies, plot and videos"""
    reuse: tuple[Path, ...] = ()
    """--out folders of earlier evaluations: episodes and clones there that the same settings would give again are
    taken over (random and expert of the same layouts, say), not made anew"""
    overwrite: Flag = False
    """forget the episodes and policies in --out (and its demonstrations, if of other settings), and start afresh"""
    save: Path | None = None
    """also save the episodes, with what the camera saw, as LeRobot data sets SAVE/ARM; those there already are kept"""
    no_videos: Flag = False
    """leave out videos and film strip"""


def main(argv: list[str] | None = None) -> None:
    """The `vidssl robot-eval` command."""
    run(tyro.cli(Config, args=argv, prog="vidssl robot-eval", description=__doc__))


def run(config: Config) -> dict[str, Any]:
    """Clone and evaluate all arms, print the table, write `config.out`; returns the content of results.json.

    Raises VidsslError for unknown names, demonstrations that do not fit, an environment that shows no images, other
    settings than those of an interrupted evaluation in `config.out`.
    """
    from vidssl.checkpoint import write_json
    from vidssl.robot.comparison import print_table
    from vidssl.scripts.robot_eval_arms import evaluate_arms
    from vidssl.scripts.robot_eval_inputs import prepare
    from vidssl.scripts.robot_eval_save import check_free, save

    check_numbers(config)
    started = time.perf_counter()
    inputs = prepare(config)
    if config.save is not None and not config.overwrite:
        check_free(config.save, inputs)
    for note in inputs.notes:
        print(note)
    driven = evaluate_arms(config, inputs)
    results = _results(config, inputs, driven)
    timings = driven.timings | {"pretraining_seconds": inputs.pretraining_seconds}
    results["timings"] = timings | {"total_seconds": time.perf_counter() - started}
    write_json(config.out / "results.json", results)
    print_table(results, _about(results))
    if config.save is not None:
        save(config.save, inputs, driven.outcomes, config.overwrite)
    _show(config, inputs, driven, results)
    return results


def check_numbers(config: Config) -> None:
    """Raises VidsslError for numbers that would fail only after the demonstrations are recorded."""
    least = {"demo_episodes": 2, "head_steps": 1, "pixel_steps": 1, "workers": 0}
    for name, lowest in least.items():
        if getattr(config, name) < lowest:
            raise VidsslError(f"--{name.replace('_', '-')}: got {getattr(config, name)}; at least {lowest}")
    if config.pixel_minutes is not None and not config.pixel_minutes > 0:
        raise VidsslError(f"--pixel-minutes: got {config.pixel_minutes}; above 0, or leave it out for --pixel-steps")
    if not config.deadline > 0:
        raise VidsslError(f"--deadline: got {config.deadline} s; above 0")
    for folder in config.reuse:
        if not any((folder / "episodes").glob("*.safetensors")):
            raise VidsslError(
                f"--reuse: {folder} has no evaluation's episodes; give the --out folder of an earlier one"
            )
    if config.episodes < 1 or not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise VidsslError(f"need episodes >= 1 and distinct seeds, got {config.episodes} and {config.seeds}")


def _results(config: Config, inputs: Any, driven: Any) -> dict[str, Any]:
    import torch

    from vidssl.robot.comparison import FORMAT, tabulate, versions

    results: dict[str, Any] = {
        "format": FORMAT,
        "env": config.env,
        "split": "test",
        "seed": config.seed,
        "size": config.size,
        "deadline": config.deadline,
        "layouts": config.episodes,
        "cloning_seeds": list(config.seeds),
        "cloning": {name: value for name, value in asdict(inputs.cloning).items() if name != "seed"},
        "budget": {name: getattr(config, name) for name in ("head_steps", "pixel_steps", "pixel_minutes")},
        "versions": versions(),
        "torch_threads": torch.get_num_threads(),  # the sums of the pixels arm's training depend on it
        "architecture": asdict(inputs.architecture),
        "run": None if inputs.learned is None else {"folder": str(config.run), "config": inputs.learned.config},
        "encoders": {name: {"folder": str(run), "config": enc.config} for name, (run, enc) in inputs.encoders.items()},
        "controllers": {name: {"from": str(given), "hash": h} for name, (given, h) in inputs.controllers.items()},
        "demonstrations": inputs.demonstrations,
        "notes": inputs.notes,
    } | tabulate(driven.outcomes, inputs.references)
    for arm, row in results["arms"].items():
        row["cloning"] = driven.cloning.get(arm)
    return results


def _about(results: dict[str, Any]) -> str:
    demos = results["demonstrations"]
    return "" if demos is None else f", {demos['episodes']} demonstrations ({demos['steps']} frames)"


def _show(config: Config, inputs: Any, driven: Any, results: dict[str, Any]) -> None:
    from vidssl.robot.showreel import film
    from vidssl.scripts.robot_plots import plot_success

    plot_success([results], config.out / "success.png")
    if not config.no_videos:
        film(inputs.place, driven.outcomes, config.out, inputs.fps)
