"""Videos and film strips of evaluated episodes: the scene, what the camera saw, and the goal where there is one."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vidssl.datasets.mp4 import write_video

from .replay import Moment, replay
from .rollout import EpisodeResult, Place
from .video import caption, film_strip, fit_height, write_png

HEIGHT = 240  # of the pictures in a video, pixels
HOLD = 10  # times the last frame is shown, to read the outcome
__all__ = ["Moment", "film", "notable", "replay", "write_episode_video", "write_film_strip"]
GREEN, RED, WHITE = (120, 230, 120), (255, 110, 100), (235, 235, 235)


def notable(results: Sequence[EpisodeResult]) -> dict[str, EpisodeResult]:
    """The episodes worth watching: best and median by return, and the failure with the lowest return, if any."""
    ranked = sorted(results, key=lambda result: result.episode_return)
    chosen = {"best": ranked[-1], "median": ranked[len(ranked) // 2]}
    if failures := [result for result in ranked if not result.success]:
        chosen["worst-failure"] = failures[0]
    return chosen


def film(place: Place, outcomes: Mapping[str, Sequence[EpisodeResult]], out: Path, fps: float) -> None:
    """Videos of the notable episodes of every arm into `out/videos`, and a film strip of the arm of most interest."""
    from rich.progress import track

    usual = ("learned", "pixels", "random-encoder", "expert", "random")
    others = [arm for arm in outcomes if arm not in usual]
    strip_of = next(arm for arm in ("learned", *others, *usual) if arm in outcomes)
    shots = [(arm, kinds, episode) for arm, results in outcomes.items() for kinds, episode in _shots(results)]
    for arm, kinds, episode in track(shots, description="videos"):
        moments = replay(place, episode)
        if not moments:
            continue
        for kind in kinds:
            write_episode_video(out / "videos" / f"{arm}-{kind}.mp4", arm, moments, episode, fps)
        if arm == strip_of and "median" in kinds:
            write_film_strip(out / "strip.png", arm, moments, episode, fps)


def _shots(results: Sequence[EpisodeResult]) -> list[tuple[list[str], EpisodeResult]]:
    """The notable episodes, each once, with all that is notable in it: few episodes may leave one for everything."""
    found: dict[int, tuple[list[str], EpisodeResult]] = {}
    for kind, episode in notable(results).items():
        found.setdefault(id(episode), ([], episode))[0].append(kind)
    return list(found.values())


def write_episode_video(path: Path, arm: str, moments: Sequence[Moment], episode: EpisodeResult, fps: float) -> None:
    """The episode as MP4, annotated with arm, step, time and outcome."""
    write_video(path, _frames(arm, moments, episode, fps), fps)


def write_film_strip(path: Path, arm: str, moments: Sequence[Moment], episode: EpisodeResult, fps: float) -> None:
    """Six moments of an episode as one PNG: scenes above, camera images below."""
    chosen = [moments[i] for i in np.linspace(0, len(moments) - 1, 6).round().astype(int)]
    tiles = []
    for moment in chosen:
        scene = fit_height(moment.scene, HEIGHT)
        camera = _square(moment.camera, scene.shape[1])
        last = moment is moments[-1]
        text = f"{moment.step / fps:.1f} s" + (f"  {arm}: {_outcome(episode)}" if last else "")
        tiles.append(caption(np.concatenate([scene, camera]), text, _colour(episode) if last else WHITE))
    write_png(path, film_strip(tiles, columns=6))


def _frames(arm: str, moments: Sequence[Moment], episode: EpisodeResult, fps: float) -> Iterator[np.ndarray]:
    for moment in moments:
        pictures = [moment.scene, moment.camera, *([] if moment.goal is None else [moment.goal])]
        row = np.concatenate([fit_height(picture, HEIGHT) for picture in pictures], axis=1)
        last = moment is moments[-1]
        text = f"{arm}   layout {episode.seed}   step {moment.step}   {moment.step / fps:.1f} s"
        shown = caption(row, text + (f"   {_outcome(episode)}" if last else ""), _colour(episode) if last else WHITE)
        for _ in range(HOLD if last else 1):
            yield shown


def _square(camera: np.ndarray, width: int) -> np.ndarray:
    """The camera image scaled to a width, centred on black when its own sides need that."""
    image = fit_height(camera, round(width * camera.shape[0] / camera.shape[1]))
    canvas = np.zeros((image.shape[0], width, 3), np.uint8)
    part = image[:, :width]
    left = (width - part.shape[1]) // 2
    canvas[:, left : left + part.shape[1]] = part
    return canvas


def _outcome(episode: EpisodeResult) -> str:
    return "success" if episode.success else f"failed: {episode.failure}"


def _colour(episode: EpisodeResult) -> tuple[int, int, int]:
    return GREEN if episode.success else RED
