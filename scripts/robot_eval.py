"""Judge features by the policies built on them.

Example:

    vidssl robot-eval runs/rover --env vidssl/Rover-v0 --episodes 100 --out runs/rover/eval
    vidssl robot-eval --arms random random-encoder pixels expert        (the baselines alone: no run needed)

Demonstrations of the expert on training layouts are recorded (or read: --demos), every arm clones the same ones, and
all arms drive the same test layouts. --out gets results.json (every episode, seed and version; the same command gives
the same file again, apart from `timings`), success.png, videos of the best, median and worst failed episode of each
arm, and a film strip.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vidssl.errors import VidsslError

if TYPE_CHECKING:
    from vidssl.features import FeatureExtractor
    from vidssl.robot.arms import Architecture
    from vidssl.robot.episodes import Recording
    from vidssl.robot.evaluate import EpisodeResult

VERSIONS = ("vidssl", "torch", "gymnasium", "mujoco", "numpy", "av")
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Config:
    run: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="RUN")]] = None
    """folder of a run, for the arm `learned`"""
    env: str = "vidssl/Rover-v0"
    """gymnasium id of an environment with camera images"""
    episodes: int = 100
    """test layouts, the same for every arm"""
    arms: tuple[str, ...] = ("random", "random-encoder", "pixels", "learned", "expert")
    """who is compared"""
    demos: Path | None = None
    """recorded demonstrations (`vidssl record`); recorded into OUT/demos if left out"""
    demo_episodes: int = 100
    """demonstrations to record, or to use of those in --demos"""
    demo_noise: float = 0.3
    """noise on executed actions while recording, in half-widths of the action range"""
    seed: int = 0
    """of demonstrations and test layouts"""
    seeds: tuple[int, ...] = (0,)
    """of cloning (head, batches, random encoder): every one is trained and evaluated"""
    encoder: str = "control"
    """architecture of the untrained arms when there is no run to take it from"""
    head_steps: int = 1500
    """optimiser steps of the heads on frozen features"""
    pixel_steps: int = 1500
    """optimiser steps of the arm `pixels`; repeatable"""
    pixel_minutes: float | None = None
    """instead of --pixel-steps: as many as fit in this time; results.json says how many"""
    size: int | None = None
    """side of the camera image in pixels; the environment's own if left out"""
    workers: int = 2
    """processes that run episodes (0: none but this); results do not depend on it"""
    out: Path = Path("robot-eval")
    """folder for results, plot and videos"""
    no_videos: Flag = False
    """leave out videos and film strip"""


def main(argv: list[str] | None = None) -> None:
    """The `vidssl robot-eval` command."""
    run(tyro.cli(Config, args=argv, prog="vidssl robot-eval", description=__doc__))


def run(config: Config) -> dict[str, Any]:
    """Clone and evaluate all arms, print the table, write `config.out`; returns the content of results.json.

    Raises VidsslError for unknown names, demonstrations that do not fit, an environment without images or expert.
    """
    from vidssl.checkpoint import write_json
    from vidssl.robot.arms import check_arms

    check_arms(config.arms)
    _check_budgets(config)
    if config.episodes < 1 or not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise VidsslError(f"need episodes >= 1 and distinct seeds, got {config.episodes} and {config.seeds}")
    if config.run is None and "learned" in config.arms:
        raise VidsslError("the arm `learned` needs a RUN: pass the --out folder of `vidssl pretrain`, or choose --arms")
    started = time.perf_counter()
    learned, architecture, image_size = _encoder(config)
    recording = _demonstrations(config, image_size)
    outcomes, cloning, timings = _evaluate_arms(config, learned, architecture, recording)
    results = _results(config, architecture, learned, recording, outcomes, cloning)
    timings |= {"pretraining_seconds": _pretraining_seconds(config.run)}
    results["timings"] = timings | {"total_seconds": time.perf_counter() - started}
    write_json(config.out / "results.json", results)
    print_table(results)
    plot_success(results, config.out / "success.png")
    if not config.no_videos:
        _show(config, outcomes, recording.meta["fps"])
    return results


def _check_budgets(config: Config) -> None:
    """Raises VidsslError for numbers that would fail only after the demonstrations are recorded."""
    least = {"demo_episodes": 2, "head_steps": 1, "pixel_steps": 1, "workers": 0}
    for name, lowest in least.items():
        if getattr(config, name) < lowest:
            raise VidsslError(f"--{name.replace('_', '-')}: got {getattr(config, name)}; at least {lowest}")
    if config.pixel_minutes is not None and not config.pixel_minutes > 0:
        raise VidsslError(f"--pixel-minutes: got {config.pixel_minutes}; above 0, or leave it out for --pixel-steps")


def _encoder(config: Config) -> "tuple[FeatureExtractor | None, Architecture, tuple[int, int]]":
    """The run's encoder, if there is a run; the architecture the untrained arms share with it; the camera's size."""
    from vidssl.features import load_encoder
    from vidssl.robot.arms import Architecture
    from vidssl.robot.pixels import find_image, make_env

    env = make_env(config.env, "test", config.size)
    height, width = find_image(env.observation_space).shape[:2]
    env.close()
    if config.run is not None:
        learned = load_encoder(config.run)
        return learned, Architecture.of(learned), (height, width)
    architecture = Architecture(config.encoder, (height, width))
    architecture.untrained(0)  # an unknown name is an error now, not after the demonstrations
    return None, architecture, (height, width)


def _pretraining_seconds(run: Path | None) -> float | None:
    """What the run's metrics say was spent on learning the features, which no other arm had; None if they do not."""
    metrics = None if run is None else run / "metrics.jsonl"
    if metrics is None or not metrics.is_file():
        return None
    seconds = [json.loads(line).get("seconds") for line in metrics.read_text().splitlines()]
    return max((float(value) for value in seconds if value is not None), default=None)


def _demonstrations(config: Config, image_size: tuple[int, int]) -> "Recording":
    """The recording named by --demos, checked; or one of this command's own, continued if it was interrupted."""
    from vidssl.robot.episodes import open_recording
    from vidssl.robot.recording import record

    if config.demos is None:
        return record(
            config.env,
            config.out / "demos",
            config.demo_episodes,
            noise=config.demo_noise,
            seed=config.seed,
            size=config.size,
            resume=True,
        )
    recording = open_recording(config.demos)
    for key, wanted in {"env": config.env, "policy": "expert", "split": "train"}.items():
        if recording.meta[key] != wanted:
            raise VidsslError(f"{config.demos}: {key} is {recording.meta[key]!r}, needed {wanted!r}; record others")
    (height, width), seen = image_size, recording.meta["image_size"]
    if list(image_size) != seen:
        raise VidsslError(
            f"{config.demos}: images of {seen[0]}x{seen[1]}, the environment gives {height}x{width}; change --size"
        )
    return recording


def _evaluate_arms(
    config: Config, learned: "FeatureExtractor | None", architecture: "Architecture", recording: "Recording"
) -> tuple[dict[str, list["EpisodeResult"]], dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Episodes per arm (all cloning seeds one after the other), facts of the clones, seconds."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vidssl.robot.arms import CLONED, Budget, cloned_arm, scripted_arm
    from vidssl.robot.cloning import CloningConfig, load_demonstrations
    from vidssl.robot.evaluate import Evaluator, MakeController

    demos = load_demonstrations(recording, config.demo_episodes)
    budget = Budget(config.head_steps, None if config.pixel_minutes else config.pixel_steps, config.pixel_minutes)
    outcomes: dict[str, list[EpisodeResult]] = {}
    cloning: dict[str, list[dict[str, Any]]] = {}
    timings: dict[str, Any] = {arm: {} for arm in config.arms}
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Evaluator(config.env, "test", config.size, config.workers) as evaluator, Progress(*columns) as progress:
        for arm in config.arms:
            rounds = config.seeds if arm in CLONED else config.seeds[:1]
            task = progress.add_task(arm, total=len(rounds) * config.episodes)
            outcomes[arm] = []
            for seed in rounds:
                if arm in CLONED:
                    progress.update(task, description=f"{arm}: cloning")
                    clone, fit = cloned_arm(arm, architecture, learned, demos, CloningConfig(seed=seed), budget)
                    make: MakeController = clone.fit_to
                    timings[arm].setdefault("cloning_seconds", []).append(fit.pop("seconds"))
                    cloning.setdefault(arm, []).append({"seed": seed, **fit})
                else:
                    make = scripted_arm(arm)
                progress.update(task, description=f"{arm}: driving")
                begun = time.perf_counter()
                outcomes[arm] += evaluator.run(
                    make,
                    config.episodes,
                    config.seed,
                    lambda count, task=task: progress.advance(task, count),  # type: ignore[misc]
                )
                timings[arm].setdefault("driving_seconds", []).append(time.perf_counter() - begun)
            progress.update(task, description=arm)
            if len(rounds) < len(config.seeds):  # the same for every cloning seed, so pairs stay pairs
                outcomes[arm] = outcomes[arm] * len(config.seeds)
    return outcomes, cloning, timings


def _results(
    config: Config,
    architecture: "Architecture",
    learned: "FeatureExtractor | None",
    recording: "Recording",
    outcomes: dict[str, list["EpisodeResult"]],
    cloning: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    import torch

    from vidssl.robot.evaluate import compare, summary

    used = recording.episodes[: config.demo_episodes]
    results: dict[str, Any] = {
        "format": 1,
        "env": config.env,
        "split": "test",
        "seed": config.seed,
        "cloning_seeds": list(config.seeds),
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "torch_threads": torch.get_num_threads(),  # the sums of the pixels arm's training depend on it
        "architecture": asdict(architecture),
        "run": None if learned is None else {"folder": str(config.run), "config": learned.config},
        "demonstrations": {
            "facts": recording.meta,
            "episodes": len(used),
            "steps": sum(episode.steps for episode in used),
            "successes": sum(episode.success for episode in used),
        },
        "arms": {},
        "paired": {},
    }
    for arm, episodes in outcomes.items():
        rows = [{k: v for k, v in asdict(episode).items() if k != "actions"} for episode in episodes]
        results["arms"][arm] = summary(episodes) | {"cloning": cloning.get(arm), "results": rows}
    for arm in outcomes:
        if "learned" in outcomes and arm != "learned":
            results["paired"][f"learned - {arm}"] = compare(outcomes["learned"], outcomes[arm])
    return results


def print_table(results: dict[str, Any]) -> None:
    """The arms as a rich table: successes, 95 % interval, return, failures, paired difference of `learned` (95 %)."""
    from rich.console import Console
    from rich.table import Table

    demos = results["demonstrations"]
    table = Table(title=f"{results['env']}, test layouts, {demos['episodes']} demonstrations ({demos['steps']} frames)")
    for heading in ("arm", "success", "95 %", "return", "steps", "failures", "learned - arm"):
        left = heading in ("arm", "failures")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "failures")
    for arm, row in results["arms"].items():
        low, high = row["interval_95"]
        pair = results["paired"].get(f"learned - {arm}")
        table.add_row(
            arm,
            f"{row['successes']}/{row['episodes']}",
            f"{low:.2f}..{high:.2f}",
            f"{row['mean_return']:.2f}",
            f"{row['mean_length']:.0f}",
            ", ".join(f"{kind} {count}" for kind, count in row["failures"].items()),
            f"{pair['difference']:+.2f} ({pair['low_95']:+.2f}..{pair['high_95']:+.2f})" if pair else "",
        )
    # A log or a pipe has no width of its own, and rich's 80 columns would cut the failures.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def plot_success(results: dict[str, Any], path: Path) -> None:
    """Success rates as bars with their 95 % intervals."""
    from matplotlib.figure import Figure

    from vidssl.checkpoint import replacing

    arms = results["arms"]
    figure = Figure(figsize=(1.2 + 1.15 * len(arms), 3.4), layout="constrained")
    axes = figure.subplots()
    for x, (arm, row) in enumerate(arms.items()):
        rate, (low, high) = row["success_rate"], row["interval_95"]
        axes.bar(x, rate, width=0.65, color="#d1495b" if arm == "learned" else "#8d99ae")
        axes.errorbar(x, rate, [[max(rate - low, 0)], [max(high - rate, 0)]], color="black", capsize=4, linewidth=1)
        axes.text(x, min(high + 0.02, 1.02), f"{row['successes']}/{row['episodes']}", ha="center", fontsize=9)
    axes.set_xticks(range(len(arms)), list(arms))
    axes.set_ylim(0, 1.1)
    axes.set_ylabel("success rate, 95 % interval")
    count = results["demonstrations"]["episodes"]
    axes.set_title(f"{results['env']}: {count} demonstrations, test layouts", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)


def _show(config: Config, outcomes: dict[str, list["EpisodeResult"]], fps: float) -> None:
    """Videos of the notable episodes of every arm, and a film strip of the first arm of most interest."""
    from rich.progress import track

    from vidssl.robot.showreel import notable, replay, write_episode_video, write_film_strip

    strip_of = next(arm for arm in ("learned", "pixels", "random-encoder", "expert", "random") if arm in outcomes)
    shots: Sequence[tuple[str, str, EpisodeResult]] = [
        (arm, kind, episode) for arm, results in outcomes.items() for kind, episode in notable(results).items()
    ]
    for arm, kind, episode in track(shots, description="videos"):
        moments = replay(config.env, "test", config.size, episode)
        if moments:
            write_episode_video(config.out / "videos" / f"{arm}-{kind}.mp4", arm, moments, episode, fps)
            if arm == strip_of and kind == "median":
                write_film_strip(config.out / "strip.png", arm, moments, episode, fps)
