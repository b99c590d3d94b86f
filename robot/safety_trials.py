"""Trials of safety monitors: usual and corrupted drives, what the scores say of them, how well that tells them apart.

A drive is kept as DIR/NAME/000000.safetensors, raw, since a video's compression is itself a corruption. A driver that
does not look at the camera (the expert) drives the same way whatever the camera shows: its camera corruptions are made
of its usual drives. New terrain, and everything for a driver that looks, is driven anew. DIR/settings.json says who
drove where.

Letters: T ticks of an episode, E episodes.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import safetensors
import safetensors.numpy
from torch import Tensor, nn
from torch.nn import functional

from vidssl.checkpoint import replacing, write_json
from vidssl.errors import VidsslError

from .controllers import Controller, ExpertController
from .corruptions import CAMERA, TERRAIN, CorruptedCamera, corrupt_frames
from .pixels import episode_seed, make_env
from .recording import drive
from .safety import SafetyMonitor, cusum
from .safety_scores import Floats
from .safety_senses import Drive

MakeDriver = Callable[[gym.Env[Any, Any]], Controller]


@dataclass(frozen=True)
class Trial:
    """Episodes first..first+episodes-1 of (split, seed), usual ones or with a corruption from a step in `start` on."""

    env_id: str
    split: str
    seed: int
    episodes: int
    corruption: str | None = None
    severity: int = 0
    start: tuple[int, int] = (0, 0)
    first: int = 0

    @property
    def indices(self) -> range:
        """Of its episodes."""
        return range(self.first, self.first + self.episodes)

    @property
    def name(self) -> str:
        """Of the folder of its drives."""
        usual = f"{self.split}-{self.seed}"
        return usual if self.corruption is None else f"{usual}-{self.corruption}-{self.severity}"

    @property
    def usual(self) -> "Trial":
        """The same episodes without corruption."""
        return Trial(self.env_id, self.split, self.seed, self.episodes, first=self.first)

    def wrapped(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """The environment with the corruption."""
        from .new_terrain import NewTerrain

        if self.corruption is None:
            return env
        if self.corruption == TERRAIN:
            return NewTerrain(env, self.severity, self.start)
        return CorruptedCamera(env, self.corruption, self.severity, self.start)


def claim_drives(folder: Path, trials: Iterable[Trial], driver: str) -> None:
    """Note in `folder` where the drives are driven, by whom, and when corruptions begin; to be called before recording.

    Args:
        folder: of drives, existing or not.
        trials: that will be recorded in it; at least one.
        driver: `expert`, or what tells this driver from others, as `controller_files.identity` does.

    Raises VidsslError for a folder whose drives were made otherwise, or that do not say how they were made.
    """
    trials = list(trials)
    now: dict[str, Any] = {"env": trials[0].env_id, "driver": driver}
    if odd := [trial for trial in trials if trial.corruption is not None]:
        now["start"] = list(odd[0].start)
    file = folder / "settings.json"
    try:
        was = dict(json.loads(file.read_text())) if file.exists() else {}
        changed = [key for key in now if key in was and was[key] != now[key]]
    except (ValueError, TypeError) as error:
        raise VidsslError(f"{file}: damaged ({error}); give another --drives, or delete {folder}") from None
    if not was and any(folder.glob("*/*.safetensors")):
        raise VidsslError(
            f"{folder} holds drives without a settings.json, which do not say who drove and where; give another "
            "--drives or --out, or delete the folder"
        )
    if changed:
        both = "; ".join(f"{key}: was {was[key]!r}, now {now[key]!r}" for key in changed)
        raise VidsslError(
            f"{folder} holds drives of other settings ({both}); give the same ones, or another --drives or --out"
        )
    if was != was | now:
        write_json(file, was | now)


def record_drives(trial: Trial, folder: Path, make_driver: MakeDriver, tick: Callable[[], None]) -> None:
    """Drive the episodes that `folder` does not hold yet; `tick()` is called after each."""
    wanted = [k for k in trial.indices if not _path(trial, folder, k).exists()]
    if not wanted:
        return
    env = trial.wrapped(make_env(trial.env_id, trial.split))
    try:
        driver = make_driver(env)
        for k in wanted:
            frames, episode = drive(env, driver, episode_seed(trial.seed, k, trial.split))
            tensors = {"frames": np.stack(frames), "action": episode.executed, "proprio": episode.proprio}
            outcome = {"success": episode.success, "failure": episode.failure}
            if trial.corruption is not None:
                outcome["began_at"] = env.get_wrapper_attr("began_at")
            with replacing(_path(trial, folder, k)) as part:
                part.write_bytes(safetensors.numpy.save(tensors, {"outcome": json.dumps(outcome)}))
            tick()
    finally:
        env.close()


def usual_drives(env_id: str, episodes: int, seed: int = 0, make_driver: MakeDriver = ExpertController) -> list[Drive]:
    """Drives on training layouts in which nothing is wrong, for `SafetyMonitor.fit`: raw, not from a recording's MP4s.

    Args:
        env_id: gymnasium id of an environment with camera images.
        episodes: how many; other seeds give other layouts.
        make_driver: env -> controller, the one that will be watched (`controller_files.load_controller` gives it).
    """
    env = make_env(env_id, "train")
    try:
        driver, found = make_driver(env), []
        for index in range(episodes):
            frames, episode = drive(env, driver, episode_seed(seed, index, "train"))
            found.append(Drive(np.stack(frames), episode.executed, episode.proprio))
        return found
    finally:
        env.close()


def read_drives(trial: Trial, folder: Path, blind: bool) -> Iterator[tuple[Drive, int | None]]:
    """Every drive of a trial and the step its corruption began at; `blind`: the driver does not look at the camera.

    Raises VidsslError for a drive that is missing or damaged.
    """
    made = blind and trial.corruption in CAMERA
    for k in trial.indices:
        path = _path(trial.usual if made else trial, folder, k)
        try:
            with safetensors.safe_open(path, "np") as file:
                frames, action, proprio = (file.get_tensor(key) for key in ("frames", "action", "proprio"))
                began_at = json.loads(file.metadata()["outcome"]).get("began_at")
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise VidsslError(f"{path}: missing or damaged ({error}); delete it and run again") from error
        if made and trial.corruption is not None:
            seed = episode_seed(trial.seed, k, trial.split)
            frames, began_at = corrupt_frames(frames, trial.corruption, trial.severity, seed, trial.start)
        yield Drive(frames, action, proprio), began_at


def _path(trial: Trial, folder: Path, index: int) -> Path:
    return folder / trial.name / f"{index:06d}.safetensors"


class PixelGrid(nn.Module):
    """No encoder at all: colours averaged over 8x8 cells, `[B,T,3,H,W]` -> `[B,T,192]`."""

    dim, past = 192, 0

    def forward(self, clips: Tensor) -> Tensor:
        """The cells of every frame, one after the other."""
        return functional.adaptive_avg_pool2d(clips.flatten(0, 1), 8).flatten(1).unflatten(0, clips.shape[:2])


@dataclass(frozen=True)
class Scored:
    """An episode's surprises [T] of every score, and the step its corruption began at (None: usual)."""

    surprises: dict[str, Floats]
    began_at: int | None

    def path(self, scores: tuple[str, ...], drift: float) -> Floats:
        """The CUSUM [T] of some of the scores."""
        return cusum(largest(self, scores), drift)


def largest(scored: Scored, scores: tuple[str, ...]) -> Floats:
    """U [T]: the largest surprise of some of the scores at each tick."""
    return np.max([scored.surprises[name] for name in scores], axis=0)


def score_trial(monitor: SafetyMonitor, trial: Trial, folder: Path, blind: bool) -> list[Scored]:
    """What the monitor's scores say of a trial's drives."""
    return [Scored(monitor.episode(drive)[1], began) for drive, began in read_drives(trial, folder, blind)]


def auroc(usual: Floats, odd: Floats) -> float:
    """P(odd > usual) + P(equal) / 2 of two samples (Mann and Whitney 1947)."""
    from sklearn.metrics import roc_auc_score

    if not len(usual) or not len(odd):
        return float("nan")
    return float(roc_auc_score(np.r_[np.zeros(len(usual)), np.ones(len(odd))], np.r_[usual, odd]))


@dataclass(frozen=True)
class Arm:
    """A monitor, or a part of its scores, with a drift and a threshold of its own.

    `window`: ticks after the beginning that the episode's AUROC looks at.
    """

    family: str
    scores: tuple[str, ...]
    drift: float
    threshold: float
    window: int

    def compare(self, usual: list[Scored], odd: list[Scored], start: int) -> dict[str, Any]:
        """How well the arm tells corrupted episodes from the usual ones of the same layouts.

        Frame AUROC: the CUSUM at all ticks from the beginning on, against usual episodes' ticks from `start` on.
        Episode AUROC: its maximum in the window from the beginning on, against the same window of the usual episode.
        Detected: the alarm goes off at or after the beginning, not before. Delay: ticks from beginning to alarm.
        Episodes that end before their corruption begins are left out; raises VidsslError when all do.
        """
        paths = [episode.path(self.scores, self.drift) for episode in usual]
        usual_ticks = [path[start:] for path in paths]
        odd_ticks, usual_peaks, odd_peaks, delays, early = [], [], [], [], 0
        for episode, reference in zip(odd, paths, strict=False):
            began = episode.began_at
            path = episode.path(self.scores, self.drift)
            if began is None or began >= min(len(path), len(reference)):
                continue
            odd_ticks.append(path[began:])
            odd_peaks.append(path[began : began + self.window].max())
            usual_peaks.append(reference[began : began + self.window].max())
            alarms = np.flatnonzero(path > self.threshold)
            early += bool(len(alarms) and alarms[0] < began)
            delays.append(float(alarms[0] - began) if len(alarms) and alarms[0] >= began else np.inf)
        if not odd_ticks:
            raise VidsslError(
                f"all {len(odd)} corrupted episodes end before their corruption begins; give an earlier --start or "
                "more --corrupted-episodes"
            )
        return {
            "usual_ticks": np.concatenate(usual_ticks),
            "odd_ticks": np.concatenate(odd_ticks),
            "usual_peaks": np.array(usual_peaks),
            "odd_peaks": np.array(odd_peaks),
            "delays": np.array(delays),
            "early": early,
        }


def pooled(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of several comparisons together; a delay of None: half of the episodes or more went undetected."""
    joined = {
        key: np.concatenate([part[key] for part in parts])
        for key in ("odd_ticks", "usual_peaks", "odd_peaks", "delays")
    }
    delay = float(np.median(joined["delays"]))
    return {
        "episodes": len(joined["delays"]),
        "auroc_frame": auroc(parts[0]["usual_ticks"], joined["odd_ticks"]),
        "auroc_episode": auroc(joined["usual_peaks"], joined["odd_peaks"]),
        "detected": float(np.isfinite(joined["delays"]).mean()),
        "alarm_before": sum(part["early"] for part in parts),
        "median_delay_steps": delay if np.isfinite(delay) else None,
    }
