"""A monitor beside a robot's controller: it says when the camera shows what it never showed in training.

    monitor = SafetyMonitor.fit(vidssl.load_encoder(run), usual, calibration, fps=10)    # lists of `Drive`
    monitor.reset()                                     # a new episode
    verdict = monitor.update(frame, action, proprio)    # every tick; action: the one executed since the last frame
    if verdict.alarm: robot.stop()

Every score becomes a surprise u = -ln P(as odd or odder), by its tail on usual episodes (`safety_scores`). The largest,
U = max u, goes into a CUSUM (Page 1954, "Continuous inspection schemes"), which a single odd frame lifts a little and
oddness that stays lifts fast:

    S_t = max(0, S_t-1 + U_t - drift)     drift: the 90 % quantile of U on usual ticks

The alarm goes off when S exceeds the threshold, which is conformal (`conformal`), and stays on until `reset`.

Three sets of training episodes, none in two of them: one that the scores are fitted on, one for their tails and the
drift, and the calibration episodes for the threshold. The promise holds for drives like those of the calibration.

What it does not see well: small dirt on the lens (a third of light cases within the episode, `bench_safety`). Most of
what it notices, the pixel statistics notice; features add freezing and what moves otherwise than it is driven.
"""

import copy
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.checkpoint import read_model, replacing, write_json, write_model
from vidssl.energy import PREFIX, Energy, load_energy
from vidssl.errors import VidsslError, unknown_name
from vidssl.features import FeatureExtractor, load_encoder

from .conformal import Threshold, conformal_threshold
from .safety_files import pack, unpack
from .safety_scores import Floats, Gaussian, OneStep, Rows, Tail
from .safety_senses import Drive, Sensed, Senses

SCORES = ("signal", "detail", "density", "prediction", "stillness", "energy")
CALM = 0.9  # quantile of usual surprises that the CUSUM drifts down by
EVERY = 4  # maps of so many ticks are kept to fit `detail`: neighbours are alike, and maps are large
FORMAT = 1
_UNSET = Threshold(np.inf, 1.0, np.inf, np.inf, 0, 0.0, 0)  # until the threshold is found


@dataclass(frozen=True)
class Verdict:
    """What the monitor says of a tick.

    Attributes:
        score: the CUSUM S; infinite for numbers that are not finite.
        alarm: whether it has exceeded the threshold since `reset`.
        reasons: at an alarm, the scores that led to it, the strongest first.
        surprises: u of every score; 0 is as usual as can be.
    """

    score: float
    alarm: bool
    reasons: tuple[str, ...]
    surprises: dict[str, float]


@dataclass(frozen=True)
class Measures:
    """The fitted scores; None for those that are left out."""

    signal: Gaussian | None
    detail: Rows | None
    density: Gaussian | None
    one_step: OneStep | None

    @classmethod
    def fit(cls, sensed: Sequence[Sensed], motions: list[Floats], scores: Sequence[str]) -> "Measures":
        """Of usual episodes."""
        features = [s.features for s in sensed]
        steps = {"prediction", "stillness"} & set(scores)
        return cls(
            Gaussian.fit(np.concatenate([_known(s.signal) for s in sensed])) if "signal" in scores else None,
            Rows.fit(np.concatenate([_known(s.maps)[::EVERY] for s in sensed]).astype(float))
            if "detail" in scores
            else None,
            Gaussian.fit(np.concatenate(features)) if "density" in scores else None,
            OneStep.fit(features, motions) if steps else None,
        )

    def __call__(self, sensed: Sensed, motions: Floats, before: Floats | None = None) -> dict[str, Floats]:
        """Every score's measure [T] of ticks and their motions [T,A+2P].

        `before` [1,D] is the feature of the tick before them; without it, the first is an episode's first, which has no
        `prediction` and no `stillness` (NaN).
        """
        found: dict[str, Floats] = {}
        if self.signal is not None:
            found["signal"] = self.signal.distance(_known(sensed.signal))
        if self.detail is not None:
            found["detail"] = self.detail.measure(_known(sensed.maps).astype(float))
        if self.density is not None:
            found["density"] = self.density.distance(sensed.features)
        if self.one_step is not None:
            features = sensed.features if before is None else np.concatenate([before, sensed.features])
            rows = motions if before is None else np.concatenate([motions[:1], motions])
            both = self.one_step.measure(features, rows)
            found["prediction"], found["stillness"] = (values[-len(motions) :] for values in both)
        if sensed.energy is not None:
            found["energy"] = sensed.energy
        return found


def _known(values: NDArray[Any] | None) -> NDArray[Any]:
    assert values is not None  # the senses look at what the scores need
    return values


class SafetyMonitor:
    """Watches a stream of camera frames; see the top of this file. Made by `fit` or `load`.

    Attributes:
        threshold: what the alarm is set to and what that promises.
        scores: names of the scores in use.
        image: (H, W) of the camera.
        actions, proprio: A and P.
    """

    def __init__(
        self,
        senses: Senses,
        measures: Measures,
        tails: dict[str, Tail],
        drift: float,
        threshold: Threshold,
        image: tuple[int, int],
        sizes: tuple[int, int],
    ) -> None:
        self._senses, self._measures, self._tails, self._drift = senses, measures, tails, drift
        self.threshold, self.image = threshold, image
        self.actions, self.proprio = sizes
        self.scores = tuple(tails)
        self.reset()

    @classmethod
    def fit(
        cls,
        extractor: FeatureExtractor,
        usual: Sequence[Drive],
        calibration: Iterable[Drive],
        *,
        fps: float,
        rate: float = 1.0,
        energy: Energy | None = None,
        scores: Sequence[str] | None = None,
    ) -> "SafetyMonitor":
        """Fit the scores on three quarters of `usual`, their tails on the last quarter, the threshold on `calibration`.

        Args:
            extractor: the encoder; features of another one than the controller's do too.
            usual: at least 4 episodes in which nothing was wrong, in no order that means something.
            calibration: other such episodes, by the controller that will be watched; see `conformal` for how many.
            fps: ticks a second.
            rate: false alarms an hour, at most.
            energy: of a run of method `ebm`; adds the score `energy`.
            scores: names of `SCORES`; None takes all that extractor and energy can give.

        Warns (UserWarning) when `calibration` is too short to promise `rate`. Raises VidsslError for unknown scores,
        ones that the encoder or the lack of an energy does not allow, too few episodes, episodes of other shapes, and
        numbers in them or in their features that are not finite.
        """
        monitor = cls.fit_scores(extractor, usual, fps=fps, energy=energy, scores=scores)
        maxima, steps = [], []
        for drive in calibration:
            _check_kind(drive)
            maxima.append(float(monitor.episode(drive)[0].max()))
            steps.append(len(drive.frames))
        monitor.threshold = found = conformal_threshold(maxima, steps, fps, rate)
        if not found.kept:
            warnings.warn(
                f"asked for {found.rate:.3g} false alarms an hour, but {found.hours:.3g} hours of calibration promise "
                f"only {found.promised:.3g}; pass about {1 / found.rate:.3g} hours of calibration episodes",
                stacklevel=2,
            )
        return monitor

    @classmethod
    def fit_scores(
        cls,
        extractor: FeatureExtractor,
        usual: Sequence[Drive],
        *,
        fps: float,
        energy: Energy | None = None,
        scores: Sequence[str] | None = None,
    ) -> "SafetyMonitor":
        """As `fit`, but with the threshold left infinite: there is no alarm for a score, however high."""
        senses = Senses(extractor, energy, fps)
        names = _checked_scores(scores, senses)
        if len(usual) < 4:
            raise VidsslError(f"the monitor is fitted on at least 4 usual episodes, got {len(usual)}; record more")
        for drive in usual:
            _check_kind(drive)
        image, sizes = usual[0].frames.shape[1:3], (usual[0].action.shape[1], usual[0].proprio.shape[1])
        for drive in usual:
            _check_drive(drive, image, sizes)
        senses = Senses(extractor, energy, fps, names)
        fitted = usual[: len(usual) * 3 // 4]
        sensed = [_looked(senses, drive) for drive in fitted]
        measures = Measures.fit(sensed, [drive.motions for drive in fitted], names)
        found = [measures(_looked(senses, drive), drive.motions) for drive in usual[len(fitted) :]]
        tails = {name: Tail.fit(np.concatenate([f[name] for f in found])) for name in names}
        largest = [np.max([tails[name].surprise(f[name]) for name in names], axis=0) for f in found]
        drift = calm(np.concatenate(largest))
        return cls(senses, measures, tails, drift, _UNSET, (image[0], image[1]), sizes)

    def reset(self) -> None:
        """A new episode: the alarm is off."""
        self._senses.reset()
        self._score, self._alarm = 0.0, False
        self._own = dict.fromkeys(self.scores, 0.0)  # the CUSUM of each score alone: whose alarm it is
        self._before: tuple[Floats, Floats] | None = None  # feature [1,D] and proprioception [P] of the last tick

    def update(
        self, frame: NDArray[np.uint8], action: NDArray[Any] | None = None, proprio: NDArray[Any] | None = None
    ) -> Verdict:
        """The next tick.

        Args:
            frame: uint8 [H,W,3], raw, as in calibration.
            action: [A], executed since the last frame; None at the first of an episode.
            proprio: [P] at this frame; None when P = 0.

        Raises VidsslError for a frame of another size or type, an action or proprioception of another length. Numbers
        that are not finite, among these or the encoder's, are an alarm.
        """
        frame = np.asarray(frame)
        if frame.shape != (*self.image, 3):
            raise VidsslError(
                f"frame: got {frame.shape}, the monitor was fitted on {(*self.image, 3)}; give it the camera it knows"
            )
        if action is None and self._before is None:
            action = np.zeros(self.actions)
        done, felt = _vector("action", action, self.actions), _vector("proprio", proprio, self.proprio)
        sensed = self._senses.step(frame)
        feature, last = (None, felt) if self._before is None else self._before
        self._before = sensed.features, felt
        if not (sensed.finite and np.isfinite([*done, *last, *felt]).all()):
            return self._judge(dict.fromkeys(self.scores, np.inf), ("not-finite",))
        measures = self._measures(sensed, np.concatenate([done, last, felt])[None], feature)
        return self._judge({name: float(tail.surprise(measures[name])[0]) for name, tail in self._tails.items()})

    def episode(self, drive: Drive) -> tuple[Floats, dict[str, Floats]]:
        """The CUSUM [T] and every score's surprises [T] of a whole episode; the stream of `update` is not touched.

        Raises VidsslError for an episode of other shapes, numbers in it or in its features that are not finite.
        """
        _check_drive(drive, self.image, (self.actions, self.proprio))
        measures = self._measures(_looked(self._senses, drive), drive.motions)
        surprises = {name: tail.surprise(measures[name]) for name, tail in self._tails.items()}
        return cusum(np.max(list(surprises.values()), axis=0), self._drift), surprises

    def streams(self) -> "SafetyMonitor":
        """A monitor with a stream of its own; everything fitted is shared."""
        twin = copy.copy(self)
        twin._senses = Senses(self._senses.extractor, self._senses.energy, self._senses.fps, self.scores)
        twin.reset()
        return twin

    def _judge(self, surprises: dict[str, float], reasons: tuple[str, ...] = ()) -> Verdict:
        self._score = max(0.0, self._score + max(surprises.values()) - self._drift)
        self._own = {name: max(0.0, self._own[name] + u - self._drift) for name, u in surprises.items()}
        self._alarm = self._alarm or self._score > self.threshold.value
        if self._alarm and not reasons:
            ranked = sorted(self._own, key=lambda name: -self._own[name])
            reasons = tuple(name for name in ranked if self._own[name] >= self._own[ranked[0]] / 2)
        return Verdict(self._score, self._alarm, reasons if self._alarm else (), surprises)

    def save(self, folder: str | Path) -> None:
        """Write the monitor to a folder: `monitor.json`, `monitor.safetensors`, encoder and energy as run folders.

        Raises VidsslError for an encoder that does not know its architecture.
        """
        import safetensors.numpy

        from .controller_files import save_extractor

        folder = Path(folder)
        save_extractor(folder / "encoder", self._senses.extractor)
        if self._senses.energy is not None:
            save_extractor(folder / "energy", self._senses.energy.extractor)
            head = {f"{PREFIX}{name}": w for name, w in self._senses.energy.head.state_dict().items()}
            write_model(folder / "energy", read_model(folder / "energy") | head)
        arrays = pack(self._measures, "measures") | pack(self._tails, "tails")
        with replacing(folder / "monitor.safetensors") as part:
            part.write_bytes(safetensors.numpy.save(arrays))
        facts = {
            "format": FORMAT,
            "fps": self._senses.fps,
            "scores": self.scores,
            "energy": self._senses.energy is not None,
            "drift": self._drift,
            "threshold": self.threshold.facts(),
            "image": self.image,
            "actions": self.actions,
            "proprio": self.proprio,
        }
        write_json(folder / "monitor.json", facts)

    @classmethod
    def load(cls, folder: str | Path) -> "SafetyMonitor":
        """The monitor in a folder; raises VidsslError when it is missing or damaged."""
        import safetensors.numpy

        folder = Path(folder)
        try:
            facts = json.loads((folder / "monitor.json").read_text())
            arrays = safetensors.numpy.load_file(folder / "monitor.safetensors")
            if facts["format"] != FORMAT:
                raise VidsslError(
                    f"{folder}: monitor of format {facts['format']!r}, this vidssl reads {FORMAT}; fit it again"
                )
            energy = load_energy(folder / "energy") if facts["energy"] else None
            senses = Senses(load_encoder(folder / "encoder"), energy, facts["fps"], facts["scores"])
            tails = unpack(dict[str, Tail], arrays, "tails")
            return cls(
                senses,
                unpack(Measures, arrays, "measures"),
                {name: tails[name] for name in facts["scores"]},
                facts["drift"],
                Threshold(**facts["threshold"]),
                (facts["image"][0], facts["image"][1]),
                (facts["actions"], facts["proprio"]),
            )
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise VidsslError(
                f"{folder} holds no safety monitor, or a damaged one ({error!r}); write one with SafetyMonitor.save"
            ) from error


def calm(surprises: Floats) -> float:
    """The drift for usual surprises U [n]: their 90 % quantile."""
    return float(np.quantile(surprises, CALM))


def cusum(surprises: Floats, drift: float) -> Floats:
    """S_t = max(0, S_t-1 + u_t - drift) of surprises [T], from S = 0 (Page 1954)."""
    path, s = np.empty(len(surprises)), 0.0
    for t, u in enumerate(surprises):
        path[t] = s = max(0.0, s + float(u) - drift)
    return path


def _checked_scores(scores: Sequence[str] | None, senses: Senses) -> tuple[str, ...]:
    lacking = {"detail": not senses.has_maps, "energy": senses.energy is None}
    possible = tuple(name for name in SCORES if not lacking.get(name, False))
    for name in scores or ():
        if name not in SCORES:
            raise unknown_name("score", name, SCORES)
        if name not in possible:
            why = "only frame encoders have maps" if name == "detail" else "pass energy=vidssl.load_energy(run)"
            raise VidsslError(f"score {name!r}: {why}; possible here: {', '.join(possible)}")
    return tuple(name for name in possible if scores is None or name in scores)


def _check_kind(drive: object) -> None:
    if not isinstance(drive, Drive):
        raise VidsslError(
            f"episode: got a {type(drive).__name__}; pass vidssl.robot.safety.Drive(frames uint8 [T,H,W,3], action "
            "[T,A], proprio [T,P]), or what vidssl.robot.safety_trials.usual_drives gives"
        )


def _check_drive(drive: Drive, image: tuple[int, ...], sizes: tuple[int, int]) -> None:
    steps, found = len(drive.frames), (drive.action.shape, drive.proprio.shape)
    wanted = ((steps, sizes[0]), (steps, sizes[1]))
    if not steps or drive.frames.shape[1:] != (*image, 3) or found != wanted:
        raise VidsslError(
            f"episode: got frames {drive.frames.shape}, action and proprio {found}; the monitor needs frames "
            f"[T,{image[0]},{image[1]},3], action and proprio {wanted}"
        )
    for name, values in (("action", drive.action), ("proprio", drive.proprio)):
        odd = np.flatnonzero(~np.isfinite(np.asarray(values, float)).all(axis=1))
        if len(odd):
            raise VidsslError(f"episode: {name} is not finite at tick {odd[0]}; leave the episode out")


def _looked(senses: Senses, drive: Drive) -> Sensed:
    """What the senses make of a drive; raises VidsslError when that is not finite."""
    sensed = senses.episode(drive.frames)
    if not sensed.finite:
        raise VidsslError("episode: the encoder gives numbers that are not finite; use another run")
    return sensed


def _vector(what: str, values: NDArray[Any] | None, size: int) -> Floats:
    vector = np.zeros(0) if values is None else np.asarray(values, float)
    if vector.shape != (size,):
        raise VidsslError(f"{what}: got {vector.shape}, the monitor was fitted on ({size},); pass it every tick")
    return vector
