"""What `vidssl robot-eval` works on: encoder, demonstrations, controllers by name, checked before anything is run."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidssl.checkpoint import read_metrics
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor, load_encoder
from vidssl.machine import versions
from vidssl.robot.arms import ARMS, CLONED, Architecture, check_arms
from vidssl.robot.cloning import CloningConfig, first_episodes
from vidssl.robot.comparison import CEILING, FLOOR, why_no_expert
from vidssl.robot.controller_files import identity, is_begun, is_controller, load_controller
from vidssl.robot.demonstration_checks import check_demonstrations, taken_as_of
from vidssl.robot.episodes import Recording, open_recording, read_meta
from vidssl.robot.pixels import episode_seed, find_image
from vidssl.robot.recording import record
from vidssl.robot.rollout import MakeController, Place
from vidssl.robot.spaces import Spaces, encoder_notes
from vidssl.scripts.settings import parse_settings

if TYPE_CHECKING:
    from vidssl.scripts.robot_eval import Config

NAME = r"[\w.+-]+"  # of an arm; a file's name too


@dataclass(frozen=True)
class Inputs:
    """Everything an evaluation is made from.

    Attributes:
        arms: all names of the table, in its order.
        encoders: name -> (run folder, encoder), of the arms that clone on frozen encoders beside `learned`.
        controllers: name -> (folder or module:Class, hash of its content), of the arms that are no clones.
        makers: name -> what makes them.
        references: arms whose difference to all others is told.
        layouts: seed and number of the test layouts.
        fps: of the videos.
        notes: what the reader of the table should know.
    """

    place: Place
    arms: tuple[str, ...]
    encoders: dict[str, tuple[Path, FeatureExtractor]]
    controllers: dict[str, tuple[str, str]]
    makers: dict[str, MakeController]
    references: list[str]
    learned: FeatureExtractor | None
    architecture: Architecture
    cloning: CloningConfig
    recording: Recording | None
    demonstrations: dict[str, Any] | None
    pretraining_seconds: float | None
    layouts: tuple[int, int]
    fps: float
    notes: list[str]


def prepare(config: "Config") -> Inputs:
    """Load, check and, where there are none, record what the evaluation needs; see `Inputs`.

    Raises VidsslError for whatever does not exist or does not fit.
    """
    given, run = _controllers(config)
    named = _named("--encoders", "NAME=RUN", config.encoders, given)
    chosen = _arms(config, [*given, *named], run)
    for split, count in (("test", config.episodes), ("train", config.demo_episodes)):
        episode_seed(config.seed, count - 1, split)  # a seed or number out of range is an error now
    if config.overwrite:
        _spare(config, [*given.values(), *named.values(), *config.reuse])
    cloning = cloning_config(config.cloning)
    makers = {name: load_controller(thing) for name, thing in given.items()}
    encoders = {name: (Path(folder), load_encoder(folder)) for name, folder in named.items()}
    place = Place(config.env, "test", config.size)
    env = place.make()
    try:
        image_size: tuple[int, int] = find_image(env.observation_space).shape[:2]  # type: ignore[assignment]
        fps = float(env.metadata.get("render_fps", 10))
        learned = None if run is None else load_encoder(run)
        notes = [] if learned is None else encoder_notes(learned, env)
        notes += [f"{name}: {note}" for name, (_, enc) in encoders.items() for note in encoder_notes(enc, env)]
        spaces = Spaces.of(env)
    finally:
        env.close()
    architecture = Architecture(config.encoder, image_size) if learned is None else Architecture.of(learned)
    architecture.untrained(0)  # an unknown name is an error now, not after the demonstrations
    missing = why_no_expert(place)
    clones = [*(arm for arm in CLONED if arm in chosen), *encoders]
    recording, unchecked = _given_demonstrations(config, image_size, spaces, missing) if clones else (None, [])
    if config.overwrite:
        forget(config.out)  # when everything is checked
    if clones and recording is None:
        recording = _own_demonstrations(config, image_size)
    return Inputs(
        place=place,
        arms=(FLOOR, *clones, *given, *((CEILING,) if missing is None else ())),
        encoders=encoders,
        controllers={name: (thing, identity(thing)) for name, thing in given.items()},
        makers=makers,
        references=[*(["learned"] if "learned" in clones else []), *given] or list(encoders)[:1],
        learned=learned,
        architecture=architecture,
        cloning=cloning,
        recording=recording,
        demonstrations=None if recording is None else _facts(recording, config.demo_episodes),
        pretraining_seconds=_pretraining_seconds(run),
        layouts=(config.seed, config.episodes),
        fps=fps,
        notes=[*notes, *unchecked, *([] if missing is None else [missing])],
    )


def _spare(config: "Config", wanted: Iterable[str | Path]) -> None:
    """Raises VidsslError when --overwrite would delete what the evaluation is about."""
    for thing in wanted:
        if Path(thing).exists() and Path(thing).resolve().is_relative_to(config.out.resolve()):
            raise VidsslError(
                f"--overwrite would delete {thing}, which is needed and lies in --out; choose another --out"
            )


def forget(out: Path) -> None:
    """Delete the episodes and policies of an earlier evaluation; demonstrations are kept."""
    for file in (out / "episodes").glob("*.safetensors"):
        file.unlink()
    for folder in (out / "controllers").glob("*"):
        if is_begun(folder):
            shutil.rmtree(folder)


def cloning_config(given: list[str]) -> CloningConfig:
    """The settings of the clones: the defaults, changed by `["name=value", …]`; VidsslError as of `parse_settings`."""
    known = {name: part for name, part in signature(CloningConfig).parameters.items() if name != "seed"}
    return CloningConfig(**parse_settings("--cloning", "cloning setting", given, known))


def _controllers(config: "Config") -> tuple[dict[str, str], Path | None]:
    """Controllers by name, and the run if the first argument is one."""
    given: dict[str, str] = {}
    run = config.run
    if run is not None and (is_controller(run) or (":" in str(run) and not run.exists())):
        name = str(run).rpartition(":")[2] if ":" in str(run) else run.resolve().name
        if name in ARMS or not re.fullmatch(NAME, name):
            why = f"is that of the arm {name!r}" if name in ARMS else f"{name!r} is not of letters, digits and ._+-"
            raise VidsslError(f"controller {str(run)!r}: its name {why}; give it another: --controllers NAME={run}")
        given[name] = str(run)
        run = None
    given |= _named("--controllers", "NAME=FOLDER or NAME=module:Class", config.controllers, given)
    return given, run


def _named(option: str, form: str, texts: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """What stands behind the names of arms; VidsslError for other forms than NAME=THING and names that are taken."""
    named: dict[str, str] = {}
    for text in texts:
        name, equals, thing = text.partition("=")
        if not equals or not re.fullmatch(NAME, name):
            raise VidsslError(f"{option}: got {text!r}; write {form}")
        if name in (*ARMS, *taken, *named):
            raise VidsslError(f"{option}: the name {name!r} is taken; choose one that is no other arm's")
        named[name] = thing
    return named


def _arms(config: "Config", given: list[str], run: Path | None) -> tuple[str, ...]:
    chosen = config.arms
    if not chosen:
        clones = CLONED if run is not None else () if given else tuple(arm for arm in CLONED if arm != "learned")
        chosen = (FLOOR, *clones, CEILING)
    check_arms(chosen)
    if run is None and "learned" in chosen:
        raise VidsslError("the arm `learned` needs a RUN: pass the --out folder of `vidssl pretrain`, or choose --arms")
    return chosen


def _own_demonstrations(config: "Config", image_size: tuple[int, int]) -> Recording:
    """A recording of this command's own, continued if it was interrupted. One of other settings is recorded anew with
    --overwrite; else it is an error."""
    folder = config.out / "demos"
    other = False
    if config.overwrite and (folder / "recording.json").is_file():
        was = read_meta(folder)
        now = {"env": config.env, "seed": config.seed, "noise": config.demo_noise, "image_size": list(image_size)}
        now["versions"] = versions(was.get("versions", ()))
        other = any(was.get(key) != value for key, value in now.items())
    return record(
        config.env,
        folder,
        config.demo_episodes,
        noise=config.demo_noise,
        seed=config.seed,
        size=config.size,
        overwrite=other,
        resume=not other,
    )


def _given_demonstrations(
    config: "Config", image_size: tuple[int, int], spaces: Spaces, no_expert: str | None
) -> tuple[Recording | None, list[str]]:
    """The recording named by --demos, checked, with notes on it; None where this command has to record its own."""
    if config.demos is None:
        if config.camera is not None:
            raise VidsslError("--camera: says which camera of --demos to see by, and there are none; leave it out")
        if no_expert is not None:
            raise VidsslError(f"{no_expert}. Nothing to clone: pass demonstrations with --demos, or other --arms")
        if not 0 <= config.demo_noise <= 2:
            raise VidsslError(f"--demo-noise: got {config.demo_noise}; 0 to 2")
        return None, []
    recording = open_recording(config.demos, config.camera)
    test = {episode_seed(config.seed, index, "test") for index in range(config.episodes)}
    notes = check_demonstrations(recording, config.env, image_size, test)
    first_episodes(recording, config.demo_episodes)
    return taken_as_of(recording, spaces), notes


def _facts(recording: Recording, count: int) -> dict[str, Any]:
    used = recording.episodes[:count]
    return {
        "facts": recording.meta,
        "episodes": len(used),
        "steps": sum(episode.steps for episode in used),
        "successes": sum(episode.success for episode in used),
    }


def _pretraining_seconds(run: Path | None) -> float | None:
    """What the run's metrics say was spent on learning the features, which no other arm had; None if they do not."""
    lines = [] if run is None else read_metrics(run)
    return max((float(line["seconds"]) for line in lines if "seconds" in line), default=None)
