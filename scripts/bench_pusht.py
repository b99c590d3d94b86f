"""Push-T from pixels: action chunks cloned on frozen self-supervised features, beside the arms a sceptic asks for.

    python -m vidssl.scripts.bench_pusht pusht_206.tar --out runs/pusht

Protocol. Data: the 206 human demonstrations of Diffusion Policy (Chi et al. 2023), their own pictures, lossless. One
architecture, one head, one loss for all clones:

    random          uniform random actions
    random-encoder  head on the untrained encoder: --minutes
    learned         encoder by `motion` on the demonstrations' videos without their actions, asked for the optical flow
                    of the next 1.6 s: --pretrain-steps; then the head on its frozen features: --minutes
    pixels          encoder and head together from the actions: --minutes, and what the pretraining took
    demonstrations  what people reached: their actions replayed from their first states (no episode of the test)

With --labelled N the clones know the actions of N demonstrations, and the encoder the videos of all.

All minutes are processor time of one core, so that a busy machine treats all arms alike. Evaluation:
gym_pusht/PushT-v0, 300 steps, its own success (coverage above 0.95), test layouts that no arm and no choice of a
setting has seen, the same ones for every arm. An episode's score is the best coverage in it. Shares come with Wilson
intervals, means with a bootstrap over layouts, differences are paired. The scores of Chi et al. are coverage / 0.95,
clipped, of policies trained for hours on a GPU.

Chosen on train layouts, mean best coverage: `motion` for the encoder (50 episodes, heads of 5 minutes: 0.71 after 3
minutes of it, CPC 0.35, an encoder taught the true state 0.64, untrained 0.19, pixels 0.60); chunks that count from the
pusher's place (flow on the true state, 12 episodes: 0.43 after 20 s, 0.21 after 49 s where they are places); regression
(on the true state 0.48 after 16 s; on CPC's features, 20 episodes: 0.32 after 72 s, the flow 0.20 after 48 s).

Came out (--seed 11, 100 layouts; shares at 0.95 and 0.8, mean): learned 0.24, 0.44, 0.60; the untrained encoder's
features 0.00, 0.03, 0.19; pixels 0.18, 0.38, 0.62.

Encoder, arms and episodes that are already in the --out folder are not trained and run again; those made with other
settings are refused. Arms evaluated there before, with the same settings, stay in results.json beside those of --arms.
"""

import hashlib
import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.progress import Progress

from vidssl.checkpoint import replacing, write_json
from vidssl.datasets.pusht import SQUARE, PushTEpisode, read_pusht
from vidssl.errors import VidsslError, unknown_name
from vidssl.robot.chunk_controller import ChunkController
from vidssl.robot.chunk_training import ChunkBudget, ChunkConfig
from vidssl.robot.cloning import Demonstrations
from vidssl.robot.episode_store import EpisodeStore, as_json

ENV = "gym_pusht/PushT-v0"
ARMS = ("random", "random-encoder", "pixels", "learned")
# Views none: a crop or flip would make the same features of a block that lies elsewhere.
PRETRAIN = (
    *("--method", "motion", "--options", "ahead=8", "grids=(8,)", "--encoder", "control", "--views", "none"),
    *("--size", "64", "--frames", "11", "--stride", "2", "--lr", "3e-3", "--doctor", "off"),
)


@dataclass(frozen=True)
class Config:
    demos: tyro.conf.Positional[Path]
    """pusht_206.tar, or the zarr store in it"""
    out: Path
    """folder for encoder, controllers and results.json"""
    run: Path | None = None
    """an encoder's run folder, instead of pretraining one; its architecture is every arm's"""
    arms: tuple[str, ...] = ARMS
    """which arms, at least one"""
    labelled: int | None = None
    """demonstrations whose actions are known, drawn by --seed; left out: all. The encoder still sees all videos"""
    episodes: int = 100
    """test layouts"""
    minutes: float = 5.0
    """training of a head"""
    pretrain_steps: int = 2000
    """training of the encoder"""
    pretrain_minutes: float | None = None
    """with --run: what its training took, which `pixels` has in addition to --minutes"""
    head: Literal["flow", "l1"] = "l1"
    """head of all arms: conditional flow matching, or regression"""
    seed: int = 0
    """random seed of layouts, weights and training"""
    split: Literal["train", "test"] = "test"
    """layouts: choose settings on train, report on test"""
    replay: bool = True
    """also replay the demonstrations, for the ceiling"""


def main(argv: list[str] | None = None) -> None:
    """Train what is missing, evaluate all arms, print the table."""
    config = tyro.cli(Config, args=argv, prog="bench_pusht", description=__doc__)
    for arm in config.arms:
        if arm not in ARMS:
            raise unknown_name("arm", arm, ARMS)
    if not config.arms or config.episodes < 1:
        raise VidsslError(f"give at least one arm and one episode, got {config.arms} and {config.episodes}")
    torch.set_num_threads(1)
    episodes = read_pusht(config.demos)
    demos = demonstrations(episodes)
    makers, fits = controllers(config, with_evaluated(config, demos), demos)
    rows: dict[str, Any] = {arm: evaluate(config, arm, make) for arm, make in makers.items()}
    facts = {"config": json.loads(json.dumps(asdict(config), default=str)), "data": digest(demos)}
    report = {**facts, "fits": fits, **numbers(rows)}
    if people := replayed(episodes) if config.replay else replayed_before(config, demos):
        report["demonstrations"] = people
    with replacing(config.out / "results.json") as part:
        part.write_text(json.dumps(report, indent=1))
    print(table(report))


def demonstrations(episodes: list[PushTEpisode]) -> Demonstrations:
    """All frames of all episodes; proprioception is the pusher's place."""
    lengths = torch.tensor([episode.steps for episode in episodes])
    action = torch.from_numpy(np.concatenate([episode.action for episode in episodes]))
    return Demonstrations(
        frames=np.concatenate([episode.image for episode in episodes]),
        proprio=torch.from_numpy(np.concatenate([episode.state[:, :2] for episode in episodes])),
        action=2 * action / SQUARE - 1,
        first=torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths),
        low=np.zeros(2, np.float32),
        high=np.full(2, SQUARE, np.float32),
    )


def labelled(config: Config, demos: Demonstrations) -> Demonstrations:
    """Those that are cloned: all, or --labelled of them.

    Raises VidsslError when there are not as many.
    """
    starts = torch.unique(demos.first)
    if config.labelled is None:
        return demos
    if not 2 <= config.labelled <= len(starts):
        raise VidsslError(f"--labelled {config.labelled}: give 2 to {len(starts)}, which there are, or leave it out")
    generator = torch.Generator().manual_seed(config.seed)
    chosen = starts[torch.randperm(len(starts), generator=generator)[: config.labelled]].sort().values
    rows = torch.isin(demos.first, chosen).nonzero()[:, 0]
    return replace(
        demos,
        frames=demos.frames[rows.numpy()],
        proprio=demos.proprio[rows],
        action=demos.action[rows],
        first=torch.searchsorted(rows, demos.first[rows]),
    )


def chunk_config(config: Config) -> ChunkConfig:
    """The head of all arms: actions are places of the pusher, so chunks count from where it is."""
    return ChunkConfig(head=config.head, relative=True, batch_size=128, holdout=0.05, seed=config.seed)


def digest(demos: Demonstrations) -> str:
    """What tells these demonstrations from others."""
    return hashlib.sha256(demos.action.numpy().tobytes() + demos.first.numpy().tobytes()).hexdigest()[:16]


def encoder_settings(config: Config, demos: Demonstrations) -> dict[str, Any]:
    """What the encoder is a function of."""
    from vidssl.robot.controller_files import identity

    if config.run is not None:
        return {"run": identity(config.run)}
    options = {"steps": config.pretrain_steps, "seed": config.seed, "options": list(PRETRAIN)}
    return {**options, "data": digest(demos)}


def arm_settings(config: Config, arm: str, demos: Demonstrations) -> dict[str, Any]:
    """What an arm's controller is a function of, but for the machine."""
    parts: dict[str, Any] = {"encoder": encoder_settings(config, demos), "head": asdict(chunk_config(config))}
    parts |= {"minutes": config.minutes, "data": digest(labelled(config, demos))}
    if arm == "pixels":
        parts["pretrain_minutes"] = config.pretrain_minutes
    return as_json(parts)


def made_with(file: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The content of a JSON file that keeps the `settings` of what lies beside it; None when there is no file.

    Raises VidsslError when they are others, or when there are none.
    """
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    was = content.get("settings") if isinstance(content, dict) else None
    if was is None:
        raise VidsslError(f"{file} does not say what settings it was made with; give another --out, or delete {file}")
    if changed := sorted(key for key in {*was, *settings} if was.get(key) != settings.get(key)):
        both = "; ".join(f"{key}: was {was.get(key)!r}, now {settings.get(key)!r}" for key in changed)
        raise VidsslError(f"{file} is of other settings ({both}); give the same ones, or another --out")
    return dict(content)


def with_evaluated(config: Config, demos: Demonstrations) -> list[str]:
    """The arms that are asked for, and those whose episodes are all in the folder already, with the same settings."""
    arms = list(dict.fromkeys(config.arms))
    for arm in ARMS:
        if arm in arms or not (config.out / "episodes" / f"{arm}.safetensors").exists():
            continue
        try:
            fit = arm == "random" or made_with(fit_file(config, arm), arm_settings(config, arm, demos))
            kept = fit and {*range(config.episodes)} <= {*episode_store(config, arm).known()}
            why = "it has fewer episodes"
        except VidsslError as error:
            kept, why = False, str(error)
        if kept:
            arms.append(arm)
        else:
            print(f"{arm}, evaluated before, is left out: {why}", flush=True)
    return arms


def replayed_before(config: Config, demos: Demonstrations) -> dict[str, Any] | None:
    """The replay in the folder's results.json, if it is of these demonstrations."""
    file = config.out / "results.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    return before.get("demonstrations") if before.get("data") == digest(demos) else None


def fit_file(config: Config, arm: str) -> Path:
    """Where the facts of an arm's training are kept, with its settings."""
    return config.out / "controllers" / arm / "fit.json"


def controllers(
    config: Config, arms: list[str], demos: Demonstrations
) -> tuple[dict[str, Callable[..., Any]], dict[str, Any]]:
    """What makes each arm's controllers, and how the trainings went; trains those that are not in the folder.

    Raises VidsslError when those in the folder were trained with other settings.
    """
    from vidssl.features import load_encoder
    from vidssl.robot.arms import Architecture
    from vidssl.robot.controllers import RandomController

    makers: dict[str, Callable[..., Any]] = {}
    fits: dict[str, Any] = {}
    for arm in arms:
        if arm == "random":
            makers[arm] = RandomController
            continue
        file, settings = fit_file(config, arm), arm_settings(config, arm, demos)
        if (found := made_with(file, settings)) is None:
            learned = load_encoder(config.run or pretrained(config, demos))
            untrained = Architecture.of(learned).untrained(config.seed)
            controller, fit = trained(arm, learned, untrained, labelled(config, demos), config)
            controller.save(file.parent)
            found = {"settings": settings, "fit": fit}
            write_json(file, found)
        makers[arm] = ChunkController.load(file.parent).fit_to
        fits[arm] = as_json(found["fit"])
        print(f"{arm}: {fits[arm]}", flush=True)
    return makers, fits


def trained(
    arm: str, learned: Any, untrained: Any, demos: Demonstrations, config: Config
) -> tuple[ChunkController, dict[str, Any]]:
    """One arm's policy, and facts of its training."""
    from vidssl.robot.chunks import clone_chunks, clone_chunks_pixels

    if arm == "pixels":
        budget = ChunkBudget(minutes=pretraining(config) + config.minutes)
        controller, fit = clone_chunks_pixels(untrained, demos, chunk_config(config), budget)
    else:
        encoder = learned if arm == "learned" else untrained
        controller, fit = clone_chunks(encoder, demos, chunk_config(config), ChunkBudget(minutes=config.minutes))
    return controller, asdict(fit)


def pretrained(config: Config, demos: Demonstrations) -> Path:
    """The run folder of the encoder, trained on the demonstrations' videos unless it is there.

    Raises VidsslError for one of other settings, and when the pretraining is stopped: the same command goes on with it.
    """
    from vidssl.datasets.mp4 import write_video
    from vidssl.scripts.pretrain import main as pretrain

    run, videos, settings = config.out / "encoder", config.out / "videos", as_json(encoder_settings(config, demos))
    cost = made_with(cost_file(config), settings) or {"finished": False, "minutes": None, "settings": settings}
    if cost["finished"]:
        return run
    begun = (run / "config.json").exists()
    if begun and cost["minutes"] is None:
        raise VidsslError(f"{run}: killed, so how long it was trained is not known; delete the folder and run again")
    write_json(cost_file(config), {**cost, "minutes": None})  # whose videos and run lie there, should this be killed
    starts = torch.unique(demos.first).tolist()
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], len(demos.first)], strict=True)):
        if not (file := videos / f"{index:06d}.mp4").exists():
            write_video(file, list(demos.frames[start:end]), 10.0)
    began, status = processor_minutes(), 1
    budget = ["--steps", str(config.pretrain_steps), "--seed", str(config.seed), *(["--resume"] if begun else [])]
    try:
        status = pretrain([str(videos), "--out", str(run), "--cache", str(config.out / "cache"), *budget, *PRETRAIN])
    finally:
        minutes = (cost["minutes"] or 0.0) + processor_minutes() - began
        write_json(cost_file(config), {**cost, "minutes": minutes, "finished": status == 0})
    if status != 0:
        raise VidsslError(f"the pretraining stopped with status {status}; run the same command again to go on with it")
    return run


def processor_minutes() -> float:
    """Of this process and of those it has started and seen end."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (time.process_time() + children.ru_utime + children.ru_stime) / 60


def cost_file(config: Config) -> Path:
    """Where the processor minutes of the pretraining are kept, with its settings and whether it has finished."""
    return config.out / "pretraining_minutes.json"


def pretraining(config: Config) -> float:
    """Processor minutes that the encoder took; raises VidsslError when a --run does not come with them."""
    if config.run is None:
        return float(json.loads(cost_file(config).read_text())["minutes"])
    if config.pretrain_minutes is None:
        raise VidsslError("pixels gets as long as --run took to train: say so with --pretrain-minutes, or leave it out")
    return config.pretrain_minutes


def episode_store(config: Config, arm: str) -> EpisodeStore:
    """The episodes of one arm in the folder; raises VidsslError when they are of other settings."""
    from vidssl.robot.controller_files import identity

    policy = arm if arm == "random" else identity(config.out / "controllers" / arm)
    settings = {"split": config.split, "seed": config.seed, "policy": policy}
    return EpisodeStore(config.out / "episodes" / f"{arm}.safetensors", settings)


def evaluate(config: Config, arm: str, make: Callable[..., Any]) -> list[Any]:
    """The episodes of one arm, in this process; those in the folder are not run again."""
    from vidssl.robot.evaluate import Evaluator

    store = episode_store(config, arm)
    with Progress(transient=True) as bar, Evaluator(ENV, config.split) as evaluator:
        task = bar.add_task(arm, total=config.episodes)
        return evaluator.run(make, config.episodes, config.seed, lambda count: bar.advance(task, count), store)


def numbers(rows: dict[str, list[Any]]) -> dict[str, Any]:
    """Summaries of all arms, and `learned` minus each other one: mean best coverage, shares at 0.8 and 0.95."""
    from vidssl.evaluate.intervals import group_bootstrap, paired_difference
    from vidssl.robot.outcomes import SHARES, summary

    arms = {arm: summary(results) for arm, results in rows.items()}
    scores = {arm: np.array([result.score or 0.0 for result in results]) for arm, results in rows.items()}
    differences: dict[str, Any] = {}
    for other in (arm for arm in rows if "learned" in rows and arm != "learned"):
        ours, theirs = scores["learned"], scores[other]
        mean = group_bootstrap(ours - theirs, list(range(len(ours))))
        differences[other] = {"mean": [mean.mean, mean.low, mean.high]}
        differences[other] |= {f"{x:g}": list(paired_difference(ours >= x, theirs >= x)) for x in SHARES}
    layouts = {arm: [float(x) for x in score] for arm, score in scores.items()}
    return {"arms": arms, "learned_minus": differences, "coverage": layouts}


def replayed(episodes: list[PushTEpisode]) -> dict[str, Any]:
    """Best coverage of each demonstration's actions, carried out from its first state."""
    import gymnasium as gym

    from vidssl.evaluate.intervals import group_bootstrap
    from vidssl.robot.outcomes import SHARES

    env: Any = gym.make(f"gym_pusht:{ENV}", obs_type="state", disable_env_checker=True).unwrapped
    best = []
    for episode in episodes:
        env.reset(seed=0)
        # Not by reset's own option, which sets the place before the angle, as old data wants it.
        env.block.angle = float(episode.state[0, 4])
        env.block.position = episode.state[0, 2:4].tolist()
        env.agent.position = episode.state[0, :2].tolist()
        best.append(max(env.step(action)[4]["coverage"] for action in episode.action.astype(float)))
    env.close()
    score = np.array(best)
    boot = group_bootstrap(score, list(range(len(score))))
    shares = {f"{least:g}": float((score >= least).mean()) for least in SHARES}
    return {"episodes": len(score), "mean": [boot.mean, boot.low, boot.high], "at_least": shares}


def table(report: dict[str, Any]) -> str:
    """What is printed."""
    lines = [_row("arm", "episodes", ">= 0.95", ">= 0.8", "mean best coverage")]
    for arm, row in report["arms"].items():
        score = row["score"]
        cells = [_interval(part["share"], *part["interval_95"]) for part in score["at_least"].values()]
        lines.append(_row(arm, row["episodes"], *cells, _interval(score["mean"], *score["interval_95"])))
    if people := report.get("demonstrations"):
        cells = [f"{share:.2f}" for share in people["at_least"].values()]
        lines.append(_row("demonstrations", people["episodes"], *cells, _interval(*people["mean"])))
    for other, difference in report["learned_minus"].items():
        lines.append(_row(f"learned - {other}", "", *(_interval(*difference[x]) for x in ("0.95", "0.8", "mean"))))
    return "\n".join(lines)


def _row(name: str, count: object, *cells: str) -> str:
    return f"{name:24} {count:>8}  " + "  ".join(f"{cell:20}" for cell in cells).rstrip()


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
