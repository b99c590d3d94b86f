"""Measure a safety monitor: what it notices, how fast, and how often it cries wolf.

Example:

    python -m vidssl.scripts.bench_safety runs/rover --energy runs/rover-ebm --out runs/safety

The expert (or a saved controller) drives training layouts, on which the monitor is fitted and its threshold set, then
test layouts: as they are, for false alarms an hour, and with every corruption of the camera and the ground from a step
of the episode on. Beside the monitor stand its single scores, the same with an untrained encoder, and the density of
pixels; each has its own threshold for the same promised rate. --out gets results.json, safety.png and the drives, which
another run goes on from. For choosing settings there is --develop: other training layouts in place of the test layouts.
"""

from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from vidssl.errors import VidsslError
from vidssl.machine import versions
from vidssl.scripts.settings import Flag

if TYPE_CHECKING:
    from vidssl.robot.safety import SafetyMonitor
    from vidssl.robot.safety_trials import Arm, MakeDriver, Scored, Trial

CHUNK = 50  # usual episodes a process takes at a time


@dataclass(frozen=True)
class Config:
    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """folder of the run whose features are watched"""
    energy: Path | None = None
    """folder of a run of method ebm; RUN itself when it is one"""
    env: str = "vidssl/Rover-v0"
    """gymnasium id of an environment with camera images"""
    controller: str = "expert"
    """who drives: expert, or the folder of a saved controller"""
    fit_episodes: int = 150
    """training layouts on which the scores are fitted; their tails on the last quarter"""
    calibration_episodes: int = 600
    """more training layouts, for the threshold: about an hour is needed to promise one false alarm an hour"""
    episodes: int = 300
    """usual test episodes"""
    corrupted_episodes: int = 40
    """test episodes for every corruption and severity: the first of the usual ones"""
    corruptions: tuple[str, ...] = ()
    """names of corruptions; all that the environment allows if left out"""
    start: tuple[int, int] = (10, 30)
    """range of the step at which a corruption begins"""
    window: int = 20
    """ticks after the beginning that an episode's AUROC looks at"""
    rate: float = 1.0
    """false alarms an hour, at most"""
    seed: int = 0
    """random seed of layouts, corruptions and the untrained encoder; training layouts are those of seed + 1"""
    develop: Flag = False
    """judge on training layouts of seed + 2: for choosing settings"""
    drives: Path | None = None
    """folder of the drives; OUT/drives if left out"""
    workers: int = 2
    """processes that score drives, 0: none but this"""
    out: Path = Path("bench-safety")
    """folder for results and plot"""


def main(argv: list[str] | None = None) -> None:
    """`python -m vidssl.scripts.bench_safety`."""
    run(tyro.cli(Config, args=argv, prog="python -m vidssl.scripts.bench_safety", description=__doc__))


def run(config: Config) -> dict[str, Any]:
    """Fit, drive, judge; prints the table, writes `config.out` and returns the content of results.json.

    Raises VidsslError for settings that cannot work and whatever the parts raise.
    """
    from vidssl.checkpoint import write_json

    usual, odd = _trials(config)
    folder = config.drives or config.out / "drives"
    _drive(config, [*usual.values(), *odd], folder)
    families, fps = _families(config, usual["fit"], folder)
    scored = _score(config, families, usual, odd, folder)
    arms = _arms(config, families, scored, fps)
    results = _judge(config, arms, scored, odd, fps)
    results["promise"] = {name: threshold for name, (_, threshold) in arms.items()}
    results["config"] = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
    results["versions"] = versions(("vidssl", "torch", "gymnasium", "mujoco", "numpy"))
    write_json(config.out / "results.json", results)
    print_tables(results)
    plot(arms["monitor"][0], scored, odd, fps, config.out / "safety.png")
    return results


def _trials(config: Config) -> "tuple[dict[str, Trial], list[Trial]]":
    """The usual trials by what they are for, and the corrupted ones."""
    from vidssl.errors import unknown_name
    from vidssl.robot.corruptions import CAMERA, CORRUPTIONS, SEVERITIES
    from vidssl.robot.safety_trials import Trial

    least = {
        "fit_episodes": 4,
        "calibration_episodes": 1,
        "episodes": 1,
        "corrupted_episodes": 1,
        "workers": 0,
        "window": 1,
    }
    for name, lowest in least.items():
        if getattr(config, name) < lowest:
            raise VidsslError(f"--{name.replace('_', '-')}: got {getattr(config, name)}; at least {lowest}")
    if config.corrupted_episodes > config.episodes:
        raise VidsslError(
            f"--corrupted-episodes: got {config.corrupted_episodes}, at most --episodes {config.episodes}"
        )
    names = config.corruptions or (CORRUPTIONS if config.env == "vidssl/Rover-v0" else tuple(CAMERA))
    for name in names:
        if name not in CORRUPTIONS:
            raise unknown_name("corruption", name, CORRUPTIONS)
    split, seed = ("train", config.seed + 2) if config.develop else ("test", config.seed)
    train = Trial(config.env, "train", config.seed + 1, config.fit_episodes)
    usual = {
        "fit": train,
        "calibration": replace(train, episodes=config.calibration_episodes, first=config.fit_episodes),
        "usual": Trial(config.env, split, seed, config.episodes),
    }
    odd = [
        Trial(config.env, split, seed, config.corrupted_episodes, name, severity, config.start)
        for name in names
        for severity in SEVERITIES
    ]
    return usual, odd


def _driver(config: Config) -> "MakeDriver":
    from vidssl.robot.controller_files import load_controller
    from vidssl.robot.controllers import ExpertController

    return ExpertController if config.controller == "expert" else load_controller(config.controller)


def _drive(config: Config, trials: "list[Trial]", folder: Path) -> None:
    from rich.progress import Progress

    from vidssl.robot.controller_files import identity
    from vidssl.robot.corruptions import CAMERA
    from vidssl.robot.safety_trials import claim_drives, record_drives

    driver = _driver(config)
    if config.controller == "expert":  # it does not look: what its camera would show is made of its usual drives
        trials = [trial for trial in trials if trial.corruption not in CAMERA]
    claim_drives(folder, trials, "expert" if config.controller == "expert" else identity(config.controller))
    with Progress() as progress:
        task = progress.add_task("driving", total=len(trials))
        for trial in trials:
            progress.update(task, description=f"driving {trial.name}")
            record_drives(trial, folder, driver, lambda: None)
            progress.advance(task)


def _families(config: Config, fit: "Trial", folder: Path) -> "tuple[dict[str, SafetyMonitor], float]":
    """Monitors on the run's features, on those of its network untrained, and on pixels; their threshold is not set."""
    from vidssl.energy import load_energy
    from vidssl.evaluate.baselines import untrained
    from vidssl.features import FeatureExtractor, load_encoder
    from vidssl.robot.pixels import make_env
    from vidssl.robot.safety import SafetyMonitor
    from vidssl.robot.safety_trials import PixelGrid, read_drives

    learned = load_encoder(config.run)
    energy_run = config.energy or (config.run if learned.config.get("energy") else None)
    energy = None if energy_run is None else load_energy(energy_run)
    pixels = FeatureExtractor(PixelGrid(), None, learned.image_size)
    env = make_env(config.env, "train")
    fps = float(env.metadata.get("render_fps", 10))
    env.close()
    drives = [drive for drive, _ in read_drives(fit, folder, config.controller == "expert")]
    families = {}
    for name, extractor, own, scores in (
        ("learned", learned, energy, None),
        ("untrained", untrained(learned, config.seed), None, None),
        ("pixels", pixels, None, ("density",)),
    ):
        families[name] = SafetyMonitor.fit_scores(extractor, drives, fps=fps, energy=own, scores=scores)
    return families, fps


def _score(
    config: Config,
    families: "dict[str, SafetyMonitor]",
    usual: "dict[str, Trial]",
    odd: "list[Trial]",
    folder: Path,
) -> "dict[str, dict[str, list[Scored]]]":
    """Of every family, by the trial's name (usual ones by their purpose): what the scores say of its drives."""
    from rich.progress import track

    tail = config.fit_episodes - config.fit_episodes * 3 // 4
    last = replace(usual["fit"], first=config.fit_episodes - tail, episodes=tail)
    jobs: list[tuple[str, Trial]] = [("tails", last)]
    for purpose in ("calibration", "usual"):
        for first in range(0, usual[purpose].episodes, CHUNK):
            count = min(CHUNK, usual[purpose].episodes - first)
            jobs.append((purpose, replace(usual[purpose], first=usual[purpose].first + first, episodes=count)))
    jobs += [(trial.name, trial) for trial in odd]
    scored: dict[str, dict[str, list[Scored]]] = {family: {} for family in families}
    common = families, folder, config.controller == "expert"
    with ExitStack() as stack:
        each: Any = map
        if config.workers:
            pool = ProcessPoolExecutor(config.workers, get_context("spawn"), _start_worker, common)
            each = stack.enter_context(pool).map
        else:
            _start_worker(*common)
        parts = each(_score_in_worker, [trial for _, trial in jobs])
        for (name, _), part in zip(jobs, track(parts, "scoring", total=len(jobs)), strict=True):
            for family, episodes in part.items():
                scored[family].setdefault(name, []).extend(episodes)
    return scored


_common: "tuple[dict[str, SafetyMonitor], Path, bool]"  # of a worker process


def _start_worker(families: "dict[str, SafetyMonitor]", folder: Path, blind: bool) -> None:
    global _common
    _common = families, folder, blind


def _score_in_worker(trial: "Trial") -> "dict[str, list[Scored]]":
    from vidssl.robot.safety_trials import score_trial
    from vidssl.robot.threads import one_thread

    families, folder, blind = _common
    with one_thread():
        return {name: score_trial(monitor, trial, folder, blind) for name, monitor in families.items()}


def _arms(
    config: Config,
    families: "dict[str, SafetyMonitor]",
    scored: "dict[str, dict[str, list[Scored]]]",
    fps: float,
) -> "dict[str, tuple[Arm, dict[str, Any]]]":
    """Every arm with the facts of its threshold: the monitor, its parts, and the baselines."""
    from vidssl.robot.conformal import conformal_threshold
    from vidssl.robot.safety import calm
    from vidssl.robot.safety_trials import Arm, largest

    every, untrained = families["learned"].scores, families["untrained"].scores
    wanted = {
        "monitor": ("learned", every),
        "without signal": ("learned", tuple(name for name in every if name != "signal")),
        **{f"{name} alone": ("learned", (name,)) for name in every},
        "untrained encoder": ("untrained", untrained),
        "untrained without signal": ("untrained", tuple(name for name in untrained if name != "signal")),
        "untrained density": ("untrained", ("density",)),
        "pixel density": ("pixels", ("density",)),
    }
    arms = {}
    for name, (family, scores) in wanted.items():
        drift = calm(np.concatenate([largest(episode, scores) for episode in scored[family]["tails"]]))
        paths = [episode.path(scores, drift) for episode in scored[family]["calibration"]]
        threshold = conformal_threshold([path.max() for path in paths], [len(path) for path in paths], fps, config.rate)
        arms[name] = Arm(family, scores, drift, threshold.value, config.window), threshold.facts()
    return arms


def _judge(
    config: Config,
    arms: "dict[str, tuple[Arm, dict[str, Any]]]",
    scored: "dict[str, dict[str, list[Scored]]]",
    odd: "list[Trial]",
    fps: float,
) -> dict[str, Any]:
    """False alarms and the figures of every arm: by corruption and severity, by corruption, by group, all together."""
    from vidssl.robot.conformal import poisson_interval
    from vidssl.robot.corruptions import GROUPS
    from vidssl.robot.safety_trials import pooled

    results: dict[str, Any] = {"false_alarms": {}, "arms": {}}
    for name, (arm, _) in arms.items():
        usual = scored[arm.family]["usual"]
        paths = [episode.path(arm.scores, arm.drift) for episode in usual]
        count, hours = sum(path.max() > arm.threshold for path in paths), sum(map(len, paths)) / fps / 3600
        low, high = poisson_interval(int(count), hours)
        results["false_alarms"][name] = {
            "alarms": int(count),
            "hours": hours,
            "an_hour": count / hours,
            "interval_95": [low, high],
        }
        parts = {trial: arm.compare(usual, scored[arm.family][trial.name], config.start[0]) for trial in odd}
        by_name = {key: [part for trial, part in parts.items() if trial.corruption == key] for key in _names(odd)}
        groups = {group: [p for key in keys for p in by_name.get(key, [])] for group, keys in GROUPS.items()}
        results["arms"][name] = {
            "severities": {f"{trial.corruption} {trial.severity}": pooled([part]) for trial, part in parts.items()},
            "corruptions": {key: pooled(some) for key, some in by_name.items()},
            "groups": {group: pooled(some) for group, some in groups.items() if some},
            "all": pooled(list(parts.values())),
        }
    return results


def _names(odd: "list[Trial]") -> list[str]:
    return list(dict.fromkeys(str(trial.corruption) for trial in odd))


def print_tables(results: dict[str, Any]) -> None:
    """The monitor by corruption, and every arm over all of them beside its false alarms."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=130)
    monitor = results["arms"]["monitor"]
    table = Table(title=f"{results['config']['env']}: the monitor by corruption")
    for heading in (
        "corruption",
        "episodes",
        "AUROC frames",
        "AUROC episodes",
        "detected",
        "by severity",
        "median delay",
    ):
        table.add_column(heading, justify="left" if heading == "corruption" else "right")
    for name, row in [
        *monitor["corruptions"].items(),
        *((f"= {k}", v) for k, v in monitor["groups"].items()),
        ("ALL", monitor["all"]),
    ]:
        levels = " ".join(
            f"{v['detected']:.2f}" for k, v in monitor["severities"].items() if k.rpartition(" ")[0] == name
        )
        table.add_row(name, str(row["episodes"]), *_figures(row)[:3], levels, _figures(row)[3])
    console.print(table)
    table = Table(title="all corruptions, every arm at its own threshold")
    for heading in (
        "arm",
        "AUROC frames",
        "worst",
        "AUROC episodes",
        "worst",
        "detected",
        "delay",
        "false alarms/h",
        "95 %",
        "promised",
    ):
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for name, arm in results["arms"].items():
        frames, episodes, detected, delay = _figures(arm["all"])
        worst = [min(row[f"auroc_{kind}"] for row in arm["corruptions"].values()) for kind in ("frame", "episode")]
        false = results["false_alarms"][name]
        low, high = false["interval_95"]
        rate = f"{false['alarms']} in {false['hours']:.2f} h"
        table.add_row(
            name,
            frames,
            f"{worst[0]:.3f}",
            episodes,
            f"{worst[1]:.3f}",
            detected,
            delay,
            rate,
            f"{low:.2f}..{high:.2f}",
            f"{results['promise'][name]['promised']:.2f}",
        )
    console.print(table)


def _figures(row: dict[str, Any]) -> list[str]:
    delay = row["median_delay_steps"]
    return [f"{row[key]:.3f}" for key in ("auroc_frame", "auroc_episode", "detected")] + [
        "none" if delay is None else f"{delay:.0f}"
    ]


def plot(arm: "Arm", scored: "dict[str, dict[str, list[Scored]]]", odd: "list[Trial]", fps: float, path: Path) -> None:
    """The monitor's score over an episode with each corruption at severity 2, and without any."""
    from matplotlib.figure import Figure

    from vidssl.checkpoint import replacing

    shown = [trial for trial in odd if trial.severity == 2]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.2 * columns, 1.9 * rows), layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns, sharey=True, squeeze=False))
    usual = scored[arm.family]["usual"]
    for axis, trial in zip(axes, shown, strict=False):
        for episode, reference in zip(scored[arm.family][trial.name][:5], usual, strict=False):
            began = episode.began_at or 0
            for values, colour in ((reference, "#8d99ae"), (episode, "#d1495b")):
                curve = values.path(arm.scores, arm.drift)
                axis.plot((np.arange(len(curve)) - began) / fps, np.maximum(curve, 0.1), color=colour, linewidth=0.9)
        axis.axhline(arm.threshold, color="black", linewidth=0.8, linestyle="--")
        axis.axvline(0, color="black", linewidth=0.5)
        axis.set(title=trial.corruption, yscale="log", xlim=(-2.5, 4))
        axis.title.set_fontsize(9)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    figure.supxlabel(
        "seconds from the corruption's beginning (grey: the same episodes without it; dashed: threshold)", fontsize=8
    )
    figure.supylabel("monitor's score", fontsize=8)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)


if __name__ == "__main__":
    main()
