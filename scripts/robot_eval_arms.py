"""The work of `vidssl robot-eval`: clone every arm, drive it over the layouts, keep what is finished.

    OUT/controllers/ARM-seedS/            a cloned policy (see `controller_files`), and fit.json, written last
    OUT/episodes/ARM-seedS.safetensors    its finished episodes (see `episode_store`)

Both are tied to the settings they are a function of, so going on with others is refused.
"""

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vidssl.checkpoint import write_json
from vidssl.errors import VidsslError
from vidssl.robot.arms import CLONED, Architecture, Budget, cloned_arm, scripted_arm
from vidssl.robot.cloning import Demonstrations, load_demonstrations
from vidssl.robot.comparison import versions
from vidssl.robot.controller_files import SavedController, hash_files
from vidssl.robot.episode_store import EpisodeStore, as_json, refuse_changes, take_over
from vidssl.robot.evaluate import EpisodeResult, Evaluator
from vidssl.robot.rollout import MakeController

if TYPE_CHECKING:
    from vidssl.scripts.robot_eval import Config
    from vidssl.scripts.robot_eval_inputs import Inputs


@dataclass
class Driven:
    """Episodes per arm (of clones all cloning seeds, one after the other), facts of the clones per arm, seconds."""

    outcomes: dict[str, list[EpisodeResult]] = field(default_factory=dict)
    cloning: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)


def evaluate_arms(config: "Config", inputs: "Inputs") -> Driven:
    """Every arm over the same layouts; whatever an earlier, interrupted run has finished is taken from `config.out`.

    Raises VidsslError when that was made with other settings, and for controllers that do not fit the environment.
    """
    clones = None if inputs.recording is None else _Clones(config, inputs)
    driven = Driven()
    cloned = (*CLONED, *inputs.encoders)
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    place = inputs.place
    evaluator = Evaluator(place.env_id, place.split, place.size, config.workers, deadline=config.deadline)
    with evaluator, Progress(*columns) as progress:
        for arm in inputs.arms:
            rounds = config.seeds if arm in cloned else config.seeds[:1]
            task = progress.add_task(arm, total=len(rounds) * config.episodes)
            say = partial(progress.update, task)
            outcomes: list[EpisodeResult] = []
            driving = []
            for seed in rounds:
                if clones is not None and arm in cloned:
                    say(description=f"{arm}: cloning")
                    make, settings = clones.policy(arm, seed)
                else:
                    make, settings = _other(arm, inputs)
                say(description=f"{arm}: driving")
                name, settings = f"{arm}-seed{seed}.safetensors", {**settings, **_where(config)}
                file = config.out / "episodes" / name
                if taken := take_over(file, [folder / "episodes" / name for folder in config.reuse], settings):
                    progress.console.print(f"{arm}: episodes of {taken}")
                store = EpisodeStore(file, settings)
                begun = time.perf_counter()
                outcomes += evaluator.run(make, config.episodes, config.seed, partial(progress.advance, task), store)
                driving.append(time.perf_counter() - begun)
            say(description=arm)
            driven.outcomes[arm] = outcomes
            driven.timings[arm] = {"driving_seconds": driving}
    if clones is not None:
        driven.cloning = clones.fits
        for arm, seconds in clones.seconds.items():
            driven.timings[arm]["cloning_seconds"] = seconds
    return driven


def _where(config: "Config") -> dict[str, Any]:
    """What the episodes of every arm are a function of."""
    return {"env": config.env, "size": config.size, "seed": config.seed, "deadline": config.deadline, **versions()}


def _other(arm: str, inputs: "Inputs") -> tuple[MakeController, dict[str, Any]]:
    """An arm that is no clone: what makes it, and its settings."""
    if arm in inputs.makers:
        name, content = inputs.controllers[arm]
        return inputs.makers[arm], {"controller": name, "its hash": content}
    return scripted_arm(arm), {"controller": arm}


class _Clones:
    """Cloned policies, trained once and kept in OUT/controllers."""

    def __init__(self, config: "Config", inputs: "Inputs") -> None:
        assert inputs.recording is not None
        self._inputs, self._folder = inputs, config.out / "controllers"
        self._earlier = [folder / "controllers" for folder in config.reuse]
        self._demos = load_demonstrations(inputs.recording, config.demo_episodes)
        pixels = None if config.pixel_minutes else config.pixel_steps
        self._budget = Budget(config.head_steps, pixels, config.pixel_minutes)
        self._frozen = dict(inputs.encoders)
        if config.run is not None and inputs.learned is not None:
            self._frozen["learned"] = (config.run, inputs.learned)
        self._settings = {
            "env": config.env,
            "size": config.size,
            "demonstrations": _digest(self._demos),
            "budget": asdict(self._budget),
        }
        self.fits: dict[str, list[dict[str, Any]]] = {}
        self.seconds: dict[str, list[float]] = {}

    def policy(self, arm: str, seed: int) -> tuple[MakeController, dict[str, Any]]:
        """The policy of an arm, and what it is a function of; from its folder when an earlier run has finished it."""
        cloning = replace(self._inputs.cloning, seed=seed)
        run, frozen = self._frozen.get(arm, (None, None))
        architecture = self._inputs.architecture if frozen is None else Architecture.of(frozen)
        sees = {"encoder": None if run is None else _hash_of(run), "architecture": asdict(architecture)}
        settings = as_json({"arm": arm, **self._settings, **sees, "cloning": asdict(cloning)})
        folder = self._folder / f"{arm}-seed{seed}"
        self._take_over(folder, settings)
        if not (folder / "fit.json").exists():
            policy, fit = cloned_arm(arm, architecture, frozen, self._demos, cloning, self._budget)
            policy.save(folder)
            write_json(folder / "fit.json", {"settings": settings, "fit": fit})
        kept = _read(folder / "fit.json")
        refuse_changes(folder, kept["settings"], settings)
        self.seconds.setdefault(arm, []).append(kept["fit"].pop("seconds"))
        self.fits.setdefault(arm, []).append({"seed": seed, **kept["fit"]})
        # A training by the clock gives other weights each time: the episodes belong to these.
        files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "fit.json")
        return SavedController(folder), {**settings, "its hash": hash_files(files)}

    def _take_over(self, folder: Path, settings: dict[str, Any]) -> None:
        """Copy an earlier evaluation's policy of the same settings, unless there is one here; fit.json last."""
        for kept in (earlier / folder.name for earlier in self._earlier):
            if (folder / "fit.json").exists():
                return
            if (kept / "fit.json").exists() and _read(kept / "fit.json")["settings"] == settings:
                shutil.copytree(kept, folder, ignore=shutil.ignore_patterns("fit.json"), dirs_exist_ok=True)
                shutil.copyfile(kept / "fit.json", folder / "fit.json")


def _hash_of(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()[:16]


def _digest(demos: Demonstrations) -> str:
    """A hash of the demonstrations' frames, actions, senses and lengths."""
    digest = hashlib.sha256(demos.low.tobytes() + demos.high.tobytes())
    digest.update(repr(demos.frames.shape).encode())
    digest.update(np.ascontiguousarray(demos.frames).data)
    for part in (demos.action, demos.proprio, demos.first):
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return {"settings": content["settings"], "fit": content["fit"]}
    except (ValueError, KeyError, TypeError) as error:
        raise VidsslError(
            f"{file} is damaged ({error!r}); delete its folder, and the policy is trained again"
        ) from None
